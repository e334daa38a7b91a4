"""The Hessian operator: dense truth, finite differences, algebra, and one trace."""

import copy

import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from influence import AutodiffHessian, SolverError, from_sklearn
from influence.curvature import operator as operators
from influence.curvature.operator import MatrixOperator
from influence.linear.functions import compiled
from influence.solvers.preconditioners import InverseMatrix
from tests.conftest import Problem
from tests.networks import TinyNetwork
from tests.oracles import BinaryRegression, SoftmaxRegression, central_difference, of_parameters

THETA = np.random.default_rng(3).standard_normal


def models(problem, **settings):
    """Both linear models and a network, at parameters that are nobody's optimum."""
    softmax, binary = problem.softmax_model(**settings), problem.binary_model(**settings)
    network = TinyNetwork(problem.train, **settings)
    for model in (softmax, binary, network):
        model.parameters = 0.5 * np.random.default_rng(3).standard_normal(model.num_parameters)
    return softmax, binary, network


def test_linear_models_against_the_dense_truth(problem):
    softmax, binary, _ = models(problem)
    truth = SoftmaxRegression(problem.x, problem.labels, 0.05, 3).hessian(softmax.parameters)
    np.testing.assert_allclose(softmax.hessian().dense(), truth, atol=1e-12)
    labels = (problem.labels == 0).astype(int)
    truth = BinaryRegression(problem.x, labels, 0.05).hessian(binary.parameters)
    np.testing.assert_allclose(binary.hessian().dense(), truth, atol=1e-12)


def test_against_finite_differences_of_the_gradient(problem):
    for model in models(problem):
        gradient = of_parameters(model, lambda model: model.gradient())
        truth = central_difference(gradient, model.parameters)
        np.testing.assert_allclose(model.hessian().dense(), truth, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_closed_forms_are_the_automatic_ones(problem, dtype):
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    for model in models(problem, dtype=dtype)[:2]:
        closed, automatic = model.hessian(), AutodiffHessian(model)
        block = np.random.default_rng(0).standard_normal((closed.shape[0], 4)).astype(dtype)
        close = {"atol": tolerance * np.abs(closed.dense()).max()}
        np.testing.assert_allclose(closed @ block, automatic @ block, atol=10 * close["atol"])
        np.testing.assert_allclose(closed.dense(), automatic.dense(), **close)
        np.testing.assert_allclose(closed.diagonal(), automatic.diagonal(), **close)
        np.testing.assert_allclose(
            closed.on([3, 5]) @ block, automatic.on([3, 5]) @ block, rtol=1e-4
        )
        assert (closed @ block).dtype == dtype


def test_products_dense_and_diagonal_agree(problem):
    for model in models(problem):
        for operator in (model.hessian(), model.hessian() + 0.25):
            dense = operator.dense()
            block = np.random.default_rng(0).standard_normal((len(dense), len(dense) + 5))
            np.testing.assert_allclose(operator @ block, dense @ block, atol=1e-11)
            np.testing.assert_allclose(operator @ block[:, 0], dense @ block[:, 0], atol=1e-11)
            np.testing.assert_allclose(operator.diagonal(), np.diag(dense), atol=1e-12)
            np.testing.assert_allclose(dense, dense.T, atol=1e-13)


def test_damping_is_a_ridge_and_adds_up(problem):
    for model in models(problem):
        plain = model.hessian()
        eye = np.eye(plain.shape[0])
        np.testing.assert_allclose((plain + 0.01).dense(), plain.dense() + 0.01 * eye, atol=1e-14)
        np.testing.assert_allclose((0.1 + plain + 0.2).dense(), (plain + 0.3).dense(), atol=1e-14)
        assert plain.damping == 0


def test_no_eigenvalue_is_below_what_is_known(problem):
    free = from_sklearn(
        LogisticRegression(C=0.1, tol=1e-9).fit(problem.x, problem.labels),
        problem.x,
        problem.labels,
    )
    for model in (problem.softmax_model(), problem.binary_model(), free):
        hessian = model.hessian()
        known, smallest = hessian.eigenvalue_bound(), np.linalg.eigvalsh(hessian.dense())[0]
        assert -1e-15 <= known <= smallest + 1e-12
        assert (hessian + 0.3).eigenvalue_bound() == pytest.approx(known + 0.3)
        assert known == pytest.approx(0 if model is free else 0.05)
    assert AutodiffHessian(problem.softmax_model()).eigenvalue_bound() == -np.inf


def test_damping_must_be_finite(problem):
    with pytest.raises(ValueError, match="damping"):
        problem.softmax_model().hessian() + np.nan


@pytest.mark.slow
def test_rows_average_to_the_whole(problem):
    for model in models(problem):
        operator = model.hessian() + 0.1
        v = np.random.default_rng(0).standard_normal(operator.shape[0])
        rows = np.arange(len(problem.x))[:, np.newaxis]
        each = operator.on(rows) @ np.tile(v[:, np.newaxis], (len(rows), 1, 1))
        np.testing.assert_allclose(each[5, :, 0], operator.on([5]) @ v, atol=1e-12)
        np.testing.assert_allclose(np.mean(each, axis=0)[:, 0], operator @ v, atol=1e-12)


def test_a_stack_of_rows_is_a_stack_of_operators(problem):
    for model in models(problem):
        operator = model.hessian() + 0.1
        rows = np.array([[0, 1], [7, 7], [5, 2]])
        block = np.random.default_rng(0).standard_normal((3, operator.shape[0], 2))
        stacked = operator.on(rows) @ block
        alone = [operator.on(chosen) @ columns for chosen, columns in zip(rows, block)]
        np.testing.assert_allclose(stacked, np.stack(alone), atol=1e-13)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 130), st.integers(1, 6), st.randoms(use_true_random=False))
def test_batch_size_order_and_columns_do_not_matter(batch_size, k, random):
    problem = Problem()
    reference = problem.softmax_model()
    theta = THETA(reference.num_parameters)
    block = np.random.default_rng(k).standard_normal((len(theta), k))
    expected = reference.with_parameters(theta).hessian() @ block
    order = list(range(len(problem.x)))
    random.shuffle(order)
    problem.x, problem.labels = problem.x[order], problem.labels[order]
    model = problem.softmax_model(batch_size=batch_size).with_parameters(theta)
    np.testing.assert_allclose(model.hessian() @ block, expected, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 120, 500])
def test_network_does_not_feel_the_batch_size(problem, batch_size):
    network, other = TinyNetwork(problem.train), TinyNetwork(problem.train, batch_size=batch_size)
    block = np.random.default_rng(0).standard_normal((network.num_parameters, 3))
    np.testing.assert_allclose(other.hessian() @ block, network.hessian() @ block, atol=1e-12)


def test_same_data_same_answer(problem):
    for model in models(problem, dtype="float32"):
        v = np.ones(model.num_parameters, np.float32)
        again = model.with_parameters(model.parameters).hessian() @ v
        np.testing.assert_array_equal(model.hessian() @ v, again)


def test_scipy_takes_it(problem):
    operator = problem.softmax_model().hessian()
    largest = scipy.sparse.linalg.eigsh(operator, 1, return_eigenvectors=False)[0]
    assert largest == pytest.approx(np.linalg.eigvalsh(operator.dense()).max())


def test_dense_refuses_above_its_size(problem):
    operator = problem.softmax_model().hessian()
    with pytest.raises(ValueError, match="15×15 matrix .* 14 parameters"):
        operator.dense(max_size=14)


def test_wrong_shapes_are_refused(problem):
    with pytest.raises(ValueError, match="dimension mismatch"):
        problem.softmax_model().hessian() @ np.ones(14)


def test_an_operator_of_old_parameters_says_so(problem):
    network = TinyNetwork(problem.train)
    old = network.hessian()
    network.parameters = network.parameters + 1
    with pytest.raises(RuntimeError, match=r"make it again \(model\.hessian\(\), model\.gauss"):
        old @ np.ones(network.num_parameters)
    assert network.hessian() is not old


def test_a_linear_operator_keeps_its_parameters(problem):
    model = problem.softmax_model()
    old, before = model.hessian(), model.hessian().dense()
    model.parameters = THETA(model.num_parameters)
    np.testing.assert_array_equal(old.dense(), before)
    assert np.abs(model.hessian().dense() - before).max() > 0.01


def test_one_trace_for_any_number_of_columns(problem):
    network = TinyNetwork(problem.train)
    operator = network.hessian()
    for k in (1, 2, 9):
        operator @ np.ones((network.num_parameters, k))
    copy.copy(operator) @ np.ones(network.num_parameters)
    (operator + 0.1) @ np.ones(network.num_parameters)
    [compiled] = network.scans._compiled.values()
    assert compiled.experimental_get_tracing_count() == 1


def test_refitted_models_share_the_traces(problem):
    model = problem.softmax_model().fit()
    functions = compiled(model.loss, tf.float64, "float64", 1.0, model.batch_size)
    count = functions.product.experimental_get_tracing_count
    model.hessian() @ np.ones((15, 2))
    before = count()
    for index in (3, 4):
        model.refit(index).hessian() @ np.ones(15)
    assert count() == before == 1


def symmetric(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    matrix = (q * eigenvalues) @ q.T
    return (matrix + matrix.T) / 2


@pytest.fixture
def lanczos(monkeypatch):
    """Lanczos's method from 65 parameters on (ARPACK needs a few more than it finds)."""
    monkeypatch.setattr(operators, "_MATRIX_EIGENVALUES", 64)


@pytest.fixture(params=["matrix", "lanczos"])
def either_way(request):
    """Both ways to the eigenvalues of more than 64 parameters."""
    if request.param == "lanczos":
        request.getfixturevalue("lanczos")


SPECTRA = {
    "indefinite": (-3.0, 5.0),
    "mostly negative": (-5.0, 0.1),
    "positive definite": (0.01, 2.0),
    "negative definite": (-2.0, -0.5),
    "as far on both sides": (-1.0, 1.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [10, 64, 65, 150])
@pytest.mark.parametrize("ends", SPECTRA.values(), ids=SPECTRA)
def test_extreme_eigenvalues_of_a_matrix(size, ends, dtype, either_way):
    inner = np.random.default_rng(size).uniform(*ends, size - 2)
    matrix = symmetric([*ends, *inner]).astype(dtype)
    for damping in (0.0, 0.7):
        operator = MatrixOperator(matrix, 1) + damping
        truth = np.linalg.eigvalsh(matrix.astype(np.float64)) + damping
        tolerance = 1e-4 * np.abs(truth).max()
        np.testing.assert_allclose(
            operator.extreme_eigenvalues(), truth[[0, -1]], rtol=0, atol=tolerance
        )
        tight = operator.extreme_eigenvalues(tolerance=1e-9)
        rounding = 1e-5 if dtype == "float32" else 1e-8
        np.testing.assert_allclose(tight, truth[[0, -1]], rtol=0, atol=rounding)
        assert tight[0] <= tight[1]
        assert all(type(end) is float for end in tight)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_eigenvalues_of_models(dtype, either_way):
    # 24·3, 24, and 24·4 + 4 + 4·3 parameters.
    problem = Problem(d=24)
    softmax, binary, network = models(problem, dtype=dtype)
    assert softmax.num_parameters > 64 < network.num_parameters
    assert binary.num_parameters < 64
    for model in (softmax, binary, network):
        for operator in (model.hessian(), model.hessian() + 0.3):
            truth = np.linalg.eigvalsh(operator.dense().astype(np.float64))
            close = {"rtol": 0, "atol": 1e-4 * np.abs(truth).max()}
            np.testing.assert_allclose(operator.extreme_eigenvalues(), truth[[0, -1]], **close)
    assert truth[0] < 0.3  # damped as it is: the network's own is indefinite


@pytest.mark.parametrize("smallest", [-0.02, -0.001, 0.0005])
def test_the_smallest_eigenvalue_with_a_preconditioner(lanczos, smallest):
    """A spectrum as that of a network: a few hundreds, most near 0, one end that stands out a
    little. The preconditioner is the inverse of a matrix that differs from it by a quarter."""
    random = np.random.default_rng(0)
    inner = np.concatenate([random.uniform(0.001, 0.01, 180), random.uniform(1, 200, 20)])
    matrix = symmetric([smallest, *inner, 250.0])
    wrong = random.standard_normal((len(matrix), 30))
    near = np.abs(np.linalg.eigvalsh(matrix)).max() * 1e-5 * wrong @ wrong.T
    products = []
    operator = MatrixOperator(matrix, 1)

    def counted(block):
        products.append(block.shape[1])
        return tf.constant(matrix @ block.numpy())

    operator._product = counted
    inverse = InverseMatrix(matrix + near + 0.03 * np.eye(len(matrix)))
    ends = operator.extreme_eigenvalues(1e-6, inverse)
    np.testing.assert_allclose(ends, [smallest, 250.0], rtol=1e-6, atol=2e-6)
    # Without it Lanczos's method takes thousands.
    assert sum(products) < 350
    with pytest.raises(SolverError, match="did not converge in 100 steps of LOBPCG"):
        operator.extreme_eigenvalues(1e-16, inverse)


@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_extreme_eigenvalues_of_a_multiple_of_the_identity(value, either_way):
    # Lanczos's method breaks down at its first step: every vector is an eigenvector.
    ends = MatrixOperator(value * np.eye(100), 1).extreme_eigenvalues()
    np.testing.assert_allclose(ends, [value, value], atol=1e-12)


def test_extreme_eigenvalues_are_the_same_every_time(either_way):
    matrix = symmetric(np.random.default_rng(1).standard_normal(120))
    operator = MatrixOperator(matrix, 1)
    first = operator.extreme_eigenvalues()
    np.random.default_rng().standard_normal(3)
    assert operator.extreme_eigenvalues() == first
    assert MatrixOperator(matrix.copy(), 1).extreme_eigenvalues() == first


def test_large_operators_are_not_made_into_a_matrix(monkeypatch):
    size = 1001
    operator = MatrixOperator(symmetric(np.linspace(-1, 2, size)), 1)
    monkeypatch.setattr(MatrixOperator, "dense", None)
    np.testing.assert_allclose(operator.extreme_eigenvalues(), [-1, 2], atol=1e-4)


def test_p_products_are_not_made_into_a_matrix(monkeypatch):
    *_, network = models(Problem(d=24), dtype="float64")
    operator = AutodiffHessian(network)
    truth = np.linalg.eigvalsh(operator.dense())
    monkeypatch.setattr(AutodiffHessian, "dense", None)
    ends = operator.extreme_eigenvalues()
    np.testing.assert_allclose(ends, truth[[0, -1]], atol=1e-5 * np.abs(truth).max())


def test_eigenvalues_of_a_matrix_that_is_not_finite_are_an_error():
    with pytest.raises(SolverError, match="not finite"):
        MatrixOperator(np.full((3, 3), np.nan), 1).extreme_eigenvalues()


def test_lanczos_without_convergence_is_an_error(monkeypatch, lanczos):
    operator = MatrixOperator(symmetric(np.geomspace(1e-12, 1, 300)), 1)
    eigsh = scipy.sparse.linalg.eigsh

    def impatient(*arguments, **settings):
        return eigsh(*arguments, **{**settings, "maxiter": 1, "tol": 1e-15})

    monkeypatch.setattr(scipy.sparse.linalg, "eigsh", impatient)
    with pytest.raises(SolverError, match="tolerance of 1e-06.* materialize"):
        operator.extreme_eigenvalues()


def test_materialize_is_the_same_operator(problem):
    for model in models(problem):
        for damping in (0.0, 0.25):
            operator = model.hessian() + damping
            matrix = operator.materialize()
            block = np.random.default_rng(0).standard_normal((operator.shape[0], 3))
            assert isinstance(matrix, MatrixOperator)
            assert matrix.damping == operator.damping == damping
            assert matrix.dtype == operator.dtype
            assert matrix.num_examples == operator.num_examples == len(problem.x)
            np.testing.assert_allclose(matrix @ block, operator @ block, atol=1e-12)
            np.testing.assert_allclose(matrix @ block[:, 0], operator @ block[:, 0], atol=1e-12)
            np.testing.assert_allclose(matrix.dense(), operator.dense(), atol=1e-13)
            np.testing.assert_allclose(matrix.diagonal(), operator.diagonal(), atol=1e-12)
            more = (matrix + 0.5).dense()
            np.testing.assert_allclose(more, (operator + 0.5).dense(), atol=1e-13)


def test_a_matrix_is_nobody_elses_to_change():
    matrix = MatrixOperator(symmetric([1.0, 2.0, 3.0]), 1)
    before = matrix.dense()
    matrix.dense()[:] = 0
    matrix.diagonal()[:] = 0
    np.testing.assert_array_equal(matrix.dense(), before)


def test_a_matrix_has_no_rows(problem):
    operator = problem.softmax_model().hessian().materialize()
    with pytest.raises(ValueError, match="operator it was made from"):
        operator.on([0, 1]) @ np.ones(15)


def test_materialize_refuses_above_its_size(problem):
    with pytest.raises(ValueError, match="15×15 matrix"):
        problem.softmax_model().hessian().materialize(max_size=14)
