"""The losses of robust regressions, some of which have kinks that are smoothed."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from influence.linear.functions import LinearLoss
from influence.sklearn_models.losses import RegressionLoss, residuals


@dataclass(frozen=True)
class Huber(RegressionLoss):
    """½r² of the residual r = z − y up to |r| = epsilon, and epsilon(|r| − ½ epsilon) beyond."""

    epsilon: float

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        r = residuals(z, labels)
        beyond = self.epsilon * (tf.abs(r) - self.epsilon / 2)
        return tf.where(tf.abs(r) <= self.epsilon, tf.square(r) / 2, beyond)[:, 0]

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(residuals(z, labels), -self.epsilon, self.epsilon)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.abs(residuals(z, labels)) <= self.epsilon, z.dtype)


@dataclass(frozen=True)
class SquaredEpsilonInsensitive(RegressionLoss):
    """max(0, |z − y| − epsilon)²: its slope is continuous, its curvature, 2 or 0, jumps."""

    epsilon: float

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.square(self._excess(residuals(z, labels)))[:, 0]

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        r = residuals(z, labels)
        return 2 * tf.sign(r) * self._excess(r)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        # Without a tube it is the squared error, at residuals of 0, too.
        inside = tf.abs(residuals(z, labels)) <= self.epsilon if self.epsilon else False
        return tf.where(inside, tf.zeros_like(z), 2 * tf.ones_like(z))

    def _excess(self, r):
        return tf.nn.relu(tf.abs(r) - self.epsilon)


@dataclass(frozen=True)
class SmoothEpsilonInsensitive(RegressionLoss):
    """max(0, |r| − epsilon) of the residual r = z − y, both kinks smoothed at a temperature t:
    t log(1 + exp((r − epsilon)/t)) + t log(1 + exp((−r − epsilon)/t))."""

    temperature: float
    epsilon: float

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        above, below = self._gaps(z, labels)
        return self.temperature * (tf.nn.softplus(above) + tf.nn.softplus(below))[:, 0]

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        above, below = self._gaps(z, labels)
        return tf.sigmoid(above) - tf.sigmoid(below)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        gaps = self._gaps(z, labels)
        return sum(tf.sigmoid(gap) * tf.sigmoid(-gap) for gap in gaps) / self.temperature

    def _gaps(self, z, labels):
        r = residuals(z, labels)
        return (r - self.epsilon) / self.temperature, (-r - self.epsilon) / self.temperature


@dataclass(frozen=True)
class ConcomitantHuber(LinearLoss):
    """σ + σ H(r/σ) of the outputs (z, σ), r = z − y, with H(u) = u² up to |u| = epsilon and
    2 epsilon|u| − epsilon² beyond: ``HuberRegressor``'s, whose scale σ is fitted together with the
    coefficients (Owen, *A robust hybrid of lasso and ridge regression*, 2007). Convex in both.
    """

    epsilon: float

    outputs = 2
    falls_with_margins = False
    labels_spec = tf.TensorSpec([None], tf.float64)

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        r, scale, inside = self._parts(z, labels)
        square = tf.math.divide_no_nan(tf.square(r), scale)
        beyond = 2 * self.epsilon * tf.abs(r) - self.epsilon**2 * scale
        return (scale + tf.where(inside, square, beyond))[:, 0]

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        r, scale, inside = self._parts(z, labels)
        u = tf.math.divide_no_nan(r, scale)
        of_z = tf.where(inside, 2 * u, 2 * self.epsilon * tf.sign(r))
        of_scale = 1 - tf.where(inside, tf.square(u), self.epsilon**2)
        return tf.concat([of_z, of_scale], axis=1)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The matrix's first row; its rank is 1."""
        r, scale, inside = self._parts(z, labels)
        u = tf.math.divide_no_nan(r, scale)
        row = tf.math.divide_no_nan(tf.concat([2 * tf.ones_like(u), -2 * u], axis=1), scale)
        return tf.where(inside, row, tf.zeros_like(row))

    def curvature_product(self, curvature: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        return self.curvature_matrix(curvature) @ u

    def curvature_matrix(self, curvature: tf.Tensor) -> tf.Tensor:
        outer = curvature[:, :, tf.newaxis] * curvature[:, tf.newaxis, :]
        return tf.math.divide_no_nan(outer, curvature[:, :1, tf.newaxis])

    def check_labels(self, labels: tf.Tensor, name: str) -> None:
        """Every number is one."""

    def prediction(self, z: tf.Tensor) -> tf.Tensor:
        """z."""
        return z

    def _parts(self, z, labels):
        r, scale = residuals(z[:, :1], labels), z[:, 1:]
        return r, scale, tf.abs(r) < self.epsilon * scale
