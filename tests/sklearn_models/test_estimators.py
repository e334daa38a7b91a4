"""Every estimator that ``from_sklearn`` takes, against fits of it without each of its points."""

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.linear_model import (
    ElasticNet,
    ElasticNetCV,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from influence import from_sklearn
from influence.linear.model import LinearModel
from influence.objective.minimum import ConvergenceWarning

N, M, D = 80, 12, 4
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N + M, D)) * [1.0, 0.7, 1.4, 1.0]
ETA = X @ [0.8, -0.6, 0.4, 0.0] + 0.3
NOISE = RNG.normal(size=N + M)
Y = {
    "real": ETA + 0.7 * NOISE,
    # Far from where the loss of HuberRegressor changes, on both sides.
    "outliers": ETA
    + np.sign(NOISE) * np.where(np.arange(N + M) % 9, RNG.uniform(0.7, 1, N + M), 6),
    "targets": np.column_stack([ETA + NOISE, X[:, 0] - NOISE[::-1]]),
    "two": np.where(ETA + NOISE > 0.3, "yes", "no"),
    "three": np.digitize(X[:, 0] - X[:, 1] + NOISE, [-0.8, 0.9]) * 10,
    "counts": RNG.poisson(4 * np.exp(0.4 * ETA)).astype(float),
    "positive": RNG.gamma(8.0, np.exp(0.4 * ETA) / 8),
    "shifted": 12 + ETA + 0.7 * NOISE,
}
Y["through 0"] = Y["outliers"] - 0.3
WEIGHTS = RNG.uniform(0.7, 1.4, size=N)
TIGHT = {"tol": 1e-11, "max_iter": 10**5}
LIBLINEAR = {"tol": 1e-7, "max_iter": 10**5}
SMALL = {"use_legacy_attributes": False, "scoring": "neg_log_loss", "cv": 3, **TIGHT}


def sgd(kind, loss, **settings):
    """Its coefficients are those of its optimum, see ``fitted``."""
    return kind(loss=loss, max_iter=20, tol=None, random_state=0, **settings)


# Estimator (the regularisation at which it is held to the refits is said here), and its labels.
ESTIMATORS = {
    "logistic": (LogisticRegression(C=0.3, **TIGHT), "two"),
    "softmax": (LogisticRegression(C=0.1, **TIGHT), "three"),
    "l1": (LogisticRegression(C=0.3, l1_ratio=1, solver="saga", **TIGHT), "two"),
    "l1, liblinear": (
        LogisticRegression(
            C=0.3, l1_ratio=1, solver="liblinear", intercept_scaling=2.0, **LIBLINEAR
        ),
        "two",
    ),
    "elastic net": (LogisticRegression(C=0.2, l1_ratio=0.5, solver="saga", **TIGHT), "two"),
    "elastic net, softmax": (
        LogisticRegression(C=0.06, l1_ratio=0.5, solver="saga", **TIGHT),
        "three",
    ),
    "logistic, chosen": (LogisticRegressionCV(Cs=[0.1, 0.3], l1_ratios=(0,), **SMALL), "two"),
    "softmax, chosen": (LogisticRegressionCV(Cs=[0.05, 0.1], l1_ratios=(0,), **SMALL), "three"),
    "l1, chosen": (
        LogisticRegressionCV(Cs=[0.3], l1_ratios=(0.9,), solver="saga", **SMALL),
        "two",
    ),
    "ridge": (Ridge(alpha=2.0), "real"),
    "ridge, targets": (Ridge(alpha=[2.0, 5.0]), "targets"),
    "least squares, targets": (LinearRegression(), "targets"),
    "ridge, chosen": (RidgeCV(alphas=[0.5, 3.0]), "real"),
    "ridge, chosen for each target": (
        RidgeCV(alphas=[0.1, 3.0, 30.0], alpha_per_target=True),
        "targets",
    ),
    "ridge classifier": (RidgeClassifier(alpha=2.0), "two"),
    "ridge classifier, three": (RidgeClassifier(alpha=2.0, class_weight="balanced"), "three"),
    "ridge classifier, chosen": (RidgeClassifierCV(alphas=[0.5, 3.0]), "three"),
    "lasso": (Lasso(alpha=0.1, **TIGHT), "real"),
    "lasso, chosen": (LassoCV(alphas=[0.1, 0.2], cv=3, **TIGHT), "real"),
    "elastic net regression": (ElasticNet(alpha=0.35, l1_ratio=0.3, **TIGHT), "real"),
    "elastic net, targets": (ElasticNet(alpha=0.4, l1_ratio=0.3, **TIGHT), "targets"),
    "elastic net, chosen": (ElasticNetCV(alphas=[0.3, 0.4], l1_ratio=[0.4], **TIGHT), "real"),
    "poisson": (PoissonRegressor(alpha=0.3, solver="newton-cholesky", **TIGHT), "counts"),
    "gamma": (GammaRegressor(alpha=0.3, solver="newton-cholesky", **TIGHT), "positive"),
    "tweedie": (
        TweedieRegressor(power=1.5, alpha=0.3, solver="newton-cholesky", **TIGHT),
        "counts",
    ),
    "normal": (TweedieRegressor(power=0, alpha=0.3, solver="newton-cholesky", **TIGHT), "real"),
    "poisson, identity link": (
        TweedieRegressor(power=1, link="identity", alpha=0.01, **TIGHT),
        "shifted",
    ),
    "huber": (HuberRegressor(alpha=0.1, epsilon=1.5, tol=1e-9, max_iter=10**5), "outliers"),
    "huber, no intercept": (
        HuberRegressor(alpha=0.1, epsilon=1.5, fit_intercept=False, tol=1e-9, max_iter=10**5),
        "through 0",
    ),
    "squared hinge": (LinearSVC(C=0.003, **TIGHT), "two"),
    "squared hinges": (LinearSVC(C=0.003, class_weight="balanced", **TIGHT), "three"),
    "l1, squared hinge": (LinearSVC(C=0.03, penalty="l1", dual=False, **LIBLINEAR), "two"),
    "hinge": (LinearSVC(C=0.001, loss="hinge", **TIGHT), "two"),
    "hinges": (LinearSVC(C=0.001, loss="hinge", **TIGHT), "three"),
    "squared tube": (
        LinearSVR(C=0.05, epsilon=0.0, loss="squared_epsilon_insensitive", **TIGHT),
        "real",
    ),
    "tube": (LinearSVR(C=0.001, epsilon=0.01, **TIGHT), "shifted"),
    "sgd, log loss": (sgd(SGDClassifier, "log_loss", alpha=0.05), "two"),
    "sgd, log losses": (sgd(SGDClassifier, "log_loss", alpha=0.1), "three"),
    "sgd, squared hinge": (sgd(SGDClassifier, "squared_hinge", alpha=3.0), "two"),
    "sgd, modified huber": (sgd(SGDClassifier, "modified_huber", alpha=3.0), "two"),
    "sgd, hinge": (sgd(SGDClassifier, "hinge", alpha=20.0, fit_intercept=False), "two"),
    "sgd, squared error": (sgd(SGDClassifier, "squared_error", alpha=0.1), "two"),
    "sgd, squared errors": (
        sgd(SGDClassifier, "squared_error", alpha=0.1, class_weight={0: 2.0}),
        "three",
    ),
    "sgd, huber": (sgd(SGDClassifier, "huber", alpha=0.1, epsilon=3.0), "two"),
    "sgd regression": (sgd(SGDRegressor, "squared_error", alpha=0.1), "real"),
    "sgd regression, huber": (sgd(SGDRegressor, "huber", alpha=0.1, epsilon=2.0), "real"),
    "sgd regression, squared tube": (
        sgd(SGDRegressor, "squared_epsilon_insensitive", alpha=0.1, epsilon=0.0),
        "real",
    ),
    "sgd regression, tube": (
        sgd(SGDRegressor, "epsilon_insensitive", alpha=20.0, epsilon=0.01, fit_intercept=False),
        "shifted",
    ),
    "sgd regression, elastic net": (
        sgd(SGDRegressor, "squared_error", alpha=0.1, penalty="elasticnet"),
        "real",
    ),
}


def takes_weights(estimator):
    # SGD's are multiplied into its steps, which its own fits hold to badly.
    return not isinstance(estimator, (SGDClassifier, SGDRegressor))


def fitted(estimator, x, y, weights=None):
    estimator = clone(estimator).fit(
        x, y, **({} if weights is None else {"sample_weight": weights})
    )
    if getattr(estimator, "penalty", None) == "elasticnet" and not takes_weights(estimator):
        same = ElasticNet(alpha=estimator.alpha, l1_ratio=estimator.l1_ratio, **TIGHT).fit(x, y)
        estimator.coef_, estimator.intercept_ = same.coef_, np.atleast_1d(same.intercept_)
    elif not takes_weights(estimator):
        # Stochastic gradient descent does not come near enough to its own optimum.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = from_sklearn(estimator, x, y)
        LinearModel.fit(model)
        rows = model.weights.numpy()
        if estimator.fit_intercept:
            estimator.intercept_, rows = rows[-1], rows[:-1]
        estimator.coef_ = rows.T if isinstance(estimator, SGDClassifier) else rows[:, 0]
    return estimator


def of_removals(model, x_test, y_test):
    """The change of each test loss without each point, by a Newton step: [m, n]."""
    changes = model.parameter_changes([[i] for i in range(len(model.train))], order="newton")
    theta = model.parameters[:, np.newaxis]
    return model.losses_at(theta + changes, x_test, y_test) - model.losses_at(theta, x_test, y_test)


def agreement(predicted, actual):
    """(Pearson R, slope), predicted over actual."""
    predicted, actual = predicted.ravel(), actual.ravel()
    return np.corrcoef(predicted, actual)[0, 1], np.polyfit(actual, predicted, 1)[0]


CASES = [(name, False) for name in ESTIMATORS]
CASES += [(name, True) for name, (each, _) in ESTIMATORS.items() if takes_weights(each)]


@pytest.mark.parametrize(("name", "weighted"), CASES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_newton_step_is_the_refit(name, weighted):
    estimator, labels = ESTIMATORS[name]
    weights = WEIGHTS if weighted else None
    (x, y), test = (X[:N], Y[labels][:N]), (X[N:], Y[labels][N:])
    estimator = fitted(estimator, x, y, weights)
    model = from_sklearn(estimator, x, y, weights, temperature=1e-4)
    predicted, expected = model.predict(test[0]), estimator.predict(test[0])
    if model._classes is None:
        np.testing.assert_allclose(predicted, expected)
    else:
        np.testing.assert_array_equal(predicted, expected)
    # SGD's refits are dear; of what was chosen they are at the same choice.
    own = takes_weights(estimator)
    before, actual, alike = model.losses(*test), [], []
    for i in range(0, N, 1 if own else 3):
        keep = np.arange(N) != i
        if own:
            alone = model.refit(i)
        else:
            alone = fitted(estimator, x[keep], y[keep])
            alone = from_sklearn(alone, x[keep], y[keep], temperature=1e-4)
        # A change of the active set is not foreseen.
        if not model._terms.lasso or (np.sign(alone.parameters) == np.sign(model.parameters)).all():
            alike.append(i)
            actual.append(alone.losses(*test) - before)
    assert len(alike) >= (0.9 * N if own else 0.3 * N)
    predicted = of_removals(model, *test)[:, alike]
    correlation, slope = agreement(predicted, np.stack(actual, axis=1))
    assert correlation >= 0.999, (correlation, slope)
    assert slope == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", ["lasso", "elastic net, softmax", "l1, liblinear", "huber"])
def test_what_does_not_move_is_held(name):
    estimator, labels = ESTIMATORS[name]
    x, y = X[:N], Y[labels][:N]
    model = from_sklearn(fitted(estimator, x, y), x, y)
    held = model._terms.has_scale or model.parameters == 0
    if model._terms.has_scale:
        held = np.arange(model.num_parameters) % 2 == 1
        held[-1] = False
    assert 0 < held.sum() < model.num_parameters - 1
    # There the penalty takes up the slope of the loss: the whole gradient is 0.
    assert np.linalg.norm(model.gradient()) < 1e-5
    changes = model.parameter_changes([[0], [1, 2]])
    assert np.abs(changes[held]).max() < 1e-9 < np.abs(changes[~held]).min()
    # It is the answer of the other parameters alone.
    moving = np.ix_(~held, ~held)
    inverse = np.linalg.inv(model.hessian().dense()[moving])
    v = RNG.normal(size=model.num_parameters)
    solved = model.inverse_hvp(np.where(held, 0, v)).x
    np.testing.assert_allclose(solved[~held], inverse @ v[~held], rtol=1e-7)


def test_a_coefficient_that_should_not_be_0_is_said():
    x, y = X[:N], Y["real"][:N]
    estimator = Lasso(alpha=0.1, **TIGHT).fit(x, y)
    estimator.coef_[0] = 0.0
    with pytest.warns(ConvergenceWarning, match="Lasso has not converged"):
        from_sklearn(estimator, x, y)


@pytest.mark.parametrize("name", ["logistic", "ridge", "lasso"])
def test_searches_and_pipelines_are_what_they_found(name):
    estimator, labels = ESTIMATORS[name]
    x, y, x_test, y_test = X[:N], Y[labels][:N], X[N:], Y[labels][N:]
    key = "C" if name == "logistic" else "alpha"
    choices = {key: [getattr(estimator, key) * 2, getattr(estimator, key)]}
    step = f"{type(estimator).__name__.lower()}__{key}"
    searches = [
        GridSearchCV(estimator, choices, cv=3),
        RandomizedSearchCV(estimator, choices, n_iter=1, cv=3, random_state=0),
        make_pipeline(MinMaxScaler(), GridSearchCV(estimator, choices, cv=3)),
        GridSearchCV(make_pipeline(MinMaxScaler(), estimator), {step: choices[key]}, cv=3),
        make_pipeline(MinMaxScaler(), make_pipeline(StandardScaler(), estimator)),
    ]
    for search in searches:
        search.fit(x, y)
        model = from_sklearn(search, x, y)
        same = model.predict(x_test), search.predict(x_test)
        (np.testing.assert_array_equal if name == "logistic" else np.testing.assert_allclose)(*same)
        assert model.influence_on_loss(x_test, y_test).shape == (M, N)
        assert getattr(model.refit(0).estimator, key) == getattr(model.estimator, key)


@pytest.mark.parametrize("name", ["logistic, chosen", "ridge, chosen", "elastic net, chosen"])
def test_what_was_chosen_is_held_in_refits(name):
    estimator, labels = ESTIMATORS[name]
    x, y = X[:N], Y[labels][:N]
    model = from_sklearn(fitted(estimator, x, y), x, y)
    again = model.with_parameters(model.parameters).fit()
    np.testing.assert_allclose(again.parameters, model.parameters, atol=1e-6)
    assert not hasattr(again.estimator, "alpha_")
    assert not hasattr(again.estimator, "C_")


def test_weights_beside_a_penalty_of_the_mean_are_relative():
    x, y = X[:N], Y["counts"][:N]
    estimator = fitted(ESTIMATORS["poisson"][0], x, y, 5 * WEIGHTS)
    scores = from_sklearn(estimator, x, y, 5 * WEIGHTS).influence_on_loss(X[N:], Y["counts"][N:])
    model = from_sklearn(estimator, x, y, WEIGHTS)
    np.testing.assert_allclose(model.influence_on_loss(X[N:], Y["counts"][N:]), scores, rtol=1e-10)
    # A point takes its share of the penalty along: to first order, too.
    step = np.linalg.solve(model.hessian().dense(), model.regularization_gradient()) / N
    loss_alone = model.scans.gradients("normal", model.tensors)
    share = model.example_weights
    first = np.linalg.solve(model.hessian().dense(), loss_alone.T) / N + np.outer(step, share)
    expected = model.test_gradient(X[N:], Y["counts"][N:]).T @ first
    np.testing.assert_allclose(scores, expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["softmax", "squared hinges", "ridge classifier, three"])
def test_separable_classes_without_penalty(name):
    # Each against the rest has its own direction; the squared error has a minimum.
    x = np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], 10, axis=0) + RNG.normal(size=(30, 2))
    y = np.repeat([0, 1, 2], 10)
    estimators = {
        "softmax": LogisticRegression(C=np.inf),
        "squared hinges": SGDClassifier(loss="log_loss", penalty=None, random_state=0),
        "ridge classifier, three": RidgeClassifier(alpha=0.0),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_sklearn(estimators[name].fit(x, y), x, y)
    told = [str(w.message) for w in caught if "no single minimum" in str(w.message)]
    assert bool(told) == (name != "ridge classifier, three")


def test_names_of_parameters():
    x, y = X[:N], Y["three"][:N]
    model = from_sklearn(fitted(ESTIMATORS["softmax"][0], x, y), x, y)
    assert model.parameter_names[:4] == ["x0 (0)", "x0 (10)", "x0 (20)", "x1 (0)"]
    assert model.parameter_names[-1] == "intercept (20)"
    y = Y["outliers"][:N]
    model = from_sklearn(fitted(ESTIMATORS["huber"][0], x, y), x, y)
    assert model.parameter_names[-2:] == ["intercept", "intercept (scale)"]


@pytest.mark.parametrize(
    "name",
    ["lasso", "poisson", "huber", "squared hinges", "ridge, targets", "elastic net, softmax"],
)
def test_sparse_points_are_dense_ones(name):
    estimator, labels = ESTIMATORS[name]
    x, y = np.where(np.abs(X) < 0.5, 0, X), Y[labels]
    estimator = fitted(estimator, x[:N], y[:N])
    dense = from_sklearn(estimator, x[:N], y[:N])
    sparse = from_sklearn(estimator, scipy.sparse.csc_array(x[:N]), y[:N])
    scores = dense.influence_on_loss(x[N:], y[N:])
    same = sparse.influence_on_loss(scipy.sparse.csr_array(x[N:]), y[N:])
    np.testing.assert_allclose(same, scores, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(sparse.self_influence(), dense.self_influence(), rtol=1e-7)
    np.testing.assert_allclose(
        sparse.leave_one_out_outputs(), dense.leave_one_out_outputs(), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("name", ["logistic", "gamma", "ridge, targets", "squared hinges"])
def test_first_order_scores_are_the_formula(name):
    estimator, labels = ESTIMATORS[name]
    x, y = X[:N], Y[labels][:N]
    model = from_sklearn(fitted(estimator, x, y, WEIGHTS), x, y, WEIGHTS)
    inverse = np.linalg.inv(N * model.hessian().dense())
    removed = model.scans.gradients("normal", model.tensors)
    if not model.keeps_sum:
        removed = removed + np.outer(model.example_weights, model.regularization_gradient())
    truth = model.test_gradient(X[N:], Y[labels][N:]).T @ inverse @ removed.T
    np.testing.assert_allclose(model.influence_on_loss(X[N:], Y[labels][N:]), truth, rtol=1e-8)
    assert model.validate(X[N:], Y[labels][N:], points=8).pearson_r > 0.99
