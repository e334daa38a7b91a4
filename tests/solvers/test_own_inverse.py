"""The solver of operators that know their inverse."""

import numpy as np
import pytest

from influence import SolverError, SolverWarning
from influence.solvers.own_inverse import OwnInverse


class Known:
    """A matrix with an inverse, right or wrong."""

    def __init__(self, matrix, inverse=None):
        self.matrix = matrix
        self.inverse = lambda: np.linalg.inv(matrix) if inverse is None else inverse

    def __matmul__(self, block):
        return self.matrix @ block


def test_solves_by_one_product():
    random = np.random.default_rng(0)
    matrix = random.standard_normal((4, 4))
    operator = Known(matrix @ matrix.T + np.eye(4))
    v = random.standard_normal((4, 2))
    solution = OwnInverse().solve(operator, v)
    np.testing.assert_allclose(operator @ solution.x, v)
    assert solution.converged.all()
    assert solution.residual.max() < 1e-12
    np.testing.assert_allclose(OwnInverse().solve(operator, v[:, 0]).x, solution.x[:, 0])


def test_says_what_its_inverse_leaves():
    operator = Known(np.eye(2), inverse=1.01 * np.eye(2))
    with pytest.warns(SolverWarning, match="inverse left a relative residual of 0.01"):
        solution = OwnInverse().solve(operator, np.ones(2))
    assert not solution.converged
    with pytest.raises(SolverError):
        OwnInverse().solve(operator, np.ones(2), strict=True)
