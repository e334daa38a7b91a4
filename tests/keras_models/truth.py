"""Influences of a Keras network from gradients and differences of them alone, in float64."""

from __future__ import annotations

import functools
import itertools

import keras
import numpy as np
import tensorflow as tf

from tests.oracles import softmax

# Of a derivative from values at ±h and ±2h, to h⁴.
_STENCIL = {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12}


class DenseTruth:
    """Scores of a network with float64 variables, whose loss is the cross entropy of its outputs,
    [n, c].

    Args:
        network: built; only outputs and their gradients are asked of it.
        variables: θ.
        x, labels: the training points.
        step: of differences of gradients.
    """

    def __init__(self, network, variables, x, labels, step=1e-4):
        self.variables = [v.value for v in variables]
        self.network, self.x, self.labels, self.step = network, x, labels, step

    def gauss_newton(self):
        """(1/n) Σ Jᵀ (diag(p) − ppᵀ) J, [p, p]."""
        total = 0.0
        for i in range(len(self.x)):
            outputs, jacobian = (array.numpy() for array in self._jacobian(self.x[i : i + 1]))
            [p] = softmax(outputs)
            total = total + jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
        return total / len(self.x)

    def hessian(self):
        """[p, p]."""
        theta = np.concatenate([np.ravel(v) for v in self.variables])
        columns = []
        for direction in np.eye(len(theta)):
            column = 0.0
            for times, weight in _STENCIL.items():
                self._assign(theta + times * self.step * direction)
                column = column + weight / self.step * self.gradient(self.x, self.labels)
            columns.append(column)
        self._assign(theta)
        matrix = np.array(columns) / len(self.x)
        return (matrix + matrix.T) / 2

    def scores(self, matrix, x_test, y_test):
        """[m, n], without a regulariser."""
        test, train = (
            np.array([self.gradient(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
            for x, y in ((x_test, y_test), (self.x, self.labels))
        )
        return test @ np.linalg.solve(matrix, train.T) / len(self.x)

    def gradient(self, x, labels):
        """Σ ∇L, [p]."""
        return self._gradient(x, labels).numpy()

    @functools.cached_property
    def _gradient(self):
        @tf.function(reduce_retracing=True)
        def gradient(x, labels):
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(
                    labels, self.network(x, training=False), from_logits=True
                )
            return self._flat(tape.gradient(losses, self.variables))

        return gradient

    @functools.cached_property
    def _jacobian(self):
        @tf.function
        def jacobian(x):
            with tf.GradientTape(persistent=True) as tape:
                outputs = self.network(x, training=False)
                numbers = tf.unstack(outputs[0])
            rows = [self._flat(tape.gradient(number, self.variables)) for number in numbers]
            return outputs, tf.stack(rows)

        return jacobian

    def _flat(self, gradients):
        return tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)

    def _assign(self, theta):
        sizes = np.cumsum([v.shape.num_elements() for v in self.variables])[:-1]
        for variable, part in zip(self.variables, np.split(theta, sizes)):
            variable.assign(part.reshape(variable.shape))


def pooled(x, kind, size, stride, padding):
    """What "Max" and "Average" pooling with windows of ``size`` in every dimension are, from the
    slices of x [n, ..., c] that the windows' places see; TensorFlow has no float64 in 3D."""
    spatial = x.shape[1:-1]
    out = [
        -(-length // stride) if padding == "same" else (length - size) // stride + 1
        for length in spatial
    ]
    missing = [
        max(0, (number - 1) * stride + size - length) if padding == "same" else 0
        for number, length in zip(out, spatial)
    ]
    around = [(0, 0), *((total // 2, total - total // 2) for total in missing), (0, 0)]
    outside = -1e30 if kind == "Max" else 0.0

    def windows(values, outside):
        values = tf.pad(values, around, constant_values=outside)
        for offsets in itertools.product(range(size), repeat=len(spatial)):
            inner = [slice(o, o + (n - 1) * stride + 1, stride) for o, n in zip(offsets, out)]
            yield values[(slice(None), *inner)]

    stack = tf.stack(list(windows(x, outside)))
    if kind == "Max":
        return tf.reduce_max(stack, axis=0)
    counts = tf.reduce_sum(tf.stack(list(windows(tf.ones_like(x), 0.0))), axis=0)
    return tf.reduce_sum(stack, axis=0) / counts
