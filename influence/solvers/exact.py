"""Solve by the matrix: Cholesky's factor, computed once for each operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from influence.solvers.solution import (
    DenseOperator,
    Solution,
    SolverError,
    as_block,
    check_finite,
    complain,
    finish,
    relative_residual,
    remedy,
)


@dataclass(frozen=True)
class Exact:
    """Cholesky: the whole matrix, factored once and reused for as long as the operator lives.

    Needs p² numbers; ``operator.dense()`` refuses above its stated size.

    Examples:
        >>> import numpy as np
        >>> from influence import Exact
        >>> matrix = np.array([[2.0, 1.0], [1.0, 2.0]])
        >>> solution = Exact().solve(matrix, [3.0, 3.0])
        >>> solution.x.round(6).tolist(), solution.converged
        ([1.0, 1.0], True)
        >>> (Exact().factor(matrix) @ np.array([3.0, 0.0])).round(6).tolist()
        [2.0, -1.0]
    """

    _factors: WeakKeyDictionary[DenseOperator, CholeskyFactor] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def factor(self, operator: np.ndarray | DenseOperator) -> CholeskyFactor:
        """The factor of ``operator``, computed at the first call.

        Raises:
            SolverError: the matrix is not positive definite; names the damping that would do.
        """
        if isinstance(operator, np.ndarray):
            return CholeskyFactor(operator)
        if operator not in self._factors:
            self._factors[operator] = CholeskyFactor(operator.dense())
        return self._factors[operator]

    def solve(
        self, operator: np.ndarray | DenseOperator, rhs: ArrayLike, strict: bool = False
    ) -> Solution:
        """Solve for ``rhs`` [p] or [p, k].

        Warns (``SolverWarning``), or raises ``SolverError`` with ``strict=True``, when rounding
        has eaten more than half of the digits of the factorisation's number type.
        """
        v, vector = as_block(rhs)
        factor = self.factor(operator)
        x = factor @ v
        residual = relative_residual(operator, x, v)
        converged = residual <= np.sqrt(np.finfo(factor.dtype).eps)
        if not converged.all():
            complain(
                f"Exact left a relative residual of {residual.max():.2g}: the matrix is too badly "
                f"conditioned for {factor.dtype}; compute in float64 or add damping.",
                strict,
            )
        k = v.shape[1]
        return finish(
            vector,
            Solution(x, residual, np.ones(k, int), converged, np.zeros(k, bool)),
        )


class CholeskyFactor:
    """H = LLᵀ, as an operator whose ``@`` is H⁻¹ (so it can precondition, too)."""

    def __init__(self, matrix: np.ndarray) -> None:
        matrix = np.asarray(matrix)
        check_finite(matrix)
        self.dtype = matrix.dtype
        try:
            self._factor = scipy.linalg.cho_factor(matrix, lower=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            raise SolverError(_not_positive_definite(matrix)) from None

    def __matmul__(self, block: ArrayLike) -> np.ndarray:
        block = np.asarray(block)
        solved = scipy.linalg.cho_solve(
            self._factor, block.astype(self.dtype, copy=False), check_finite=False
        )
        return solved.astype(block.dtype, copy=False)


def _not_positive_definite(matrix: np.ndarray) -> str:
    smallest = scipy.linalg.eigvalsh(matrix.astype(np.float64), subset_by_index=[0, 0])[0]
    rounding = np.finfo(matrix.dtype).eps * len(matrix) * np.abs(np.diag(matrix)).max()
    return f"The matrix is not positive definite{remedy(smallest, rounding)}"
