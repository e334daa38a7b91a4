"""Nyström's preconditioner against its definition in float64, and when the default makes one."""

import numpy as np
import pytest

from influence import ConjugateGradient, Exact, SolverError, SolverWarning, nystrom
from influence.curvature.operator import HessianOperator, MatrixOperator
from influence.solvers.nystrom import NystromSolver

P, RANK = 60, 8


def falling(size=P, seed=0, least=0.0):
    """A symmetric matrix whose eigenvalues fall as those of networks do."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return (q * (100 / np.arange(1, size + 1) ** 2 + least)) @ q.T


def rhs(k=3, size=P):
    return np.random.default_rng(1).standard_normal((size, k))


class Counted(HessianOperator):
    """A matrix that writes down the widths of the blocks it multiplies."""

    def __init__(self, matrix):
        super().__init__(len(matrix), "float64", 1)
        self.matrix, self.widths = matrix, []

    def _product(self, block):
        self.widths.append(block.shape[1])
        return MatrixOperator(self.matrix, 1)._product(block)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_the_dense_definition(damping, seed):
    """Frangella, Tropp & Udell (2021): Â = AΩ(ΩᵀAΩ)⁻¹ΩᵀA, and equation 5.3."""
    matrix = falling()
    random = np.random.default_rng(seed).standard_normal((RANK, P), np.float32).T
    omega = np.linalg.qr(random.astype(np.float64))[0]
    y = matrix @ omega
    values, vectors = np.linalg.eigh(y @ np.linalg.solve(omega.T @ y, y.T))
    values, vectors = values[-RANK:], vectors[:, -RANK:]
    rest = np.eye(P) - vectors @ vectors.T
    inverse = (vectors / (values + damping)) @ vectors.T + rest / (values[0] + damping)
    preconditioner = nystrom(MatrixOperator(matrix, 1) + damping, RANK, seed)
    np.testing.assert_allclose(preconditioner @ np.eye(P), inverse, rtol=1e-8, atol=1e-10)
    vector = rhs()[:, 0]
    np.testing.assert_allclose(preconditioner @ vector, inverse @ vector, rtol=1e-8)


@pytest.mark.parametrize("rank", [P, P + 1])
def test_of_full_rank_it_is_the_inverse(rank):
    matrix = falling(least=0.1)
    np.testing.assert_allclose(nystrom(matrix, rank) @ matrix, np.eye(P), atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [None, 1, 5])
def test_solves_equal_those_of_the_matrix_in_fewer_steps(dtype, k):
    operator = MatrixOperator(falling(300).astype(dtype), 1) + 0.1
    v = rhs(5, 300)[:, 0] if k is None else rhs(k, 300)
    plain = ConjugateGradient(1e-4)
    preconditioned = ConjugateGradient(1e-4, preconditioner=nystrom(operator, 50))
    solution = preconditioned.solve(operator, v, strict=True)
    truth = Exact().solve(operator, v).x
    assert np.linalg.norm(solution.x - truth) <= 1e-3 * np.linalg.norm(truth)
    assert np.all(2 * solution.iterations < plain.solve(operator, v).iterations)


def test_columns_do_not_feel_each_other():
    operator, v = MatrixOperator(falling(), 1) + 0.01, rhs()
    solver = ConjugateGradient(1e-9, preconditioner=nystrom(operator, RANK))
    together = solver.solve(operator, v).x
    alone = [solver.solve(operator, column).x for column in v.T]
    np.testing.assert_allclose(together, np.stack(alone, axis=1), rtol=1e-6)


def test_a_preconditioner_is_never_handed_an_empty_block():
    class Identity:
        shapes = []

        def __matmul__(self, block):
            self.shapes.append(block.shape)
            return block

    ConjugateGradient(preconditioner=Identity()).solve(falling(least=0.1), rhs(2))
    indefinite = pytest.warns(SolverWarning, match="negative curvature")
    with indefinite:
        ConjugateGradient(preconditioner=Identity()).solve(-falling(), rhs(2))
    assert Identity.shapes
    assert all(width > 0 for _, width in Identity.shapes)


def test_one_sketch_serves_every_damping():
    operator = Counted(falling())
    solutions = [
        ConjugateGradient(1e-8, preconditioner=nystrom(damped, RANK)).solve(damped, rhs()).x
        for damped in (operator + 0.1, operator + 0.5)
    ]
    assert operator.widths.count(RANK) == 1
    for damping, solution in zip((0.1, 0.5), solutions):
        truth = np.linalg.solve(falling() + damping * np.eye(P), rhs())
        np.testing.assert_allclose(solution, truth, atol=1e-6)


def test_of_a_low_rank_the_rest_is_the_damping():
    factor = np.random.default_rng(0).standard_normal((P, 3))
    operator = MatrixOperator(factor @ factor.T, 1)
    preconditioner = nystrom(operator + 0.1, RANK)
    inverse = np.linalg.inv(factor @ factor.T + 0.1 * np.eye(P))
    np.testing.assert_allclose(preconditioner @ np.eye(P), inverse, atol=1e-8)
    with pytest.raises(SolverError, match="a curvature of 0, and .* add a damping above 0"):
        nystrom(operator, RANK)


def test_it_is_positive_definite_or_refused():
    matrix = falling() - 0.05 * np.eye(P)
    made_up_for = nystrom(MatrixOperator(matrix, 1) + 0.1, P)
    assert np.linalg.eigvalsh(made_up_for @ np.eye(P)).min() > 0
    with pytest.raises(SolverError, match=r"curvature of -0\.0.* add a damping above 0\.0"):
        nystrom(MatrixOperator(matrix, 1) + 0.01, P)


def test_negative_curvature_is_still_met():
    """Where the sketch does not see it."""
    matrix = np.diag([*(100 / np.arange(1.0, P) ** 2), -1e-3])
    operator = MatrixOperator(matrix, 1) + 1e-4
    solver = ConjugateGradient(1e-8, preconditioner=nystrom(operator, 3))
    with pytest.warns(SolverWarning, match="negative curvature for 3 of 3"):
        assert solver.solve(operator, rhs()).negative_curvature.all()


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match="rank must be at least 1, not 0"):
        nystrom(falling(), 0)
    with pytest.raises(SolverError, match="not finite"):
        nystrom(np.full((2, 2), np.nan))


def test_the_default_makes_a_sketch_from_when_on_it_pays():
    operator = Counted(falling(300)) + 0.01
    truth = np.linalg.solve(operator.matrix + 0.01 * np.eye(300), rhs(3, 300))
    solver, widths = NystromSolver(1e-8), operator.widths

    def solve(k):
        widths.clear()
        solution = solver.solve(operator, rhs(3, 300)[:, :k])
        np.testing.assert_allclose(solution.x, truth[:, :k], atol=1e-6)
        return max(solution.iterations)

    plain = solve(1)
    assert set(widths) == {1}
    # That took as many products as a sketch; what follows is served by the one.
    preconditioned = solve(1)
    assert widths.count(100) == 1
    assert 2 * preconditioned < plain
    assert solve(3) <= preconditioned + 3
    assert 100 not in widths


def test_three_right_hand_sides_are_worth_a_sketch():
    operator = Counted(falling(300)) + 0.01
    NystromSolver().solve(operator, rhs(3, 300))
    assert operator.widths[0] == 100


def test_the_default_leaves_what_is_indefinite_to_conjugate_gradients():
    operator = MatrixOperator(falling(), 1) + -0.5
    with pytest.warns(SolverWarning, match="negative curvature.*add a damping of at least 0.5"):
        NystromSolver().solve(operator, rhs())
