"""The Figure 2 problem (n = 55,000, p = 7,840): this library against the 2017 way, in one run.

The 2017 way, stated fairly in current TensorFlow: `scipy.optimize.fmin_ncg` on a compiled Hessian
product made by automatic differentiation, in float64, because in float32 it gives up at a residual
of 5e-5 ("precision loss"); one compiled call for each training example's gradient; one compiled
call for each step of LiSSA; scikit-learn refits, warm-started at its own float64 optimum.

What takes long is timed on a sample and scaled up, where every unit costs the same; it says so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import scipy.optimize
import tensorflow as tf
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from influence import ConjugateGradient, Lissa, LogisticRegression, leave_one_out
from scripts.loaders.mnist import load_mnist

WEIGHT_DECAY, TEST_INDEX, RESIDUAL = 0.01, 8, 1e-5
REPEATS, DEPTH, SCALE = 10, 5000, 25.0


class Release:
    """The graph of the 2017 code: softmax(xW), differentiated automatically."""

    def __init__(self, x, labels, weights):
        self.x, self.labels = tf.constant(x), tf.constant(labels, tf.int64)
        self.weights = tf.Variable(weights)

    def _loss(self, x, labels):
        logits = x @ self.weights
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return loss + WEIGHT_DECAY / 2 * tf.reduce_sum(tf.square(self.weights))

    def _product(self, x, labels, v):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = self._loss(x, labels)
            product = tf.reduce_sum(inner.gradient(loss, self.weights) * v)
        return outer.gradient(product, self.weights)

    @tf.function
    def full_product(self, v):
        """∇²R v on all points."""
        return self._product(self.x, self.labels, v)

    @tf.function
    def row_product(self, row, v):
        """∇²R v on one point."""
        x = tf.gather(self.x, row[tf.newaxis])
        return self._product(x, tf.gather(self.labels, row[tf.newaxis]), v)

    @tf.function
    def row_influence(self, row, s_test):
        """∇(L + regulariser) of one point times s_test."""
        with tf.GradientTape() as tape:
            x = tf.gather(self.x, row[tf.newaxis])
            loss = self._loss(x, tf.gather(self.labels, row[tf.newaxis]))
        return tf.reduce_sum(tape.gradient(loss, self.weights) * s_test)

    def s_test(self, v):
        """(seconds, relative residual) of fmin_ncg on ½xᵀHx − vᵀx, until the residual will do.

        Looking at the residual after each of its steps is not counted.
        """
        size, looking, residual = np.linalg.norm(v), 0.0, np.inf

        class Reached(Exception):  # noqa: N818
            pass

        def product(_, p):
            block = tf.constant(p.reshape(self.weights.shape), self.weights.dtype)
            return self.full_product(block).numpy().ravel().astype(np.float64)

        def look(x):
            nonlocal looking, residual
            seconds, missing = timed(lambda: product(x, x) - v)
            looking, residual = looking + seconds, np.linalg.norm(missing) / size
            if residual <= RESIDUAL:
                raise Reached

        start = time.perf_counter()
        with contextlib.suppress(Reached):
            scipy.optimize.fmin_ncg(
                lambda x: 0.5 * x @ product(x, x) - v @ x,
                v,
                lambda x: product(x, x) - v,
                fhess_p=product,
                callback=look,
                avextol=1e-8,
                maxiter=100,
                disp=False,
            )
        return time.perf_counter() - start - looking, residual


def timed(function, *arguments):
    """(seconds, result)."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def median_time(function, *arguments, runs: int = 5):
    """(median seconds of some runs, result): what takes less than a second needs more than one."""
    times, result = zip(*(timed(function, *arguments) for _ in range(runs)))
    return float(np.median(times)), result[-1]


def make_release(train, model, dtype) -> Release:
    """The 2017 graph at the model's parameters."""
    x = train.x.astype(dtype) * dtype(train.scale)
    return Release(x, train.labels, model.weights.numpy().astype(dtype))


def report(name, release, ours, note):
    """One line of the table."""
    ratio = release / ours
    shown = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    print(f"| {name} | {release:.3g} s | {ours:.3g} s | {shown}× | {note} |", flush=True)


def compare(data: str, sample: int, refits: int) -> None:
    """Print the table."""
    train, test = (mnist := load_mnist(data)).train, mnist.test
    x_test, y_test = test.x[TEST_INDEX], test.labels[TEST_INDEX]
    n = len(train)
    model = LogisticRegression(train, WEIGHT_DECAY).fit()
    v = model.test_gradient(x_test, y_test)[:, 0].astype(np.float64)
    print(f"n = {n}, p = {model.num_parameters}, data: {mnist.provenance.data}\n")
    print("| what | 2017 way | this library | ratio | how |\n| --- | --- | --- | --- | --- |")

    # Both sides are warmed up on another right-hand side: compiling is not what is compared.
    other = np.roll(v, 7)
    release = make_release(train, model, np.float64)
    release.full_product(tf.constant(other.reshape(release.weights.shape)))
    old_time, residual = release.s_test(v)
    del release

    def solve(rhs):
        # A new operator and a new preconditioner, as for a first test point.
        model.parameters = model.parameters
        hessian = model.hessian()
        solver = ConjugateGradient(RESIDUAL, preconditioner=hessian.approximate_inverse())
        return solver.solve(hessian, rhs, strict=True)

    solve(other)
    new_time, solution = median_time(solve, v)
    report(
        "s_test",
        old_time,
        new_time,
        f"relative residuals {residual:.1e}, {solution.residual:.1e}; preconditioner included",
    )

    s_test = solution.x
    release = make_release(train, model, np.float32)
    direction = tf.constant(s_test.reshape(release.weights.shape), tf.float32)
    rows = np.random.default_rng(0).choice(n, min(sample, n), replace=False)

    def one_by_one(release):
        return [release.row_influence(tf.constant(row), direction).numpy() / n for row in rows]

    release.row_influence(tf.constant(0), direction)
    old_time, old = timed(one_by_one, release)
    model._removal(model.tensors, np.roll(s_test, 7))
    new_time, new = median_time(model._removal, model.tensors, s_test)
    np.testing.assert_allclose(new[rows], old, atol=1e-4 * np.abs(new).max())
    report("all influences", old_time * n / len(rows), new_time, f"2017: {len(rows)} rows, scaled")

    hessian = model.hessian()
    lissa = Lissa(SCALE, DEPTH, REPEATS)
    lissa.solve(hessian, other)
    start = tf.constant(v.reshape(release.weights.shape), tf.float32)

    def recursion(release):
        h = start
        for row in rows:
            h = start + h - release.row_product(tf.constant(row), h) / SCALE
        return h

    release.row_product(tf.constant(0), start)
    old_time, _ = timed(recursion, release)
    new_time, _ = median_time(lissa.solve, hessian, v)
    report(
        f"LiSSA r {REPEATS}, t {DEPTH}",
        old_time * REPEATS * DEPTH / len(rows),
        new_time,
        f"2017: {len(rows)} steps, scaled; ours with residual and standard error",
    )
    del release

    x64 = train.x * train.scale
    sklearn_model = SklearnLogisticRegression(
        C=1 / (n * WEIGHT_DECAY), fit_intercept=False, tol=1e-8, max_iter=1000, warm_start=True
    )
    sklearn_model.fit(x64, train.labels)
    influence = model._removal(model.tensors, s_test)
    chosen = np.argsort(-np.abs(influence))[: max(refits, 32)]
    keep = np.ones(n, bool)
    keep[chosen[0]] = False
    x_kept, labels_kept = x64[keep], train.labels[keep]
    sklearn_model.C = 1 / ((n - 1) * WEIGHT_DECAY)
    old_time, _ = timed(sklearn_model.fit, x_kept, labels_kept)
    del x64, x_kept
    model.gradients_without(np.zeros((model.num_parameters, 1)), chosen[:1])
    new_time, result = timed(leave_one_out, model, chosen, x_test, y_test)
    report(
        "one leave-one-out refit",
        old_time,
        new_time / len(chosen),
        f"ours: mean of {len(chosen)}, factorisation included, gradient norm "
        f"≤ {result.gradient_norms.max():.0e}",
    )


def memory(data: str) -> None:
    """Load, fit, s_test and all influences in this process; print its peak memory."""
    mnist = load_mnist(data)
    model = LogisticRegression(mnist.train, WEIGHT_DECAY).fit()
    model.influence_on_loss(mnist.test.x[TEST_INDEX], mnist.test.labels[TEST_INDEX])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024
    print(f"Peak memory of load, fit, s_test and all influences: {peak_bytes / 1e9:.2f} GB")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("auto", "real", "stand-in"), default="auto")
    parser.add_argument("--sample", type=int, default=5000, help="rows and steps timed, 2017 way")
    parser.add_argument("--refits", type=int, default=100, help="refits averaged over, our way")
    parser.add_argument("--memory", action="store_true", help="only the peak memory")
    options = parser.parse_args()
    if options.memory:
        memory(options.data)
        return
    # In a process of its own, and first: a child's peak counts what its parent held at the start.
    command = [sys.executable, "-m", "benchmarks.fig2_against_2017", "--memory"]
    subprocess.run([*command, "--data", options.data], check=True)
    compare(options.data, options.sample, options.refits)


if __name__ == "__main__":
    main()
