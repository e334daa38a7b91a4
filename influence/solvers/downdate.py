"""Solutions without the curvature of some points, by Woodbury's identity."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

# 1 minus a leverage below this is rounding.
_FULL_LEVERAGE = 1e-10
# A negative eigenvalue within this many roundings of the largest one is 0, or within so many of the
# numbers that it is the difference of.
_ROUNDINGS = 1e3
DIFFERENCE_ROUNDINGS = 10


def roots(blocks: np.ndarray, scale: ArrayLike = 0.0) -> np.ndarray:
    """R with R Rᵀ = A for each of the symmetric ``blocks`` A [..., c, c], in float64.

    Args:
        blocks: A.
        scale: of the numbers of which each A is the difference, [...], where they are larger.

    Raises:
        ValueError: one has a negative eigenvalue: it is of a loss that is not convex in the
            outputs.

    Examples:
        >>> import numpy as np
        >>> from influence.solvers.downdate import roots
        >>> roots(np.array([[[4.0]], [[9.0]]])).ravel().tolist()
        [2.0, 3.0]
    """
    eps = np.finfo(blocks.dtype).eps
    blocks = blocks.astype(np.float64)
    if blocks.shape[-1] == 1:
        values, vectors = blocks[..., 0], np.ones_like(blocks)
    else:
        values, vectors = np.linalg.eigh(blocks)
    largest = _ROUNDINGS * np.abs(values).max(initial=0.0)
    rounding = eps * np.maximum(largest, DIFFERENCE_ROUNDINGS * np.asarray(scale))
    if (values < -rounding[..., np.newaxis]).any():
        raise ValueError(
            f"The loss of a point is not convex in the outputs (an eigenvalue of its second "
            f'derivative is {values.min():.2g}): order="newton" needs one that is; use '
            f'order="first" or "refit".'
        )
    return vectors * np.sqrt(np.maximum(values, 0.0))[..., np.newaxis, :]


def inner_inverses(forms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(1 − F M⁻¹ Fᵀ)⁻¹ of each of ``forms`` F M⁻¹ Fᵀ [..., s, s], and 1 − the largest leverage, an
    eigenvalue of it: [...]. It is 0 where that is rounding, and there is no inverse.

    Examples:
        >>> import numpy as np
        >>> from influence.solvers.downdate import inner_inverses
        >>> inverses, left = inner_inverses(np.array([[[0.75]], [[1.0]]]))
        >>> float(inverses[0, 0, 0]), left.tolist()
        (4.0, [0.25, 0.0])
    """
    if forms.shape[-1] == 1:
        values, vectors = forms[..., 0], np.ones_like(forms)
    else:
        values, vectors = np.linalg.eigh(forms)
    left = 1 - values
    smallest = left.min(axis=-1)
    smallest = np.where(smallest < _FULL_LEVERAGE, 0.0, smallest)
    left = np.where(smallest[..., np.newaxis] == 0, 1.0, left)
    return (vectors / left[..., np.newaxis, :]) @ np.swapaxes(vectors, -1, -2), smallest


class Downdated:
    """(M − FᵀF)⁻¹ v from M⁻¹ v, for a symmetric positive definite M [p, p] and F [s, p]:

        M⁻¹ + V (1 − FV)⁻¹ Vᵀ,   V = M⁻¹Fᵀ.

    With F the Jacobian of some points' outputs times a root of the losses' curvature in them, it is
    a step of Newton's method without these points.

    Args:
        rows: F.
        solved: V [p, s].

    Attributes:
        left: 1 − the largest leverage, by which an error of V is divided; 0 where M − FᵀF is
            singular.

    Examples:
        >>> import numpy as np
        >>> from influence.solvers.downdate import Downdated
        >>> rows = np.array([[1.0, 0.0]])  # M is twice the identity
        >>> Downdated(rows, rows.T / 2).correct(np.array([1.0, 1.0]) / 2).tolist()
        [1.0, 0.5]
    """

    def __init__(self, rows: np.ndarray, solved: np.ndarray) -> None:
        self._rows, self._solved = rows, solved
        forms = rows @ solved
        self._inner, left = inner_inverses((forms + forms.T) / 2)
        self.left = float(left)

    def correct(self, solution: np.ndarray) -> np.ndarray:
        """(M − FᵀF)⁻¹ v from ``solution`` M⁻¹ v, [p] or [p, k]."""
        return solution + self._solved @ (self._inner @ (self._rows @ solution))


def scaled_rows(
    jacobians: np.ndarray, curvatures: np.ndarray, scale: ArrayLike = 0.0
) -> np.ndarray:
    """F with FᵀF = Σ JᵀAJ over points, from J [k, c, p] and A [k, c, c]: [k·c, p].

    Args:
        jacobians: J.
        curvatures: A.
        scale: as for ``roots``.

    Raises:
        ValueError: some A is not positive semi-definite.
    """
    rows = np.swapaxes(roots(curvatures, scale), -1, -2) @ jacobians
    return rows.reshape(-1, rows.shape[-1])


def rows_of_gram(gram: np.ndarray) -> np.ndarray:
    """F [p, p] with FᵀF = ``gram``, whatever the units of the parameters."""
    units = np.sqrt(np.diag(gram))
    units[units == 0] = 1.0
    return roots(gram / units / units[:, np.newaxis]).T * units
