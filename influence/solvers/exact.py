"""Solve by the matrix: its factor, computed once for each operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from influence.solvers.semidefinite import RangeInverse
from influence.solvers.solution import (
    DenseOperator,
    Solution,
    as_block,
    check_finite,
    complain,
    finish,
    product,
    relative_residual,
)

_REFINEMENTS = 2
# Right-hand sides that an inverse is tried on.
_PROBES = 4
# Where a residual says little, in badly scaled parameters: how far the last refinement may have
# moved the solution, relative.
_DIGITS = {"float32": 1e-3, "float64": 1e-6}


@dataclass(frozen=True)
class Exact:
    """The whole matrix, factored once and reused for as long as the operator lives: by Cholesky,
    or where it is singular, or nearly, by its eigenvectors (``RangeInverse``).

    Needs p² numbers; ``operator.dense()`` refuses above its stated size. A singular matrix, such as
    that of a regression with one-hot columns beside an intercept, has many solutions where the
    right-hand side is in its range, which all predict the same, and none where it is not.

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

    _factors: WeakKeyDictionary[DenseOperator, CholeskyFactor | RangeInverse] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def factor(self, operator: np.ndarray | DenseOperator) -> CholeskyFactor | RangeInverse:
        """The factor of ``operator``, computed at the first call: an operator whose ``@`` is H⁻¹,
        or a symmetric inverse of H on its range.

        Raises:
            SolverError: the matrix has a negative eigenvalue; names the damping that would do.
        """
        if isinstance(operator, np.ndarray):
            return _factor(operator)
        if operator not in self._factors:
            self._factors[operator] = _factor(operator.dense())
        return self._factors[operator]

    def inverse(self, operator: np.ndarray | DenseOperator, strict: bool = False) -> np.ndarray:
        """H⁻¹, or a symmetric inverse of H on its range: [p, p].

        Warns and raises as ``solve`` does, but for the range.
        """
        factor = self.factor(operator)
        size = len(factor.roots)
        if isinstance(factor, RangeInverse):
            # The identity is not in the range; the factor, of all digits there are, has it.
            return factor @ np.eye(size)
        inverse = factor.inverse()
        # A few right-hand sides tell of all: what the factor has lost is in every solution.
        probes = np.random.default_rng(0).standard_normal((size, _PROBES))
        probes *= factor.roots[:, np.newaxis]
        residual = relative_residual(operator, inverse @ probes, probes)
        if (residual <= np.sqrt(np.finfo(factor.dtype).eps)).all():
            return inverse
        return self.solve(operator, np.eye(size), strict).x

    def solve(
        self, operator: np.ndarray | DenseOperator, rhs: ArrayLike, strict: bool = False
    ) -> Solution:
        """Solve for ``rhs`` [p] or [p, k].

        Warns (``SolverWarning``), or raises ``SolverError`` with ``strict=True``, when rounding
        has eaten more than half of the digits of the factorisation's number type. Of badly scaled
        parameters the residual says little: there the solution is refined, and is good if the last
        refinement moved it by less than 1e-6 (1e-3 in float32) in the units in which the diagonal
        of H is 1.

        Raises:
            SolverError: the matrix has a negative eigenvalue, or is singular and ``rhs`` is not in
                its range.
        """
        v, vector = as_block(rhs)
        factor = self.factor(operator)
        factor.check_range(v)
        x = factor @ v
        residual = relative_residual(operator, x, v)
        half = np.sqrt(np.finfo(factor.dtype).eps)
        converged = residual <= half
        if not converged.all():
            x, correction = _refined(operator, factor, x, v)
            residual = relative_residual(operator, x, v)
            converged |= (residual <= half) | (correction <= _DIGITS[factor.dtype.name])
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


def _factor(matrix):
    """Cholesky's where its pivots are clear of rounding, whatever the units of the parameters."""
    factor = cholesky(matrix)
    if factor is None or factor.smallest_pivot < np.sqrt(np.finfo(factor.dtype).eps):
        return RangeInverse(matrix)
    return factor


def cholesky(matrix: np.ndarray) -> CholeskyFactor | None:
    """The factor of ``matrix``; None where it is not positive definite."""
    matrix = np.asarray(matrix)
    check_finite(matrix)
    try:
        lower, _ = scipy.linalg.cho_factor(matrix, lower=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        return None
    return CholeskyFactor(lower, np.sqrt(np.diag(matrix)))


def _refined(operator, factor, x, v):
    """x [p, k] after iterative refinement, and the size of the last correction: [k].

    Sizes are relative, with every parameter in the units in which the diagonal of H is 1: a
    residual in other units says little of the digits of x.
    """
    for _ in range(_REFINEMENTS):
        step = factor @ (v - product(operator, x))
        x = x + step
    size = factor.size(x)
    return x, factor.size(step) / np.where(size == 0, 1.0, size)


class CholeskyFactor:
    """H = LLᵀ, as an operator whose ``@`` is H⁻¹ (so it can precondition, too).

    Args:
        lower: L [p, p], with anything above its diagonal.
        roots: of the diagonal of H, [p].
    """

    def __init__(self, lower: np.ndarray, roots: np.ndarray) -> None:
        self._lower, self.roots, self.dtype = lower, roots, lower.dtype

    @property
    def smallest_pivot(self) -> float:
        """The smallest of Cholesky's squared pivots relative to the diagonal of H: how much of a
        parameter's curvature those before it leave. It does not depend on units."""
        return float((np.diag(self._lower) / self.roots).min() ** 2)

    def size(self, block: np.ndarray) -> np.ndarray:
        """The norm of each column in the units in which the diagonal of H is 1: [k]."""
        return np.linalg.norm(block * self.roots[:, np.newaxis], axis=0)

    def check_range(self, block: np.ndarray) -> None:
        """Every column of ``block`` [p, k] is in the range of H."""

    def inverse(self) -> np.ndarray:
        """H⁻¹ [p, p], symmetric, in float64."""
        trtri = scipy.linalg.get_lapack_funcs("trtri", (self._lower,))
        inverse = np.tril(trtri(self._lower, lower=1)[0]).astype(np.float64, copy=False)
        # By NumPy, whose threads are awake: SciPy has its own, which is what a call waits for.
        return inverse.T @ inverse

    def __matmul__(self, block: ArrayLike) -> np.ndarray:
        block = np.asarray(block)
        solved = scipy.linalg.cho_solve(
            (self._lower, True), block.astype(self.dtype, copy=False), check_finite=False
        )
        return solved.astype(block.dtype, copy=False)
