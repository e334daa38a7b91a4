"""The convolutional network (n = 5,500, p = 2,616): this library against the 2017 way, in one run.

The 2017 way, stated fairly in current TensorFlow, on the same variables and images and the layers
as they were written then: a product with the Hessian of all points is a Python loop of compiled
products of 100 points each, reverse-mode over reverse-mode; the influences of all points are a
Python loop of one compiled gradient each, and a dot product in NumPy. A step of Adam is the same
compiled loop on both sides, with the gradient by automatic differentiation in the 2017 way.

What takes long is timed on a sample and scaled up, where every unit costs the same; it says so.
"""

from __future__ import annotations

import argparse

# First: TensorFlow reads once, as it is imported, what this sets.
import scripts  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf

from benchmarks.fig2_against_2017 import median_time, report, timed
from influence import Adam, AllCNNC, GenericNeuralNet
from influence.data.dataset import Dataset
from influence.data.vectors import flatten, split
from scripts.loaders.mnist import load_mnist

EXAMPLES, BATCH = 5500, 100
STEPS, ROUNDS = 50, 7


class Release:
    """The derivatives as the 2017 code makes them."""

    def __init__(self, model):
        self.model = model
        dtype, shape = model.train.x.dtype, model.train.x.shape[1:]
        batch = [tf.TensorSpec([None, *shape], dtype), tf.TensorSpec([None], tf.int64)]
        vector = tf.TensorSpec([model.num_parameters], model.dtype)
        self.product = tf.function(self._product, input_signature=[*batch, vector])
        self.gradient = tf.function(self._gradient, input_signature=batch)

    def _loss(self, x, labels):
        model = self.model
        x = tf.reshape(model.convert(x), [-1, model.side, model.side, 1])
        *layers, last = zip(model.weights, model.biases)
        for (weights, biases), stride in zip(layers, [*model.strides, 1]):
            x = tf.tanh(tf.nn.conv2d(x, weights, stride, "VALID") + biases)
        logits = tf.reduce_mean(x, axis=[1, 2]) @ last[0] + last[1]
        return tf.reduce_mean(model.example_losses(logits, labels))

    def _product(self, x, labels, v):
        variables = self.model.variables
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = self._loss(x, labels) + self.model.regularization()
            gradients = inner.gradient(loss, variables)
            along = [tf.reduce_sum(g * part) for g, part in zip(gradients, split(v, variables))]
            total = tf.add_n(along)
        return flatten(outer.gradient(total, variables, unconnected_gradients="zero"))

    def _gradient(self, x, labels):
        with tf.GradientTape() as tape:
            loss = self._loss(x, labels)
        return flatten(tape.gradient(loss, self.model.variables))

    def full_product(self, v):
        """∇²R v on all points, 100 at a time."""
        x, labels = self.model.train.x, self.model.train.labels.astype(np.int64)
        batches = [slice(first, first + BATCH) for first in range(0, len(x), BATCH)]
        return np.mean([self.product(x[b], labels[b], v).numpy() for b in batches], axis=0)

    def influences(self, rows, s_test):
        """s_testᵀ∇L of these points, one at a time."""
        x, labels = self.model.train.x, self.model.train.labels.astype(np.int64)
        return [self.gradient(x[[i]], labels[[i]]).numpy() @ s_test for i in rows]


class Automatic(AllCNNC):
    """The network with the generic gradient."""

    sum_gradient = GenericNeuralNet.sum_gradient


def steps_of_adam(model):
    """A function that makes some steps of Adam's compiled loop and returns θ."""
    adam, numbers = Adam(), np.arange(STEPS)
    batches = tf.constant(adam.batches(numbers, len(model.train)))
    rates = tf.constant(adam.rates(numbers), model.dtype)
    zero, compiled = tf.zeros(model.num_parameters, model.dtype), adam._compile(model)

    def run():
        compiled(batches, rates, zero, zero)
        return model.parameters

    return run


def compare(data: str, sample: int) -> None:
    """Print the table."""
    mnist = load_mnist(data)
    order = np.arange(len(mnist.train))
    np.random.RandomState(0).shuffle(order)
    # Whole batches, so that the mean of their products is the product.
    chosen = order[: min(EXAMPLES, len(order) // BATCH * BATCH)]
    train = Dataset(mnist.train.x[chosen], mnist.train.labels[chosen], mnist.train.scale)
    model, n = AllCNNC(train), len(train)
    release = Release(model)
    print(f"n = {n}, p = {model.num_parameters}, untrained, data: {mnist.provenance.data}\n")
    print("| what | 2017 way | this library | ratio | how |\n| --- | --- | --- | --- | --- |")

    # Both sides are warmed up on another vector: compiling is not what is compared.
    v, other = np.random.default_rng(0).standard_normal((2, model.num_parameters))
    v, other = v.astype(np.float32), other.astype(np.float32)
    hessian = model.hessian()
    release.full_product(other)
    hessian @ other
    old_time, old = median_time(release.full_product, v)
    new_time, new = median_time(hessian.__matmul__, v)
    np.testing.assert_allclose(new, old, atol=1e-4 * np.abs(old).max())
    report("product with the Hessian", old_time, new_time, f"2017: {n // BATCH} calls")

    block = tf.constant(v[:, np.newaxis])
    rows = np.random.default_rng(0).choice(n, min(sample, n), replace=False)
    release.influences(rows[:2], other)
    model.scans.directional_derivatives(model.tensors, tf.constant(other[:, np.newaxis]))
    old_time, old = timed(release.influences, rows, v)
    new_time, new = median_time(
        lambda: model.scans.directional_derivatives(model.tensors, block).numpy()[:, 0]
    )
    np.testing.assert_allclose(new[rows], old, atol=1e-4 * np.abs(new).max())
    report(
        "all influences, s_test given",
        old_time * n / len(rows),
        new_time,
        f"2017: {len(rows)} points, scaled",
    )

    automatic, by_hand = steps_of_adam(Automatic(train)), steps_of_adam(AllCNNC(train))
    np.testing.assert_allclose(by_hand(), automatic(), atol=1e-3)  # warmed up
    # In turn, so that whatever else the machine does is shared.
    rounds = [(timed(automatic)[0], timed(by_hand)[0]) for _ in range(ROUNDS)]
    old_time, new_time = np.median(rounds, axis=0) / STEPS
    rates = f"{1 / old_time:.0f} and {1 / new_time:.0f} steps a second"
    report("step of Adam", old_time, new_time, rates)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("auto", "real", "stand-in"), default="auto")
    parser.add_argument("--sample", type=int, default=200, help="points timed, 2017 way")
    options = parser.parse_args()
    compare(options.data, options.sample)


if __name__ == "__main__":
    main()
