"""Which scikit-learn estimators are read, and their labels and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import linear_model, svm
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted

from influence.sklearn_models import classifiers, regressors
from influence.sklearn_models.terms import Terms

_READERS: dict[type, Callable[[Any, float], Terms]] = {
    linear_model.LogisticRegression: classifiers.read_logistic_regression,
    linear_model.LogisticRegressionCV: classifiers.read_logistic_regression_cv,
    linear_model.RidgeClassifier: classifiers.read_ridge_classifier,
    linear_model.RidgeClassifierCV: classifiers.read_ridge_classifier,
    linear_model.SGDClassifier: classifiers.read_sgd_classifier,
    svm.LinearSVC: classifiers.read_linear_svc,
    linear_model.LinearRegression: regressors.read_least_squares,
    linear_model.Ridge: regressors.read_least_squares,
    linear_model.RidgeCV: regressors.read_least_squares,
    linear_model.Lasso: regressors.read_elastic_net,
    linear_model.LassoCV: regressors.read_elastic_net,
    linear_model.ElasticNet: regressors.read_elastic_net,
    linear_model.ElasticNetCV: regressors.read_elastic_net,
    linear_model.PoissonRegressor: regressors.read_glm,
    linear_model.GammaRegressor: regressors.read_glm,
    linear_model.TweedieRegressor: regressors.read_glm,
    linear_model.HuberRegressor: regressors.read_huber,
    linear_model.SGDRegressor: regressors.read_sgd_regressor,
    svm.LinearSVR: regressors.read_linear_svr,
}
# Their "balanced" weights are by the counts of the classes, not by the masses.
_BY_COUNTS = (
    linear_model.SGDClassifier,
    linear_model.RidgeClassifier,
    linear_model.RidgeClassifierCV,
)


def read_terms(estimator: Any, temperature: float) -> Terms:
    """The terms of a fitted estimator, with kinks smoothed at ``temperature``.

    Raises:
        ValueError: an estimator, or a setting of it, that has no such terms, or no fit.
    """
    if type(estimator) not in _READERS:
        raise ValueError(
            f"from_sklearn does not take {type(estimator).__name__}: only "
            f"{', '.join(kind.__name__ for kind in _READERS)}, and pipelines and searches that end "
            f"in one of them."
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
    # The classes are sorted, as those of all estimators.
    places = _places(labels, classes)
    wrong = np.flatnonzero(places < 0)
    if len(wrong):
        raise ValueError(
            f"{name} must be classes of the estimator, {classes.tolist()}; "
            f"{labels.tolist()[wrong[0]]!r} at position {wrong[0]} is not."
        )
    return np.array(codes)[places]


def _places(labels, classes):
    """Where each of ``labels`` [m] is among ``classes``, −1 where it is not: [m]."""
    if labels.dtype.kind in "biuf" and classes.dtype.kind in "biuf":
        places = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
        return np.where(classes[places] == labels, places, -1)
    place_of = {class_: place for place, class_ in enumerate(classes.tolist())}
    return np.array([place_of.get(label, -1) for label in labels.tolist()])


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
        if weights.shape != labels.shape[:1]:
            raise ValueError(
                f"sample_weight must be [{len(labels)}], one weight a row of X; its shape is "
                f"{weights.shape}."
            )
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ValueError("sample_weight must be finite, at least 0, and not 0 everywhere.")
    if getattr(estimator, "class_weight", None) is not None and not terms.weighs_positives:
        index = np.searchsorted(terms.codes, labels)
        weights = weights * _class_weights(estimator, index, weights)[index]
    return weights


def with_weights(
    estimator: Any, terms: Terms, labels: np.ndarray, sample_weight: ArrayLike | None
) -> Terms:
    """The terms with what is not in the weights of the examples: the unit of relative ones, and the
    class weights of one class against the rest, which are in the loss."""
    weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight)
    if terms.relative_weights:
        return replace(terms, weight_unit=float(weights.mean()))
    if not terms.weighs_positives or estimator.class_weight is None:
        return terms
    positives = tuple(_class_weights(estimator, labels, weights).tolist())
    return replace(terms, loss=replace(terms.loss, positives=positives))


def _class_weights(estimator, index, weights):
    """The weight of each class, [c]; ``index`` [n] of the class of each point."""
    return compute_class_weight(
        estimator.class_weight,
        classes=estimator.classes_,
        y=estimator.classes_[index],
        sample_weight=None if isinstance(estimator, _BY_COUNTS) else weights,
    )
