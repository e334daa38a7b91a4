"""The operator EK-FAC against its matrix."""

import numpy as np
import pytest

from influence import Lissa, SolverError
from influence.curvature.ekfac import EKFAC, DiagonalBlock, KroneckerBlock


def orthonormal(random, size):
    return np.linalg.qr(random.standard_normal((size, size)))[0]


@pytest.fixture
def operator():
    """θ of 16: a matrix [3, 2] whose last row stands apart, one [2, 4] with the unit vectors on the
    left, and two numbers between."""
    random = np.random.default_rng(0)
    first = (slice(0, 4), slice(14, 16))
    return EKFAC(
        [
            KroneckerBlock(
                first, random.random((3, 2)), orthonormal(random, 3), orthonormal(random, 2)
            ),
            KroneckerBlock((slice(6, 14),), random.random((2, 4)), None, orthonormal(random, 4)),
            DiagonalBlock((slice(4, 6),), random.random(2)),
        ],
        num_examples=5,
    )


def matrix_of(operator):
    matrix = np.zeros(operator.shape)
    for block in operator.blocks:
        rows = np.r_[tuple(block.places)]
        own = np.diag(block.values.ravel())
        if isinstance(block, KroneckerBlock):
            left = np.eye(len(block.values)) if block.left is None else block.left
            basis = np.kron(left, block.right)
            own = basis @ own @ basis.T
        matrix[np.ix_(rows, rows)] = own
    return matrix


def test_products_and_what_is_known(operator):
    matrix = matrix_of(operator)
    block = np.random.default_rng(1).standard_normal((16, 3))
    damped = operator + 0.5
    np.testing.assert_allclose(damped @ block, matrix @ block + 0.5 * block)
    np.testing.assert_allclose(damped @ block[:, 0], (damped @ block)[:, 0])
    np.testing.assert_allclose(damped.dense(), matrix + 0.5 * np.eye(16))
    np.testing.assert_allclose(damped.diagonal(), np.diag(matrix) + 0.5)
    eigenvalues = np.linalg.eigvalsh(matrix) + 0.5
    np.testing.assert_allclose(damped.extreme_eigenvalues(), eigenvalues[[0, -1]])
    assert damped.eigenvalue_bound() == pytest.approx(eigenvalues[0])


def test_the_inverse_is_one_of_its_kind(operator):
    inverse = np.linalg.inv(matrix_of(operator) + 0.5 * np.eye(16))
    np.testing.assert_allclose((operator + 0.5).inverse().dense(), inverse)
    np.testing.assert_allclose((operator + 0.2).inverse(0.3).dense(), inverse)
    twice = (operator + 0.5).inverse().inverse()
    np.testing.assert_allclose(twice.dense(), (operator + 0.5).dense())


def test_a_diagonal_is_added_in_the_basis(operator):
    for block in operator.blocks:
        diagonal = np.random.default_rng(2).random(block.size)
        alone = EKFAC([block], 5)
        rows = np.r_[tuple(block.places)]
        matrix = matrix_of(operator)[np.ix_(rows, rows)]
        _, basis = np.linalg.eigh(matrix)
        added = block.plus(diagonal)
        del alone
        expected = matrix + basis * np.diag(basis.T @ np.diag(diagonal) @ basis) @ basis.T
        whole = matrix_of(EKFAC([_moved(added)], 5))
        np.testing.assert_allclose(whole, expected, atol=1e-12)


def _moved(block):
    """The same at the beginning of θ."""
    return type(block)(**vars(block) | {"places": (slice(0, block.size),)})


def test_a_singular_one_says_what_it_needs(operator):
    singular = EKFAC([block.mapped(np.zeros_like) for block in operator.blocks], 5)
    message = r"EK-FAC is not positive definite.*add a damping of at least .*`ekfac \+ "
    with pytest.raises(SolverError, match=message):
        singular.inverse()
    with pytest.raises(SolverError, match=message):
        (operator + -1.0).inverse()
    with pytest.raises(ValueError, match="^EK-FAC has no rows of data"):
        Lissa().solve(operator, np.ones(16))
