"""What right-hand sides have of each other, and what only blocks can get wrong."""

import numpy as np
import pytest

from influence import BlockConjugateGradient, ConjugateGradient, SolverWarning, nystrom
from influence.curvature.operator import MatrixOperator

P = 200


def falling(least=0.0):
    """Eigenvalues as those of networks, with any eigenvectors."""
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((P, P)))
    return (q * (1000 / np.arange(1.0, P + 1) ** 2 + least)) @ q.T


def rhs(k):
    return np.random.default_rng(1).standard_normal((P, k))


class Widths:
    """A matrix that writes down the widths of the blocks it multiplies."""

    def __init__(self, matrix):
        self.matrix, self.widths = matrix, []

    def __matmul__(self, block):
        self.widths.append(np.shape(block)[1])
        return self.matrix @ block


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [None, 20])
def test_together_they_take_fewer_steps(rank, dtype):
    operator, v = MatrixOperator(falling().astype(dtype), 1) + 0.1, rhs(10)
    preconditioner = None if rank is None else nystrom(operator, rank)
    block, plain = (
        kind(1e-3, preconditioner=preconditioner).solve(operator, v, strict=True)
        for kind in (BlockConjugateGradient, ConjugateGradient)
    )
    truth = np.linalg.solve(falling() + 0.1 * np.eye(P), v)
    np.testing.assert_allclose(block.x, truth, atol=3e-3 * np.abs(truth).max())
    assert max(block.iterations) < 0.8 * max(plain.iterations)


def test_one_alone_takes_the_steps_of_conjugate_gradients():
    matrix, v = falling(0.1), rhs(1)
    block, plain = (
        kind(1e-4).solve(matrix, v) for kind in (BlockConjugateGradient, ConjugateGradient)
    )
    assert 0.9 < block.iterations / plain.iterations < 1.1
    np.testing.assert_allclose(block.x, plain.x, atol=1e-3 * np.abs(plain.x).max())


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_dependent_right_hand_sides_count_once(scale):
    """Twice the same, one that is the sum of others, and none at all."""
    a, b = rhs(2).T
    v = np.stack([a, scale * a, b, a + b, 0 * a, np.ones(P)], axis=1)
    operator = Widths(falling(0.1))
    solution = BlockConjugateGradient(1e-9).solve(operator, v, strict=True)
    truth = np.linalg.solve(operator.matrix, v)
    np.testing.assert_allclose(
        solution.x / (1 + np.abs(truth)), truth / (1 + np.abs(truth)), atol=1e-7
    )
    np.testing.assert_allclose(solution.x[:, 1], scale * solution.x[:, 0], rtol=1e-6)
    # What checks the answers is as wide as they are.
    assert max(operator.widths[:-1]) == 3


def test_the_answer_before_negative_curvature_goes_uphill_for_none():
    """v·x ≥ 0, as of each alone (Steihaug, 1983)."""
    matrix, v = falling() - 0.5 * np.eye(P), rhs(4)
    with pytest.warns(SolverWarning, match="BlockConjugateGradient met negative .* 4 of 4"):
        solution = BlockConjugateGradient(1e-9).solve(matrix, v)
    assert solution.negative_curvature.all()
    assert solution.x.any()
    assert np.sum(v * solution.x, axis=0).min() >= 0


def test_it_says_when_it_has_not_converged():
    with pytest.warns(SolverWarning, match="BlockConjugateGradient stopped at .* after 3 iter"):
        solution = BlockConjugateGradient(1e-9, max_iterations=3).solve(falling(0.1), rhs(4))
    truth = np.linalg.norm(falling(0.1) @ solution.x - rhs(4), axis=0) / np.linalg.norm(
        rhs(4), axis=0
    )
    np.testing.assert_allclose(solution.residual, truth, rtol=1e-6)
