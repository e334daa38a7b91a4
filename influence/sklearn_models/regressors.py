"""What scikit-learn's linear regressions minimise, read from their settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn import linear_model

from influence.linear.functions import LinearLoss
from influence.sklearn_models.glm_losses import HalfDeviance
from influence.sklearn_models.losses import RegressionLoss, SquaredError
from influence.sklearn_models.robust_losses import (
    ConcomitantHuber,
    Huber,
    SmoothEpsilonInsensitive,
    SquaredEpsilonInsensitive,
)
from influence.sklearn_models.separate_losses import SeveralTargets
from influence.sklearn_models.terms import Terms, bias_of, check_temperature, penalties, refusal

_HALF_SQUARED = HalfDeviance(0.0, log_link=False)


def read_least_squares(estimator: Any, temperature: float) -> Terms:
    """``Ridge``, ``RidgeCV`` (at the alpha that it chose) and ``LinearRegression``."""
    _check_signs(estimator)
    chosen = getattr(estimator, "alpha_", None)
    alpha = getattr(estimator, "alpha", 0.0) if chosen is None else chosen
    refitted = None
    if chosen is not None:
        refitted = linear_model.Ridge(alpha=alpha, fit_intercept=estimator.fit_intercept)
    # Ridge has no half: Σ w_i (z_i − y_i)² + alpha ‖w‖².
    strengths = tuple(2 * np.ravel(alpha).astype(float))
    strength = strengths if len(strengths) > 1 else strengths[0]
    loss = _several(estimator, SquaredError())
    return Terms(loss, strength, bias_of(estimator), refitted=refitted)


def read_elastic_net(estimator: Any, temperature: float) -> Terms:
    """``ElasticNet`` and ``Lasso``, and those that chose their alpha (and l1_ratio)."""
    _check_signs(estimator)
    alpha, refitted = getattr(estimator, "alpha_", None), None
    ratio = getattr(estimator, "l1_ratio_", getattr(estimator, "l1_ratio", 1.0))
    if alpha is None:
        alpha = estimator.alpha
    else:
        common = ("fit_intercept", "max_iter", "tol", "selection", "random_state")
        settings = {name: getattr(estimator, name) for name in common}
        refitted = linear_model.ElasticNet(alpha=alpha, l1_ratio=ratio, **settings)
    return Terms(
        _several(estimator, _HALF_SQUARED),
        float(alpha * (1 - ratio)),
        bias_of(estimator),
        lasso=float(alpha * ratio),
        mean=True,
        relative_weights=True,
        refitted=refitted,
    )


def read_glm(estimator: Any, temperature: float) -> Terms:
    """``PoissonRegressor``, ``GammaRegressor`` and ``TweedieRegressor``."""
    power = {linear_model.PoissonRegressor: 1.0, linear_model.GammaRegressor: 2.0}.get(
        type(estimator)
    )
    link = "log"
    if power is None:
        power, link = float(estimator.power), estimator.link
    if link == "auto":
        link = "log" if power > 0 else "identity"
    return Terms(
        HalfDeviance(power, link == "log"),
        float(estimator.alpha),
        bias_of(estimator),
        mean=True,
        relative_weights=True,
    )


def read_huber(estimator: Any, temperature: float) -> Terms:
    """``HuberRegressor``, its scale with it."""
    return Terms(
        ConcomitantHuber(float(estimator.epsilon)),
        2 * float(estimator.alpha),
        # The scale is the weight of a constant feature, too.
        1.0,
        has_scale=True,
    )


def read_linear_svr(estimator: Any, temperature: float) -> Terms:
    """``LinearSVR``: the epsilon-insensitive loss, smoothed, or its square."""
    loss, slack = _tube(estimator, temperature)
    return Terms(
        loss,
        1 / estimator.C,
        bias_of(estimator, estimator.intercept_scaling),
        penalised_bias=True,
        slack=slack,
    )


def read_sgd_regressor(estimator: Any, temperature: float) -> Terms:
    """``SGDRegressor`` with every loss."""
    loss, slack = sgd_regression_loss(estimator, temperature)
    strength, lasso = penalties(estimator)
    return Terms(loss, strength, bias_of(estimator), lasso=lasso, mean=True, slack=slack)


def sgd_regression_loss(estimator: Any, temperature: float) -> tuple[RegressionLoss, float]:
    """The loss of real labels that stochastic gradient descent has, and its slack.

    Raises:
        ValueError: another loss.
    """
    if estimator.loss == "squared_error":
        return _HALF_SQUARED, 0.0
    if estimator.loss == "huber":
        return Huber(float(estimator.epsilon)), 0.0
    if estimator.loss.endswith("epsilon_insensitive"):
        return _tube(estimator, temperature)
    raise refusal(estimator, f"loss={estimator.loss!r}", "losses that are, or can be made, smooth")


def _tube(estimator, temperature):
    epsilon = float(estimator.epsilon)
    if estimator.loss == "squared_epsilon_insensitive":
        return SquaredEpsilonInsensitive(epsilon), 0.0
    temperature = check_temperature(temperature)
    return SmoothEpsilonInsensitive(temperature, epsilon), 2 * temperature * math.log(2)


def _several(estimator, loss) -> LinearLoss:
    """``loss``, or its sum over the columns of what the estimator was fitted on."""
    targets = np.shape(estimator.coef_)
    return loss if len(targets) == 1 else SeveralTargets(loss, targets[0])


def _check_signs(estimator):
    if getattr(estimator, "positive", False):
        raise refusal(estimator, "positive=True", "positive=False")
