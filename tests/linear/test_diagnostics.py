"""Diagnostics of linear models, against statsmodels, RidgeCV and refits."""

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.datasets import load_iris
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeCV,
    TweedieRegressor,
)
from sklearn.svm import LinearSVC
from statsmodels.stats.outliers_influence import GLMInfluence, MLEInfluence

from influence import Dataset, SolverError, from_sklearn
from influence import LogisticRegression as OurLogisticRegression

RNG = np.random.default_rng(2)
N, D = 60, 3
X = RNG.normal(size=(N, D))
ETA = X @ [0.5, -0.3, 0.2] + 0.4
WEIGHTS = RNG.integers(1, 4, size=N).astype(float)
TIGHT = {"tol": 1e-12, "max_iter": 10**5, "solver": "newton-cholesky"}
DESIGN = np.column_stack([X, np.ones(N)])

# Estimator, statsmodels' family, labels, and which weights statsmodels has for these.
GLMS = {
    "binomial": (
        LogisticRegression(C=np.inf, **TIGHT),
        sm.families.Binomial(),
        (RNG.uniform(size=N) < 1 / (1 + np.exp(-ETA))).astype(int),
        "var_weights",
    ),
    "poisson": (
        PoissonRegressor(alpha=0, **TIGHT),
        sm.families.Poisson(),
        RNG.poisson(np.exp(ETA)),
        "var_weights",
    ),
    "gamma": (
        GammaRegressor(alpha=0, **TIGHT),
        sm.families.Gamma(sm.families.links.Log()),
        RNG.gamma(3, np.exp(ETA) / 3),
        "var_weights",
    ),
    "tweedie": (
        TweedieRegressor(power=1.5, alpha=0, **TIGHT),
        sm.families.Tweedie(sm.families.links.Log(), var_power=1.5),
        RNG.gamma(3, np.exp(ETA) / 3) * (RNG.uniform(size=N) < 0.8),
        "var_weights",
    ),
    "normal": (
        TweedieRegressor(power=0, alpha=0, **TIGHT),
        sm.families.Gaussian(),
        ETA + RNG.normal(size=N),
        "var_weights",
    ),
}


def adapted(name, weights):
    estimator, family, y, kind = GLMS[name]
    given = {} if weights is None else {kind: weights}
    results = sm.GLM(y, DESIGN, family=family, **given).fit(method="newton", tol=1e-14)
    model = from_sklearn(estimator.fit(X, y, sample_weight=weights), X, y, weights)
    np.testing.assert_allclose(model.parameters, results.params, rtol=1e-8, atol=1e-9)
    # Newton's method leaves the standard errors of the observed information.
    leverage = results.get_hat_matrix_diag(observed=True)
    return model, results, MLEInfluence(results, hat_matrix_diag=leverage)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", GLMS)
def test_generalised_linear_models_are_statsmodels(name, weights):
    model, results, truth = adapted(name, weights)
    np.testing.assert_allclose(model.leverage(), truth.hat_matrix_diag, rtol=1e-8)
    distance = model.cooks_distance()
    np.testing.assert_allclose(distance, truth.cooks_distance[0], rtol=1e-8, atol=1e-12)
    if name in ("binomial", "poisson", "normal"):
        # Of canonical links it has its own formulas, too.
        canonical = results.get_influence()
        assert isinstance(canonical, GLMInfluence)
        np.testing.assert_allclose(distance, canonical.cooks_distance[0], rtol=1e-8, atol=1e-12)
    if name in ("binomial", "poisson"):
        np.testing.assert_allclose(model.dfbetas(), canonical.dfbetas, rtol=1e-8, atol=1e-10)
    if name != "normal":
        np.testing.assert_allclose(model.dfbetas(), truth.dfbetas, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_least_squares_is_statsmodels(weights):
    y = GLMS["normal"][2]
    model = from_sklearn(LinearRegression().fit(X, y, sample_weight=weights), X, y, weights)
    # Its influence of weighted fits leaves the weights out of the leverages: that of scaled rows.
    root = np.ones(N) if weights is None else np.sqrt(weights)
    truth = sm.OLS(y * root, DESIGN * root[:, np.newaxis]).fit().get_influence()
    np.testing.assert_allclose(model.leverage(), truth.hat_matrix_diag, rtol=1e-8)
    np.testing.assert_allclose(model.cooks_distance(), truth.cooks_distance[0], rtol=1e-8)
    np.testing.assert_allclose(model.dfbetas(), truth.dfbetas, rtol=1e-8, atol=1e-10)
    # The half of the loss is of no concern.
    same = adapted("normal", weights)[0]
    np.testing.assert_allclose(same.dfbetas(), model.dfbetas(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(same.cooks_distance(), model.cooks_distance(), rtol=1e-7)


def test_softmax_is_its_definition():
    x, y = load_iris(return_X_y=True)
    model = from_sklearn(LogisticRegression(C=0.1, **TIGHT).fit(x, y), x, y)
    changes = model.parameter_changes(np.arange(len(y))[:, np.newaxis])
    hessian = len(y) * model.hessian().dense()
    truth = np.einsum("pn,pq,qn->n", changes, hessian, changes) / model.leverage().sum()
    np.testing.assert_allclose(model.cooks_distance(), truth)
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
    np.testing.assert_allclose(model.dfbetas(), -changes.T / errors)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_without_each_point_is_ridge_cvs(fit_intercept, weighted):
    y, weights = GLMS["normal"][2], WEIGHTS if weighted else None
    chosen = RidgeCV(
        alphas=[0.3, 4.0], fit_intercept=fit_intercept, scoring="r2", store_cv_results=True
    ).fit(X, y, sample_weight=weights)
    for i, alpha in enumerate(chosen.alphas):
        ridge = Ridge(alpha=alpha, fit_intercept=fit_intercept).fit(X, y, sample_weight=weights)
        model = from_sklearn(ridge, X, y, weights)
        outputs = model.leave_one_out_outputs()
        # With a scoring these are predictions (their errors, weighted, without).
        truth = chosen.cv_results_[:, i]
        np.testing.assert_allclose(outputs[:, 0], truth, rtol=1e-10, atol=1e-10)
        if not weighted:
            plain = RidgeCV(alphas=[alpha], fit_intercept=fit_intercept, store_cv_results=True)
            errors = plain.fit(X, y).cv_results_[:, 0]
            np.testing.assert_allclose(model.leave_one_out_losses(), errors, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "tolerance"),
    [
        (Ridge(alpha=[2.0, 9.0]), 1e-10),
        (ElasticNet(alpha=0.3, l1_ratio=0.01, tol=1e-12), 1e-8),
        (PoissonRegressor(alpha=0.5, **TIGHT), 0.04),
        (LogisticRegression(C=0.05, **TIGHT), 0.01),
    ],
    ids=["targets", "beside the mean", "poisson", "softmax"],
)
def test_outputs_without_each_point_are_refits(estimator, tolerance):
    x = X
    if isinstance(estimator, LogisticRegression):
        x, y = load_iris(return_X_y=True)
        x, y = x[::3], y[::3]
    elif isinstance(estimator, PoissonRegressor):
        y = GLMS["poisson"][2]
    else:
        y = GLMS["normal"][2]
        y = np.column_stack([y, X[:, 0] - y**2]) if isinstance(estimator, Ridge) else y
    model = from_sklearn(estimator.fit(x, y), x, y)
    truth = np.concatenate([model.refit(i).outputs(x[[i]]) for i in range(len(y))])
    moved = np.abs(truth - model.outputs(x)).max()
    outputs = model.leave_one_out_outputs()
    assert outputs.shape == truth.shape
    assert np.abs(outputs - truth).max() < tolerance * moved
    losses = np.array([model.refit(i).losses(x[[i]], y[[i]])[0] for i in (0, 5)])
    np.testing.assert_allclose(model.leave_one_out_losses()[[0, 5]], losses, rtol=0.05)


def test_the_penalty_that_leave_one_out_chooses():
    # C by the approximate leave-one-out loss is that of all refits.
    x, y = load_iris(return_X_y=True)
    x, y = x[50::2, :2], y[50::2]
    strengths, approximate, exact = [0.01, 0.1, 1.0, 10.0, 100.0], [], []
    for C in strengths:  # noqa: N806
        model = from_sklearn(LogisticRegression(C=C, **TIGHT).fit(x, y), x, y)
        approximate.append(model.leave_one_out_losses().mean())
        exact.append(np.mean([model.refit(i).losses(x[[i]], y[[i]])[0] for i in range(len(y))]))
    np.testing.assert_allclose(approximate, exact, rtol=0.01)
    assert np.argmin(approximate) == np.argmin(exact) not in (0, 4)


def test_our_own_models_in_float32():
    x, y = load_iris(return_X_y=True)
    model = OurLogisticRegression(Dataset(x.astype(np.float32), y), weight_decay=0.1).fit()
    truth = np.concatenate([model.refit(i).outputs(x[[i]]) for i in (0, 60, 120)])
    outputs = model.leave_one_out_outputs()
    assert np.abs(outputs[[0, 60, 120]] - truth).max() < 0.01
    assert model.cooks_distance().shape == (150,)
    assert model.dfbetas().shape == (150, 12)


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (LinearSVC(C=0.01, tol=1e-8), "SquaredHingeLoss"),
        (HuberRegressor(), "ConcomitantHuber"),
        (RidgeClassifier(), "SquaredError"),
        (Ridge(), "SeveralTargets"),
    ],
)
def test_what_is_no_likelihood_is_refused(estimator, name):
    y = GLMS["binomial"][2]
    if name == "ConcomitantHuber":
        y = GLMS["normal"][2]
    if name == "SeveralTargets":
        y = np.column_stack([y, X[:, 0]])
    model = from_sklearn(estimator.fit(X, y), X, y)
    assert np.isfinite(model.leave_one_out_outputs()).all()
    if name == "SquaredError":
        assert np.isfinite(model.cooks_distance()).all()
        return
    for method in (model.cooks_distance, model.dfbetas):
        with pytest.raises(ValueError, match=f"{name} is no likelihood"):
            method()


def test_a_point_that_alone_has_a_feature():
    y = GLMS["normal"][2]
    x = np.column_stack([X, np.arange(N) == 4])
    model = from_sklearn(LinearRegression().fit(x, y), x, y)
    assert model.leverage()[4] == pytest.approx(1)
    with pytest.raises(SolverError, match="leverage of training point 4 is 1"):
        model.leave_one_out_outputs()
