"""Many small networks trained side by side, by stochastic gradient descent in one compiled loop.

Retraining is what a datamodeling score costs: the matrices of several networks are stacked, so that
one product serves them all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from influence import Dataset

# Networks that are trained together: their weights should stay in the processor's cache.
_AT_ONCE = 10


@dataclass(frozen=True)
class Sgd:
    """How a network of dense layers is trained; a seed decides all that is random.

    Every pass goes through the points in a new order, which a pass's number and the seed alone
    decide: that of all n points, without those that are missing. So two trainings of one seed, with
    and without a point, differ by little but the point. Weights start uniform in ±1/√(inputs), as
    PyTorch has them.

    Attributes:
        layers: the widths, inputs first; ReLU between them.
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

    def start(self, seed: int) -> list[np.ndarray]:
        """The first weights: kernel [inputs, outputs] and bias [outputs] of each layer."""
        random, arrays = np.random.default_rng([seed, 0]), []
        for inputs, outputs in zip(self.layers, self.layers[1:]):
            for shape in ((inputs, outputs), (outputs,)):
                bound = 1 / np.sqrt(inputs)
                arrays.append(random.uniform(-bound, bound, shape).astype(np.float32))
        return arrays

    def batches(self, kept: np.ndarray, n: int, seed: int) -> np.ndarray:
        """The points of each step, [steps, batch_size], −1 where there are fewer."""
        steps = -(-len(kept) // self.batch_size)
        chosen = np.full((self.passes, steps * self.batch_size), -1, np.int32)
        is_kept = np.zeros(n, bool)
        is_kept[kept] = True
        for number in range(self.passes):
            order = np.random.default_rng([seed, 1, number]).permutation(n)
            chosen[number, : len(kept)] = order[is_kept[order]]
        return chosen.reshape(self.passes * steps, self.batch_size)

    def train(
        self, train: Dataset, kept: list[np.ndarray], seeds: list[int], at: tuple[int, ...] = ()
    ) -> np.ndarray:
        """θ of one network for each of ``kept``, arrays of as many training indices: [k, p].

        Args:
            train: the training points.
            kept: for each network, the points that it is trained on.
            seeds: of each network.
            at: passes after which θ is wanted, too: the answer is [len(at) + 1, k, p] then.
        """
        blocks = [
            self._train_block(
                train, kept[first : first + _AT_ONCE], seeds[first : first + _AT_ONCE], at
            )
            for first in range(0, len(kept), _AT_ONCE)
        ]
        thetas = np.concatenate(blocks, axis=1)
        return thetas if at else thetas[0]

    def _train_block(self, train, kept, seeds, at):
        x = tf.constant(train.x, tf.float32) * train.scale
        labels = tf.constant(train.labels, tf.int32)
        batches = np.stack(
            [self.batches(each, len(train), seed) for each, seed in zip(kept, seeds)], axis=1
        )
        weights = [tf.constant(np.stack(arrays)) for arrays in zip(*map(self.start, seeds))]
        velocities = [tf.zeros_like(each) for each in weights]
        per_pass = len(batches) // self.passes
        ends = [*(per_pass * passes for passes in at), len(batches)]
        thetas, first = [], 0
        run = _compiled(self, x.shape[1], len(kept))
        for last in ends:
            weights, velocities = run(
                x,
                labels,
                tf.constant(batches[first:last]),
                tf.constant(first),
                tf.constant(seeds, tf.int32),
                weights,
                velocities,
            )
            thetas.append(
                np.concatenate([each.numpy().reshape(len(kept), -1) for each in weights], 1)
            )
            first = last
        return np.stack(thetas)


@functools.cache
def _compiled(sgd: Sgd, features: int, networks: int):
    """Steps of ``networks`` stacked networks, compiled."""

    def mean_losses(weights, x, labels, counts, step, seeds):
        hidden, kernels = x, list(zip(weights[::2], weights[1::2]))
        for number, (kernel, bias) in enumerate(kernels):
            hidden = hidden @ kernel + bias[:, tf.newaxis]
            if number < len(kernels) - 1:
                hidden = tf.nn.relu(hidden)
                if sgd.dropout:
                    hidden *= masks(hidden, step, number, seeds)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, hidden)
        return tf.reduce_sum(losses * counts) / tf.reduce_sum(counts[0])

    def masks(hidden, step, number, seeds):
        # One network's numbers do not depend on which others are trained beside it.
        drawn = [
            tf.random.stateless_uniform(hidden.shape[1:], [seeds[k], 2 * step + number])
            for k in range(networks)
        ]
        return tf.cast(tf.stack(drawn) >= sgd.dropout, tf.float32) / (1 - sgd.dropout)

    shapes = [
        shape
        for inputs, outputs in zip(sgd.layers, sgd.layers[1:])
        for shape in ([networks, inputs, outputs], [networks, outputs])
    ]
    specs = [tf.TensorSpec(shape) for shape in shapes]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, features]),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, networks, sgd.batch_size], tf.int32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([networks], tf.int32),
            specs,
            specs,
        ]
    )
    def run(x, labels, batches, first, seeds, weights, velocities):
        for i in tf.range(tf.shape(batches)[0]):
            rows = batches[i]
            counts = tf.cast(rows >= 0, tf.float32)
            rows = tf.maximum(rows, 0)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                value = mean_losses(
                    weights, tf.gather(x, rows), tf.gather(labels, rows), counts, first + i, seeds
                )
            slopes = tape.gradient(value, weights)
            velocities = [sgd.momentum * v + g for v, g in zip(velocities, slopes)]
            weights = [w - sgd.rate * v for w, v in zip(weights, velocities)]
        return weights, velocities

    return run
