"""Influences of scikit-learn estimators, against the same estimators fitted without the point."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVC

from influence import ConjugateGradient, SolverError, from_sklearn, leave_one_out
from influence.objective.minimum import ConvergenceWarning
from influence.sklearn_models.estimators import example_weights, read_terms
from tests.oracles import central_difference, of_parameters, softmax


def split(load, test=0.1):
    """Standardised points, shuffled: (x, y, x_test, y_test)."""
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = StandardScaler().fit_transform(x)[order], y[order]
    m = int(test * len(y))
    return x[m:], y[m:], x[:m], y[:m]


def logistic(C=1.0, **settings):  # noqa: N803
    """To the last digits."""
    return LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky", **settings)


DATA = {"breast cancer": load_breast_cancer, "wine": load_wine}
CASES = ["plain", "sample weights", "class weights", "no intercept"]


def case(data, kind, C):  # noqa: N803
    """A fitted estimator, its data, and the weight of each example."""
    x, y, x_test, y_test = split(DATA[data])
    weights = (
        np.random.default_rng(1).uniform(0.5, 1.5, len(y)) if kind == "sample weights" else None
    )
    estimator = logistic(
        C,
        class_weight="balanced" if kind == "class weights" else None,
        fit_intercept=kind != "no intercept",
    ).fit(x, y, sample_weight=weights)
    return estimator, (x, y, weights), (x_test, y_test)


def refits(estimator, train, indices, total):
    """The estimator fitted without each point."""
    x, y, _ = train
    for i in indices:
        alone = clone(estimator).set_params(class_weight=None)
        yield alone.fit(np.delete(x, i, 0), np.delete(y, i), sample_weight=np.delete(total, i))


def refitted(estimator, train, test, indices, total):
    """The change of the test losses of the estimator fitted without each point, [m, k]."""
    x_test, y_test = test
    rows = np.arange(len(y_test)), np.searchsorted(estimator.classes_, y_test)
    before = -estimator.predict_log_proba(x_test)[rows]
    alone = refits(estimator, train, indices, total)
    return np.stack([-e.predict_log_proba(x_test)[rows] - before for e in alone], axis=1)


def agreement(predicted, actual):
    """(Pearson R, slope), predicted over actual."""
    predicted, actual = predicted.ravel(), actual.ravel()
    return np.corrcoef(predicted, actual)[0, 1], np.polyfit(actual, predicted, 1)[0]


# C, order, every which training point, smallest R, largest distance of the slope from 1.
EXPECTED = [
    (0.001, "first", 1, 0.999, 0.035),
    (0.01, "newton", 4, 0.9999, 0.01),
    (0.1, "newton", 1, 0.999, 0.02),
    (1.0, "newton", 4, 0.99, 0.07),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("data", DATA)
def test_logistic_regression_is_refitting(data, kind):
    for C, order, every, least, off in EXPECTED:  # noqa: N806
        estimator, train, test = case(data, kind, C)
        model = from_sklearn(estimator, *train)
        some = np.arange(0, len(train[1]), every)
        actual = refitted(estimator, train, test, some, model.example_weights)
        predicted = model.influence_on_loss(*test, order=order, train_indices=some)
        correlation, slope = agreement(predicted, actual)
        assert correlation >= least, C
        assert slope == pytest.approx(1, abs=off), C


def test_what_newtons_step_adds():
    # At C = 1 points have leverage, and the first-order scores are too small.
    estimator, train, test = case("breast cancer", "plain", 1.0)
    some = np.arange(0, len(train[1]), 4)
    model = from_sklearn(estimator, *train)
    actual = refitted(estimator, train, test, some, model.example_weights)
    correlation, slope = agreement(model.influence_on_loss(*test, train_indices=some), actual)
    assert 0.9 < correlation < 0.99
    assert slope < 0.82


@pytest.mark.parametrize("kind", CASES)
def test_first_order_is_too_small_by_one_minus_the_leverage(kind):
    # So at C = 0.01 a slope of 1 ± 0.02 is to be had only from the points of little leverage.
    estimator, train, (x_test, y_test) = case("breast cancer", kind, 0.01)
    model, n = from_sklearn(estimator, *train), len(train[1])
    rows = np.column_stack([train[0], np.ones(n)])[:, : model.num_parameters]
    p = estimator.predict_proba(train[0])[:, 1]
    inverse = np.linalg.inv(n * model.hessian().dense())
    leverage = model.example_weights * p * (1 - p) * np.sum((rows @ inverse) * rows, axis=1)
    assert leverage.max() > 0.24
    alone = refits(estimator, train, range(n), model.example_weights)
    after = np.stack([e.decision_function(x_test) for e in alone], axis=1)
    z = model.outputs(x_test)
    scores = model.influence_on_loss(x_test, y_test)
    # Of the decision values, which are linear in the parameters as the losses are not.
    predicted = scores / (1 / (1 + np.exp(-z)) - y_test[:, np.newaxis])
    actual = after - z
    ratio = np.sum(predicted * actual, axis=0) / np.sum(actual**2, axis=0)
    np.testing.assert_allclose(ratio, 1 - leverage, rtol=0.02)
    sign = 1 - 2 * y_test[:, np.newaxis]
    changes = np.logaddexp(0, sign * after) - np.logaddexp(0, sign * z)
    few = leverage <= 0.015
    correlation, slope = agreement(scores[:, few], changes[:, few])
    assert correlation >= 0.999
    assert slope == pytest.approx(1, abs=0.02)
    # All together: the numbers of docs/reading-the-scores.md.
    correlation, slope = agreement(scores, changes)
    assert 0.983 < correlation < 0.999
    assert 0.83 < slope < 0.92
    assert scipy.stats.spearmanr(scores.ravel(), changes.ravel()).statistic > 0.9999


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "estimator",
    [Ridge(alpha=0.7), Ridge(alpha=3.0, fit_intercept=False), LinearRegression()],
    ids=["ridge", "no intercept", "linear regression"],
)
def test_least_squares_is_exact_by_newtons_step(estimator, weighted):
    x, y, x_test, y_test = split(load_diabetes)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y)) if weighted else None
    estimator = clone(estimator).fit(x, y, sample_weight=weights)
    model = from_sklearn(estimator, x, y, weights)
    some = [3, 100, 7]
    total = np.ones(len(y)) if weights is None else weights
    actual = []
    for i in some:
        alone = clone(estimator)
        alone.fit(np.delete(x, i, 0), np.delete(y, i), sample_weight=np.delete(total, i))
        change = (alone.predict(x_test) - y_test) ** 2 - (estimator.predict(x_test) - y_test) ** 2
        actual.append(change)
    actual = np.stack(actual, axis=1)
    scores = model.influence_on_loss(x_test, y_test, order="newton")
    np.testing.assert_allclose(scores[:, some], actual, rtol=1e-8, atol=1e-8)
    how = {"order": "newton", "train_indices": some}
    chosen = model.influence_on_loss(x_test, y_test, reduction="mean", **how)
    np.testing.assert_allclose(chosen, actual.mean(axis=0), rtol=1e-8, atol=1e-8)
    refit, step = model.refit(3), model.parameter_changes([[3]])[:, 0]
    np.testing.assert_allclose(model.parameters + step, refit.parameters, rtol=1e-8)
    assert np.linalg.norm(refit.gradient()) < 1e-8 * np.linalg.norm(model.train.labels)


def test_leverage_of_two_classes_divides_by_one_minus_it():
    (x, y, x_test, y_test), C = split(load_breast_cancer), 0.5  # noqa: N806
    estimator = logistic(C).fit(x, y)
    rows = np.column_stack([x, np.ones(len(x))])
    p = estimator.predict_proba(x)[:, 1]
    hessian = (rows * (p * (1 - p))[:, np.newaxis]).T @ rows
    hessian += np.diag([*np.ones(30) / C, 0])
    step = np.linalg.solve(hessian, rows.T * (p - y))
    leverage = p * (1 - p) * np.sum(rows * np.linalg.solve(hessian, rows.T).T, axis=1)
    assert leverage.max() > 0.3
    model = from_sklearn(estimator, x, y)
    changes = model.parameter_changes(np.arange(len(x))[:, np.newaxis])
    np.testing.assert_allclose(changes, step / (1 - leverage), atol=1e-9)
    # First-order scores do not divide.
    scores = model.influence_on_loss(x_test, y_test)
    z = estimator.decision_function(x_test)
    slopes = (1 / (1 + np.exp(-z)) - y_test)[:, np.newaxis]
    test_gradients = np.column_stack([x_test, np.ones(len(x_test))]) * slopes
    np.testing.assert_allclose(scores, test_gradients @ step, atol=1e-10)


def test_leverage_of_many_classes_is_a_newton_step():
    x, y, *_ = split(load_wine)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y))
    model = from_sklearn(logistic(0.5).fit(x, y, sample_weight=weights), x, y, weights)
    rows, n = np.column_stack([x, np.ones(len(x))]), len(y)
    p = softmax(rows @ model.parameters.reshape(14, 3))[5]
    curvature = np.kron(np.outer(rows[5], rows[5]), np.diag(p) - np.outer(p, p)) * weights[5]
    gradient = np.kron(rows[5], p - np.eye(3)[y[5]]) * weights[5]
    step = np.linalg.solve(n * model.hessian().dense() - curvature, gradient)
    np.testing.assert_allclose(model.parameter_changes([[5]])[:, 0], step, atol=1e-9)


def test_hinge_is_roughly_refitting():
    digits = load_digits()
    x, y = digits.data / 16, np.where(digits.target % 2, "odd", "even")
    estimator = LinearSVC(C=0.005, loss="hinge", tol=1e-8, max_iter=10**6, random_state=0)
    model = from_sklearn(estimator.fit(x[:1500], y[:1500]), x[:1500], y[:1500])
    test = x[1500:], y[1500:]
    scores = model.influence_on_loss(*test)
    chosen = np.argsort(-np.abs(scores.mean(axis=0)))[:60]
    before = model.losses(*test)
    actual = np.stack([model.refit(i).losses(*test) - before for i in chosen], axis=1)
    correlation, slope = agreement(scores[:, chosen], actual)
    assert correlation >= 0.95
    assert slope == pytest.approx(1, abs=0.2)


def squared_margin_gaps(estimator, x, y):
    return np.maximum(0, 1 - (2 * y - 1) * estimator.decision_function(x)) ** 2


# C, order, smallest R, limits of the slope.
SQUARED_HINGE = [
    (0.001, "first", 0.975, 0.78, 0.88),
    (0.001, "newton", 0.9999, 0.99, 1.01),
    (0.01, "first", 0.95, 0.77, 0.88),
    (0.01, "newton", 0.96, 0.87, 1.06),
]


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("C", "order", "least", "low", "high"), SQUARED_HINGE)
def test_squared_hinge_is_refitting(C, order, least, low, high, fit_intercept):  # noqa: N803
    x, y, x_test, y_test = split(load_breast_cancer)
    settings = {"fit_intercept": fit_intercept, "intercept_scaling": 2.0}
    estimator = LinearSVC(C=C, tol=1e-10, max_iter=10**5, random_state=0, **settings)
    weights = np.random.default_rng(1).uniform(0.5, 1.5, len(y))
    model = from_sklearn(estimator.fit(x, y, weights), x, y, weights)
    at_zero = model.with_parameters(np.zeros(model.num_parameters)).gradient()
    assert np.linalg.norm(model.gradient()) < 1e-6 * np.linalg.norm(at_zero)
    before = squared_margin_gaps(estimator, x_test, y_test)
    alone = refits(estimator, (x, y, weights), range(len(y)), weights)
    actual = np.stack([squared_margin_gaps(e, x_test, y_test) - before for e in alone], axis=1)
    predicted = model.influence_on_loss(x_test, y_test, order=order)
    correlation, slope = agreement(predicted, actual)
    assert correlation >= least
    assert low < slope < high
    predicted, actual = predicted.mean(axis=0), actual.mean(axis=0)
    most = np.argsort(-np.abs(predicted))[:40]
    np.testing.assert_array_equal(np.sign(predicted[most]), np.sign(actual[most]))


def test_squared_hinge_derivatives():
    x, y, *test = split(load_breast_cancer)
    model = from_sklearn(LinearSVC(C=0.01, tol=1e-10).fit(x, y), x, y)
    objective = of_parameters(model, lambda at: np.array(at.objective()))
    truth = central_difference(objective, model.parameters + 0.1)
    moved = model.with_parameters(model.parameters + 0.1)
    np.testing.assert_allclose(moved.gradient(), truth, atol=1e-8)
    gaps = 1 - (2 * y - 1) * model.outputs(x)[:, 0]
    # No point changes sides within the step of the difference.
    assert np.abs(gaps).min() > 1e-4
    truth = central_difference(of_parameters(model, lambda at: at.gradient()), model.parameters)
    np.testing.assert_allclose(model.hessian().dense(), truth, atol=1e-7)
    np.testing.assert_allclose(model.hessian() @ np.eye(31), truth, atol=1e-7)
    together = leave_one_out(model, [3, 11], *test)
    changes = [model.refit(i).losses(*test) - model.losses(*test) for i in (3, 11)]
    np.testing.assert_allclose(together.changes, changes, atol=1e-6)


# What each estimator minimises: the sum of its own formula, over n, is the model's objective.


def hinge(estimator, x, y):
    return np.maximum(0, 1 - (2 * y - 1) * estimator.decision_function(x))


def cross_entropy(estimator, x, y):
    return -estimator.predict_log_proba(x)[np.arange(len(y)), y]


def squared_error(estimator, x, y):
    return (estimator.predict(x) - y) ** 2


def norm(estimator, bias=None):
    penalised = np.sum(estimator.coef_**2)
    return penalised if bias is None else penalised + np.sum((estimator.intercept_ / bias) ** 2)


OBJECTIVES = {
    "logistic": (logistic(0.3), cross_entropy, lambda e: norm(e) / (2 * 0.3)),
    "liblinear": (
        LogisticRegression(C=0.3, solver="liblinear", intercept_scaling=2.5, tol=1e-10),
        cross_entropy,
        lambda e: norm(e, bias=2.5) / (2 * 0.3),
    ),
    "svm": (
        LinearSVC(C=0.02, loss="hinge", intercept_scaling=2.5, tol=1e-9, max_iter=10**6),
        hinge,
        lambda e: norm(e, bias=2.5) / (2 * 0.02),
    ),
    "squared hinge": (
        LinearSVC(C=0.02, intercept_scaling=2.5, tol=1e-10, max_iter=10**6),
        squared_margin_gaps,
        lambda e: norm(e, bias=2.5) / (2 * 0.02),
    ),
    "ridge": (Ridge(alpha=4.0), squared_error, lambda e: 4 * norm(e)),
    "linear regression": (LinearRegression(), squared_error, lambda e: 0.0),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_is_the_estimators(name):
    estimator, loss, penalty = OBJECTIVES[name]
    x, y, *_ = split(load_breast_cancer)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y))
    estimator = clone(estimator).fit(x, y, sample_weight=weights)
    model = from_sklearn(estimator, x, y, weights, temperature=1e-6)
    truth = (weights @ loss(estimator, x, y) + penalty(estimator)) / len(y)
    assert model.objective() == pytest.approx(truth, abs=2e-6)
    np.testing.assert_allclose(model.losses(x, y), loss(estimator, x, y), atol=1e-6)
    np.testing.assert_allclose(model.predict(x), estimator.predict(x), rtol=1e-10)
    if name != "svm":
        at_zero = model.with_parameters(np.zeros(model.num_parameters)).gradient()
        assert np.linalg.norm(model.gradient()) < 1e-6 * np.linalg.norm(at_zero)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_alpha_of_sgd_is_beside_the_mean(loss):
    # The same fit, by SGD's alpha and by LinearSVC's C: the scores differ by the λθ of the paper.
    x, y, *test = split(load_breast_cancer)
    n, alpha = len(y), 0.1
    svm = LinearSVC(
        C=1 / (n * alpha), loss=loss, fit_intercept=False, tol=1e-8, max_iter=10**6
    ).fit(x, y)
    sgd = SGDClassifier(loss, alpha=alpha, fit_intercept=False, random_state=0).fit(x, y)
    sgd.coef_ = svm.coef_.copy()
    by_svm, by_sgd = (from_sklearn(e, x, y, temperature=0.01) for e in (svm, sgd))
    np.testing.assert_allclose(by_sgd.hessian().dense(), by_svm.hessian().dense(), rtol=1e-10)
    s_test = by_svm.inverse_hvp(by_svm.test_gradient(*test)).x
    term = s_test.T @ (alpha * svm.coef_[0]) / n
    scores = by_svm.influence_on_loss(*test) + term[:, np.newaxis]
    np.testing.assert_allclose(by_sgd.influence_on_loss(*test), scores, atol=1e-12)


def test_sgd_with_a_free_intercept():
    x, y, *_ = split(load_breast_cancer)
    sgd = SGDClassifier(alpha=0.1, tol=None, max_iter=1000, random_state=0).fit(x, y)
    model = from_sklearn(sgd, x, y)
    truth = hinge(sgd, x, y).mean() + 0.1 / 2 * norm(sgd)
    assert model.objective() == pytest.approx(truth, abs=1e-3 * np.log(2))


# Derivatives, operators and the rest of the surface.


@pytest.fixture(scope="module")
def wine_model():
    x, y, *_ = split(load_wine)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y))
    return from_sklearn(logistic(0.5).fit(x, y, sample_weight=weights), x, y, weights)


def test_derivatives_of_the_objective(wine_model):
    model = wine_model.with_parameters(wine_model.parameters + 0.1)
    objective = of_parameters(model, lambda at: np.array(at.objective()))
    truth = central_difference(objective, model.parameters)
    np.testing.assert_allclose(model.gradient(), truth, atol=1e-8)
    gradient = of_parameters(model, lambda at: at.gradient())
    truth = central_difference(gradient, model.parameters)
    hessian = model.hessian()
    np.testing.assert_allclose(hessian.dense(), truth, atol=1e-7)
    np.testing.assert_allclose(hessian @ np.eye(42), hessian.dense(), atol=1e-12)
    np.testing.assert_allclose(hessian.diagonal(), np.diag(hessian.dense()), atol=1e-12)
    everywhere = hessian.on(np.arange(len(model.train))) @ np.eye(42)
    np.testing.assert_allclose(everywhere, hessian.dense(), atol=1e-12)
    assert model.gauss_newton() is model.hessian()
    assert float(model.regularization()) == pytest.approx(
        model.objective() - model.example_weights @ unweighted(model) / len(model.train)
    )


def unweighted(model):
    return model.losses(model.train.x, model.train.labels)


def test_influences_are_the_formula(wine_model):
    # Where the Hessian is singular (all intercepts together), by its pseudo-inverse.
    model, (x, y, x_test, y_test) = wine_model, split(load_wine)
    theta = model.parameters.reshape(14, 3)

    def gradients(x, y):
        rows = np.column_stack([x, np.ones(len(x))])
        slopes = softmax(rows @ theta) - np.eye(3)[y]
        return np.einsum("nd,nc->ndc", rows, slopes).reshape(len(x), -1)

    rows = np.column_stack([x, np.ones(len(x))])
    p = softmax(rows @ theta)
    second = np.einsum("na,ab->nab", p, np.eye(3)) - np.einsum("na,nb->nab", p, p)
    hessian = np.einsum("n,ni,nab,nj->iajb", model.example_weights, rows, second, rows)
    hessian = hessian.reshape(42, 42) + np.diag(np.repeat([*np.ones(13) / 0.5, 0], 3))
    weighted = gradients(x, y) * model.example_weights[:, np.newaxis]
    inverse = np.linalg.pinv(hessian, rcond=1e-10, hermitian=True)
    truth = gradients(x_test, y_test) @ inverse @ weighted.T
    np.testing.assert_allclose(model.influence_on_loss(x_test, y_test), truth, atol=1e-10)
    mean = model.influence_on_loss(x_test, y_test, reduction="mean")
    np.testing.assert_allclose(mean, truth.mean(axis=0), atol=1e-10)
    some = model.influence_on_loss(x_test, y_test, train_indices=[9, 4])
    np.testing.assert_allclose(some, truth[:, [9, 4]], atol=1e-10)
    plain = ConjugateGradient(1e-10)
    preconditioned = ConjugateGradient(1e-10, preconditioner=model.preconditioner())
    by_iterations = model.influence_on_loss(x_test, y_test, solver=preconditioned)
    np.testing.assert_allclose(by_iterations, truth, atol=1e-8)
    v = model.test_gradient(x_test, y_test)
    # Standardised features need no preconditioner; one without the penalty takes 20 times as many.
    without, with_it = (
        model.inverse_hvp(v, solver).iterations.sum() for solver in (plain, preconditioned)
    )
    assert with_it < 1.5 * without
    self_influence = len(y) * np.einsum("np,pq,nq->n", weighted, inverse, weighted)
    np.testing.assert_allclose(model.self_influence(), self_influence, atol=1e-8)
    # A point that is not in the training set weighs 1.
    phantom = model.influence_of_points(x[[9, 4]], y[[9, 4]], x_test, y_test)
    np.testing.assert_allclose(
        phantom * model.example_weights[[9, 4]], truth[:, [9, 4]], atol=1e-10
    )


def test_input_gradient(wine_model):
    x, y, *test = split(load_wine)

    def influence(point):
        phantom = wine_model.influence_of_points(point, y[4], *test, reduction="mean")
        return phantom[0] * wine_model.example_weights[4]

    gradient = wine_model.influence_input_gradient([4, 2], *test)
    assert gradient.shape == (2, 13)
    np.testing.assert_allclose(gradient[0], central_difference(influence, x[4]), atol=1e-9)


def test_refits(wine_model):
    x, y, *test = split(load_wine)
    weights = wine_model.example_weights
    alone = logistic(0.5).fit(
        np.delete(x, [7, 2], 0), np.delete(y, [7, 2]), np.delete(weights, [7, 2])
    )
    refit = wine_model.refit(without=[2, 7])
    losses = -alone.predict_log_proba(test[0])[np.arange(len(test[1])), test[1]]
    np.testing.assert_allclose(refit.losses(*test), losses, atol=1e-8)
    # The refits that travel together end at the same optimum.
    together = leave_one_out(wine_model, [11], *test)
    changes = wine_model.refit(11).losses(*test) - wine_model.losses(*test)
    np.testing.assert_allclose(together.changes[0], changes, atol=1e-8)


def test_class_weights_are_held_in_refits():
    estimator, (x, y, _), test = case("wine", "class weights", 0.5)
    weights = (len(y) / (3 * np.bincount(y)))[y]
    refit = from_sklearn(estimator, x, y).refit(0)
    alone = logistic(0.5).fit(x[1:], y[1:], sample_weight=weights[1:])
    np.testing.assert_allclose(refit.outputs(test[0]), alone.decision_function(test[0]), atol=1e-8)


def test_the_estimator_is_not_touched():
    x, y, *test = split(load_wine)
    estimator = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    before = pickle.dumps(estimator.fit(x, y))
    model = from_sklearn(estimator, x, y)
    model.influence_on_loss(*test, order="newton")
    model.refit(3)
    assert pickle.dumps(estimator) == before


@pytest.mark.parametrize("order", ["first", "newton"])
def test_pipelines_and_strings(order):
    x, y, x_test, y_test = split(load_wine)
    names = np.array(["barbera", "grignolino", "barolo"])
    scaler = MinMaxScaler().fit(x)
    pipeline = make_pipeline(MinMaxScaler(), logistic()).fit(x, names[y])
    model = from_sklearn(pipeline, x, names[y])
    plain = from_sklearn(logistic().fit(scaler.transform(x), y), scaler.transform(x), y)
    expected = plain.influence_on_loss(scaler.transform(x_test), y_test, order=order)
    scores = model.influence_on_loss(x_test, names[y_test], order=order)
    np.testing.assert_allclose(scores, expected, atol=1e-9)
    np.testing.assert_array_equal(model.predict(x_test), pipeline.predict(x_test))
    np.testing.assert_array_equal(model.refit(0).predict(x_test), pipeline.predict(x_test))
    with pytest.raises(ValueError, match="no input gradient through a pipeline's transformers"):
        model.influence_input_gradient([0], x_test, names[y_test])
    alone = Pipeline([("only", logistic().fit(x, y))])
    assert from_sklearn(alone, x, y).predict(x_test).shape == y_test.shape


def test_a_pipeline_whose_transformers_make_more_columns():
    x, y, x_test, y_test = split(load_wine)
    x, x_test = x[:, :3], x_test[:, :3]
    wider = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False)).fit(x)
    pipeline = make_pipeline(clone(wider), logistic()).fit(x, y)
    plain = from_sklearn(logistic().fit(wider.transform(x), y), wider.transform(x), y)
    scores = from_sklearn(pipeline, x, y).influence_on_loss(x_test, y_test, order="newton")
    expected = plain.influence_on_loss(wider.transform(x_test), y_test, order="newton")
    np.testing.assert_allclose(scores, expected, atol=1e-9)


def test_texts():
    # Wrong labels of a list of texts come first, by the influence on others and on themselves.
    rng, words = np.random.default_rng(0), {"spam": "win cash now", "ham": "see you soon"}
    names = np.array(["spam", "ham"] * 60)
    texts = [
        " ".join(rng.permutation([*words[name].split(), *rng.choice(list("abcdefgh"), 4)]))
        for name in names
    ]
    given, wrong = names[:100].copy(), [7, 40, 71]
    given[wrong] = np.where(given[wrong] == "spam", "ham", "spam")
    pipeline = make_pipeline(TfidfVectorizer(token_pattern=r"\w+"), LinearSVC(C=0.1, tol=1e-8))
    model = from_sklearn(pipeline.fit(texts[:100], given), texts[:100], given)
    scores = model.influence_on_loss(texts[100:], names[100:], reduction="mean")
    assert set(np.argsort(scores)[:3]) == set(wrong)
    assert set(np.argsort(-model.self_influence())[:3]) == set(wrong)
    np.testing.assert_array_equal(model.predict(texts[100:]), names[100:])
    assert model.validate(texts[100:], names[100:], points=10).pearson_r > 0.99


@pytest.mark.parametrize("order", ["first", "newton"])
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_diabetes])
def test_sparse_points(load, order):
    x, y, x_test, y_test = split(load)
    x, x_test = np.where(np.abs(x) < 0.5, 0, x), np.where(np.abs(x_test) < 0.5, 0, x_test)
    estimator = (Ridge() if load is load_diabetes else logistic()).fit(x, y)
    dense = from_sklearn(estimator, x, y)
    sparse = from_sklearn(estimator, scipy.sparse.csc_matrix(x), y)
    scores = dense.influence_on_loss(x_test, y_test, order=order)
    same = sparse.influence_on_loss(scipy.sparse.csr_array(x_test), y_test, order=order)
    np.testing.assert_allclose(same, scores, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(sparse.outputs(x_test), dense.outputs(x_test), atol=1e-10)
    np.testing.assert_allclose(
        sparse.losses(x_test, y_test), dense.losses(x_test, y_test), atol=1e-9
    )
    with pytest.raises(ValueError, match=r"x\.toarray\(\)"):
        dense.influence_on_loss(scipy.sparse.csr_array(x_test), y_test)


def test_no_penalty():
    x, y, *test = split(load_diabetes)
    classes = (y > np.quantile(y, [[0.3], [0.6]])).sum(axis=0)
    bins = (np.median(y) > test[1]).astype(int)
    estimator = logistic(np.inf).fit(x, classes)
    model = from_sklearn(estimator, x, classes)
    scores = model.influence_on_loss(test[0], bins)
    before = model.losses(test[0], bins)
    actual = np.stack([model.refit(i).losses(test[0], bins) - before for i in range(20)], axis=1)
    correlation, slope = agreement(scores[:, :20], actual)
    assert correlation > 0.99
    assert slope == pytest.approx(1, abs=0.1)


# What it refuses.


def fitted(estimator, classes=2):
    x, y = load_wine(return_X_y=True)
    return estimator.fit(x[y < classes], y[y < classes])


@pytest.mark.parametrize(
    ("estimator", "classes", "message"),
    [
        (RandomForestClassifier(2), 2, "does not take RandomForestClassifier: only Logistic"),
        (LogisticRegressionCV(l1_ratios=(0,), use_legacy_attributes=False, refit=False), 2,
         "LogisticRegressionCV with refit=False, means over the folds: only refit=True"),
        (GridSearchCV(RandomForestClassifier(2), {"max_depth": [2]}), 2, "RandomForestClassifier"),
        (GridSearchCV(Ridge(), {"alpha": [1.0]}, refit=False), 2, "does not take GridSearchCV"),
        (TransformedTargetRegressor(Ridge()), 2, "does not take TransformedTargetRegressor"),
        (make_pipeline(StandardScaler(), RandomForestClassifier(2)), 2, "RandomForestClassifier"),
        (LinearSVC(multi_class="crammer_singer"), 3, "multi_class='crammer_singer': only 'ovr'"),
        (LinearSVC(multi_class="crammer_singer"), 2, "multi_class='crammer_singer': only 'ovr'"),
        (SGDClassifier(loss="perceptron"), 2, "'perceptron': only losses that are, or can be made"),
        (Perceptron(), 2, "does not take Perceptron"),
        (Lasso(positive=True), 2, "Lasso with positive=True"),
        (RidgeClassifier(positive=True), 2, "RidgeClassifier with positive=True"),
        (LinearRegression(positive=True), 2, "LinearRegression with positive=True"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_estimators_it_refuses(estimator, classes, message):
    x, y = load_wine(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        from_sklearn(fitted(estimator, classes), x[y < classes], y[y < classes])


@pytest.mark.filterwarnings("ignore")
def test_penalty_by_its_old_name():
    x, y = load_wine(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    for penalty, C in ((None, np.inf), ("l2", 0.5)):  # noqa: N806
        old = read_terms(LogisticRegression(penalty=penalty, C=0.5).fit(x, y), 1.0)
        assert old == read_terms(LogisticRegression(C=C).fit(x, y), 1.0)
    old = read_terms(LogisticRegression(penalty="l1", l1_ratio=1, solver="saga").fit(x, y), 1.0)
    assert old == read_terms(LogisticRegression(l1_ratio=1, solver="saga").fit(x, y), 1.0)


def test_several_targets_and_other_estimators():
    x, y = load_diabetes(return_X_y=True)
    two = np.column_stack([y, y])
    model = from_sklearn(Ridge().fit(x, two), x, two)
    with pytest.raises(ValueError, match=r"y_test must be \[442, 2\]"):
        model.influence_on_loss(x, y)
    with pytest.raises(NotFittedError):
        from_sklearn(Ridge(), x, y)
    machine = fitted(LinearSVC(C=1e-6, loss="hinge", max_iter=10**6))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        from_sklearn(machine, x, y, temperature=0)


def test_data_that_do_not_fit(wine_model):
    x, y, x_test, y_test = split(load_wine)
    estimator = logistic().fit(x, y)
    holed = x.copy()
    holed[3, 5] = np.nan
    for arguments, message in [
        ((x[:, 1:], y), r"X must be \[n, 13\], as LogisticRegression was fitted"),
        ((holed, y), r"the entry at \[3, 5\] is nan"),
        ((x, y[1:]), "x has 161 rows and labels has 160"),
        ((x, np.where(y == 2, 7, y)), r"y must be classes .* \[0, 1, 2\]; 7 at position"),
        ((x, np.eye(3)[y]), "y must be a vector of labels"),
        ((x, y, np.ones(3)), r"sample_weight must be \[161\]"),
        ((x, y, -np.ones(161)), "sample_weight must be finite, at least 0"),
        ((x, y, np.zeros(161)), "not 0 everywhere"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_sklearn(estimator, *arguments)
    for arguments, message in [
        ((x_test, np.full(len(y_test), 5)), "y_test must be classes .* 5 at position 0"),
        ((x_test[:, 1:], y_test), r"x_test must be \[m, 13\]"),
        ((x_test * np.nan, y_test), "x_test must be finite"),
        ((x_test, y_test[1:]), "y_test must be a vector of 17 labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            wine_model.influence_on_loss(*arguments)
    for order in ("first", "newton"):
        with pytest.raises(ValueError, match="reduction must be"):
            wine_model.influence_on_loss(x_test, y_test, order=order, reduction="sum")
        with pytest.raises(ValueError, match="defines no adversarial loss"):
            wine_model.influence_on_loss(x_test, y_test, order=order, loss="adversarial")
    with pytest.raises(ValueError, match="y_test must be finite"):
        from_sklearn(Ridge().fit(x, y), x, y).influence_on_loss(x_test, y_test * np.nan)


def test_columns_of_a_data_frame():
    x, y = load_diabetes(return_X_y=True, as_frame=True)
    model = from_sklearn(Ridge().fit(x, y), x, y)
    np.testing.assert_allclose(model.predict(x), model.predict(x.to_numpy()))
    with pytest.raises(ValueError, match="x_test must have the columns that Ridge was fitted on"):
        model.influence_on_loss(x[x.columns[::-1]], y)


def test_removals_that_leave_nothing_to_fit():
    x, y, *_ = split(load_wine)
    keep = np.flatnonzero(y < 2)
    rare = np.concatenate([keep, np.flatnonzero(y == 2)[:1]])
    model = from_sklearn(logistic().fit(x[rare], y[rare]), x[rare], y[rare])
    with pytest.raises(ValueError, match="No training point of class 2 is left"):
        model.refit(len(keep))
    with pytest.raises(ValueError, match="Each point has a weight of its own"):
        model._clone(model.train.without(0))
    # A feature that one point alone has: without it nothing says its coefficient.
    x = np.column_stack([x, np.arange(len(x)) == 4])
    model = from_sklearn(LinearRegression().fit(x, y), x, y)
    with pytest.raises(SolverError, match="leverage of training point 4 is at least 1"):
        model.influence_on_loss(x[:2], y[:2], order="newton")


def test_class_weights_are_the_estimators():
    x, y, *_ = split(load_breast_cancer)
    sample = np.random.default_rng(0).uniform(0.5, 2, len(y))
    counts, masses = np.bincount(y), np.bincount(y, sample)
    expected = {
        LogisticRegression: sample * (masses.sum() / (2 * masses))[y],
        SGDClassifier: sample * (counts.sum() / (2 * counts))[y],
    }
    for kind, weights in expected.items():
        estimator = kind(class_weight="balanced").fit(x, y, sample_weight=sample)
        terms = read_terms(estimator, 1.0)
        labels = np.array(terms.codes)[y]
        np.testing.assert_allclose(example_weights(estimator, terms, labels, sample), weights)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_estimator_that_has_not_converged_is_said():
    raw, y = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for estimator in (LogisticRegression(), LogisticRegression(C=0.01), Ridge()):
            from_sklearn(estimator.fit(x, y), x, y)
    hasty = [
        (LogisticRegression(max_iter=10), x),
        # In the features' own units the relative gradient norm is small, and means nothing.
        (LogisticRegression(), raw),
        (LinearSVC(loss="hinge", C=1.0, max_iter=10), x),
        (SGDClassifier(random_state=0), x),
        (Ridge(alpha=0.001, solver="sag", max_iter=3), x),
    ]
    for estimator, points in hasty:
        with pytest.warns(ConvergenceWarning, match=f"{type(estimator).__name__} has not conv"):
            from_sklearn(estimator.fit(points, y), points, y)
    with pytest.warns(ConvergenceWarning, match="X, y and sample_weight as it was fitted on them"):
        from_sklearn(LogisticRegression().fit(x, y), x[:400], y[:400])
