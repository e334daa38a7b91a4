"""The terms of what a scikit-learn estimator minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Terms:
    """Σ w_i ℓ(z_i, y_i) + (strength/2)‖w‖² + lasso‖w‖₁, or with ``mean`` (1/n) Σ w_i ℓ(z_i, y_i) +
    the same.

    Attributes:
        loss: ℓ, a ``LinearLoss``; a smooth one where the estimator's has a kink.
        strength: of the penalty, or one of each output.
        bias: the constant feature whose weight is the intercept, 0 without one.
        lasso: see above.
        penalised_bias: whether that weight is among w.
        mean: see above.
        relative_weights: whether the w_i are divided by their mean, so that they and not the number
            of points are what the penalty stands beside.
        weight_unit: what they were divided by.
        codes: what stands for each of the estimator's ``classes_`` in ℓ; () for a regression.
        weighs_positives: whether a class weight is of the class in its own problem alone, not of
            its points where they are the rest.
        slack: how much larger than the estimator's own loss a smooth one may be.
        has_scale: whether the second output is a constant, the estimator's ``scale_``.
        refitted: an unfitted estimator of the same terms, where the estimator itself would choose
            other ones when it is fitted without a point.
    """

    loss: Any
    strength: float | tuple[float, ...]
    bias: float
    lasso: float = 0.0
    penalised_bias: bool = False
    mean: bool = False
    relative_weights: bool = False
    weight_unit: float = 1.0
    codes: tuple[int, ...] = ()
    weighs_positives: bool = False
    slack: float = 0.0
    has_scale: bool = False
    refitted: Any = None


def refusal(estimator: Any, setting: str, instead: str) -> ValueError:
    """What is said of an estimator with a setting that has no such terms."""
    name = type(estimator).__name__
    return ValueError(f"from_sklearn does not take {name} with {setting}: only {instead}.")


def bias_of(estimator: Any, constant: float = 1.0) -> float:
    """``Terms.bias`` of an estimator that has, or has not, an intercept."""
    return float(constant) if estimator.fit_intercept else 0.0


def check_temperature(temperature: float) -> float:
    """``temperature`` as a float.

    Raises:
        ValueError: it is not above 0 and finite.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be above 0 and finite, not {temperature!r}.")
    return float(temperature)


def penalties(estimator: Any) -> tuple[float, float]:
    """(of ½‖w‖², of ‖w‖₁) of an estimator with ``alpha``, ``penalty`` and ``l1_ratio``.

    Raises:
        ValueError: another penalty.
    """
    ratios = {None: None, "l2": 0.0, "l1": 1.0, "elasticnet": estimator.l1_ratio}
    if estimator.penalty not in ratios:
        raise refusal(estimator, f"penalty={estimator.penalty!r}", "l2, l1, elasticnet or none")
    ratio = ratios[estimator.penalty]
    if ratio is None:
        return 0.0, 0.0
    return estimator.alpha * (1 - ratio), estimator.alpha * ratio
