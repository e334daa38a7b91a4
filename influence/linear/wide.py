"""Data with more features than points: n×n matrices in the place of d×d ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from influence.data.types import Rows
from influence.linear.functions import LinearLoss
from influence.linear.gram import gram, quadratic_forms
from influence.linear.penalty import Penalty
from influence.linear.terms import point_terms
from influence.solvers.preconditioners import UpdatedInverse

# What has no penalty gets one in an approximate inverse, so much of the largest curvature.
_LITTLE = 1e-6


def is_wide(shape: tuple[int, int], loss: LinearLoss, penalty: Penalty) -> bool:
    """Whether n×n matrices will do: of n points of one logit and d features, n ≤ d, of which fewer
    than n have no penalty."""
    n, d = shape
    if n > d or loss.outputs > 1 or not loss.convex:
        return False
    return bool((np.broadcast_to(penalty.diagonal(), d) == 0).sum() < n)


def wide_forms(model: Any) -> np.ndarray | None:
    """x_iᵀ(nH)⁻¹x_i of every training point of a ``LinearModel`` by their Gram matrix: [n].

    None where they are not wide, and where they do not determine what has no penalty.
    """
    n, d = len(model.train), model.weights.shape[0]
    if not is_wide((n, d), model.loss, model.penalty):
        return None
    x, _ = model.scans.matrix
    rows = x if scipy.sparse.issparse(x) else x.numpy()
    strengths = n * np.broadcast_to(model.penalty.diagonal(), d)
    free = np.flatnonzero(strengths == 0)
    scales = np.full(d, model.train.scale, float)
    unpenalised = rows[:, free] * scales[free]
    if scipy.sparse.issparse(rows):
        unpenalised = unpenalised.toarray()
    scales[free] = 0
    scales /= np.sqrt(np.where(strengths > 0, strengths, 1))
    curvatures = np.concatenate([terms.curvatures[:, 0, 0] for terms in point_terms(model)])
    try:
        return quadratic_forms(gram(rows, scales), curvatures, unpenalised)
    except np.linalg.LinAlgError:
        return None


def wide_inverse(
    rows: Rows, curvature: np.ndarray, penalty: Penalty, damping: float, largest: float
) -> UpdatedInverse:
    """The inverse of (1/n) Σ ℓ'' xxᵀ + B + damping, by Woodbury's formula.

    It is exact but for what has no penalty, which gets a little of ``largest``.

    Args:
        rows: x [n, d] in float64.
        curvature: ℓ'' [n], at least 0.
        penalty: with the curvature B.
        damping: beside it.
        largest: of the diagonal of the sum.
    """
    n, d = rows.shape
    strengths = np.broadcast_to(penalty.diagonal(), d) + damping
    strengths = np.where(strengths > 0, strengths, _LITTLE * largest)
    inverse = scipy.sparse.diags_array(1 / strengths)
    return UpdatedInverse(inverse, np.ascontiguousarray(rows.T), curvature / n)
