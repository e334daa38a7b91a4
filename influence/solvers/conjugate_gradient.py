"""Conjugate gradients for several right-hand sides at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from influence.solvers.solution import (
    Operator,
    Solution,
    as_block,
    complain,
    finish,
    product,
    remedy_of,
)


@dataclass(frozen=True)
class ConjugateGradient:
    """Conjugate gradients, one sequence a right-hand side, one block product a step for all.

    Args:
        tolerance: of the true relative residual ‖Hx − v‖ / ‖v‖.
        max_iterations: products each right-hand side may take part in.
        preconditioner: an operator whose ``@`` approximates H⁻¹, or None.

    Examples:
        At most as many products as the matrix has different eigenvalues:

        >>> import numpy as np
        >>> from influence import ConjugateGradient
        >>> solution = ConjugateGradient().solve(np.diag([1.0, 2.0, 4.0]), [1.0, 1.0, 1.0])
        >>> solution.x.round(6).tolist(), solution.iterations
        ([1.0, 0.5, 0.25], 3)

        A model takes it as ``solver``:

        >>> from influence import BinaryLogisticRegression, Dataset
        >>> model = BinaryLogisticRegression(Dataset([[1], [-1]], [1, 0]), weight_decay=0.25).fit()
        >>> model.influence_on_loss([[1]], [1], solver=ConjugateGradient(tolerance=1e-4)).shape
        (1, 2)
    """

    tolerance: float = 1e-6
    max_iterations: int = 1000
    preconditioner: Operator | None = None

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, not {self.tolerance!r}.")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, not {self.max_iterations!r}.")

    def solve(self, operator: Operator, rhs: ArrayLike, strict: bool = False) -> Solution:
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
        while True:
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
            if not keep.any():
                return
            columns, r, d, before = columns[keep], r[:, keep], d[:, keep], rz[keep]
            z = self._precondition(r)
            rz = np.sum(r * z, axis=0)
            d = z + (rz / before) * d

    def _precondition(self, r: np.ndarray) -> np.ndarray:
        if self.preconditioner is None:
            return r
        return np.asarray(self.preconditioner @ r, np.float64)

    def _report(self, operator, solution: Solution, curvature: np.ndarray, strict: bool) -> None:
        k = np.size(solution.converged)
        indefinite = np.count_nonzero(solution.negative_curvature)
        if indefinite:
            complain(
                f"{type(self).__name__} met negative curvature for {indefinite} of {k} right-hand "
                f"sides: the operator is not positive "
                f"definite{remedy_of(operator, curvature.min())}",
                strict,
            )
        elif not np.all(solution.converged):
            complain(
                f"{type(self).__name__} stopped at relative residual "
                f"{np.max(solution.residual):.2g} (tolerance {self.tolerance:.2g}) after "
                f"{np.max(solution.iterations)} iterations for "
                f"{k - np.count_nonzero(solution.converged)} of {k} right-hand sides; raise "
                f"max_iterations, add damping, compute in float64, or use Exact().",
                strict,
            )
