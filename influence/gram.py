"""Quadratic forms xᵀH⁻¹x of wide data (more features than points), through the n×n Gram matrix."""

from __future__ import annotations

import numpy as np
import scipy.linalg


def quadratic_forms(gram: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    """x_iᵀ (XᵀDX + ridge·I)⁻¹ x_i of every row x_i of X: [n].

    By Woodbury's identity with S = √D and K = XXᵀ it is
    (K − K S (S K S + ridge·I)⁻¹ S K)_ii / ridge.

    Args:
        gram: K [n, n], float64.
        weights: the diagonal of D, [n], at least 0.
        ridge: above 0.
    """
    root = np.sqrt(weights)
    system = root[:, np.newaxis] * gram * root
    system[np.diag_indices(len(system))] += ridge
    factor = scipy.linalg.cholesky(system, lower=True, overwrite_a=True, check_finite=False)
    whitened = scipy.linalg.solve_triangular(
        factor, root[:, np.newaxis] * gram, lower=True, overwrite_b=True, check_finite=False
    )
    return (np.diagonal(gram) - np.einsum("ij,ij->j", whitened, whitened)) / ridge
