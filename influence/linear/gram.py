"""Quadratic forms xᵀH⁻¹x of wide data (more features than points), through the n×n Gram matrix."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse

# Leverages below this have lost half of their digits to 1.
_SMALL_LEVERAGE = 1e-6
# Numbers of a block that are made dense, or converted, at a time.
_BLOCK = 2**21


def sparse_gram(rows: scipy.sparse.csr_array) -> np.ndarray:
    """XXᵀ of sparse points X [n, d], dense [n, n].

    A block of points at a time is made dense: a product of two sparse matrices would first count
    its entries, and then sort them.
    """
    n, d = rows.shape
    gram, size = np.empty((n, n)), max(1, _BLOCK // d)
    for first in range(0, n, size):
        block = slice(first, first + size)
        gram[:, block] = rows @ rows[block].T.toarray()
    return gram


def dense_gram(rows: np.ndarray, scale: float) -> np.ndarray:
    """XXᵀ of points X [n, d] times ``scale``, a block of features at a time: float64 [n, n]."""
    n, d = rows.shape
    gram, size = np.zeros((n, n)), max(1, _BLOCK // n)
    for first in range(0, d, size):
        columns = rows[:, first : first + size] * np.float64(scale)
        gram += columns @ columns.T
    return gram


def quadratic_forms(gram: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    """x_iᵀ (XᵀDX + ridge·I)⁻¹ x_i of every row x_i of X: [n].

    By Woodbury's identity with S = √D, K = XXᵀ and M = S K S + ridge·I the leverage of row i, d_i
    times its form, is 1 − ridge·(M⁻¹)_ii. Where that loses its digits, the form itself is
    (K − K S M⁻¹ S K)_ii / ridge.

    Args:
        gram: K [n, n], float64.
        weights: the diagonal of D, [n], at least 0.
        ridge: above 0.
    """
    root = np.sqrt(weights)
    system = root[:, np.newaxis] * gram
    system *= root
    system[np.diag_indices(len(system))] += ridge
    factor = scipy.linalg.cholesky(system, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=True, overwrite_c=True)
    leverages = 1 - ridge * np.einsum("ij,ij->j", inverse, inverse)
    small = leverages < _SMALL_LEVERAGE
    forms = leverages / np.where(small, 1.0, weights)
    whitened = inverse @ (root[:, np.newaxis] * gram[:, small])
    forms[small] = (np.diagonal(gram)[small] - np.einsum("ij,ij->j", whitened, whitened)) / ridge
    return forms
