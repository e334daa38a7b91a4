"""More features than points: n×n matrices give what d×d ones do, and no d×d one is made."""

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    RidgeCV,
)

import influence
from influence import BinaryLogisticRegression, Dataset, Exact, from_sklearn
from influence.curvature.operator import HessianOperator
from influence.linear.forms import OutputForms
from influence.linear.gram import block_forms, gram, quadratic_forms
from influence.linear.wide import wide_forms
from influence.solvers.downdate import roots

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((20, 50)) * (RANDOM.random((20, 50)) < 0.7)
Y = X[:, :3].sum(axis=1) + 0.5 * RANDOM.standard_normal(20) + 2
LABELS = (np.median(Y) < Y).astype(int)
LABELS[[2, 5]] = 1 - LABELS[[2, 5]]
TARGETS = np.column_stack([Y, X[:, 4] - Y])
CLASSES = np.argsort(np.argsort(X[:, 3] + 0.5 * RANDOM.standard_normal(20))) % 3
WEIGHTS = np.where(np.arange(20) == 7, 0.0, RANDOM.random(20) + 0.5)

MODELS = {
    "ridge": lambda x: from_sklearn(Ridge(2.0).fit(x, Y), x, Y),
    "weighted ridge": lambda x: from_sklearn(
        Ridge(2.0).fit(x, Y, sample_weight=WEIGHTS), x, Y, sample_weight=WEIGHTS
    ),
    "logistic": lambda x: from_sklearn(LogisticRegression(tol=1e-10).fit(x, LABELS), x, LABELS),
    "no intercept": lambda x: from_sklearn(
        LogisticRegression(tol=1e-10, fit_intercept=False).fit(x, LABELS), x, LABELS
    ),
    "elastic net": lambda x: from_sklearn(ElasticNet(0.1, tol=1e-10).fit(x, Y), x, Y),
    "own": lambda x: BinaryLogisticRegression(Dataset(x, LABELS, 0.5), 0.02, "float64").fit(),
    "softmax": lambda x: from_sklearn(LogisticRegression(tol=1e-10).fit(x, CLASSES), x, CLASSES),
    "weighted softmax": lambda x: from_sklearn(
        LogisticRegression(tol=1e-10).fit(x, CLASSES, sample_weight=WEIGHTS),
        x,
        CLASSES,
        sample_weight=WEIGHTS,
    ),
    "own softmax": lambda x: influence.LogisticRegression(
        Dataset(x, CLASSES, 0.5), 0.02, 3, "float64"
    ).fit(),
    "two targets": lambda x: from_sklearn(Ridge(2.0).fit(x, TARGETS), x, TARGETS),
    "one against the rest": lambda x: from_sklearn(RidgeClassifier().fit(x, CLASSES), x, CLASSES),
}


@pytest.fixture
def no_matrices(monkeypatch):
    """To be called: after it a test fails where a d×d matrix is made, factored or inverted."""

    def forbid():
        for name in ("inverse", "factor"):
            monkeypatch.setattr(Exact, name, lambda *_: pytest.fail("a matrix of all parameters"))
        monkeypatch.setattr(HessianOperator, "dense", lambda self: pytest.fail("a dense Hessian"))

    return forbid


@pytest.fixture(params=["dense", "sparse"])
def x(request):
    return scipy.sparse.csr_array(X) if request.param == "sparse" else X


def dense_forms(model):
    """X_iᵀ(nH)⁻¹X_i by a dense inverse."""
    inverse = np.linalg.inv(model.hessian("float64").dense()) / len(model.train)
    rows = X * model.train.scale
    if model.bias:
        rows = np.column_stack([rows, np.full(len(rows), model.bias)])
    return OutputForms(inverse, model.num_outputs)(rows)


@pytest.mark.parametrize("smallest", [1.0, 1e-12, 0.0])
@pytest.mark.parametrize("free", [1, 3])
def test_quadratic_forms_with_free_features(smallest, free):
    strengths = np.append(RANDOM.random(50 - free) + 0.1, np.zeros(free))
    weights = np.where(np.arange(20) < 5, smallest, RANDOM.random(20))
    inverse = np.linalg.inv((X.T * weights) @ X + np.diag(strengths))
    truth = np.einsum("ni,ij,nj->n", X, inverse, X)
    scales = np.append(1 / np.sqrt(strengths[:-free]), np.zeros(free))
    forms = quadratic_forms(gram(X, scales), weights, X[:, -free:])
    np.testing.assert_allclose(forms, truth, rtol=1e-9)


@pytest.mark.parametrize("block", [7, 10_000])
def test_gram_matrices(x, block, monkeypatch):
    monkeypatch.setattr("influence.linear.gram._BLOCK", block * 20)
    scales = RANDOM.random(50)
    np.testing.assert_allclose(gram(x, scales), (X * scales) @ (X * scales).T, rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_leverages_and_self_influences(name, x):
    if name == "elastic net" and scipy.sparse.issparse(x):
        pytest.skip("scikit-learn fits other digits to sparse points")
    model = MODELS[name](x)
    forms = dense_forms(model)
    np.testing.assert_allclose(wide_forms(model), forms, rtol=1e-6, atol=1e-9 * forms.max())
    own, leverages = model.scans.own_terms(np.linalg.inv(model.hessian("float64").dense()))
    np.testing.assert_allclose(model.self_influence(), own, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(model.leverage(), leverages, rtol=1e-7, atol=1e-12)


def test_leave_one_out_is_that_of_ridge_cv(no_matrices):
    model = from_sklearn(Ridge(2.0).fit(X, Y), X, Y)
    no_matrices()
    oracle = RidgeCV([2.0], store_cv_results=True, scoring=None).fit(X, Y)
    errors = np.square(model.leave_one_out_outputs()[:, 0] - Y)
    np.testing.assert_allclose(errors, oracle.cv_results_.ravel(), rtol=1e-8)


def test_leave_one_out_of_classes_is_a_newton_step(no_matrices, x):
    model = MODELS["logistic"](x)
    no_matrices()
    outputs = model.leave_one_out_outputs()
    weights = np.append(model.estimator.coef_[0], model.estimator.intercept_)
    rows = np.column_stack([X, np.ones(20)])
    for i in (2, 11):
        keep = np.arange(20) != i
        p = 1 / (1 + np.exp(-rows[keep] @ weights))
        hessian = (rows[keep].T * (p * (1 - p))) @ rows[keep] + np.diag(np.append(np.ones(50), 0))
        gradient = rows[keep].T @ (p - LABELS[keep]) + np.append(weights[:-1], 0)
        step = weights - np.linalg.solve(hessian, gradient)
        np.testing.assert_allclose(outputs[i], rows[i] @ step, rtol=1e-6)


@pytest.mark.parametrize("free", [0, 2])
def test_block_forms(free):
    random, c = np.random.default_rng(1), 3
    factors = random.standard_normal((20, c, 2))  # singular, as a softmax's are
    factors[4] = 0
    curvatures = factors @ factors.transpose(0, 2, 1)
    strengths = np.append(random.random(50 - free) + 0.1, np.zeros(free))
    shared = random.standard_normal((free * c, free * c))
    shared = shared @ shared.T
    jacobians = np.einsum("ij,ab->iajb", X, np.eye(c)).reshape(20, c, 50 * c)
    hessian = np.einsum("iap,iab,ibq->pq", jacobians, curvatures, jacobians)
    hessian += np.diag(np.repeat(strengths, c))
    hessian[(50 - free) * c :, (50 - free) * c :] += shared
    truth = np.einsum("iap,pq,ibq->iab", jacobians, np.linalg.inv(hessian), jacobians)
    scales = np.append(1 / np.sqrt(strengths[: 50 - free]), np.zeros(free))
    forms = block_forms(gram(X, scales), roots(curvatures), X[:, 50 - free :], shared)
    np.testing.assert_allclose(forms, truth, rtol=1e-9, atol=1e-9 * np.abs(truth).max())


def test_forms_without_digits_are_not_given():
    curvatures = np.tile(np.eye(2), (20, 1, 1))
    nothing = X[:, :0], np.zeros((0, 0))
    with pytest.raises(np.linalg.LinAlgError, match="too small beside the points"):
        block_forms(X @ X.T / 1e-12, roots(curvatures), *nothing)


def test_free_features_that_the_points_do_not_determine():
    # Two free constants: the Gram matrix has no answer, and the inverse on the range of H has.
    twice = np.column_stack([np.ones(20), np.ones(20)])
    with pytest.raises(np.linalg.LinAlgError, match="do not determine the features"):
        quadratic_forms(X @ X.T, np.ones(20), twice)
    with pytest.raises(np.linalg.LinAlgError, match="do not determine the features"):
        quadratic_forms(X @ X.T, np.zeros(20), np.ones((20, 1)))
    model = from_sklearn(LinearRegression().fit(X, Y), X, Y)
    assert wide_forms(model) is None


@pytest.mark.parametrize("alpha", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("make", [Ridge, RidgeClassifier])
def test_steps_without_points_of_a_leverage_of_nearly_1(make, alpha):
    """What goes with a point is divided by 1 − h, and an error of the solve with it."""
    random = np.random.default_rng(0)
    x = random.standard_normal((20, 2100))
    y = 3 * x[:, :5].sum(axis=1) + random.standard_normal(20) + 2
    y = (np.argsort(np.argsort(y)) % 3) if make is RidgeClassifier else y
    settings = {"alpha": alpha, "solver": "cholesky"}
    fitted = make(**settings).fit(x, y)
    changes = from_sklearn(fitted, x, y).parameter_changes([[3], [4], [5, 6]], "newton")
    for change, gone in zip(changes.T, ([3], [4], [5, 6])):
        others = make(**settings).fit(np.delete(x, gone, axis=0), np.delete(y, gone))
        moved = others.coef_ - fitted.coef_, others.intercept_ - fitted.intercept_
        truth = np.vstack([np.atleast_2d(moved[0]).T, np.atleast_1d(moved[1])])
        change = change.reshape(truth.shape)
        error = np.linalg.norm(change - truth) / np.linalg.norm(truth)
        assert error < 1e-7 / min(alpha, 1), error
        np.testing.assert_allclose(change[-1], truth[-1], rtol=1e-5 / min(alpha, 1), atol=1e-9)


def test_a_tolerance_that_a_leverage_eats_up_is_said():
    model = from_sklearn(Ridge(1e-3).fit(X, Y), X, Y)
    truth = model.parameter_changes([[3]], "newton")
    rough = influence.ConjugateGradient(1e-4)
    with pytest.warns(
        influence.SolverWarning, match=r"leverage of set 0 is 0\.99.*may be wrong by"
    ):
        model.parameter_changes([[3]], "newton", solver=rough)
    with pytest.raises(influence.SolverError, match=r"Give solver=ConjugateGradient\(tolerance="):
        model.parameter_changes([[3]], "newton", solver=rough, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine = model.parameter_changes([[3]], "newton", solver=influence.ConjugateGradient(1e-12))
    np.testing.assert_allclose(fine, truth, rtol=0, atol=1e-6 * np.abs(truth).max())


def test_a_curvature_in_float32_is_solved_as_far_as_its_digits_go():
    random = np.random.default_rng(0)
    x, labels = random.standard_normal((30, 2100)).astype(np.float32), np.arange(30) % 2
    model = BinaryLogisticRegression(Dataset(x, labels), 0.01).fit()
    curvature = model.hessian() + 0.1
    assert curvature.dtype == np.float32
    changes = model.parameter_changes([[3], [4, 5]], "newton", curvature=curvature, strict=True)
    exact = model.hessian("float64") + 0.1
    truth = model.parameter_changes([[3], [4, 5]], "newton", curvature=exact, strict=True)
    np.testing.assert_allclose(changes, truth, rtol=0, atol=1e-4 * np.abs(truth).max())


def test_features_far_from_0():
    x = X + 1e6
    model = from_sklearn(Ridge(2.0).fit(x, Y), x, Y)
    near = from_sklearn(Ridge(2.0).fit(X, Y), X, Y)
    np.testing.assert_allclose(model.leverage(), near.leverage(), rtol=1e-6)
    two = from_sklearn(Ridge(2.0).fit(x, TARGETS), x, TARGETS)
    np.testing.assert_allclose(two.leverage(), 2 * near.leverage(), rtol=1e-6)


def test_two_outputs_of_a_leverage_of_nearly_1_each():
    """(1 − h)² is below what 1 − h may be, and was taken for it."""
    x = RANDOM.standard_normal((20, 50))
    model = from_sklearn(Ridge(3e-4, solver="cholesky").fit(x, TARGETS), x, TARGETS)
    assert (1 - model.leverage() / 2).max() < 1e-4
    outputs = model.leave_one_out_outputs()
    for i in (0, 13):
        others = Ridge(3e-4, solver="cholesky").fit(np.delete(x, i, 0), np.delete(TARGETS, i, 0))
        np.testing.assert_allclose(outputs[i], others.predict(x[[i]])[0], rtol=1e-5)


def test_a_penalty_that_is_next_to_nothing():
    # Classes that contradict each other have a minimum without a penalty.
    x, labels = np.repeat(X[:10], 2, axis=0), np.arange(20) % 2
    labels[[0, 3]] = 2
    model = influence.LogisticRegression(Dataset(x, labels), 1e-14, 3, "float64").fit()
    assert wide_forms(model) is None


def test_more_points_than_a_matrix_is_made_for(monkeypatch):
    model = MODELS["softmax"](X)
    leverage = model.leverage()
    monkeypatch.setattr("influence.linear.wide._MOST_OUTPUTS", 59)  # of 20 points, 3 outputs each
    model = MODELS["softmax"](X)
    assert wide_forms(model) is None
    np.testing.assert_allclose(model.leverage(), leverage, rtol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "elastic net"])
def test_the_approximate_inverse_is_the_inverse(name, damping, no_matrices):
    hessian = MODELS[name](X).hessian("float64") + damping
    no_matrices()
    block = RANDOM.standard_normal((hessian.shape[0], 3))
    solved = hessian.approximate_inverse() @ block
    # What has no penalty gets a millionth of the largest curvature: a few products correct that.
    np.testing.assert_allclose(hessian @ solved, block, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "elastic net"])
@pytest.mark.parametrize("order", ["first", "newton"])
def test_scores_of_more_parameters_than_are_factored(name, order, monkeypatch, no_matrices):
    model = MODELS[name](X)
    y = model.train.labels
    truth = model.influence_on_loss(X[:4], y[:4], order=order)
    sets = model.influence_of_sets([[3], [4, 5, 9]], X[:4], y[:4], order=order)
    monkeypatch.setattr("influence.objective.generic_neural_net.EXACT_SIZE", 10)
    monkeypatch.setattr("influence.linear.leverage.EXACT_SIZE", 10)
    model = MODELS[name](X)
    no_matrices()
    scores = model.influence_on_loss(X[:4], y[:4], order=order)
    np.testing.assert_allclose(scores, truth, rtol=1e-4, atol=1e-6 * np.abs(truth).max())
    of_sets = model.influence_of_sets([[3], [4, 5, 9]], X[:4], y[:4], order=order)
    np.testing.assert_allclose(of_sets, sets, rtol=1e-4, atol=1e-6 * np.abs(sets).max())
