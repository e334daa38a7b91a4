"""Newton's step without points of a linear model, against dense float64 algebra."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression as Estimator
from sklearn.linear_model import Ridge, SGDClassifier

from influence import (
    BinaryLogisticRegression,
    ConjugateGradient,
    Dataset,
    Exact,
    Lissa,
    LogisticRegression,
    SmoothHinge,
    SolverError,
    from_sklearn,
)
from influence.objective.removal import Removal
from influence.objective.sets import Sets
from tests.conftest import Problem
from tests.oracles import softmax

PROBLEM = Problem()
BINARY = (PROBLEM.labels == 0).astype(int)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2, len(BINARY))
SETS = [[3], [5, 17, 60], list(range(0, 110, 5)), list(range(40, 112))]


def estimator(kind, labels, weights=None, **settings):
    fitted = kind(**settings).fit(PROBLEM.x, labels, sample_weight=weights)
    return from_sklearn(fitted, PROBLEM.x, labels, weights)


def logistic(labels, weights=None, **settings):
    how = {"solver": "newton-cholesky", "tol": 1e-10} | settings
    return estimator(Estimator, labels, weights, **how)


MODELS = {
    "binary": lambda: PROBLEM.binary_model().fit(),
    "softmax": lambda: PROBLEM.softmax_model().fit(),
    "scaled": lambda: BinaryLogisticRegression(
        Dataset(PROBLEM.x, BINARY, scale=0.5), 0.05, "float64"
    ).fit(),
    "hinge with a bias": lambda: SmoothHinge(
        Dataset(PROBLEM.x, 2 * BINARY - 1), 0.05, 0.3, use_bias=True, dtype="float64"
    ).fit(),
    "free intercept": lambda: logistic(BINARY, C=0.5),
    "weighted": lambda: logistic(BINARY, WEIGHTS, C=0.5),
    "no intercept": lambda: logistic(BINARY, WEIGHTS, C=0.5, fit_intercept=False),
    "penalised intercept": lambda: logistic(BINARY, C=0.5, solver="liblinear"),
    "three classes": lambda: logistic(PROBLEM.labels, WEIGHTS, C=0.5),
    "ridge": lambda: estimator(Ridge, PROBLEM.x[:, 0] + BINARY, WEIGHTS, alpha=2.0),
    "beside the mean": lambda: estimator(
        SGDClassifier, BINARY, WEIGHTS, loss="squared_hinge", alpha=0.05, random_state=0
    ),
}


def dense(model):
    """(B [p, p], the points' X_i [n, p, c], s_i [n, c], A_i [n, c, c]), written from formulas."""
    x = np.asarray(model.train.x, np.float64) * model.train.scale
    x = np.column_stack([x, np.full(len(x), model.bias)]) if model.bias else x
    c = model.loss.outputs
    weights = getattr(model, "example_weights", np.ones(len(x)))[:, np.newaxis]
    z, y = x @ model.parameters.reshape(-1, c), model.train.labels
    name = type(getattr(model.loss, "loss", model.loss)).__name__
    if c > 1:
        p = softmax(z)
        slopes = p - np.eye(c)[y]
        curvatures = np.einsum("na,ab->nab", p, np.eye(c)) - np.einsum("na,nb->nab", p, p)
    else:
        sign = np.where(y > 0, 1.0, -1.0)
        gap = 1 - sign * z[:, 0]
        if name == "SquaredError":
            first, second = 2 * (z[:, 0] - y), np.full(len(x), 2.0)
        elif name == "SquaredHingeLoss":
            first, second = -2 * sign * np.maximum(gap, 0), 2.0 * (gap > 0)
        else:
            u, t = (gap / 0.3, 0.3) if name == "SmoothHingeLoss" else (gap - 1, 1.0)
            first = -sign / (1 + np.exp(-u))
            second = np.abs(first) * (1 - np.abs(first)) / t
        slopes, curvatures = first[:, np.newaxis], second[:, np.newaxis, np.newaxis]
    blocks = np.einsum("nd,ab->ndab", x, np.eye(c)).reshape(len(x), -1, c)
    penalty = np.zeros((model.num_parameters, model.num_parameters))
    model.penalty.add_to(penalty)
    return penalty, blocks, weights * slopes, weights[:, :, np.newaxis] * curvatures


def newton(model, members):
    """Δθ after one step of the objective without ``members``, by its dense matrix."""
    penalty, blocks, slopes, curvatures = dense(model)
    n, keep = len(slopes), np.setdiff1d(np.arange(len(slopes)), members)
    share = n if model.keeps_sum else len(keep)
    matrix = np.einsum("npa,nab,nqb->pq", blocks[keep], curvatures[keep], blocks[keep])
    gradient = np.einsum("npa,na->p", blocks[members], slopes[members])
    gradient += (n - share) * penalty @ model.parameters
    return np.linalg.solve(matrix + share * penalty, gradient)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::influence.objective.minimum.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_step_is_newtons_without_the_set(name):
    model = MODELS[name]()
    changes = model.parameter_changes(SETS)
    truth = np.stack([newton(model, members) for members in SETS], axis=1)
    scale = np.abs(truth).max()
    np.testing.assert_allclose(changes, truth, rtol=0, atol=1e-9 * scale)
    # One at a time, in closed form; and in another order, in several blocks.
    singles = np.arange(len(BINARY))[:, np.newaxis]
    points = model.parameter_changes(singles)
    for i in (0, 3, 119):
        expected = newton(model, [i])
        np.testing.assert_allclose(points[:, i], expected, rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(
        model.parameter_changes(singles[[7, 2]]), points[:, [7, 2]], rtol=1e-12
    )
    np.testing.assert_allclose(model.parameter_changes(SETS[::-1]), changes[:, ::-1], rtol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "three classes", "scaled"])
def test_blocks_solvers_and_the_general_way_say_the_same(name, monkeypatch):
    model = MODELS[name]()
    truth = model.parameter_changes([*SETS, [7]])
    points = model.parameter_changes(np.arange(120)[:, np.newaxis])
    for solver in (Exact(), ConjugateGradient(1e-12)):
        again = model.parameter_changes([*SETS, [7]], solver=solver)
        np.testing.assert_allclose(again, truth, rtol=0, atol=1e-9)
    monkeypatch.setattr("influence.linear.terms._NUMBERS", 100)
    monkeypatch.setattr("influence.objective.removal._COLUMNS", 7)
    np.testing.assert_allclose(model.parameter_changes([*SETS, [7]]), truth, rtol=0, atol=1e-12)
    again = model.parameter_changes(np.arange(120)[:, np.newaxis])
    np.testing.assert_allclose(again, points, rtol=0, atol=1e-12)
    if model.keeps_sum:
        # The general way keeps the regulariser's curvature, as these models do.
        general = Removal(model)
        sets = [np.array(members) for members in SETS]
        np.testing.assert_allclose(
            general.changes(Sets(sets), "newton"), truth[:, :4], rtol=0, atol=1e-8
        )


def test_float32_models_have_their_digits():
    rough, fine = PROBLEM.softmax_model(dtype="float32").fit(), PROBLEM.softmax_model().fit()
    for sets in (SETS, np.arange(120)[:, np.newaxis]):
        truth = fine.parameter_changes(sets)
        changes = rough.parameter_changes(sets)
        assert changes.dtype == np.float64
        np.testing.assert_allclose(changes, truth, rtol=0, atol=1e-5 * np.abs(truth).max())
    test = PROBLEM.x_test, PROBLEM.y_test
    scores = rough.influence_on_loss(*test, order="newton")
    assert scores.dtype == np.float32
    truth = fine.influence_on_loss(*test, order="newton")
    np.testing.assert_allclose(scores, truth, rtol=0, atol=1e-5 * np.abs(truth).max())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["normal", "adversarial"])
def test_losses_are_those_at_the_new_parameters(loss):
    model = PROBLEM.softmax_model().fit()
    test = PROBLEM.x_test, PROBLEM.y_test
    changes = model.parameter_changes(np.arange(120)[:, np.newaxis])
    before = model.losses(*test, loss)
    truth = np.stack(
        [
            model.with_parameters(model.parameters + d).losses(*test, loss) - before
            for d in changes.T
        ],
        axis=1,
    )
    scores = model.influence_on_loss(*test, order="newton", loss=loss)
    np.testing.assert_allclose(scores, truth, rtol=0, atol=1e-12)
    some = {"order": "newton", "loss": loss, "train_indices": [9, 2]}
    np.testing.assert_allclose(
        model.influence_on_loss(*test, reduction="mean", **some), truth.mean(axis=0)[[9, 2]]
    )
    sparse = LogisticRegression(
        Dataset(scipy.sparse.csr_array(PROBLEM.x), PROBLEM.labels), 0.05, 3, "float64"
    ).with_parameters(model.parameters)
    scores = sparse.influence_on_loss(
        scipy.sparse.csr_array(test[0]), test[1], order="newton", loss=loss
    )
    np.testing.assert_allclose(scores, truth, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_wide_points_need_no_matrix():
    # More parameters than a matrix is made for: a solve for every output of every point.
    random = np.random.default_rng(0)
    x, y = random.standard_normal((20, 2500)), np.arange(20) % 2
    model = BinaryLogisticRegression(Dataset(x, y), 0.1, "float64").fit()
    changes = model.parameter_changes([[3], [4, 5]])
    for column, members in enumerate(([3], [4, 5])):
        p = 1 / (1 + np.exp(-x @ model.parameters))
        keep = np.setdiff1d(np.arange(20), members)
        matrix = (x[keep].T * (p * (1 - p))[keep]) @ x[keep]
        matrix += 0.1 * len(keep) * np.eye(2500)
        gradient = x[members].T @ (p - y)[members] + 0.1 * len(members) * model.parameters
        truth = np.linalg.solve(matrix, gradient)
        atol = 1e-5 * np.abs(truth).max()
        np.testing.assert_allclose(changes[:, column], truth, rtol=0, atol=atol)


def test_a_class_that_is_gone_is_refused():
    x = np.concatenate([PROBLEM.x, PROBLEM.x[:1] + 1])
    rare = np.append(PROBLEM.labels, 3)
    model = from_sklearn(Estimator(tol=1e-8, max_iter=1000).fit(x, rare), x, rare)
    with pytest.raises(SolverError, match="Without training point 120 a class has no training"):
        model.influence_on_loss(x[:1], rare[:1], order="newton")
    with pytest.raises(SolverError, match="Without set 1 a class has no training points"):
        model.parameter_changes([[3, 4], [5, 120]])
    with pytest.raises(ValueError, match="cannot be refitted without set 1: No training point of"):
        model.parameter_changes([[3, 4], [5, 120]], "refit")
    # All classes of softmax regression have a minimum with a penalty on all of it.
    LogisticRegression(Dataset(x, rare), 0.1, dtype="float64").fit().parameter_changes([[120]])
    binary = PROBLEM.binary_model().fit()
    with pytest.raises(SolverError, match="Without set 0 a class"):
        binary.parameter_changes([np.flatnonzero(BINARY)])


def test_lissa_has_no_rows_of_what_is_left():
    model = PROBLEM.binary_model().fit()
    with pytest.raises(ValueError, match="^This curvature has no rows of data that Lissa could"):
        model.parameter_changes([[3]], solver=Lissa(5.0, 100, 5))


def test_points_of_weight_0_make_no_class():
    x = np.concatenate([PROBLEM.x, PROBLEM.x[:2] + 1])
    rare, weights = np.append(PROBLEM.labels, [3, 3]), np.append(np.ones(121), 0.0)
    fitted = Estimator(tol=1e-8, max_iter=1000).fit(x, rare, weights)
    model = from_sklearn(fitted, x, rare, weights)
    for sets in ([[120]], [[3, 4], [5, 120]]):
        with pytest.raises(SolverError, match=f"Without set {len(sets) - 1} a class has no"):
            model.parameter_changes(sets)
    assert not model.parameter_changes([[121]]).any()
    assert model.parameter_changes([[3, 4], [5, 121]]).any()


@pytest.mark.slow
@pytest.mark.parametrize(("weight_decay", "scale"), [(0.01, 1.0), (0.3, 0.5)])
def test_large_sets_of_a_wide_model_take_a_whole_newton_step(weight_decay, scale, monkeypatch):
    # 21 features and 100 classes: p is above what is factored, and half of the points are no
    # update of low rank. Their terms come four at a time.
    monkeypatch.setattr("influence.linear.terms._NUMBERS", 4 * 21 * 100)
    random = np.random.default_rng(0)
    x, labels = random.standard_normal((120, 21)), np.arange(120) % 100
    model = LogisticRegression(Dataset(x, labels, scale), weight_decay, 100, "float64").fit()
    sets = [np.arange(100, 120), np.arange(99, 120), np.concatenate([[98], np.arange(100, 120)])]
    assert not model._make_removal()._large(Sets.of(sets, 120))
    sets = sets[1:]
    assert model._make_removal()._large(Sets.of(sets, 120))
    changes = model.parameter_changes(sets, "newton")
    for removed, change in zip(sets, changes.T):
        rest = model._clone(model.train.without(removed)).with_parameters(model.parameters)
        step = -np.linalg.solve(rest.hessian().dense(), rest.gradient())
        np.testing.assert_allclose(change, step, atol=1e-5 * np.abs(step).max())
