"""LiSSA: the recursion against its closed form, and its word against what is true."""

import re
import warnings

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from influence import (
    AutodiffHessian,
    Dataset,
    Lissa,
    LogisticRegression,
    SolverError,
    SolverWarning,
)
from influence.solvers import lissa as module
from tests.networks import TinyNetwork


class RowsMatrix:
    """(1/n) Σ a_i a_iᵀ + ridge, and the same of chosen rows: what Lissa asks of an operator."""

    jit_compile = False

    def __init__(self, a, ridge):
        self.a, self.ridge = np.asarray(a), ridge
        self.num_examples, p = self.a.shape
        self.shape, self.dtype = (p, p), self.a.dtype
        self.matrix = self.a.T @ self.a / len(self.a) + ridge * np.eye(p)

    def __matmul__(self, block):
        return self.matrix @ block

    def on(self, rows):
        """An object whose @ takes [r, p, k]."""
        outer = self

        class Rows:
            def __matmul__(self, h):
                a = tf.gather(tf.constant(outer.a), rows)
                product = tf.matmul(a, a @ h, transpose_a=True)
                return product / tf.cast(tf.shape(rows)[1], h.dtype) + outer.ridge * h

        return Rows()


def rows_matrix(n=300, p=6, ridge=0.5, seed=0):
    return RowsMatrix(np.random.default_rng(seed).standard_normal((n, p)), ridge)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("k", [None, 2], ids=["vector", "block"])
def test_within_three_standard_errors(replacement, batch_size, k):
    operator = rows_matrix()
    v = np.random.default_rng(1).standard_normal(6 if k is None else (6, k))
    lissa = Lissa(40.0, 2000, 10, batch_size, replacement=replacement)
    solution = lissa.solve(operator, v)
    error = np.linalg.norm(solution.x - np.linalg.solve(operator.matrix, v))
    noise = np.linalg.norm(solution.standard_error)
    assert solution.x.shape == solution.standard_error.shape == v.shape
    assert error <= 3 * noise
    assert noise < 0.1 * np.linalg.norm(solution.x)
    assert np.all(solution.converged)


def test_one_row_is_the_closed_recursion():
    # One training point: no noise, so h_T = Σ_j (I − H/σ)^j v exactly, and a known bias.
    operator = RowsMatrix(np.array([[1.0, 2.0]]), 0.3)
    v, sigma, depth = np.array([1.0, -1.0]), 10.0, 7
    step = np.eye(2) - operator.matrix / sigma
    sums = np.cumsum([np.linalg.matrix_power(step, j) @ v for j in range(depth + 1)], axis=0)
    with pytest.warns(SolverWarning, match="recursion is too short") as caught:
        solution = Lissa(sigma, depth, 2).solve(operator, v)
    assert len(caught) == 1
    np.testing.assert_allclose(solution.x, sums[depth] / sigma, rtol=1e-12)
    np.testing.assert_allclose(solution.standard_error, 0, atol=1e-15)
    # The second half, of ⌈7/2⌉ steps, has added D; those that follow add at most q of the last.
    added = np.linalg.norm(sums[depth] - sums[depth // 2])
    q = (1 - 0.3 / sigma) ** 4
    expected = q / (1 - q) * added / np.linalg.norm(sums[depth])
    assert solution.bias == pytest.approx(expected, rel=0.01)
    error = np.linalg.norm(solution.x - np.linalg.solve(operator.matrix, v))
    assert error <= solution.bias * np.linalg.norm(solution.x)


@pytest.mark.slow
def test_standard_error_is_that_of_the_mean():
    operator, v = rows_matrix(), np.ones(6)
    answers = [Lissa(40.0, 1000, 8, seed=seed).solve(operator, v) for seed in range(30)]
    observed = np.std([answer.x for answer in answers], axis=0, ddof=1)
    reported = np.sqrt(np.mean([answer.standard_error**2 for answer in answers], axis=0))
    np.testing.assert_allclose(observed.mean(), reported.mean(), rtol=0.35)


def test_finds_its_scale():
    operator = rows_matrix()
    solution = Lissa(recursion_depth=3000, repeats=20).solve(operator, np.ones(6))
    error = np.linalg.norm(solution.x - np.linalg.solve(operator.matrix, np.ones(6)))
    assert solution.scale >= 0.4 * np.linalg.eigvalsh(operator.matrix).max()
    assert error <= 3 * np.linalg.norm(solution.standard_error)


def test_divergence_is_an_error():
    with pytest.raises(SolverError, match=r"diverges at scale 0\.5"):
        Lissa(0.5, 200, 2).solve(rows_matrix(), np.ones(6))


def test_rows_are_the_consecutive_rows_of_one_seeded_shuffle():
    rows = Lissa(10.0, 4, 3, 2, seed=17).sample(30)
    order = np.arange(30)
    np.random.RandomState(17).shuffle(order)
    assert rows.shape == (4, 3, 2)
    np.testing.assert_array_equal(rows[:, 1].ravel(), order[8:16])
    every = Lissa(10.0, 30, 2).sample(30)
    assert (np.bincount(every.ravel()) == 2).all()


def test_same_seed_same_answer_and_other_seed_another():
    operator, v = rows_matrix(), np.ones(6)
    first, again, other = (Lissa(40.0, 300, 4, seed=s).solve(operator, v).x for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def with_condition(condition, n=60, p=8, seed=0):
    """Rows of random directions and lengths, the eigenvalues of whose mean span ``condition``."""
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.standard_normal((p, p)))
    a = random.standard_normal((n, p)) * np.geomspace(1, condition**-0.5, p) @ q
    return RowsMatrix(a, 0.5 / condition)


def right_sides(operator):
    """Of all directions, of one row, of the smallest eigenvalue; and none: [p, 4]."""
    vectors = np.linalg.eigh(operator.matrix)[1]
    p = len(vectors)
    everything = np.random.default_rng(1).standard_normal(p)
    return np.stack([everything, operator.a[0], vectors[:, 0], np.zeros(p)], axis=1)


@pytest.mark.parametrize("repeats", [3, 10])
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("depth", [1, 40, 400, 4000])
@pytest.mark.parametrize("condition", [1, 30, 1000])
@pytest.mark.parametrize("scale", [None, 40.0])
def test_what_is_called_converged_is_explained_by_its_noise(
    condition, depth, batch_size, repeats, scale
):
    operator = with_condition(condition)
    v = right_sides(operator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        solution = Lissa(scale, depth, repeats, batch_size).solve(operator, v)
    truth = np.linalg.solve(operator.matrix, v)
    error, size = (np.linalg.norm(a, axis=0) for a in (solution.x - truth, truth))
    noise = np.linalg.norm(solution.standard_error, axis=0)
    right = error <= 4 * noise + 0.02 * size
    assert right[solution.converged].all()
    assert solution.converged[3]  # nothing to solve
    if condition == 1 and depth == 4000:
        assert solution.converged.all()
    if condition * (scale or 1) > depth:
        assert not solution.converged[2]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("depth", [1, 2, 9, 64, 333])
def test_the_bias_is_a_bound(seed, depth):
    # Without noise, as every row has the curvature of all.
    random = np.random.default_rng(seed)
    p = int(random.integers(1, 20))
    operator = RowsMatrix(random.standard_normal((1, p)), 10 ** random.uniform(-3, 0))
    largest, v = np.linalg.eigvalsh(operator.matrix)[-1], random.standard_normal(p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        solution = Lissa(largest, depth, 2).solve(operator, v)
    truth = np.linalg.solve(operator.matrix, v)
    error, size = np.linalg.norm(solution.x - truth), np.linalg.norm(solution.x)
    assert error <= solution.bias * size * (1 + 1e-9) + 1e-9 * size
    assert solution.converged == (solution.bias <= 0.01)


@pytest.mark.parametrize("condition", [30, 300])
@pytest.mark.parametrize("scale", [None, 20.0])
def test_the_depth_that_it_names_does(condition, scale):
    operator = with_condition(condition)
    with pytest.raises(SolverError, match="too short") as caught:
        Lissa(scale, 20, 4, 8).solve(operator, np.ones(8), strict=True)
    assert "\n" not in str(caught.value)
    [depth] = map(
        int, re.findall(r"a recursion_depth of (\d+) \(now 20\) would do", str(caught.value))
    )
    smallest, largest = np.linalg.eigvalsh(operator.matrix)[[0, -1]]
    assert depth == pytest.approx(np.log(200) * (scale or largest) / smallest, rel=0.1)
    solution = Lissa(scale, depth, 4, 8).solve(operator, np.ones(8), strict=True)
    truth = np.linalg.solve(operator.matrix, np.ones(8))
    error, noise = np.linalg.norm(solution.x - truth), np.linalg.norm(solution.standard_error)
    assert error <= 3 * noise + 0.01 * np.linalg.norm(truth)


@pytest.mark.slow
def test_a_recursion_a_hundred_times_too_short_is_not_taken():
    # Pixels as they come: σ/λ is 240,000. The noise is a three-hundredth of the bias.
    x, labels = load_digits(return_X_y=True)
    x = np.clip(x * 16, 0, 255)
    train = Dataset(x[:1000], labels[:1000])
    model = LogisticRegression(train, 0.01, dtype="float64").fit()
    v = model.test_gradient(x[1000], labels[1000])[:, 0]
    truth = model.inverse_hvp(v).x
    with pytest.warns(SolverWarning, match="recursion_depth of 1[0-9]{6} "):
        solution = model.inverse_hvp(v, solver=Lissa())
    assert not solution.converged
    error = np.linalg.norm(solution.x - truth)
    assert error > 0.9 * np.linalg.norm(truth)
    assert error <= solution.bias * np.linalg.norm(solution.x)
    with pytest.raises(SolverError, match="too short"):
        model.inverse_hvp(v, solver=Lissa(), strict=True)


@pytest.mark.slow
def test_a_penalty_that_does_spares_the_products(monkeypatch, problem):
    model = problem.softmax_model(weight_decay=0.1).fit()
    v = model.test_gradient(problem.x_test, problem.y_test)
    asked, smallest = [], module.smallest_eigenvalue
    monkeypatch.setattr(module, "smallest_eigenvalue", lambda *a: asked.append(1) or smallest(*a))
    lissa = Lissa(20.0, 2000, 4)
    assert lissa.solve(model.hessian(), v).converged.all()
    assert not asked
    operator = AutodiffHessian(model)
    for _ in range(2):
        assert lissa.solve(operator, v[:, 0]).converged
        assert len(asked) == 1


def test_a_smallest_eigenvalue_that_may_be_zero_is_said():
    operator = RowsMatrix(np.random.default_rng(0).standard_normal((50, 4)) @ np.eye(4, 5), 0.0)
    with pytest.warns(SolverWarning, match="may be 0: add damping"):
        solution = Lissa(20.0, 1000, 4).solve(operator, np.ones(5))
    assert solution.bias == np.inf
    assert not solution.converged
    damped = RowsMatrix(operator.a, 0.1)
    assert Lissa(20.0, 2000, 4).solve(damped, np.ones(5), strict=True).converged


def test_an_indefinite_operator_is_said_before_it_diverges():
    operator = RowsMatrix(np.random.default_rng(0).standard_normal((50, 4)) @ np.eye(4, 5), -1e-3)
    with pytest.warns(SolverWarning, match=r"negative curvature: .* a damping above 0\.001"):
        solution = Lissa(20.0, 1000, 4).solve(operator, np.ones(5))
    assert solution.negative_curvature
    assert not solution.converged


def test_the_bias_of_few_points_without_replacement_is_seen():
    # Two points of curvatures 1 and 9, each once in two steps: h = (1 − 1/σ)(1 − 9/σ) h + 2 − 5/σ.
    operator, sigma = RowsMatrix(np.array([[1.0], [3.0]]), 0.0), 20.0
    with pytest.warns(SolverWarning, match="replacement=True"):
        solution = Lissa(sigma, 1000, 20).solve(operator, np.ones(1))
    fixed = (2 - 5 / sigma) / (1 - (1 - 1 / sigma) * (1 - 9 / sigma))
    assert fixed / sigma < 0.92 / 5
    assert abs(solution.x[0] - fixed / sigma) <= 3 * solution.standard_error[0]
    assert not solution.converged
    solution = Lissa(sigma, 1000, 20, replacement=True).solve(operator, np.ones(1), strict=True)
    assert abs(solution.x[0] - 0.2) <= 3 * solution.standard_error[0]


@pytest.mark.slow
def test_any_model_will_do(problem):
    model = TinyNetwork(problem.train).fit()
    curvature = model.gauss_newton() + 0.3
    v = model.test_gradient(problem.x_test, problem.y_test, reduction="mean")
    solution = Lissa(20.0, 1000, 10).solve(curvature, v, strict=True)
    error = np.linalg.norm(solution.x - np.linalg.solve(curvature.dense(), v))
    assert error <= 3 * np.linalg.norm(solution.standard_error)
    model.parameters = model.parameters + 1
    with pytest.raises(RuntimeError, match="parameters have changed"):
        Lissa(20.0, 1000, 10).solve(curvature, v)


def test_a_residual_that_no_noise_explains_is_said(monkeypatch):
    operator = rows_matrix()
    operator.matrix = operator.matrix * 1.2  # the rows are not what the products are of
    with pytest.warns(SolverWarning, match="more than the spread between its 10 repeats explains"):
        assert not Lissa(40.0, 2000, 10, 4).solve(operator, np.ones(6)).converged


def test_a_matrix_without_rows_says_so_in_one_sentence(problem):
    operator = problem.softmax_model().hessian().materialize()
    with pytest.raises(ValueError, match="^A matrix has no rows of data: [^\n]*$"):
        Lissa(20.0, 10, 2).solve(operator, np.ones(15))
