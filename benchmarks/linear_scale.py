"""Linear models of up to a million rows: this library, NumPy's closed form and pyinfluence.

Every row of the tables is measured in a process of its own, from a fitted scikit-learn estimator
and its data in memory to the answer: the Hessian and what else is needed on the way are in it, the
fit and the imports are not. "Read before" is from a model that has been made, and has its Hessian,
to the answer. Each process asks once on 1,000 rows before, so that what is compiled
or loaded at a first call is not what is compared. NumPy's is what one would write who knows the
formulas: the Hessian in blocks of rows, its Cholesky factor, and no checks. pyinfluence is measured
where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import scipy.linalg
from sklearn.linear_model import LogisticRegression

TESTS, BLOCK = 10, 2**14
WAYS = ("numpy", "library", "pyinfluence")
QUESTIONS = (
    *("scores", "scores, read before"),
    *("self_influence", "self_influence, read before"),
    "all",
)
RUNS = 5


class ClosedForm:
    """Binary logistic regression with an intercept, l2 penalty 1/C: what a point's removal does."""

    def __init__(self, estimator: Any, x: np.ndarray, y: np.ndarray) -> None:
        self.x, (n, d) = x, x.shape
        self.w, self.b = estimator.coef_[0], estimator.intercept_[0]
        p = 1 / (1 + np.exp(-(x @ self.w + self.b)))
        self.slopes, self.curvature = p - y, p * (1 - p)
        hessian = np.zeros((d + 1, d + 1))
        rows = np.empty((BLOCK, d + 1))
        for first in range(0, n, BLOCK):
            block = x[first : first + BLOCK]
            roots = np.sqrt(self.curvature[first : first + BLOCK])[:, np.newaxis]
            weighted = rows[: len(block)]
            np.multiply(block, roots, out=weighted[:, :d])
            weighted[:, d:] = roots
            hessian += weighted.T @ weighted
        hessian[np.arange(d), np.arange(d)] += 1 / estimator.C
        self.factor = scipy.linalg.cho_factor(hessian, lower=True)

    def scores(self, x_test: np.ndarray, y_test: np.ndarray) -> np.ndarray:
        """[m, n]."""
        slopes = 1 / (1 + np.exp(-(x_test @ self.w + self.b))) - y_test
        gradients = np.column_stack([x_test, np.ones(len(x_test))]) * slopes[:, np.newaxis]
        solved = scipy.linalg.cho_solve(self.factor, gradients.T)
        along = self.x @ solved[:-1] + solved[-1]
        return (along * self.slopes[:, np.newaxis]).T

    def forms(self) -> np.ndarray:
        """x̃ᵀH⁻¹x̃ of every point, [n]."""
        d = self.x.shape[1]
        inverse = scipy.linalg.cho_solve(self.factor, np.eye(d + 1))
        forms = np.empty(len(self.x))
        for first in range(0, len(self.x), BLOCK):
            block = self.x[first : first + BLOCK]
            product = block @ inverse[:d, :d] + 2 * inverse[d, :d]
            forms[first : first + BLOCK] = np.einsum("ij,ij->i", product, block) + inverse[d, d]
        return forms

    def self_influence(self) -> np.ndarray:
        """[n], of the sum."""
        return self.slopes**2 * self.forms()

    def all(self, x_test, y_test) -> None:
        """Scores, self-influences and leverages."""
        self.scores(x_test, y_test)
        forms = self.forms()
        _ = self.slopes**2 * forms, self.curvature * forms


def questions(way: str, estimator: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Callable]:
    """name -> a function that starts from the estimator and answers."""
    x_test, y_test = x[:TESTS].copy(), y[:TESTS].copy()
    if way == "numpy":
        known: list[ClosedForm] = []

        def read() -> ClosedForm:
            known[:] = known or [ClosedForm(estimator, x, y)]
            return known[0]

        return {
            "scores, read before": lambda: read().scores(x_test, y_test),
            "self_influence, read before": lambda: read().self_influence(),
            "scores": lambda: ClosedForm(estimator, x, y).scores(x_test, y_test),
            "self_influence": lambda: ClosedForm(estimator, x, y).self_influence(),
            "all": lambda: ClosedForm(estimator, x, y).all(x_test, y_test),
        }
    if way == "pyinfluence":
        import pyinfluence

        def read():
            return pyinfluence.InfluenceFunctions(mode="loss", damping=0.0).fit(estimator, x, y)

        fitted: list[Any] = []

        def read_before():
            fitted[:] = fitted or [read()]
            return fitted[0]

        return {
            "scores, read before": lambda: read_before().explain(x_test, y_test),
            "self_influence, read before": lambda: pyinfluence.self_influence(read_before()),
            "scores": lambda: read().explain(x_test, y_test),
            "self_influence": lambda: pyinfluence.self_influence(read()),
        }
    from influence import from_sklearn

    models: list[Any] = []

    def read_before():
        models[:] = models or [from_sklearn(estimator, x, y)]
        models[0]._at_theta.pop("own terms", None)  # else it would have the answer itself
        return models[0]

    def everything():
        model = from_sklearn(estimator, x, y)
        model.influence_on_loss(x_test, y_test)
        model.self_influence()
        model.leverage()

    return {
        "scores, read before": lambda: read_before().influence_on_loss(x_test, y_test),
        "self_influence, read before": lambda: read_before().self_influence(),
        "scores": lambda: from_sklearn(estimator, x, y).influence_on_loss(x_test, y_test),
        "self_influence": lambda: from_sklearn(estimator, x, y).self_influence(),
        "all": everything,
    }


def make(folder: Path, n: int, d: int) -> None:
    """Normal points and labels of a logistic model, as files."""
    random = np.random.default_rng(0)
    true = random.standard_normal(d) / np.sqrt(d)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float64, (n, d))
    y = np.empty(n, np.int64)
    for first in range(0, n, BLOCK):
        block = random.standard_normal((min(BLOCK, n - first), d))
        x[first : first + BLOCK] = block
        noise = random.logistic(size=len(block))
        y[first : first + BLOCK] = block @ true + noise > 0
    np.save(folder / "y.npy", y)


def load(folder: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """(the fitted estimator, x, y): in memory, read-only, as one whose owner means to keep it."""
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    x.flags.writeable = False
    kept = folder / "fit.npy"
    if kept.exists():
        start = LogisticRegression(C=0.1, max_iter=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start.fit(x[:1000], y[:1000])
        start.coef_, start.intercept_ = np.load(kept)[np.newaxis, :-1], np.load(kept)[-1:]
        return start, x, y
    estimator = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-8).fit(x, y)
    np.save(kept, np.append(estimator.coef_[0], estimator.intercept_))
    return estimator, x, y


def measure(way: str, question: str, folder: Path) -> None:
    """Print the seconds, and the most memory, of one question."""
    estimator, x, y = load(folder)
    few = LogisticRegression(C=0.1).fit(x[:1000], y[:1000])
    questions(way, few, x[:1000], y[:1000])[question]()
    ask = questions(way, estimator, x, y)[question]
    times: list[float] = []
    peaks: list[int] = []  # of the first, as later ones find what it has left
    for _ in range(RUNS):
        start = time.perf_counter()
        ask()
        times.append(time.perf_counter() - start)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    size = peaks[0] if sys.platform == "darwin" else peaks[0] * 1024
    print(json.dumps({"seconds": min(times), "peak": size, "data": x.nbytes}))


def measured(way: str, question: str, folder: Path) -> dict[str, float]:
    """The same, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.linear_scale", "--measure", way, question]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(sizes: list[int], d: int) -> None:
    """Print the table of binary logistic regression."""
    print("| n | what | NumPy | this library | ratio | pyinfluence | peak memory / data |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(folder, n, d)
            subprocess.run(
                [sys.executable, "-m", "benchmarks.linear_scale", "--measure", "fit", "-", name],
                check=True,
            )
            for question in QUESTIONS:
                found: dict[str, dict] = {}
                for way in WAYS:
                    # Its copies of a million rows take more memory than many machines have.
                    fits = question != "all" and n <= 100_000
                    if way != "pyinfluence" or (fits and importlib.util.find_spec(way)):
                        found[way] = measured(way, question, folder)
                ours, others = found["library"], {w: f for w, f in found.items() if w != "library"}
                ratio = ours["seconds"] / min(each["seconds"] for each in others.values())
                other = found.get("pyinfluence")
                print(
                    f"| {n:,} | {question} | {found['numpy']['seconds']:.3f} s "
                    f"| {ours['seconds']:.3f} s | {ratio:.2f}× "
                    f"| {'–' if other is None else format(other['seconds'], '.3f') + ' s'} "
                    f"| {ours['peak'] / ours['data']:.1f} |",
                    flush=True,
                )


def softmax(n: int, d: int, classes: int) -> None:
    """Print the seconds of self-influences of a softmax regression."""
    from influence import Dataset, LogisticRegression

    random = np.random.default_rng(0)
    x = random.random((n, d), np.float32)
    labels = random.integers(0, classes, n)
    model = LogisticRegression(Dataset(x, labels), 0.01)
    model.parameters = random.standard_normal(model.num_parameters) / np.sqrt(d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these parameters are no minimum
        start = time.perf_counter()
        model.self_influence()
    seconds = time.perf_counter() - start
    print(f"\nSoftmax, {classes} classes, n = {n:,}, d = {d}: self_influence {seconds:.0f} s")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--softmax", type=int, default=60_000, help="its points; 0 for none")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, question, folder = options.measure
        load(Path(folder)) if way == "fit" else measure(way, question, Path(folder))
        return
    compare(options.sizes, options.features)
    if options.softmax:
        softmax(options.softmax, 784, 10)


if __name__ == "__main__":
    main()
