"""Solvers of ``H x = v``. Each is a value, and says how the solve went.

A solver asks of an operator only ``operator @ block`` for NumPy arrays ``[p]`` or ``[p, k]``;
``Exact`` uses ``operator.dense()`` where there is one, and ``Lissa`` asks for ``num_examples`` and
``operator.on(rows) @ h``, the curvature of those rows. Damping is the operator's business
(``hessian + 0.01``), so it is the same true ridge ``(H + δI)⁻¹`` for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import scipy.linalg
import tensorflow as tf

from influence.lissa import Lissa
from influence.solution import (
    Solution,
    SolverError,
    as_block,
    check_finite,
    complain,
    finish,
    product,
    relative_residual,
)

__all__ = ["CholeskyFactor", "ConjugateGradient", "Exact", "InverseMatrix", "KeptInverse", "Lissa"]


@dataclass(frozen=True)
class Exact:
    """Cholesky: the whole matrix, factored once and reused for as long as the operator lives.

    Needs p² numbers; ``operator.dense()`` refuses above its stated size.
    """

    _factors: WeakKeyDictionary = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def factor(self, operator) -> CholeskyFactor:
        """The factor of ``operator``, computed at the first call.

        Raises:
            SolverError: the matrix is not positive definite; names the damping that would do.
        """
        if isinstance(operator, np.ndarray):
            return CholeskyFactor(operator)
        if operator not in self._factors:
            self._factors[operator] = CholeskyFactor(operator.dense())
        return self._factors[operator]

    def solve(self, operator, rhs, strict: bool = False) -> Solution:
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

    def __init__(self, matrix: np.ndarray):
        matrix = np.asarray(matrix)
        check_finite(matrix)
        self.dtype = matrix.dtype
        try:
            self._factor = scipy.linalg.cho_factor(matrix, lower=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            raise SolverError(_not_positive_definite(matrix)) from None

    def __matmul__(self, block):
        block = np.asarray(block)
        solved = scipy.linalg.cho_solve(
            self._factor, block.astype(self.dtype, copy=False), check_finite=False
        )
        return solved.astype(block.dtype, copy=False)


class InverseMatrix:
    """The inverse of a positive definite matrix [p, p], entry by entry, to precondition with.

    A product reads it once and on all cores; the triangular solves of a factor run on one.
    """

    def __init__(self, matrix: np.ndarray):
        inverse = CholeskyFactor(matrix) @ np.eye(len(matrix), dtype=matrix.dtype)
        # A tensor, because BLAS threads that wait for NumPy's next call slow down TensorFlow's.
        self._inverse = tf.constant(inverse)

    def __matmul__(self, block):
        columns = tf.reshape(tf.constant(block, self._inverse.dtype), [len(self._inverse), -1])
        return (self._inverse @ columns).numpy().reshape(np.shape(block))


class KeptInverse:
    """The inverse of an operator that changes a little from solve to solve, as a preconditioner:
    ``ConjugateGradient(preconditioner=kept(operator))``.

    It is made from the first operator, serves the next ones, and is made again from the operator
    of the solve after one that took more than ``patience`` products. An old inverse costs
    products, never digits: conjugate gradients solve with the operator itself.

    Args:
        make: operator -> (approximate) inverse, or None where there is none; by default the
            inverse of its matrix.
        patience: products of a solve above which a new inverse is cheaper.

    Attributes:
        made: inverses made so far.
    """

    def __init__(self, make=None, patience: int = 15):
        self._make = make or (lambda operator: InverseMatrix(operator.dense()))
        self._patience, self.made = patience, 0
        self._inverse, self._products = None, 0

    def __call__(self, operator) -> KeptInverse | None:
        """The preconditioner for a solve with ``operator``."""
        if self._inverse is None or self._products > self._patience:
            self._inverse = None  # its memory is for the new one
            self._inverse = self._make(operator)
            self.made += 1
        self._products = 0
        return None if self._inverse is None else self

    def __matmul__(self, block):
        self._products += 1
        return self._inverse @ block


def _not_positive_definite(matrix: np.ndarray) -> str:
    smallest = scipy.linalg.eigvalsh(matrix.astype(np.float64), subset_by_index=[0, 0])[0]
    rounding = np.finfo(matrix.dtype).eps * len(matrix) * np.abs(np.diag(matrix)).max()
    return f"The matrix is not positive definite{_remedy(smallest, rounding)}"


def _remedy_of(operator, curvature: float) -> str:
    """``_remedy``, from the operator's eigenvalues where it can tell them."""
    only_met = f": add a damping above {max(-curvature, 0.0):.2g}, as in `hessian + δ`."
    if not hasattr(operator, "extreme_eigenvalues"):
        return only_met
    try:
        smallest, largest = operator.extreme_eigenvalues()
    except SolverError:
        return only_met
    rounding = np.finfo(operator.dtype).eps * max(abs(smallest), abs(largest))
    return _remedy(min(smallest, curvature), rounding)


def _remedy(smallest: float, rounding: float) -> str:
    """How to mend an operator with this smallest eigenvalue."""
    # A tenth more than the eigenvalue asks for, well clear of rounding, and rounded up.
    damping = max(1.1 * -smallest, 0.0) + 10 * rounding
    unit = 10.0 ** (np.floor(np.log10(damping)) - 1) if damping > 0 else 1.0
    damping = np.ceil(damping / unit) * unit
    return (
        f" (smallest eigenvalue {smallest:.3g}): add a damping of at least {damping:.2g}, as in "
        f"`hessian + {damping:.2g}`."
    )


@dataclass(frozen=True)
class ConjugateGradient:
    """Conjugate gradients, one sequence a right-hand side, one block product a step for all.

    Args:
        tolerance: of the true relative residual ‖Hx − v‖ / ‖v‖.
        max_iterations: products each right-hand side may take part in.
        preconditioner: an operator whose ``@`` approximates H⁻¹, or None.
    """

    tolerance: float = 1e-6
    max_iterations: int = 1000
    preconditioner: object | None = None

    def __post_init__(self):
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, not {self.tolerance!r}.")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, not {self.max_iterations!r}.")

    def solve(self, operator, rhs, strict: bool = False) -> Solution:
        """Solve for ``rhs`` [p] or [p, k].

        Warns (``SolverWarning``), or raises ``SolverError`` with ``strict=True``, when a residual
        is above the tolerance or the operator is indefinite; the answer is then the last iterate
        before the negative curvature, which has v·x ≥ 0 (Steihaug, SIAM J. Numer. Anal. 20, 1983).
        The vectors are float64 whatever the operator computes in; the residual is recomputed from
        the answer, and the recursion is started again from there while that helps.
        """
        v, vector = as_block(rhs)
        k = v.shape[1]
        size = np.linalg.norm(v, axis=0)
        size[size == 0] = 1.0
        x, residual = np.zeros_like(v), v.copy()
        iterations, indefinite = np.zeros(k, int), np.zeros(k, bool)
        curvature = np.zeros(k)
        best, best_x = np.linalg.norm(residual, axis=0) / size, x.copy()
        todo = best > self.tolerance
        while todo.any():
            columns = np.flatnonzero(todo)
            self._run(operator, columns, x, residual, size, iterations, indefinite, curvature)
            residual[:, columns] = v[:, columns] - product(operator, x[:, columns])
            reached = np.linalg.norm(residual, axis=0) / size
            # In finite precision the recursion's residual can be smaller than the true one. A
            # new start from the true one helps until rounding is all that is left.
            helped = reached < 0.5 * best
            better = (reached < best) | indefinite
            best_x[:, better], best[better] = x[:, better], reached[better]
            todo &= helped & ~indefinite & (best > self.tolerance)
            todo &= iterations < self.max_iterations
        solution = Solution(
            x=best_x,
            residual=best,
            iterations=iterations,
            converged=(best <= self.tolerance) & ~indefinite,
            negative_curvature=indefinite,
        )
        self._report(operator, solution, curvature, strict)
        return finish(vector, solution)

    def _run(self, operator, columns, x, residual, size, iterations, indefinite, curvature):
        """Steps on ``columns`` until the recursion's residual is small; updates x and residual."""
        r = residual[:, columns]
        z = self._precondition(r)
        d, rz = z.copy(), np.sum(r * z, axis=0)
        while len(columns):
            hd = product(operator, d)
            iterations[columns] += 1
            dhd = np.sum(d * hd, axis=0)
            bad = dhd <= 0
            if bad.any():
                indefinite[columns[bad]] = True
                length = np.sum(d[:, bad] ** 2, axis=0)
                curvature[columns[bad]] = dhd[bad] / np.maximum(length, np.finfo(float).tiny)
            step = np.where(bad, 0.0, rz / np.where(bad, 1.0, dhd))
            x[:, columns] += step * d
            r = r - step * hd
            # A little below the tolerance, so that the true residual is likely to meet it as well.
            small = np.linalg.norm(r, axis=0) <= 0.9 * self.tolerance * size[columns]
            keep = ~small & ~bad & (iterations[columns] < self.max_iterations)
            columns, r, d, before = columns[keep], r[:, keep], d[:, keep], rz[keep]
            z = self._precondition(r)
            rz = np.sum(r * z, axis=0)
            d = z + (rz / before) * d

    def _precondition(self, r: np.ndarray) -> np.ndarray:
        if self.preconditioner is None:
            return r
        return np.asarray(self.preconditioner @ r, np.float64)

    def _report(self, operator, solution: Solution, curvature: np.ndarray, strict: bool) -> None:
        k = len(solution.converged)
        if solution.negative_curvature.any():
            complain(
                f"ConjugateGradient met negative curvature for "
                f"{int(solution.negative_curvature.sum())} of {k} right-hand sides: the operator "
                f"is not positive definite{_remedy_of(operator, curvature.min())}",
                strict,
            )
        elif not solution.converged.all():
            complain(
                f"ConjugateGradient stopped at relative residual {solution.residual.max():.2g} "
                f"(tolerance {self.tolerance:.2g}) after {solution.iterations.max()} iterations "
                f"for {int((~solution.converged).sum())} of {k} right-hand sides; raise "
                f"max_iterations, add damping, compute in float64, or use Exact().",
                strict,
            )
