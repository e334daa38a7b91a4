"""One Newton step without a point: the point's own curvature goes, too."""

from __future__ import annotations

import numpy as np

from influence.solvers.solution import SolverError

# 1 − h below this is rounding.
_FULL_LEVERAGE = 1e-10


def one_newton_step(
    rows: np.ndarray, slopes: np.ndarray, curvatures: np.ndarray, inverse: np.ndarray
) -> np.ndarray:
    """M_i⁻¹∇ℓ_i for each of q points, M_i being M without the point's own curvature: [p, q].

    With X_i = x_i ⊗ I, ∇ℓ_i = X_i s_i and M_i = M − X_i A_i X_iᵀ, it is by Woodbury's identity
    M⁻¹X_i (I − A_i K_i)⁻¹ s_i, K_i = X_iᵀM⁻¹X_i: for c = 1 the step M⁻¹∇ℓ_i of the influence
    function over 1 − h_i, with the leverage h_i = A_i K_i.

    Args:
        rows: x, [q, d].
        slopes: s, [q, c].
        curvatures: A, [q, c, c].
        inverse: M⁻¹, [d·c, d·c].

    Raises:
        SolverError: I − A_i K_i is singular: the leverage of a point is 1.
    """
    (q, d), c = rows.shape, slopes.shape[1]
    forms, blocks = np.empty((q, c, c)), inverse.reshape(d, c, d, c)
    for a, b in np.ndindex(c, c):
        forms[:, a, b] = np.sum((rows @ blocks[:, a, :, b]) * rows, axis=1)
    left = np.eye(c) - curvatures @ forms
    full = np.flatnonzero(np.linalg.det(left) < _FULL_LEVERAGE)
    if len(full):
        raise SolverError(
            f"The leverage of point {full[0]} of {q} is 1: the others alone do not determine the "
            f"parameters. Use leverage=False, or a penalty."
        )
    corrected = np.linalg.solve(left, slopes[:, :, np.newaxis])[:, :, 0]
    gradients = rows[:, :, np.newaxis] * corrected[:, np.newaxis]
    return inverse @ gradients.reshape(q, -1).T
