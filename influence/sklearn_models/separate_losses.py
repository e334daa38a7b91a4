"""Sums of losses of one logit each: one class against the rest, and several targets."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from influence.linear.functions import LinearLoss, OneLogitLoss
from influence.sklearn_models.losses import RegressionLoss


class SeparateLosses(LinearLoss):
    """Σ_k a_k ℓ(z_k, y_k), whose curvature is a diagonal."""

    each: OneLogitLoss
    separate = True

    @property
    def falls_with_margins(self) -> bool:  # type: ignore[override]
        return self.each.falls_with_margins

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.each.convex

    @abc.abstractmethod
    def targets(self, labels: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor | float]:
        """(y, a), [b, c] each."""

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(self._of_each(self.each.losses, z, labels), axis=1)

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return self._of_each(self.each.slopes, z, labels)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return self._of_each(self.each.curvature, z, labels)

    def curvature_product(self, curvature: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        return curvature[:, :, tf.newaxis] * u

    def curvature_matrix(self, curvature: tf.Tensor) -> tf.Tensor:
        return tf.linalg.diag(curvature)

    def _of_each(self, method: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], z, labels):
        """a ``method`` of every logit by itself: [b, c]."""
        y, weights = self.targets(labels, z.dtype)
        y = tf.cast(tf.reshape(y, [-1]), self.each.labels_spec.dtype)
        return weights * tf.reshape(method(tf.reshape(z, [-1, 1]), y), tf.shape(z))


@dataclass(frozen=True)
class OneVsRest(SeparateLosses):
    """One class against the rest, labels 0..c − 1.

    Args:
        each: ℓ.
        codes: what ℓ takes for the rest and for the class.
        positives: [c] the weight a_k of a point of class k in its own problem; in the others it is
            1. So do liblinear and ``SGDClassifier`` with ``class_weight``.
    """

    each: OneLogitLoss
    codes: tuple[int, int]
    positives: tuple[float, ...]

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return len(self.positives)

    def targets(self, labels: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        own = tf.one_hot(labels, self.outputs, dtype=dtype)
        rest, code = self.codes
        return rest + (code - rest) * own, 1 + (tf.constant(self.positives, dtype) - 1) * own


@dataclass(frozen=True)
class SeveralTargets(SeparateLosses):
    """The sum of ``each`` over c targets, labels [b, c]."""

    each: RegressionLoss
    outputs: int

    labels_spec = tf.TensorSpec([None, None], tf.float64)

    def targets(self, labels: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, float]:
        return labels, 1.0

    def check_labels(self, labels: np.ndarray, name: str) -> None:
        """As ``each`` has it."""
        self.each.check_labels(labels, name)

    def prediction(self, z: np.ndarray) -> np.ndarray:
        """As ``each`` has it."""
        return self.each.prediction(z)
