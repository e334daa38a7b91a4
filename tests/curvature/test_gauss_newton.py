"""The Gauss-Newton matrix against Jacobians from differences, in NumPy."""

import numpy as np
import pytest

from influence import GaussNewton
from influence.curvature import gauss_newton
from influence.objective.generic_neural_net import GenericNeuralNet
from tests.conftest import Problem
from tests.models.test_all_cnn_c import images, tiny_cnn
from tests.networks import TinyNetwork
from tests.oracles import central_difference, softmax


def make_model(name, **settings):
    """A small non-linear model, at parameters that are nobody's optimum."""
    problem = Problem(n=30)
    model = TinyNetwork(problem.train, **settings) if name == "tiny" else tiny_cnn(**settings)
    theta = np.random.default_rng(3).standard_normal(model.num_parameters)
    model.parameters = model.parameters + 0.3 * theta
    return model


def true_gauss_newton(model):
    """(1/n) Σ Jᵀ (diag(p) − ppᵀ) J + λ on the weights, from differences of the logits."""
    other = model.with_parameters(model.parameters)

    def logits(theta):
        other.parameters = theta
        return other.outputs(model.train.x)

    jacobian = central_difference(logits, model.parameters)
    p = softmax(logits(model.parameters))
    curvature = p[:, :, np.newaxis] * (np.eye(3) - p[:, np.newaxis])
    matrix = np.einsum("nap,nab,nbq->pq", jacobian, curvature, jacobian) / len(model.train)
    biases = [v for v in model.variables if len(v.shape) == 1]
    free = [np.full(v.shape, any(v is b for b in biases)).ravel() for v in model.variables]
    return matrix + model.weight_decay * np.diag(1.0 - np.concatenate(free))


@pytest.fixture(scope="module", params=["tiny", "cnn"])
def solved(request):
    """(model, its true matrix, what dense() says); no test changes the model."""
    model = make_model(request.param)
    return model, true_gauss_newton(model), model.gauss_newton().dense()


@pytest.mark.slow
def test_against_the_dense_truth(solved):
    model, truth, dense = solved
    operator = model.gauss_newton()
    block = np.random.default_rng(0).standard_normal((len(truth), 4))
    np.testing.assert_allclose(dense, truth, atol=1e-8)
    np.testing.assert_allclose(operator @ block, truth @ block, atol=1e-7)
    np.testing.assert_allclose(operator @ block[:, 0], truth @ block[:, 0], atol=1e-7)
    np.testing.assert_allclose(operator.diagonal(), np.diag(truth), atol=1e-8)


def test_products_and_dense_agree_to_rounding(solved):
    model, _, dense = solved
    operator = model.gauss_newton()
    block = np.random.default_rng(0).standard_normal((len(dense), 4))
    np.testing.assert_allclose(operator @ block, dense @ block, atol=1e-12)
    damped = dense @ block + 0.25 * block
    np.testing.assert_allclose((operator + 0.25) @ block, damped, atol=1e-12)
    np.testing.assert_array_equal(dense, dense.T)


def test_it_is_positive_where_the_hessian_is_not(solved):
    model, _, dense = solved
    assert np.linalg.eigvalsh(dense)[0] > -1e-12
    assert model.hessian().extreme_eigenvalues()[0] < -1e-3
    close = {"rtol": 0, "atol": 1e-4 * np.abs(dense).max()}
    expected = np.linalg.eigvalsh(dense)[[0, -1]]
    np.testing.assert_allclose(model.gauss_newton().extreme_eigenvalues(), expected, **close)


def test_rows_average_to_the_whole(solved):
    model, _, dense = solved
    operator = model.gauss_newton() + 0.1
    v = np.random.default_rng(0).standard_normal(len(dense))
    rows = np.arange(len(model.train)).reshape(2, -1)
    each = operator.on(rows) @ np.tile(v[:, np.newaxis], (2, 1, 1))
    np.testing.assert_allclose(np.mean(each, axis=0)[:, 0], dense @ v + 0.1 * v, atol=1e-12)


@pytest.mark.parametrize("kind", ["softmax_model", "binary_model"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_of_a_linear_model_it_is_the_hessian(problem, kind, dtype):
    model = getattr(problem, kind)(dtype=dtype)
    model.parameters = np.random.default_rng(3).standard_normal(model.num_parameters)
    hessian, operator = model.hessian(), model.gauss_newton()
    block = np.random.default_rng(0).standard_normal((model.num_parameters, 3)).astype(dtype)
    close = {"rtol": 0, "atol": (1e-5 if dtype == "float32" else 1e-12)}
    np.testing.assert_allclose(operator.dense(), hessian.dense(), **close)
    np.testing.assert_allclose(operator @ block, hessian @ block, **close)
    assert (operator @ block).dtype == operator.dense().dtype == dtype


@pytest.mark.slow
def test_the_batch_size_does_not_matter(solved):
    model, _, dense = solved
    v = np.random.default_rng(0).standard_normal(len(dense))
    # One that does not divide n; the others are the same scan, and tracing takes seconds.
    name, sizes = ("tiny", (1, 7, 500)) if isinstance(model, TinyNetwork) else ("cnn", (7,))
    for batch_size in sizes:
        other = make_model(name, batch_size=batch_size)
        np.testing.assert_allclose(other.gauss_newton().dense(), dense, atol=1e-13)
        np.testing.assert_allclose(other.gauss_newton() @ v, dense @ v, atol=1e-12)


def test_jacobians_that_would_not_fit_are_made_in_parts(monkeypatch):
    model = make_model("tiny")
    expected = model.gauss_newton().dense()
    monkeypatch.setattr(gauss_newton, "_JACOBIAN_NUMBERS", 7 * 3 * model.num_parameters)
    np.testing.assert_allclose(GaussNewton(model).dense(), expected, atol=1e-13)


def test_output_jacobians(solved):
    model, *_ = solved
    x = model.convert(model.tensors[0])[:5]
    other = model.with_parameters(model.parameters)

    def logits(theta):
        other.parameters = theta
        return other.outputs(model.train.x[:5])

    jacobians = model.output_jacobians(x).numpy()
    assert jacobians.shape == (5, 3, model.num_parameters)
    np.testing.assert_allclose(jacobians, central_difference(logits, model.parameters), atol=1e-8)
    np.testing.assert_allclose(jacobians, GenericNeuralNet.output_jacobians(model, x), atol=1e-13)


def test_influence_is_the_dense_formula(solved):
    model, truth, _ = solved
    if isinstance(model, TinyNetwork):
        problem = Problem(n=30)
        x, labels = problem.x_test, problem.y_test
    else:
        x, labels = images(4, seed=9)
    n = len(model.train)
    s_test = np.linalg.solve(truth + 0.1 * np.eye(len(truth)), model.test_gradient(x, labels))
    train = model.test_gradient(model.train.x, model.train.labels)
    regularizer = model.regularization_gradient()
    expected = s_test.T @ (train + regularizer[:, np.newaxis]) / n
    curvature = model.gauss_newton() + 0.1
    scores = model.influence_on_loss(x, labels, curvature=curvature)
    np.testing.assert_allclose(scores, expected, atol=1e-7)
    mean = model.influence_on_loss(x, labels, curvature=curvature, reduction="mean")
    np.testing.assert_allclose(mean, expected.mean(axis=0), atol=1e-7)
    points = model.influence_of_points(
        model.train.x[:3], model.train.labels[:3], x, labels, curvature=curvature
    )
    np.testing.assert_allclose(points, expected[:, :3], atol=1e-7)
    expected = np.sum(train * np.linalg.solve(truth + 0.1 * np.eye(len(truth)), train), axis=0)
    np.testing.assert_allclose(model.self_influence(curvature=curvature), expected, atol=1e-6)


def test_a_curvature_of_another_model_is_refused(problem):
    small, large = problem.binary_model(), problem.softmax_model()
    with pytest.raises(ValueError, match="operator on 15 parameters, not 5"):
        large.influence_on_loss(problem.x_test, problem.y_test, curvature=small.gauss_newton())
    with pytest.raises(ValueError, match="operator on 15 parameters, not 5"):
        large.inverse_hvp(np.ones(15), curvature=small.hessian())


def test_a_matrix_of_old_parameters_says_so():
    model = make_model("tiny")
    old = model.gauss_newton()
    assert model.gauss_newton() is old
    model.parameters = model.parameters + 1
    for use in (lambda: old @ np.ones(model.num_parameters), old.dense, (old + 0.1).diagonal):
        with pytest.raises(RuntimeError, match="parameters have changed"):
            use()
    assert model.gauss_newton() is not old


def test_one_trace_for_any_number_of_columns(solved):
    operator = GaussNewton(solved[0])
    for k in (1, 2, 5):
        operator @ np.ones((operator.shape[0], k))
    (operator + 0.1) @ np.ones(operator.shape[0])
    for compiled in solved[0].scans._compiled.values():
        assert compiled.experimental_get_tracing_count() == 1
