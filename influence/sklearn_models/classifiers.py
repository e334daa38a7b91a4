"""What scikit-learn's linear classifiers minimise, read from their settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn import linear_model

from influence.linear.functions import OneLogitLoss
from influence.models.logistic_regression import Logistic
from influence.models.smooth_hinge import SmoothHingeLoss, SquaredHingeLoss
from influence.sklearn_models.losses import ModifiedHuber, ScalableSoftmax, SquaredError
from influence.sklearn_models.regressors import sgd_regression_loss
from influence.sklearn_models.separate_losses import OneVsRest
from influence.sklearn_models.terms import Terms, bias_of, check_temperature, penalties, refusal


def read_logistic_regression(estimator: Any, temperature: float) -> Terms:
    """``LogisticRegression``: l2, l1, both or no penalty."""
    return _logistic(estimator, estimator.C, _l1_ratio(estimator))


def read_logistic_regression_cv(estimator: Any, temperature: float) -> Terms:
    """``LogisticRegressionCV``, at the C (and l1_ratio) that it chose."""
    if not estimator.refit:
        raise refusal(estimator, "refit=False, means over the folds", "refit=True")
    C = float(np.ravel(estimator.C_)[0])  # noqa: N806
    chosen = np.ravel(estimator.l1_ratio_)[0]
    named = {"l1": 1.0, "l2": 0.0}.get(estimator.penalty)
    ratio = named if named is not None else float(chosen or 0.0)
    plain = linear_model.LogisticRegression()
    common = plain.get_params().keys() & estimator.get_params().keys()
    settings = {name: getattr(estimator, name) for name in common}
    refitted = plain.set_params(**settings).set_params(C=C)
    if ratio:
        refitted.set_params(l1_ratio=ratio)
    return _logistic(estimator, C, ratio, refitted)


def read_linear_svc(estimator: Any, temperature: float) -> Terms:
    """``LinearSVC``: the hinge, smoothed, or its square; l2 or l1."""
    if estimator.multi_class != "ovr":
        raise refusal(estimator, f"multi_class={estimator.multi_class!r}", "'ovr'")
    loss, slack = _hinge(estimator.loss, temperature)
    l1 = estimator.penalty == "l1"
    return _margin_terms(
        estimator,
        loss,
        (-1, 1),
        strength=0.0 if l1 else 1 / estimator.C,
        lasso=1 / estimator.C if l1 else 0.0,
        bias=bias_of(estimator, estimator.intercept_scaling),
        penalised_bias=True,
        slack=slack,
    )


def read_sgd_classifier(estimator: Any, temperature: float) -> Terms:
    """``SGDClassifier`` with every loss but the perceptron's."""
    codes, slack = (-1, 1), 0.0
    loss: OneLogitLoss | None
    if estimator.loss == "log_loss":
        loss, codes = Logistic(), (0, 1)
    elif estimator.loss == "modified_huber":
        loss = ModifiedHuber()
    elif estimator.loss in ("hinge", "squared_hinge"):
        loss, slack = _hinge(estimator.loss, temperature)
    else:
        loss, slack = sgd_regression_loss(estimator, temperature)
    strength, lasso = penalties(estimator)
    return _margin_terms(
        estimator,
        loss,
        codes,
        strength=strength,
        lasso=lasso,
        bias=bias_of(estimator),
        mean=True,
        slack=slack,
    )


def read_ridge_classifier(estimator: Any, temperature: float) -> Terms:
    """``RidgeClassifier`` and ``RidgeClassifierCV``: the squared error of ±1, class by class."""
    if getattr(estimator, "positive", False):
        raise refusal(estimator, "positive=True", "positive=False")
    chosen = getattr(estimator, "alpha_", None)
    alpha = float(np.ravel(estimator.alpha if chosen is None else chosen)[0])
    refitted = None
    if chosen is not None:
        refitted = linear_model.RidgeClassifier(
            alpha=alpha, fit_intercept=estimator.fit_intercept, class_weight=estimator.class_weight
        )
    c = len(estimator.classes_)
    codes = (-1, 1) if c == 2 else tuple(range(c))
    # The weights of the classes are in those of the examples.
    loss = SquaredError() if c == 2 else OneVsRest(SquaredError(), (-1, 1), (1.0,) * c)
    return Terms(loss, 2 * alpha, bias_of(estimator), codes=codes, refitted=refitted)


def _logistic(estimator, C, l1_ratio, refitted=None):  # noqa: N803
    liblinear, c = estimator.solver == "liblinear", len(estimator.classes_)
    # Before scikit-learn 1.8, one class against the rest could be asked for, too.
    separate = c > 2 and (liblinear or getattr(estimator, "multi_class", "auto") == "ovr")
    penalty = {
        "strength": 0.0 if l1_ratio is None else (1 - l1_ratio) / C,
        "lasso": (l1_ratio or 0.0) / C,
        "bias": bias_of(estimator, estimator.intercept_scaling if liblinear else 1.0),
        "penalised_bias": liblinear,
        "refitted": refitted,
    }
    if separate and not liblinear and estimator.class_weight is not None:
        raise refusal(estimator, "class_weight and multi_class='ovr'", "one of them")
    if separate:
        return _margin_terms(estimator, Logistic(), (0, 1), **penalty)
    loss = Logistic() if c == 2 else ScalableSoftmax(c)
    return Terms(loss, codes=tuple(range(c)), **penalty)


def _l1_ratio(estimator):
    """The part of ‖w‖₁ in the penalty; None where there is no penalty."""
    # Since scikit-learn 1.8 the penalty is said by l1_ratio, and C = inf says that there is none.
    if estimator.penalty in ("deprecated", "elasticnet"):
        return estimator.l1_ratio or 0.0
    return {"l2": 0.0, "l1": 1.0, None: None}[estimator.penalty]


def _margin_terms(estimator, loss, codes, **others):
    """Those of a loss of two classes, each of more against the rest."""
    c = len(estimator.classes_)
    if c == 2:
        return Terms(loss, codes=codes, **others)
    loss = OneVsRest(loss, codes, (1.0,) * c)
    slack = c * others.pop("slack", 0.0)
    return Terms(loss, codes=tuple(range(c)), slack=slack, weighs_positives=True, **others)


def _hinge(name, temperature):
    """The loss of a support vector machine and its slack."""
    if name == "squared_hinge":
        return SquaredHingeLoss(), 0.0
    temperature = check_temperature(temperature)
    return SmoothHingeLoss(temperature), temperature * math.log(2)
