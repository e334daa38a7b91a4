"""Influences of the training points of a fitted scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from influence.data.dataset import Dataset, check_dataset, check_indices
from influence.data.types import Inputs
from influence.linear.model import LinearModel
from influence.linear.penalty import RowPenalty
from influence.linear.weighted import Weighted
from influence.sklearn_models.coefficients import (
    PIN,
    coefficients,
    held_weights,
    parameter_names,
    penalty_at,
)
from influence.sklearn_models.convergence import warn_unless_converged
from influence.sklearn_models.estimators import (
    encode_labels,
    example_weights,
    read_terms,
    with_weights,
)
from influence.sklearn_models.points import SklearnPoints, transformed
from influence.sklearn_models.tables import row_names
from influence.sklearn_models.terms import Terms


def from_sklearn(
    estimator: Any,
    X: Inputs,  # noqa: N803 (scikit-learn's name)
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    temperature: float = 0.001,
) -> SklearnModel:
    """The influences of a fitted scikit-learn estimator, which is read and never changed.

    Everything is in float64. It takes:

    - ``LogisticRegression(CV)``, of two classes or many; ``LinearSVC``, ``SGDClassifier`` (every
      loss but the perceptron's) and ``RidgeClassifier(CV)``, each of more than two classes against
      the rest, whose losses are added;
    - ``LinearRegression``, ``Ridge(CV)``, ``Lasso(CV)`` and ``ElasticNet(CV)``, of one target or
      several, whose losses are added; ``PoissonRegressor``, ``GammaRegressor`` and
      ``TweedieRegressor``; ``HuberRegressor``, ``LinearSVR`` and ``SGDRegressor``;
    - pipelines that end in one of them, and searches (``GridSearchCV`` and others), whose
      ``best_estimator_`` it is.

    What was chosen by cross-validation (C, alpha, l1_ratio) is held fixed, in refits, too. Kinks
    (of the hinge and of epsilon-insensitive losses) are smoothed, see ``temperature``.

    **l1 is taken on its active set**: coefficients that are 0 stay there, and the others keep
    their signs. That is exact until a removal changes the active set, which the scores do not
    foresee; ``refit`` and ``validate`` fit for real (``leave_one_out`` holds the set).

    **HuberRegressor's scale** σ is a parameter, refitted with the others; a point's loss is its
    term of the objective, σ + σH((z − y)/σ), and ``outputs`` are [m, 2], z and σ. In θ the scale is
    the last number.

    **A removal keeps the estimator's own C** (or Ridge's alpha). scikit-learn minimises a *sum*,
    C Σ w_i ℓ_i(θ) + ½‖w‖², so a point takes nothing but its own loss away, and the predicted
    change of a test loss is s_testᵀ w_i∇ℓ_i with the Hessian of that sum. There is no λθ̂ term:
    it belongs to the paper's fixed λ beside a *mean*. ``SGDClassifier``, ``SGDRegressor``,
    ``Lasso``, ``ElasticNet`` and the generalised linear models have their alpha beside the mean, so
    their scores have the term (where the mean is weighted, times the point's weight over the mean
    weight). The intercept is penalised where the estimator does so
    (liblinear's, with ``intercept_scaling``), and free elsewhere.

    **Losses are those of the estimators.** ``Ridge`` and ``LinearRegression`` have (z − y)², not
    its half: losses, scores and self-influences are twice those of ½(z − y)², which ``Lasso``,
    ``ElasticNet`` and SGD have. Generalised linear models have half the deviance.

    **First-order scores are good while no point has much leverage.** Against refits of logistic
    regression without each point (standardised breast cancer and wine data, every training point
    and 10% test points) their correlation is above 0.999 at C = 0.001, above 0.98 at C = 0.01 and
    about 0.96 at C = 1; and they are too small, by 1–3%, 4–17% and 24–50%. ``order="newton"``
    divides the predicted change of the parameters by 1 − h_i, the point's leverage h_i
    (Sherman–Morrison; arXiv 2506.06656; a c×c matrix for c classes), and takes the test loss there:
    one Newton step of the objective without the point. That has correlations above 0.9999 at
    C = 0.01, 0.999 at C = 0.1 and 0.99 at C = 1, with a slope of 1 ± 0.07, and for least squares
    it is the refit. Of the hinge, whose slope jumps, expect 0.9 to 0.95. The squared hinge needs no
    smoothing, but its curvature jumps, which is not foreseen where points change sides: on the
    breast cancer data the correlation is 0.98 at C = 0.001 (above 0.9999 by Newton's step), 0.96 at
    0.01 (0.97), and at LinearSVC's default C = 1 only 0.7 to 0.8 (0.86 to 0.98).

    Args:
        estimator: fitted, on ``X``, ``y`` and ``sample_weight``.
        X: [n, d] the estimator's training points, dense or sparse, or a table of pandas, polars or
            Arrow, whose columns are held against the estimator's (``as_frame`` gives its index
            back); for a pipeline what the pipeline was fitted on. **A pipeline's transformers are
            held fixed**: a point is removed from what the last step was fitted on, not from what
            the others learned.
        y: [n] labels as the estimator was given them, strings too, or [n, c] of several targets. So
            are those of all methods.
        sample_weight: [n] as given to ``fit``. ``class_weight`` is read from the estimator, and
            "balanced" weights are held at those of all n points.
        temperature: t of the smooth hinge, t log(1 + exp((1 − s)/t)), whose derivatives at the
            estimator's parameters stand for those of the hinge; of epsilon-insensitive losses
            alike. Nothing else uses it.

    Raises:
        ValueError: an estimator or a setting that is not among these, or is not fitted; data that
            do not fit to it.

    Warns:
        ConvergenceWarning: a Newton step would still lower the objective by more than 1e-5 of its
            value at 0 (half the squared norm of the gradient, in the metric of H⁻¹), so the
            estimator is not at its optimum of these data, and the scores are not those of it. For
            classifiers also by more than 1% of its present value: with C = 1e12 that is next to 0
            where the classes are separable. Or there is no single optimum: without a penalty
            separable classes have none (``has_minimum``).

    Examples:
        Labels are those of the estimator; the last of these is wrong.

        >>> from sklearn.linear_model import LogisticRegression, Ridge
        >>> from influence import from_sklearn
        >>> X, y = [[-2], [-1], [1], [2], [3]], ["cat", "cat", "dog", "dog", "cat"]
        >>> model = from_sklearn(LogisticRegression(tol=1e-8).fit(X, y), X, y)
        >>> model.influence_on_loss([[1.5]], ["dog"]).round(2).tolist()
        [[-0.05, -0.09, 0.29, 0.28, -0.39]]

        For least squares a step of Newton's method is what a refit says:

        >>> y = [-2, -1, 1, 2, 9]
        >>> model = from_sklearn(Ridge().fit(X, y), X, y)
        >>> chosen = {"order": "newton", "train_indices": [4]}
        >>> model.influence_on_loss([[1.5]], [1.5], **chosen).round(3).tolist()
        [[-3.451]]
        >>> (model.refit(4).losses([[1.5]], [1.5]) - model.losses([[1.5]], [1.5])).round(3).tolist()
        [-3.451]
    """
    last, transform = _last_step(estimator)
    terms = read_terms(last, temperature)
    x = transformed(X, last, transform, "X")
    features = np.shape(last.coef_)[-1]
    if x.ndim != 2 or x.shape[1] != features:
        raise ValueError(
            f"X must be [n, {features}], as {type(last).__name__} was fitted; its shape is "
            f"{x.shape}."
        )
    labels = encode_labels(y, getattr(last, "classes_", None), terms.codes, "y")
    train = Dataset(x, labels)
    weights = example_weights(last, terms, train.labels, sample_weight)
    terms = with_weights(last, terms, train.labels, sample_weight)
    weights = weights / terms.weight_unit
    index = row_names(X)
    index = np.arange(len(train)) if index is None else index
    model = SklearnModel(last, terms, train, weights, transform, index)
    model._read_parameters()
    warn_unless_converged(model)
    return model


class SklearnModel(LinearModel):
    """What ``from_sklearn`` returns: the surface of ``GenericNeuralNet`` around an estimator.

    Points and labels are given to every method as they are given to the estimator, or pipeline.
    ``influence_of_points`` takes every point with weight 1.

    Attributes:
        estimator: the fitted estimator, or the last step of the pipeline.
        index: the index of the training table, or 0..n − 1.
    """

    def __init__(
        self,
        estimator: Any,
        terms: Terms,
        train: Dataset,
        weights: np.ndarray,
        transform: Callable[[Inputs], Inputs] | None,
        index: Any,
    ) -> None:
        self.estimator = estimator
        self._terms, self._transform = terms, transform
        self._classes: Any = getattr(estimator, "classes_", None)
        self.example_weights, self.index = weights, index
        d, c = train.x.shape[1] + bool(terms.bias), terms.loss.outputs
        super().__init__(
            train,
            Weighted(terms.loss),
            RowPenalty(np.zeros(d), c),  # until there are parameters
            "float64",
            None,
            bias=terms.bias,
            keeps_sum=not terms.mean,
        )

    @property
    def weight_unit(self) -> float:
        """What ``example_weights`` are in units of: the mean sample weight where the estimator
        divides by it, else 1."""
        return self._terms.weight_unit

    @property
    def unfitted(self) -> Any:
        """A new estimator of the same settings, what it chose by cross-validation (C, alpha,
        l1_ratio) among them."""
        return clone(self._terms.refitted or self.estimator)

    @property
    def parameter_names(self) -> list[str]:
        """What each of θ belongs to, [p]: a feature, or the intercept (or Huber's scale), and which
        class or target where there are several. The last step of a pipeline knows its features
        after ``set_output(transform="pandas")``."""
        return parameter_names(self.estimator, self._terms, self.train.x.shape[1])

    def as_frame(self, scores: np.ndarray, x_test: Any = None) -> Any:
        """Scores with the names of the points they are of, as pandas has them.

        Args:
            scores: [n], or [m, n], of all training points.
            x_test: the m test points; those of a table without an index are 0..m − 1.

        Returns:
            A ``Series`` with the index of the training table, or a ``DataFrame`` with a row for
            each test point and a column for each training point.

        Raises:
            ImportError: pandas is not there.
            ValueError: from pandas, of scores of another shape.

        Examples:
            >>> import pandas as pd
            >>> from sklearn.linear_model import Ridge
            >>> from influence import from_sklearn
            >>> table = pd.DataFrame({"dose": [1.0, 2.0, 4.0]}, index=["Ann", "Bob", "Cy"])
            >>> model = from_sklearn(Ridge().fit(table, [1, 2, 9]), table, [1, 2, 9])
            >>> model.as_frame(model.self_influence()).idxmax()
            'Cy'
        """
        import pandas  # what has tables has it

        scores = np.asarray(scores)
        if scores.ndim == 1:
            return pandas.Series(scores, index=self.index)
        return pandas.DataFrame(scores, index=row_names(x_test), columns=self.index)

    def predict(self, x: Inputs) -> np.ndarray:
        """The estimator's prediction for each point, a class or a number: [m], or [m, c] of c
        targets."""
        outputs, loss = self.outputs(x), self._terms.loss
        if self._classes is None:
            return loss.prediction(outputs if loss.separate else outputs[:, 0])
        binary = self.loss.outputs == 1
        return self._classes[(outputs[:, 0] > 0).astype(int) if binary else outputs.argmax(axis=1)]

    def class_position(self, class_: Any) -> int:
        """Of a class as the estimator names it; a regression has none."""
        classes = [] if self._classes is None else self._classes.tolist()
        if class_ not in classes:
            name = type(self.estimator).__name__
            remedy = f"only {classes}" if classes else "leave class_ out"
            raise ValueError(f"{name} has no class {class_!r}: {remedy}.")
        return classes.index(class_)

    def coefficient(self, index: Any) -> tuple[int, float]:
        """Of ``coef_``: a feature, or (class, feature) where it has a row for every class, and
        (number, feature) where it has one for every target."""
        c = np.atleast_2d(self.estimator.coef_).shape[0]
        if c == 1:
            column, feature = 0, index
        elif isinstance(index, tuple) and len(index) == 2:
            column, feature = index
            if self._classes is None:
                [column] = check_indices([column], c, "the target of index")
            else:
                column = self.class_position(column)
        else:
            kind = "class" if self._classes is not None else "target"
            raise ValueError(
                f"index must be ({kind}, feature), as coef_ has {c} rows; not {index!r}."
            )
        width = self.weights.shape[1]
        row, factor = self._row_of(feature)
        return row * width + int(column), factor

    def _row_of(self, feature):
        """(row of W, its factor) of a feature's number or name, or of "intercept"."""
        if not isinstance(feature, str):
            [row] = check_indices([feature], self.train.x.shape[1], "index")
            return int(row), 1.0
        if feature == "intercept":
            if not self.bias:
                raise ValueError(f"{type(self.estimator).__name__} has no intercept.")
            return self.weights.shape[0] - 1, self.bias
        names = list(getattr(self.estimator, "feature_names_in_", []))
        if feature not in names:
            name = type(self.estimator).__name__
            remedy = f"only {names}" if names else "give its number"
            raise ValueError(f"{name} knows no feature {feature!r}: {remedy}.")
        return names.index(feature), 1.0

    def fit(self) -> Self:  # type: ignore[override]  # nor do estimators take them
        """Fit a clone of the estimator, with the same settings, to the model's own points.

        What the estimator chose by cross-validation (C, alpha, l1_ratio) is a setting.
        """
        estimator, y = self.unfitted, self.train.labels
        if self._classes is not None:
            index = np.searchsorted(self._terms.codes, y)
            y = self._classes[index]
            gone = np.setdiff1d(np.arange(len(self._classes)), index)
            if len(gone):
                name = self._classes.tolist()[gone[0]]
                raise ValueError(f"No training point of class {name!r} is left.")
            if "class_weight" in estimator.get_params():
                estimator.set_params(class_weight=self._held_class_weights())
        estimator.fit(self.train.x, y, sample_weight=self.example_weights)
        if hasattr(self.estimator, "feature_names_in_"):
            # Of arrays none are known, and columns are held against them.
            estimator.feature_names_in_ = self.estimator.feature_names_in_
        self.estimator = estimator
        self._read_parameters()
        return self

    def refit(self, without: ArrayLike) -> Self:
        """A model of the same estimator settings, fitted without these training points.

        How near it comes to its optimum is a matter of the estimator's own ``tol``.
        """
        train = self.train.without(without)
        keep = np.ones(len(self.train), bool)
        keep[check_indices(without, len(self.train))] = False
        return self._with(train, self.example_weights[keep], self.index[keep]).fit()

    def _warn_unless_at_minimum(self, curvature):
        pass  # ``from_sklearn`` has looked, by a measure that does not depend on units.

    def influence_input_gradient(
        self, train_indices: ArrayLike, x_test: Inputs, y_test: ArrayLike, **options: Any
    ) -> np.ndarray:
        """As ``GenericNeuralNet.influence_input_gradient``; not for pipelines."""
        if self._transform is not None:
            raise ValueError(
                "There is no input gradient through a pipeline's transformers: give from_sklearn "
                "the last step, with the transformed points."
            )
        return super().influence_input_gradient(train_indices, x_test, y_test, **options)

    def _read_parameters(self):
        """Take the estimator's coefficients for θ, and the penalty that holds them there."""
        rows = coefficients(self.estimator, self._terms)
        self.penalty = penalty_at(self._terms, rows, len(self.train))
        self.parameters = rows.ravel()
        held = held_weights(self._terms, rows)
        if held.any():
            # What the loss pulls them with is what the penalty holds them with.
            pull = self.gradient().reshape(rows.shape)
            pin = PIN * float(self.hessian().diagonal().max())
            self.penalty = penalty_at(self._terms, rows, len(self.train), held, pull, pin)
            self._at_theta.clear()

    def _held_class_weights(self):
        """What stands for the estimator's class weights in a refit, or None: they are in the
        weights of the examples."""
        if not self._terms.weighs_positives:
            return None
        return dict(zip(self._classes.tolist(), self._terms.loss.positives))

    def _with(self, train, weights, index):
        return SklearnModel(self.estimator, self._terms, train, weights, self._transform, index)

    def _clone(self, train):
        if len(train) != len(self.train):
            raise ValueError("Each point has a weight of its own: use refit(without=...).")
        model = self._with(train, self.example_weights, self.index)
        model.penalty = self.penalty
        return model

    def _removed_shares(self, points):
        # Of what is divided by Σ w_i a point takes w_i with it.
        return self.points.weights_of(points) if self._terms.relative_weights else 1.0

    def _recipe(self, own):
        if not own:
            raise ValueError(
                "The weights, labels and penalty of an estimator are those of the points that it "
                "was fitted on: give shards= how many to cut them into. X may be a memory-mapped "
                "array."
            )
        return super()._recipe(own)

    def _make_points(self):
        return SklearnPoints(self)

    def _check_train(self, train):
        check_dataset(train, several=True)
        self._check_labels(train.labels, "y")

    def _check_labels(self, labels, name):
        # Of a classifier they are encoded from its classes.
        if self._classes is None:
            self._terms.loss.check_labels(labels, name)


def _last_step(estimator):
    """The estimator that predicts, and the function of the transformers before it, or None."""
    # A search is what it found; it may stand around a pipeline or at the end of one.
    if hasattr(estimator, "best_estimator_"):
        return _last_step(estimator.best_estimator_)
    if not isinstance(estimator, Pipeline):
        return estimator, None
    last, inner = _last_step(estimator[-1])
    outer = estimator[:-1].transform if len(estimator) > 1 else None
    if inner is None or outer is None:
        return last, inner or outer
    return last, lambda x: inner(outer(x))
