"""Quadratic forms xᵀH⁻¹x of wide data (more features than points), through the n×n Gram matrix."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse

from influence.data.types import Rows

# Leverages below this have lost half of their digits to 1.
_SMALL_LEVERAGE = 1e-6
# The smallest eigenvalue of the free features' correlations that is no rounding.
_DETERMINED = 1e-8
# Numbers of a block that are made dense, or converted, at a time.
_BLOCK = 2**21


def gram(rows: Rows, scales: np.ndarray) -> np.ndarray:
    """YYᵀ of points X [n, d], sparse or dense, whose features are multiplied by ``scales`` [d],
    Y = X diag(scales): float64 [n, n].

    A block at a time is converted: of sparse points, whose product with one another would first
    count its entries and then sort them, a block of points; of others, of features.
    """
    n, d = rows.shape
    total = np.zeros((n, n))
    if scipy.sparse.issparse(rows):
        rows = scipy.sparse.csr_array(rows.astype(np.float64) * scales)
        for block in _blocks(n, d):
            total[:, block] = rows @ rows[block].T.toarray()
        return total
    for block in _blocks(d, n):
        columns = rows[:, block] * scales[block]
        total += columns @ columns.T
    return total


def _blocks(count, width):
    size = max(1, _BLOCK // width)
    return [slice(first, first + size) for first in range(0, count, size)]


def quadratic_forms(gram: np.ndarray, weights: np.ndarray, free: np.ndarray) -> np.ndarray:
    """x_iᵀ (XᵀDX + N)⁻¹ x_i of every row x_i of X = [P, Q]: [n].

    N is the diagonal penalty of the features P, and zero for the features Q, which are free. With
    S = √D, K = PN⁻¹Pᵀ, M = I + SKS, A = M⁻¹SQ and G = QᵀSA the leverage of row i, d_i times its
    form, is (I − M⁻¹ + A G⁻¹ Aᵀ)_ii. Where that loses its digits, the form itself is
    (K − K S M⁻¹ S K + R G⁻¹ Rᵀ)_ii with R = Q − K S A. (Woodbury; with Q as Rasmussen & Williams,
    *Gaussian Processes for Machine Learning*, 2006, equation 2.42, have it for explicit basis
    functions with a vague prior.)

    Args:
        gram: K [n, n], float64.
        weights: the diagonal of D, [n], at least 0.
        free: Q [n, f]; f may be 0.

    Raises:
        numpy.linalg.LinAlgError: the points do not determine the free features.
    """
    root = np.sqrt(weights)
    system = root[:, np.newaxis] * gram
    system *= root
    system[np.diag_indices(len(system))] += 1
    factor = scipy.linalg.cholesky(system, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=True, overwrite_c=True)
    leverages = 1 - np.einsum("ij,ij->j", inverse, inverse)
    solved = inverse.T @ (inverse @ (root[:, np.newaxis] * free))
    schur = _inverse_factor(free.T @ (root[:, np.newaxis] * solved))
    leverages += np.sum(np.square(solved @ schur.T), axis=1)
    small = leverages < _SMALL_LEVERAGE
    forms = leverages / np.where(small, 1.0, weights)
    weighted = root[:, np.newaxis] * gram[:, small]
    forms[small] = np.diagonal(gram)[small] - np.sum(np.square(inverse @ weighted), axis=0)
    forms[small] += np.sum(np.square((free[small] - weighted.T @ solved) @ schur.T), axis=1)
    return forms


def _inverse_factor(matrix):
    """L⁻¹ of matrix = LLᵀ [f, f]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / np.sqrt(np.diagonal(matrix))
        scaled = matrix * scale * scale[:, np.newaxis]
    if not np.isfinite(scaled).all() or (np.linalg.eigvalsh(scaled) < _DETERMINED).any():
        raise np.linalg.LinAlgError("The points do not determine the features without a penalty.")
    return np.linalg.inv(np.linalg.cholesky(matrix))
