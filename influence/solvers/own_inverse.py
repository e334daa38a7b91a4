"""For operators that know their inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from influence.solvers.solution import (
    Solution,
    as_block,
    complain,
    finish,
    product,
    relative_residual,
)

# Of the residual: rounding leaves less, unless the matrix has no digits to spare.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class OwnInverse:
    """One product with ``operator.inverse()``: the default for operators that have one.

    Examples:
        >>> import numpy as np
        >>> from influence.curvature.ekfac import EKFAC, DiagonalBlock
        >>> operator = EKFAC([DiagonalBlock((slice(0, 2),), np.array([1.0, 4.0]))], num_examples=1)
        >>> OwnInverse().solve(operator, [1.0, 1.0]).x.tolist()
        [1.0, 0.25]
    """

    def solve(self, operator: Any, rhs: ArrayLike, strict: bool = False) -> Solution:
        """Solve for ``rhs`` [p] or [p, k].

        Warns (``SolverWarning``), or raises ``SolverError`` with ``strict=True``, when rounding
        leaves a relative residual above 1e-6.

        Raises:
            SolverError: the operator has no inverse.
        """
        v, vector = as_block(rhs)
        x = product(operator.inverse(), v)
        residual = relative_residual(operator, x, v)
        converged = residual <= _TOLERANCE
        if not converged.all():
            complain(
                f"The operator's inverse left a relative residual of {residual.max():.2g}: it is "
                f"too badly conditioned; add damping.",
                strict,
            )
        k = v.shape[1]
        return finish(
            vector, Solution(x, residual, np.zeros(k, int), converged, np.zeros(k, bool))
        )
