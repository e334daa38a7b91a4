"""A small network trained by stochastic gradient descent, all of its steps in one compiled loop."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from influence import Dataset
from influence.data.files import fingerprint


@dataclass(frozen=True)
class Sgd:
    """How a network of dense layers with ReLU between them is trained on a softmax.

    A seed decides all that is random. Every pass goes through the points in a new order, that of
    all n points without those that are missing: so two trainings of one seed with and without a
    point differ by little but the point. Weights start uniform in ±1/√inputs, as PyTorch has them.

    Attributes:
        layers: the widths, inputs first.
        passes: over the points.
        rate: the learning rate.
        momentum: of v ← momentum · v + gradient, θ ← θ − rate · v.
        dropout: the share of units that is dropped after every ReLU.
        batch_size: points a step; the last step of a pass takes what is left.
    """

    layers: tuple[int, ...]
    passes: int
    rate: float = 0.01
    momentum: float = 0.0
    dropout: float = 0.0
    batch_size: int = 64

    def train(self, train: Dataset, kept: np.ndarray, seed: int) -> list[np.ndarray]:
        """θ [p] after every pass over the points ``kept``: kernels and biases, layer by layer."""
        batches = self._batches(kept, len(train), seed)
        weights = [tf.constant(array) for array in self._start(seed)]
        velocities = [tf.zeros_like(array) for array in weights]
        x, labels = tf.constant(train.x), tf.constant(train.labels, tf.int32)
        thetas = []
        for number, steps in enumerate(batches):
            state = tf.constant([seed, number * len(steps)], tf.int32), weights, velocities
            weights, velocities = _compiled(self)(x, labels, tf.constant(steps), *state)
            thetas.append(np.concatenate([array.numpy().ravel() for array in weights]))
        return thetas

    def losses(self, theta: np.ndarray, points: Dataset) -> np.ndarray:
        """The loss of each point without dropout, [m], in float64."""
        hidden, first = points.x.astype(np.float64), 0
        for number, (inputs, outputs) in enumerate(zip(self.layers, self.layers[1:])):
            hidden = np.maximum(hidden, 0) if number else hidden
            kernel, bias = np.split(
                theta[first : first + (inputs + 1) * outputs], [inputs * outputs]
            )
            hidden = hidden @ kernel.reshape(inputs, outputs) + bias
            first += (inputs + 1) * outputs
        highest = hidden.max(axis=1, keepdims=True)
        total = np.log(np.exp(hidden - highest).sum(axis=1)) + highest[:, 0]
        return total - hidden[np.arange(len(hidden)), points.labels]

    def _start(self, seed):
        random, arrays = np.random.default_rng([seed, 0]), []
        for inputs, outputs in zip(self.layers, self.layers[1:]):
            bound = 1 / np.sqrt(inputs)
            for shape in ((inputs, outputs), (outputs,)):
                arrays.append(random.uniform(-bound, bound, shape).astype(np.float32))
        return arrays

    def _batches(self, kept, n, seed):
        """The points of each step, [passes, steps, batch_size], −1 where there are fewer."""
        steps = -(-len(kept) // self.batch_size)
        chosen = np.full((self.passes, steps * self.batch_size), -1, np.int32)
        is_kept = np.zeros(n, bool)
        is_kept[kept] = True
        for number in range(self.passes):
            order = np.random.default_rng([seed, 1, number]).permutation(n)
            chosen[number, : len(kept)] = order[is_kept[order]]
        return chosen.reshape(self.passes, steps, self.batch_size)


@dataclass(frozen=True)
class SgdRecipe:
    """``retrain_on_subsets``'s recipe: the loss of each test point after a training.

    Attributes:
        sgd: how.
        train, test: floating-point points, and labels that are whole numbers.
    """

    sgd: Sgd
    train: Dataset
    test: Dataset

    @functools.cached_property
    def key(self) -> str:
        """Of all that a training depends on."""
        points = self.train.x, self.train.labels, self.test.x, self.test.labels
        return fingerprint(repr(self.sgd), *points)

    def __call__(self, kept: np.ndarray, seed: int) -> np.ndarray:
        return self.sgd.losses(self.sgd.train(self.train, kept, seed)[-1], self.test)


@functools.cache
def _compiled(sgd: Sgd):
    """Steps over given batches, compiled: (x, labels, batches, (seed, first step), weights,
    velocities) -> (weights, velocities)."""
    widths = list(zip(sgd.layers, sgd.layers[1:]))
    specs = [tf.TensorSpec(shape) for pair in widths for shape in (list(pair), [pair[1]])]

    def mean_loss(weights, x, labels, counts, seed):
        hidden = x
        for number, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2])):
            if number:
                hidden = tf.nn.relu(hidden)
                if sgd.dropout:
                    drawn = tf.random.stateless_uniform(
                        [sgd.batch_size, sgd.layers[number]], seed + [0, number - 1]
                    )
                    hidden *= tf.cast(drawn >= sgd.dropout, tf.float32) / (1 - sgd.dropout)
            hidden = hidden @ kernel + bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, hidden)
        return tf.reduce_sum(losses * counts) / tf.reduce_sum(counts)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, sgd.layers[0]]),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, sgd.batch_size], tf.int32),
            tf.TensorSpec([2], tf.int32),
            specs,
            specs,
        ]
    )
    def run(x, labels, batches, state, weights, velocities):
        for i in tf.range(tf.shape(batches)[0]):
            counts = tf.cast(batches[i] >= 0, tf.float32)
            rows = tf.maximum(batches[i], 0)
            # Of the seed and the number of the step.
            seed = tf.stack([state[0], len(widths) * (state[1] + i)])
            with tf.GradientTape() as tape:
                tape.watch(weights)
                value = mean_loss(
                    weights, tf.gather(x, rows), tf.gather(labels, rows), counts, seed
                )
            slopes = tape.gradient(value, weights)
            velocities = [sgd.momentum * v + g for v, g in zip(velocities, slopes)]
            weights = [w - sgd.rate * v for w, v in zip(weights, velocities)]
        return weights, velocities

    return run
