"""What a fitted scikit-learn estimator has minimised, read from its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import linear_model, svm
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted

from influence.linear.functions import LinearLoss
from influence.models.logistic_regression import Logistic
from influence.models.smooth_hinge import SmoothHingeLoss, SquaredHingeLoss
from influence.sklearn_models.losses import ScalableSoftmax, SquaredError


@dataclass(frozen=True)
class Terms:
    """Σ w_i ℓ(z_i, y_i) + (strength/2)‖w‖², or with ``mean`` (1/n) Σ w_i ℓ(z_i, y_i) + the same.

    Attributes:
        loss: ℓ; a smooth one where the estimator has the hinge (not its square).
        strength: of the penalty.
        bias: the constant feature whose weight is the intercept, 0 without one.
        penalised_bias: whether that weight is among w.
        mean: see above.
        codes: what stands for each of the estimator's ``classes_`` in ℓ; () for a regression.
    """

    loss: LinearLoss
    strength: float
    bias: float
    penalised_bias: bool = False
    mean: bool = False
    codes: tuple[int, ...] = ()


def read_terms(estimator: Any, temperature: float) -> Terms:
    """The terms of a fitted estimator, with the hinge smoothed at ``temperature``.

    Raises:
        ValueError: an estimator, or a setting of it, that has no such terms, or no fit.
    """
    if type(estimator) not in _READERS:
        remedy = "; give its best_estimator_" if hasattr(estimator, "best_estimator_") else ""
        raise ValueError(
            f"from_sklearn does not take {type(estimator).__name__}: only "
            f"{', '.join(kind.__name__ for kind in _READERS)}, and pipelines that end in one of "
            f"them{remedy}."
        )
    check_is_fitted(estimator)
    return _READERS[type(estimator)](estimator, temperature)


def encode_labels(
    labels: ArrayLike, classes: np.ndarray | None, codes: tuple[int, ...], name: str
) -> ArrayLike:
    """What stands for ``labels`` in the loss, [m]; numbers as they are where ``classes`` is None.

    Raises:
        ValueError: names the first label that is not among the classes.
    """
    if classes is None:
        return labels
    labels = np.atleast_1d(np.asarray(labels))
    if labels.ndim > 1:
        raise ValueError(f"{name} must be a vector of labels; its shape is {labels.shape}.")
    code_of = dict(zip(classes.tolist(), codes))
    encoded = [code_of.get(label) for label in labels.tolist()]
    if None in encoded:
        position = encoded.index(None)
        raise ValueError(
            f"{name} must be classes of the estimator, {classes.tolist()}; "
            f"{labels.tolist()[position]!r} at position {position} is not."
        )
    return np.array(encoded)


def example_weights(
    estimator: Any, terms: Terms, labels: np.ndarray, sample_weight: ArrayLike | None
) -> np.ndarray:
    """w [n]: the weight of each example times that of its class; ``labels`` are encoded.

    Raises:
        ValueError: weights that the estimator cannot have been fitted with.
    """
    weights = np.ones(len(labels))
    if sample_weight is not None:
        weights = np.array(sample_weight, np.float64)
        if weights.shape != labels.shape:
            raise ValueError(
                f"sample_weight must be [{len(labels)}], one weight a row of X; its shape is "
                f"{weights.shape}."
            )
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ValueError("sample_weight must be finite, at least 0, and not 0 everywhere.")
    if getattr(estimator, "class_weight", None) is None:
        return weights
    index = np.searchsorted(terms.codes, labels)
    of_class = compute_class_weight(
        estimator.class_weight,
        classes=estimator.classes_,
        y=estimator.classes_[index],
        # SGDClassifier balances by the counts alone.
        sample_weight=None if isinstance(estimator, linear_model.SGDClassifier) else weights,
    )
    return weights * of_class[index]


def _read_logistic_regression(estimator, _temperature):
    penalised, liblinear = _has_l2(estimator), estimator.solver == "liblinear"
    c = len(estimator.classes_)
    # Before scikit-learn 1.8, multi_class could ask for it, too.
    if c > 2 and (liblinear or getattr(estimator, "multi_class", "auto") == "ovr"):
        raise _refusal(estimator, "one class against the rest", "two classes, or multinomial")
    return Terms(
        Logistic() if c == 2 else ScalableSoftmax(c),
        1 / estimator.C if penalised else 0.0,
        _bias(estimator, estimator.intercept_scaling if liblinear else 1.0),
        penalised_bias=liblinear,
        codes=tuple(range(c)),
    )


def _has_l2(estimator):
    # Since scikit-learn 1.8 the penalty is said by l1_ratio, and C = inf says that there is none.
    if estimator.penalty == "deprecated":
        if estimator.l1_ratio in (0, None):
            return True
        raise _refusal(estimator, f"l1_ratio={estimator.l1_ratio}", "l1_ratio=0")
    if estimator.penalty in ("l2", None):
        return estimator.penalty == "l2"
    raise _refusal(estimator, f"penalty={estimator.penalty!r}", "l2, or no penalty")


def _read_linear_svc(estimator, temperature):
    return Terms(
        _hinge_loss(estimator, temperature),
        1 / estimator.C,
        _bias(estimator, estimator.intercept_scaling),
        penalised_bias=True,
        codes=(-1, 1),
    )


def _read_sgd_classifier(estimator, temperature):
    loss = _hinge_loss(estimator, temperature)
    strength = 0.0 if estimator.penalty is None else estimator.alpha
    return Terms(loss, strength, _bias(estimator, 1.0), mean=True, codes=(-1, 1))


def _read_least_squares(estimator, _temperature):
    if estimator.positive:
        raise _refusal(estimator, "positive=True", "positive=False")
    if np.ndim(estimator.coef_) != 1:
        raise _refusal(estimator, "several targets", "y of shape [n]")
    # Ridge has no half: Σ w_i (z_i − y_i)² + alpha ‖w‖².
    strength = 2 * float(np.ravel(getattr(estimator, "alpha", 0.0))[0])
    return Terms(SquaredError(), strength, _bias(estimator, 1.0))


_READERS: dict[type, Callable[[object, float], Terms]] = {
    linear_model.LogisticRegression: _read_logistic_regression,
    svm.LinearSVC: _read_linear_svc,
    linear_model.SGDClassifier: _read_sgd_classifier,
    linear_model.Ridge: _read_least_squares,
    linear_model.LinearRegression: _read_least_squares,
}


def _refusal(estimator, setting, instead):
    name = type(estimator).__name__
    return ValueError(f"from_sklearn does not take {name} with {setting}: only {instead}.")


def _hinge_loss(estimator, temperature):
    """The loss of a support vector machine: what is not smooth made so at ``temperature``."""
    if estimator.loss not in ("hinge", "squared_hinge"):
        raise _refusal(estimator, f"loss={estimator.loss!r}", "'hinge' or 'squared_hinge'")
    if len(estimator.classes_) != 2:
        raise _refusal(estimator, f"{len(estimator.classes_)} classes", "two")
    if estimator.penalty not in ("l2", None):
        raise _refusal(estimator, f"penalty={estimator.penalty!r}", "l2, or no penalty")
    if estimator.loss == "squared_hinge":
        return SquaredHingeLoss()
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be above 0 and finite, not {temperature!r}.")
    return SmoothHingeLoss(float(temperature))


def _bias(estimator, constant):
    return float(constant) if estimator.fit_intercept else 0.0
