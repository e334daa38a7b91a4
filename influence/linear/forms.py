"""The forms (x ⊗ I)ᵀ M (x ⊗ I) of rows x: of them leverages and self-influences are made."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from influence.curvature.operator import HessianOperator, MatrixOperator
from influence.linear.terms import PointTerms
from influence.solvers.exact import Exact
from influence.solvers.semidefinite import RangeInverse


class OutputForms:
    """X_iᵀ M X_i of any rows x_i, X_i = x_i ⊗ I: with M = H⁻¹ what the outputs of a point have of
    its own gradients with respect to them.

    Args:
        matrix: M [d·c, d·c], symmetric.
        outputs: c.

    Examples:
        >>> import numpy as np
        >>> from influence.linear.forms import OutputForms
        >>> OutputForms(np.diag([2.0, 3.0]), 1)(np.array([[1.0, 2.0]])).tolist()
        [[[14.0]]]
        >>> OutputForms(np.array([[2.0, 1.0], [1.0, 3.0]]), 2)(np.array([[2.0]])).tolist()
        [[[8.0, 4.0], [4.0, 12.0]]]
    """

    def __init__(self, matrix: np.ndarray, outputs: int) -> None:
        blocks = matrix.reshape(-1, outputs, len(matrix) // outputs, outputs)
        self._outputs = outputs
        self._blocks = [
            (a, b, np.ascontiguousarray(blocks[:, a, :, b]))
            for a in range(outputs)
            for b in range(a, outputs)
        ]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Of rows x [b, d], in float64: [b, c, c]."""
        forms = np.empty((len(rows), self._outputs, self._outputs))
        for a, b, block in self._blocks:
            forms[:, a, b] = forms[:, b, a] = np.einsum("ij,ij->i", rows @ block, rows)
        return forms


def own_terms(
    points: Iterable[PointTerms], forms: OutputForms, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """s_iᵀ K_i s_i and tr(A_i K_i)/n of the points with these terms, in one scan, with K_i of the
    inverse of the curvature of ``number`` n points: self-influences [b] and leverages [b]."""
    own, leverages = [], []
    for terms in points:
        each = forms(terms.rows)
        own.append(np.einsum("bi,bij,bj->b", terms.slopes, each, terms.slopes, optimize=True))
        leverages.append(np.einsum("bij,bij->b", terms.curvatures, each))
    return np.concatenate(own), np.concatenate(leverages) / number


def inverse_for_forms(
    operator: HessianOperator, solver: Exact, own: bool, strict: bool
) -> np.ndarray | None:
    """The inverse [p, p] of a curvature in float64, on its range; None where the gradients of
    training points need not be in that, and each has to be solved for.

    Args:
        operator: the curvature.
        solver: to factor with.
        own: whether the curvature is the Hessian, in whose range those gradients are.
        strict: as for ``Exact.inverse``.
    """
    if operator.dtype != np.float64:
        matrix = operator.dense().astype(np.float64)
        operator = MatrixOperator(matrix, operator.num_examples)
    if isinstance(solver.factor(operator), RangeInverse) and not own:
        return None
    return solver.inverse(operator, strict)
