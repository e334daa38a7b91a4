"""Data with more features than points: n×n matrices in the place of d×d ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from influence.curvature.operator import MAX_DENSE_SIZE
from influence.data.types import Rows
from influence.linear.functions import LinearLoss
from influence.linear.gram import block_forms, gram, quadratic_forms
from influence.linear.penalty import Penalty
from influence.linear.terms import point_terms
from influence.solvers.downdate import roots
from influence.solvers.preconditioners import UpdatedInverse

# Of several outputs of all points: 200 MB for each of some six matrices.
_MOST_OUTPUTS = 5000
# What has no penalty gets one in an approximate inverse, so much of the largest curvature.
_LITTLE = 1e-6


def is_wide(shape: tuple[int, int], loss: LinearLoss, penalty: Penalty) -> bool:
    """Whether matrices of the points' outputs will do: of n points and d features, n ≤ d, of which
    fewer than n have no penalty and each other one the same for all outputs."""
    (n, d), c = shape, loss.outputs
    if n > d or n * c > (MAX_DENSE_SIZE if c == 1 else _MOST_OUTPUTS) or not loss.convex:
        return False
    strengths, free = _strengths(penalty, d, c)
    alike = (strengths == strengths[:, :1])[~free].all()
    return bool(free.sum() < n and alike)


def wide_forms(model: Any) -> np.ndarray | None:
    """X_iᵀ(nH)⁻¹X_i, X_i = x_i ⊗ I, of every training point of a ``LinearModel`` by the Gram matrix
    of all: [n, c, c].

    None where they are not wide, and where they do not determine what has no penalty.
    """
    n, (d, c) = len(model.train), model.weights.shape
    if not is_wide((n, d), model.loss, model.penalty):
        return None
    x, _ = model.scans.matrix
    rows = x if scipy.sparse.issparse(x) else x.numpy()
    strengths, free = _strengths(model.penalty, d, c)
    columns = np.flatnonzero(free)
    unpenalised = rows[:, columns]
    if scipy.sparse.issparse(rows):
        unpenalised = unpenalised.toarray()
    unpenalised = unpenalised.astype(np.float64) * model.train.scale
    scales = np.zeros(d)
    scales[~free] = model.train.scale / np.sqrt(n * strengths[~free, 0])
    curvatures = np.concatenate([terms.curvatures for terms in point_terms(model)])
    block = n * _free_block(model.penalty, columns, (d, c))
    # A free constant takes what features have in common; as large as it may be, it costs no digits.
    constant = len(columns) == 1 and np.ptp(unpenalised) == 0 and not block.any()
    between, alike = gram(rows, scales, constant), curvatures[:, :1, :1] * np.eye(c)
    try:
        if (curvatures == alike).all() and not block.any():
            # One output, or several that do not meet.
            forms = quadratic_forms(between, curvatures[:, 0, 0], unpenalised)
            return forms[:, np.newaxis, np.newaxis] * np.eye(c)
        return block_forms(between, roots(curvatures), unpenalised, block)
    except np.linalg.LinAlgError:
        return None


def wide_inverse(
    rows: Rows, curvatures: np.ndarray, penalty: Penalty, damping: float, largest: float
) -> UpdatedInverse:
    """The inverse of (1/n) Σ X_i A_i X_iᵀ + B + damping, by Woodbury's formula.

    It is exact but for what has no penalty, which gets a little of ``largest``.

    Args:
        rows: x [n, d] in float64.
        curvatures: A [n, c, c].
        penalty: with the curvature B.
        damping: beside it.
        largest: of the diagonal of what the points have of it.
    """
    (n, d), c = rows.shape, curvatures.shape[1]
    strengths, free = _strengths(penalty, d, c)
    columns = np.flatnonzero(free)
    strengths = np.where(free[:, np.newaxis], _LITTLE * (largest or 1.0), strengths) + damping
    inverse = scipy.sparse.diags_array(1 / strengths.ravel())
    updates = np.einsum("ij,iba->jbia", rows, roots(curvatures / n)).reshape(d * c, n * c)
    block = _free_block(penalty, columns, (d, c))
    if block.any():
        # A softmax does not see what all outputs of a feature without a penalty have in common.
        shared = np.zeros((d, c, len(columns) * c))
        shared[columns] = roots(block).reshape(len(columns), c, -1)
        updates = np.concatenate([updates, shared.reshape(d * c, -1)], axis=1)
    return UpdatedInverse(inverse, updates, np.ones(updates.shape[1]))


def _strengths(penalty, d, c):
    """The diagonal of B [d, c], and which features have no penalty [d]."""
    strengths = np.broadcast_to(penalty.diagonal(), d * c).reshape(d, c)
    return strengths, penalty.free(d) | (strengths == 0).any(axis=1)


def _free_block(penalty, columns, shape):
    """B of the features at ``columns`` of d, with c outputs: [f·c, f·c]."""
    (d, c), size = shape, len(columns) * shape[1]
    strengths, _ = _strengths(penalty, d, c)
    if not strengths[columns].any():
        return np.zeros((size, size))
    block = np.zeros((d, c, size))
    block[columns] = np.eye(size).reshape(len(columns), c, size)
    product = np.asarray(penalty.product(block.reshape(d * c, size)))
    return product.reshape(d, c, size)[columns].reshape(size, size)
