"""Scores of whole networks on MNIST (n = 10,000): what one product takes, and a block of ten; exact
scores of ten test points, and of the next ten; EK-FAC's; and the most memory that all that took.

Two networks, fitted as anybody would (a few passes of Adam), each in a process of its own: a
convolutional one of p = 80,202 parameters, and an MLP of a million. The curvature is Gauss-Newton +
0.01, and exact is a residual of 1e-3.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor

# First: TensorFlow reads once, as it is imported, what this sets.
import scripts  # noqa: F401

# isort: split
import keras
import numpy as np

from benchmarks.fig2_against_2017 import median_time, timed
from influence import BlockConjugateGradient, KerasModel, nystrom
from scripts.loaders.mnist import load_mnist

EXAMPLES, EPOCHS = 10_000, 5
DAMPING, TOLERANCE = 0.01, 1e-3
layers = keras.layers


class Recorded:
    """A solver that keeps its last solution."""

    def __init__(self, solver):
        self.solver, self.solution = solver, None

    def solve(self, operator, rhs, strict=False):
        """As the solver's."""
        self.solution = self.solver.solve(operator, rhs, strict)
        return self.solution


def convolutional() -> list[keras.Layer]:
    """5×5×16, 5×5×32, 128, 10."""
    return [
        layers.Conv2D(16, 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(10),
    ]


def million() -> list[keras.Layer]:
    """784-1024-190-10."""
    hidden = [layers.Dense(width, activation="relu") for width in (1024, 190)]
    return [layers.Flatten(), *hidden, layers.Dense(10)]


NETWORKS = {"convolutional network": convolutional, "MLP": million}


def fitted(name: str, data: str, epochs: int):
    """(the model of a network after a few passes of Adam, twenty test points)."""
    keras.utils.set_random_seed(0)
    mnist = load_mnist(data)
    x, x_test = (
        np.float32(images.reshape(-1, 28, 28, 1)) / 255
        for images in (mnist.train.x[:EXAMPLES], mnist.test.x)
    )
    labels = mnist.train.labels[:EXAMPLES]
    network = keras.Sequential([keras.Input(x.shape[1:]), *NETWORKS[name]()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    network.fit(x, labels, batch_size=64, epochs=epochs, verbose=0)
    _, accuracy = network.evaluate(x_test, mnist.test.labels, verbose=0)
    model = KerasModel(network, (x, labels))
    data = mnist.provenance.data
    print(f"\n{name}: n = {len(x)}, p = {model.num_parameters}, {accuracy:.1%} of {data} right\n")
    return model, x_test[:20], mnist.test.labels[:20]


def measure(name: str, data: str, epochs: int) -> None:
    """Print the table of a network."""
    model, x_test, y_test = fitted(name, data, epochs)
    print("| what | seconds | |\n| --- | --- | --- |")

    def report(what, seconds, note=""):
        print(f"| {what} | {seconds:.3g} | {note} |", flush=True)

    block = np.float32(np.random.default_rng(0).standard_normal((model.num_parameters, 10)))
    matrix = model.gauss_newton()
    matrix @ block[:, 0], matrix @ block  # traced
    one, ten = (median_time(lambda v=v: matrix @ v)[0] for v in (block[:, 0], block))
    report("one product", one)
    report("a block of ten", ten, f"{ten / one:.1f}×")

    first, second = ((x_test[part], y_test[part]) for part in (slice(10), slice(10, 20)))
    curvature = matrix + DAMPING

    def exact(points):
        preconditioner = nystrom(curvature)
        solver = Recorded(BlockConjugateGradient(TOLERANCE, preconditioner=preconditioner))
        scores = model.influence_on_loss(*points, curvature=curvature, solver=solver)
        solution = solver.solution
        return scores, f"{max(solution.iterations)} steps, residual {max(solution.residual):.1e}"

    seconds, (scores, note) = timed(exact, first)
    report("exact scores of ten test points, with set-up", seconds, note)
    seconds, (_, note) = timed(exact, second)
    report("exact scores of ten more", seconds, note)

    def by_layer():
        return model.influence_on_loss(*first, curvature=model.ekfac() + DAMPING)

    seconds, approximate = timed(by_layer)
    r = np.corrcoef(scores.ravel(), approximate.ravel())[0, 1]
    report(
        "EK-FAC's scores of ten test points, with set-up", seconds, f"R = {r:.2f} with the exact"
    )
    seconds, _ = timed(lambda: model.self_influence(curvature=model.ekfac() + DAMPING))
    report("EK-FAC's self-influence of all points", seconds)
    # Kilobytes on Linux, bytes on macOS.
    unit = 1e9 if sys.platform == "darwin" else 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"\npeak memory: {peak:.2f} GB", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("auto", "real", "stand-in"), default="auto")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    options = parser.parse_args()
    for name in [options.network] if options.network else NETWORKS:
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=fresh) as process:
            process.submit(measure, name, options.data, options.epochs).result()


if __name__ == "__main__":
    main()
