"""Losses of scikit-learn's estimators that none of the paper's models has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from influence.linear.functions import OneLogitLoss
from influence.models.logistic_regression import Softmax


@dataclass(frozen=True)
class ScalableSoftmax(Softmax):
    """``Softmax`` whose curvature methods also take w·softmax(z), for any w ≥ 0."""

    def probabilities(self, curvature: tf.Tensor) -> tf.Tensor:
        total = tf.reduce_sum(curvature, axis=1, keepdims=True)
        return tf.math.divide_no_nan(curvature, total)


class RegressionLoss(OneLogitLoss):
    """A loss on one output for labels that are real numbers."""

    falls_with_margins = False
    labels_spec = tf.TensorSpec([None], tf.float64)

    def check_labels(self, labels: np.ndarray, name: str) -> None:
        """Raise a ValueError for labels that the loss is not defined for."""

    def prediction(self, z: np.ndarray) -> np.ndarray:
        """What outputs z predict, in the units of the labels."""
        return z


@dataclass(frozen=True)
class SquaredError(RegressionLoss):
    """(z − y)² of one output.

    Without the half that other texts put before it: a change of this loss is twice that of
    ½(z − y)². ``Ridge`` minimises Σ(z − y)² + alpha‖w‖².
    """

    likelihood = "normal"

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.square(residuals(z, labels))[:, 0]

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return 2 * residuals(z, labels)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return 2 * tf.ones_like(z)

    def information(self, z: tf.Tensor) -> tf.Tensor:
        return 2 * tf.ones_like(z)


@dataclass(frozen=True)
class ModifiedHuber(OneLogitLoss):
    """max(0, 1 − s)² of the margin s = y z down to s = −1, and −4s below; labels y = ±1.

    Its slope is continuous. Its curvature, 2 or 0, jumps at s = ±1.
    """

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        margins = self._margins(z, labels)
        return tf.where(margins >= -1, tf.square(tf.nn.relu(1 - margins)), -4 * margins)[:, 0]

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        gaps = tf.minimum(tf.nn.relu(1 - self._margins(z, labels)), 2)
        return -2 * tf.cast(labels, z.dtype)[:, tf.newaxis] * gaps

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return 2 * tf.cast(tf.abs(self._margins(z, labels)) < 1, z.dtype)

    def _margins(self, z, labels):
        return tf.cast(labels, z.dtype)[:, tf.newaxis] * z


def residuals(z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """z − y for z [b, 1]: [b, 1]."""
    return z - tf.cast(labels, z.dtype)[:, tf.newaxis]
