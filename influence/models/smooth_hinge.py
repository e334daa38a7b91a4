"""The linear support vector machine: the hinge of the paper's Figure 3, and smooth versions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse
import tensorflow as tf
from sklearn.svm import LinearSVC

from influence.data.dataset import Dataset, check_dataset, check_two_classes
from influence.data.types import DType, Inputs
from influence.linear.functions import LinearLoss, OneLogitLoss
from influence.linear.model import LinearModel
from influence.linear.penalty import Ridge
from influence.linear.scans import as_array
from influence.objective.minimum import ConvergenceWarning

# liblinear's stopping rule, its limit of passes over the data, and the seed of their order: those
# of the paper.
HINGE_TOLERANCE = 1e-6
HINGE_ITERATIONS = 5000
HINGE_SEED = 24
# Temperatures on the way down to a lower one: from far away Newton's method, whose quadratic model
# holds only within t of the kink, takes many steps or stops.
_COOLING = (0.1, 0.01, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class SmoothHingeLoss(OneLogitLoss):
    """t log(1 + exp((1 − s)/t)) of the margin s = y z, labels y = ±1; at t = 0 max(0, 1 − s)."""

    temperature: float | tf.Tensor

    def split(self) -> tuple[LinearLoss, tuple[float, ...]]:
        return (self, ()) if self._is_hinge else (SmoothHingeLoss(1.0), (self.temperature,))

    def at(self, numbers: Sequence[tf.Tensor]) -> LinearLoss:
        return SmoothHingeLoss(*numbers) if numbers else self

    @property
    def _is_hinge(self):
        # A tensor is the temperature of a smooth one.
        return not tf.is_tensor(self.temperature) and self.temperature == 0

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        gap = 1 - _signs(z, labels) * z
        if self._is_hinge:
            return tf.nn.relu(gap)[:, 0]
        return (self.temperature * tf.nn.softplus(gap / self.temperature))[:, 0]

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        y = _signs(z, labels)
        gap = 1 - y * z
        if self._is_hinge:
            return -y * tf.cast(gap > 0, z.dtype)
        return -y * tf.sigmoid(gap / self.temperature)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        if self._is_hinge:
            return tf.zeros_like(z)
        u = (1 - _signs(z, labels) * z) / self.temperature
        return tf.sigmoid(u) * tf.sigmoid(-u) / self.temperature


@dataclass(frozen=True)
class SquaredHingeLoss(OneLogitLoss):
    """max(0, 1 − s)² of the margin s = y z, labels y = ±1: its slope is continuous.

    Its curvature, 2 or 0, jumps at s = 1, where it is taken as 0.
    """

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.square(_gaps(z, labels))[:, 0]

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return -2 * _signs(z, labels) * _gaps(z, labels)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return 2 * tf.cast(_gaps(z, labels) > 0, z.dtype)


class SmoothHinge(LinearModel):
    """A linear support vector machine, (1/n) Σ t log(1 + exp((1 − y wᵀx)/t)) + (λ/2)‖w‖².

    At temperature 0 the loss is the hinge max(0, 1 − y wᵀx): its curvature is 0 wherever it has
    one, so influences then follow from the regulariser alone. The paper fits the hinge and takes
    influences of a smooth loss there:

        hinge = SmoothHinge(train, weight_decay, 0).fit()
        model = SmoothHinge(train, weight_decay, 0.001).with_parameters(hinge.parameters)

    Args:
        train: labels are −1 and +1.
        weight_decay: λ; scikit-learn's C is 1/(nλ). Above 0 at temperature 0.
        temperature: t.
        use_bias: append a constant feature 1 to x, last, whose weight is regularised like the
            others: what liblinear does with ``intercept_scaling=1``.
        dtype: "float32" or "float64".
        batch_size: points converted at a time.

    Examples:
        Two points that cannot both have a margin of 1, as λ is above 1: w = 1/λ.

        >>> from influence import Dataset, SmoothHinge
        >>> train = Dataset([[1], [-1]], [1, -1])
        >>> hinge = SmoothHinge(train, weight_decay=2, temperature=0).fit()
        >>> hinge.parameters.round(3).tolist(), hinge.losses([[1]], [1]).round(3).tolist()
        ([0.5], [0.5])
        >>> smooth = SmoothHinge(train, 2, temperature=0.001).with_parameters(hinge.parameters)
        >>> smooth.predict([[3], [-3]]).tolist()
        [1, -1]
    """

    loss: SmoothHingeLoss

    def __init__(
        self,
        train: Dataset,
        weight_decay: float,
        temperature: float,
        use_bias: bool = False,
        dtype: DType = "float32",
        batch_size: int | None = None,
    ) -> None:
        check_dataset(train)
        if not 0 <= temperature < np.inf:
            raise ValueError(f"temperature must be at least 0 and finite, not {temperature!r}.")
        if temperature == 0 and weight_decay == 0:
            raise ValueError("weight_decay must be above 0 at temperature 0.")
        loss = SmoothHingeLoss(float(temperature))
        self.use_bias = bool(use_bias)
        super().__init__(train, loss, Ridge(weight_decay), dtype, batch_size, bias=self.use_bias)
        check_two_classes(train.labels)

    @property
    def temperature(self) -> float:
        """t."""
        return self.loss.temperature

    def predict(self, x: Inputs) -> np.ndarray:
        """The class of each point, −1 or +1: [m]."""
        return np.where(self.outputs(x)[:, 0] > 0, 1, -1)

    def fit(self) -> Self:  # type: ignore[override]  # liblinear takes none of the options
        """Minimise: the hinge by liblinear, a smooth loss as ``LinearModel.fit`` does.

        From θ = 0, or where Newton's method fails, a low temperature is approached from higher
        ones.

        Warns:
            ConvergenceWarning: the gradient norm was not reached (scikit-learn's own at t = 0).
        """
        if self.temperature == 0:
            return self._fit_hinge()
        if self.parameters.any():
            with warnings.catch_warnings():
                warnings.simplefilter("error", ConvergenceWarning)
                try:
                    return super().fit()
                except ConvergenceWarning:
                    pass
        for temperature in _COOLING:
            if temperature > self.temperature:
                self._fit_warmer(temperature)
        return super().fit()

    def _fit_hinge(self):
        x, labels = self.scans.matrix
        machine = LinearSVC(
            loss="hinge",
            dual=True,
            C=1 / (len(self.train) * self.weight_decay),
            fit_intercept=False,
            tol=HINGE_TOLERANCE,
            max_iter=HINGE_ITERATIONS,
            random_state=HINGE_SEED,
        )
        x = x if scipy.sparse.issparse(x) else as_array(x)
        machine.fit(x.astype(np.float64) * self.train.scale, labels.numpy())
        self.parameters = machine.coef_[0]
        return self

    def _fit_warmer(self, temperature):
        """Take over the fit at a higher temperature, as far as it goes."""
        warmer = self._at(temperature, self.train)
        warmer.parameters = self.parameters
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.parameters = LinearModel.fit(warmer).parameters

    def class_position(self, class_: Any) -> int:
        if class_ not in (-1, 1):
            raise ValueError(f"class_ must be -1 or +1, not {class_!r}.")
        return int(class_ == 1)

    def _warn_unless_at_minimum(self, curvature):
        # At the hinge's own minimum neither its slope, which jumps, nor a smooth loss's is 0, and
        # influences are meant for there: only parameters that nobody has set tell.
        if not self.parameters.any():
            super()._warn_unless_at_minimum(curvature)

    def _clone(self, train):
        return self._at(self.temperature, train)

    def _at(self, temperature, train):
        """An unfitted model with the other settings of this one."""
        return SmoothHinge(
            train,
            self.weight_decay,
            temperature,
            self.use_bias,
            self.dtype,
            self.batch_size,
        )

    def _check_labels(self, labels, name):
        wrong = (labels != 1) & (labels != -1)
        if wrong.any():
            raise ValueError(
                f"{name} must be -1 or +1; {labels[wrong][0]} at position "
                f"{np.flatnonzero(wrong)[0]} is not."
            )


def _signs(z, labels):
    """The labels as numbers like z, [b, 1]."""
    return tf.cast(labels, z.dtype)[:, tf.newaxis]


def _gaps(z, labels):
    """max(0, 1 − y z), [b, 1]."""
    return tf.nn.relu(1 - _signs(z, labels) * z)
