"""Singular and badly scaled matrices: solved on their range, refused outside it."""

import numpy as np
import pytest

from influence import Exact, SolverError
from influence.solvers.exact import CholeskyFactor
from influence.solvers.semidefinite import RangeInverse


def singular(seed, units, rank=4, p=9, n=300):
    """XᵀX/n of rank ``rank``, the columns in these units; and Xᵀ, whose columns are its range."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, rank)) @ random.normal(size=(rank, p)) * units
    return x.T @ x / n, x.T


UNITS = {"alike": np.ones(9), "far apart": 10.0 ** np.arange(-8, 10, 2)}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_what_is_in_the_range_is_solved(seed, units):
    matrix, x = singular(seed, units)
    v = x[:, :5]
    solution = Exact().solve(matrix, v, strict=True)
    # What points predict is unique: that of the least-norm solution, in equal units.
    equal = matrix / units / units[:, np.newaxis]
    truth = (v.T / units) @ np.linalg.pinv(equal, rcond=1e-12) @ (v.T / units).T
    np.testing.assert_allclose(v.T @ solution.x, truth, rtol=1e-9, atol=1e-9)
    assert solution.converged.all()
    inverse = Exact().inverse(matrix)
    np.testing.assert_allclose(inverse, inverse.T, rtol=1e-6, atol=1e-9 * np.abs(inverse).max())
    np.testing.assert_allclose(v.T @ inverse @ v, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_outside_is_refused(seed):
    matrix, x = singular(seed, 1.0)
    v = np.stack([x[:, 0], np.random.default_rng(seed).normal(size=9)], axis=1)
    with pytest.raises(SolverError, match=r"singular \(rank 4 of 9\) .* not in its range"):
        Exact().solve(matrix, v)
    Exact().solve(matrix, v[:, :1], strict=True)
    Exact().solve(matrix + 0.01 * np.eye(9), v, strict=True)


def test_a_matrix_of_zeros():
    assert Exact().solve(np.zeros((3, 3)), np.zeros(3)).x.tolist() == [0, 0, 0]
    with pytest.raises(SolverError, match="rank 0 of 3"):
        Exact().solve(np.zeros((3, 3)), np.ones(3))


def test_a_little_indefinite_is_no_singular():
    matrix = np.diag([1.0, 2.0, -1e-9])
    with pytest.raises(SolverError, match="not positive definite"):
        Exact().solve(matrix, [1.0, 1.0, 0.0])


def test_a_regular_matrix_has_cholesky_s_factor_whatever_the_units():
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 6)) * 10.0 ** np.arange(-9, 9, 3)
    assert isinstance(Exact().factor(x.T @ x), CholeskyFactor)
    x[:, 5] = x[:, 0] * 1e10
    assert isinstance(Exact().factor(x.T @ x), RangeInverse)
