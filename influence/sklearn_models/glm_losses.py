"""The losses of generalised linear models: half the deviance of Tweedie's families."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from influence.sklearn_models.losses import RegressionLoss, residuals


@dataclass(frozen=True)
class HalfDeviance(RegressionLoss):
    """Half the deviance of the family with the variance function μ^power, of μ = exp(z) or μ = z.

    y^(2−p)/((1−p)(2−p)) − y μ^(1−p)/(1−p) + μ^(2−p)/(2−p), with its limits y log(y/μ) − y + μ
    (Poisson, p = 1) and log(μ/y) + y/μ − 1 (gamma, p = 2); ½(y − μ)² at p = 0. Its slope in μ is
    (μ − y)/μ^p (McCullagh & Nelder, *Generalized Linear Models*, section 2.3).

    Args:
        power: p, not between 0 and 1.
        log_link: whether μ = exp(z). Where μ = z the loss is infinite at μ ≤ 0 if p is not 0.
    """

    power: float
    log_link: bool

    @property
    def likelihood(self) -> str:  # type: ignore[override]
        if self.power == 1:
            return "full"
        return "dispersed" if self.power or self.log_link else "normal"

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return 1 <= self.power <= 2 if self.log_link else self.power in (0, 1)

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        p, z = self.power, z[:, 0]
        y, mean = tf.cast(labels, z.dtype), self._mean(z)
        if p == 0:
            return tf.square(y - mean) / 2
        log_mean = z if self.log_link else tf.math.log(mean)
        if p == 1:
            value = tf.math.xlogy(y, y) - y * log_mean - y + mean
        elif p == 2:
            value = log_mean - tf.math.log(y) + y / mean - 1
        else:
            # Labels of a negative power may be below 0, whose part is a constant.
            own = tf.nn.relu(y) ** (2 - p) / ((1 - p) * (2 - p))
            value = own - y * mean ** (1 - p) / (1 - p) + mean ** (2 - p) / (2 - p)
        return tf.where(mean > 0, value, tf.constant(np.inf, z.dtype))

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        mean = self._mean(z)
        return residuals(mean, labels) * mean ** (self.log_link - self.power)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        mean, exponent = self._mean(z), self.log_link - self.power
        if exponent == 0:
            return self.information(z)
        # Of μ^e (μ − y) with e = 1 − p or −p: times dμ/dz where that is not 1.
        power = mean ** (exponent - 1 + self.log_link)
        return self.information(z) + exponent * residuals(mean, labels) * power

    def information(self, z: tf.Tensor) -> tf.Tensor:
        return self._mean(z) ** (2 * self.log_link - self.power)

    def check_labels(self, labels: np.ndarray, name: str) -> None:
        wrong = labels < 0 if self.power < 2 else labels <= 0
        if self.power >= 1 and wrong.any():
            limit = "at least 0" if self.power < 2 else "above 0"
            raise ValueError(
                f"{name} must be {limit} for a deviance of power {self.power:g}; "
                f"{labels[wrong][0]} at position {np.flatnonzero(wrong)[0]} is not."
            )

    def prediction(self, z: np.ndarray) -> np.ndarray:
        return np.exp(z) if self.log_link else z

    def _mean(self, z):
        return tf.exp(z) if self.log_link else z
