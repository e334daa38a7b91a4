"""Solve with a singular matrix where a solution exists: on its range."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from influence.solvers.solution import SolverError, remedy

# Eigenvalues of the equilibrated matrix below this many √p roundings of the largest are 0. (Those
# of singular designs, of 40 seeds and up to 3,000 points, were below one.)
_ROUNDINGS = 8.0
# How much of a right-hand side may lie outside the range, in its norm: half of the digits.
_OUTSIDE = 0.5


class RangeInverse:
    """A symmetric inverse of a positive semi-definite H on its range, as an operator.

    With D the diagonal of H and D^-½HD^-½ = UΛUᵀ (which does not depend on the units of the
    parameters) it is G = D^-½ U₊ Λ₊⁻¹ U₊ᵀ D^-½, of the eigenvalues above rounding. For v in the
    range of H, as all gradients of losses of training points are, HGv = v.

    Args:
        matrix: H [p, p].

    Attributes:
        roots: of D, [p].
        rank: how many eigenvalues there are above rounding.

    Raises:
        SolverError: H has a negative eigenvalue; names the damping that would do.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self.dtype = np.asarray(matrix).dtype
        matrix = np.asarray(matrix, np.float64)
        diagonal = np.abs(np.diag(matrix))
        # A parameter that nothing depends on has a row of zeros, which stays one.
        self.roots = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        scaled = matrix / self.roots / self.roots[:, np.newaxis]
        # By divide and conquer: LAPACK's default leaves a zero five times as far from 0.
        values, vectors = scipy.linalg.eigh(scaled, driver="evd", check_finite=False)
        rounding = _ROUNDINGS * np.sqrt(len(matrix)) * np.finfo(self.dtype).eps * values[-1]
        if values[0] < -abs(rounding):
            raise SolverError(not_positive_definite(matrix.astype(self.dtype)))
        there = values > rounding
        self._values, self._vectors = values[there], vectors[:, there]
        self.rank = int(there.sum())

    def __matmul__(self, block: ArrayLike) -> np.ndarray:
        block = np.asarray(block)
        along = self._vectors.T @ self._scaled(block)
        solved = self._vectors @ (along.T / self._values).T
        return (solved.T / self.roots).T.astype(block.dtype, copy=False)

    def size(self, block: np.ndarray) -> np.ndarray:
        """The norm of each column in the units in which the diagonal of H is 1: [k]."""
        return np.linalg.norm(block * self.roots[:, np.newaxis], axis=0)

    def check_range(self, block: np.ndarray) -> None:
        """Raise a SolverError unless every column of ``block`` [p, k] is in the range of H."""
        if self.rank == len(self.roots):
            return
        scaled = self._scaled(block)
        outside = np.linalg.norm(scaled - self._vectors @ (self._vectors.T @ scaled), axis=0)
        allowed = np.finfo(self.dtype).eps ** _OUTSIDE * np.linalg.norm(scaled, axis=0)
        if (outside > allowed).any():
            raise SolverError(
                f"The matrix is singular (rank {self.rank} of {len(self.roots)}) and the "
                f"right-hand side is not in its range: the training points do not determine what "
                f"is asked for. Add a penalty or a damping, as in `hessian + 0.01`."
            )

    def _scaled(self, block):
        return (np.asarray(block, np.float64).T / self.roots).T


def not_positive_definite(matrix: np.ndarray) -> str:
    """What to say of a ``matrix`` with a negative eigenvalue."""
    smallest = scipy.linalg.eigvalsh(matrix.astype(np.float64), subset_by_index=[0, 0])[0]
    rounding = np.finfo(matrix.dtype).eps * len(matrix) * np.abs(np.diag(matrix)).max()
    return f"The matrix is not positive definite{remedy(smallest, rounding)}"
