"""Losses of scikit-learn's estimators that none of the paper's models has."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from influence.linear.functions import OneLogitLoss
from influence.models.logistic_regression import Softmax


@dataclass(frozen=True)
class ScalableSoftmax(Softmax):
    """``Softmax`` whose curvature methods also take w·softmax(z), for any w ≥ 0."""

    def probabilities(self, curvature: tf.Tensor) -> tf.Tensor:
        total = tf.reduce_sum(curvature, axis=1, keepdims=True)
        return tf.math.divide_no_nan(curvature, total)


@dataclass(frozen=True)
class SquaredError(OneLogitLoss):
    """(z − y)² of one output, for labels that are real numbers.

    Without the half that other texts put before it: a change of this loss is twice that of
    ½(z − y)². ``Ridge`` minimises Σ(z − y)² + alpha‖w‖².
    """

    falls_with_margins = False
    labels_spec = tf.TensorSpec([None], tf.float64)

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.square(z[:, 0] - tf.cast(labels, z.dtype))

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return 2 * (z - tf.cast(labels, z.dtype)[:, tf.newaxis])

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return 2 * tf.ones_like(z)
