"""Losses on the logits of a linear model in which every example has a weight of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from influence.linear.functions import LinearLoss, OneLogitLoss
from influence.models.logistic_regression import Softmax


@dataclass(frozen=True)
class Weighted(LinearLoss):
    """w ℓ(z, y) with labels [b, 2] that are (y, w), see ``pack``.

    The curvature methods of ``loss`` must be linear in what ``curvature`` gives, as those of a
    loss on one logit are.
    """

    loss: LinearLoss

    labels_spec = tf.TensorSpec([None, 2], tf.float64)

    @property
    def outputs(self) -> int:
        return self.loss.outputs

    def losses(self, z, labels):
        y, weights = self._unpack(z, labels)
        return weights * self.loss.losses(z, y)

    def slopes(self, z, labels):
        y, weights = self._unpack(z, labels)
        return weights[:, tf.newaxis] * self.loss.slopes(z, y)

    def curvature(self, z, labels):
        y, weights = self._unpack(z, labels)
        return weights[:, tf.newaxis] * self.loss.curvature(z, y)

    def curvature_product(self, curvature, u):
        return self.loss.curvature_product(curvature, u)

    def curvature_matrix(self, curvature):
        return self.loss.curvature_matrix(curvature)

    def _unpack(self, z, labels):
        y, weights = labels[:, 0], tf.cast(labels[:, 1], z.dtype)
        return tf.cast(y, self.loss.labels_spec.dtype), weights


def pack(labels: np.ndarray, weights: np.ndarray) -> tf.Tensor:
    """Labels [b] and the weights of their examples [b] as ``Weighted`` takes them, [b, 2]."""
    return tf.constant(np.stack([labels, weights], axis=1), tf.float64)


@dataclass(frozen=True)
class ScalableSoftmax(Softmax):
    """``Softmax`` whose curvature methods also take w·softmax(z), for any w ≥ 0."""

    def curvature_product(self, curvature, u):
        weighted = curvature[:, :, tf.newaxis] * u
        total = tf.reduce_sum(weighted, axis=1, keepdims=True)
        return weighted - self._probabilities(curvature)[:, :, tf.newaxis] * total

    def curvature_matrix(self, curvature):
        probabilities = self._probabilities(curvature)
        outer = curvature[:, :, tf.newaxis] * probabilities[:, tf.newaxis, :]
        return tf.linalg.diag(curvature) - outer

    def _probabilities(self, curvature):
        total = tf.reduce_sum(curvature, axis=1, keepdims=True)
        return tf.math.divide_no_nan(curvature, total)


@dataclass(frozen=True)
class SquaredError(OneLogitLoss):
    """(z − y)² of one output, for labels that are real numbers."""

    labels_spec = tf.TensorSpec([None], tf.float64)

    def losses(self, z, labels):
        return tf.square(z[:, 0] - tf.cast(labels, z.dtype))

    def slopes(self, z, labels):
        return 2 * (z - tf.cast(labels, z.dtype)[:, tf.newaxis])

    def curvature(self, z, labels):
        return 2 * tf.ones_like(z)
