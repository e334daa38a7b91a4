"""What every solve returns, and how it says what went wrong."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike


class SolverError(ArithmeticError):
    """The system could not be solved; the message says why and what to do.

    Examples:
        >>> import numpy as np
        >>> from influence import Exact, SolverError
        >>> try:
        ...     Exact().solve(np.diag([1.0, -1.0]), [1.0, 1.0])
        ... except SolverError as error:
        ...     print(str(error).partition(":")[0])
        The matrix is not positive definite (smallest eigenvalue -1)
    """


class SolverWarning(UserWarning):
    """The solution is usable only with care; the message says why and what to do.

    Examples:
        ``strict=True`` makes it a ``SolverError`` for one solve, a filter for all:

        >>> import warnings
        >>> import numpy as np
        >>> from influence import ConjugateGradient, SolverWarning
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", SolverWarning)
        ...     try:
        ...         ConjugateGradient(max_iterations=1).solve(np.diag([1.0, 3.0]), [1.0, 1.0])
        ...     except SolverWarning as warning:
        ...         print(str(warning).partition(" (")[0])
        ConjugateGradient stopped at relative residual 0.5
    """


@dataclass(frozen=True)
class Solution:
    """What a solver found for ``H x = v``.

    Attributes:
        x: [p] or [p, k], shaped as the right-hand side.
        residual: ‖H x − v‖ / ‖v‖, computed from ``x`` at the end (0 where v = 0): a float, or [k].
        iterations: products with H that the right-hand side took part in: an int, or [k].
        converged: the solver reached what it promises: a bool, or [k].
        negative_curvature: a direction with dᵀHd ≤ 0 was met: a bool, or [k].
        standard_error: of every entry of ``x``, for solvers that sample; otherwise None.
        bias: of solvers whose recursion ends before it has converged, a bound of what it would
            still add, relative to ‖x‖ (see ``Lissa.solve``): a float, or [k]; otherwise None.
        scale: σ of LiSSA; otherwise None.

    Examples:
        >>> import numpy as np
        >>> from influence import ConjugateGradient
        >>> solution = ConjugateGradient().solve(np.diag([1.0, 2.0]), np.eye(2))
        >>> solution.x.tolist()
        [[1.0, 0.0], [0.0, 0.5]]
        >>> solution.converged.tolist(), solution.iterations.tolist()
        ([True, True], [1, 1])
    """

    x: np.ndarray
    residual: np.ndarray | float
    iterations: np.ndarray | int
    converged: np.ndarray | bool
    negative_curvature: np.ndarray | bool
    standard_error: np.ndarray | None = None
    bias: np.ndarray | float | None = None
    scale: float | None = None


class Operator(Protocol):
    """A symmetric matrix [p, p], by its products with arrays ``[p]`` and ``[p, k]``."""

    def __matmul__(self, block: np.ndarray, /) -> Any:
        """The product, shaped as ``block``."""


class DenseOperator(Operator, Protocol):
    """An operator whose matrix can be had: what ``Exact`` asks for."""

    def dense(self) -> np.ndarray:
        """The matrix [p, p]."""


class SampledOperator(Operator, Protocol):
    """A mean over rows of data: what ``Lissa`` asks for."""

    num_examples: int
    dtype: Any
    shape: Any
    jit_compile: bool

    def on(self, rows: Any) -> Any:
        """The curvature of these rows alone, an operator on tensors."""


class Solver(Protocol):
    """What solves ``operator @ x = rhs``: ``Exact``, ``ConjugateGradient``, ``Lissa``, your own."""

    def solve(self, operator: Any, rhs: ArrayLike, strict: bool = False) -> Solution:
        """Solve for ``rhs`` [p] or [p, k]; with ``strict`` raise where it would warn."""


def check_finite(matrix: np.ndarray) -> None:
    """Raise a SolverError unless every entry is finite."""
    if not np.isfinite(matrix).all():
        raise SolverError("The matrix has entries that are not finite: check the parameters.")


def product(operator: Operator, block: np.ndarray) -> np.ndarray:
    """``operator @ block`` in float64, or a SolverError when it is not finite."""
    result = np.asarray(operator @ block, np.float64)
    if not np.isfinite(result).all():
        raise SolverError(
            "A product with the operator is not finite: check the parameters and the data."
        )
    return result


def relative_residual(operator: Operator, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """‖H x − v‖ / ‖v‖ of each column, 0 where both are zero."""
    size = np.linalg.norm(v, axis=0)
    return np.linalg.norm(product(operator, x) - v, axis=0) / np.where(size == 0, 1.0, size)


def as_block(rhs: ArrayLike) -> tuple[np.ndarray, bool]:
    """``rhs`` [p] or [p, k] as a float64 block [p, k], and whether it was a vector."""
    rhs = np.asarray(rhs, np.float64)
    if rhs.ndim not in (1, 2) or rhs.size == 0:
        raise ValueError(f"The right-hand side must be [p] or [p, k]; its shape is {rhs.shape}.")
    if not np.isfinite(rhs).all():
        raise ValueError("The right-hand side must be finite: it has NaN or infinite entries.")
    return (rhs[:, np.newaxis], True) if rhs.ndim == 1 else (rhs, False)


def finish(vector: bool, solution: Solution) -> Solution:
    """Give the solution of a vector the shapes of a vector."""
    if not vector:
        return solution
    error, bias = solution.standard_error, solution.bias
    return dataclasses.replace(
        solution,
        x=solution.x[:, 0],
        residual=np.asarray(solution.residual).item(),
        iterations=np.asarray(solution.iterations).item(),
        converged=np.asarray(solution.converged).item(),
        negative_curvature=np.asarray(solution.negative_curvature).item(),
        standard_error=None if error is None else error[:, 0],
        bias=None if bias is None else np.asarray(bias).item(),
    )


def complain(message: str, strict: bool) -> None:
    """Raise with ``strict``, else warn so that it cannot be missed."""
    if strict:
        raise SolverError(message)
    warnings.warn(message, SolverWarning, stacklevel=4)


def remedy_of(operator: Operator, curvature: float) -> str:
    """``remedy``, from the operator's eigenvalues where it can tell them."""
    only_met = f": add a damping above {max(-curvature, 0.0):.2g}, as in `hessian + δ`."
    if not (hasattr(operator, "extreme_eigenvalues") and hasattr(operator, "dtype")):
        return only_met
    try:
        smallest, largest = operator.extreme_eigenvalues()
    except SolverError:
        return only_met
    rounding = np.finfo(operator.dtype).eps * max(abs(smallest), abs(largest))
    return remedy(min(smallest, curvature), rounding)


def remedy(smallest: float, rounding: float) -> str:
    """How to mend an operator with this smallest eigenvalue."""
    # A tenth more than the eigenvalue asks for, well clear of rounding, and rounded up.
    damping = max(1.1 * -smallest, 0.0) + 10 * rounding
    unit = 10.0 ** (np.floor(np.log10(damping)) - 1) if damping > 0 else 1.0
    damping = np.ceil(damping / unit) * unit
    return (
        f" (smallest eigenvalue {smallest:.3g}): add a damping of at least {damping:.2g}, as in "
        f"`hessian + {damping:.2g}`."
    )
