"""Does a linear classifier have a minimum? Not where a free direction separates the classes."""

from __future__ import annotations

import numpy as np
import scipy.optimize

# Entries of the linear programme's matrix up to which it takes about a second at most.
LP_SIZE = 200_000
# Feasibility tolerance of HiGHS, and the largest margin (of rows in ±1 and weights in ±1) that
# is not one of its roundings.
_FEASIBLE, _CLEAR = 1e-6, 1e-4


def margin_rows(rows: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """What must be ≥ 0 for a direction W [d, c] to separate, as a matrix times vec(W).

    Args:
        rows: x, [n, d].
        slopes: ∂ℓ/∂z at z = 0, [n, c], whose sign or least entry tells the class.

    Returns:
        For one logit ± x_i, [n, d]; else (w_y − w_k)ᵀx_i for all k ≠ y, [n(c − 1), d·c].
    """
    n, c = slopes.shape
    if c == 1:
        return rows * -np.sign(slopes)
    own = slopes.argmin(axis=1)
    differences = np.eye(c)[own][:, np.newaxis] - np.eye(c)
    others = differences[np.arange(c) != own[:, np.newaxis]].reshape(n, c - 1, c)
    return np.einsum("nd,nkc->nkdc", rows, others).reshape(n * (c - 1), -1)


def is_separable(rows: np.ndarray, slopes: np.ndarray) -> bool | None:
    """Whether some W has no negative margin and a positive one: then the classes are separated,
    completely or all but ties, and a loss that falls with the margins has no minimum.

    Albert & Anderson (*Biometrika* 71, 1984); by a linear programme that maximises the sum of the
    margins in a box. Arguments as for ``margin_rows``; None where that would take too long.

    Examples:
        >>> import numpy as np
        >>> from influence.linear.separability import is_separable
        >>> x = np.array([[-1.0], [0.0], [0.0], [2.0]])
        >>> is_separable(x, np.array([[1], [1], [-1], [-1]]))  # all but a tie at 0
        True
        >>> is_separable(x, np.array([[1], [1], [-1], [1]]))  # at -1 and 2 the same class
        False
    """
    n, c = slopes.shape
    if rows.size * max(1, c - 1) * c > LP_SIZE:
        return None
    largest = np.abs(rows).max(axis=0)
    margins = margin_rows(rows / np.where(largest > 0, largest, 1.0), slopes)
    found = scipy.optimize.linprog(
        -margins.sum(axis=0), A_ub=-margins, b_ub=np.zeros(len(margins)), bounds=(-1, 1)
    )
    if found.x is None:
        return None
    reached = margins @ found.x
    return bool(reached.min() > -_FEASIBLE and reached.max() > _CLEAR)


def no_minimum(name: str, remedy: str) -> str:
    """What to say of a classifier that has none."""
    return (
        f"{name} has no single minimum: a direction without penalty separates the classes, and its "
        f"loss never rises along it. Its parameters and scores depend on where the fit stopped: "
        f"{remedy}."
    )
