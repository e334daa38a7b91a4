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
# A form that is less than this part of what it is the difference of has lost half its digits.
_LOST = 1e-8
# Numbers of a block that are made dense, or converted, at a time.
_BLOCK = 2**21


def gram(rows: Rows, scales: np.ndarray, centred: bool = False) -> np.ndarray:
    """YYᵀ of points X [n, d], sparse or dense, whose features are multiplied by ``scales`` [d],
    Y = X diag(scales), and, if they are dense and it is asked for, ``centred``: float64 [n, n].

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
        if centred:
            columns -= columns.mean(axis=0)
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


def block_forms(
    gram: np.ndarray, roots: np.ndarray, free: np.ndarray, penalty: np.ndarray
) -> np.ndarray:
    """The same with c outputs: X_iᵀ (Σ X_i A_i X_iᵀ + N)⁻¹ X_i, X_i = x_i ⊗ I, of each row.

    With R_i R_iᵀ = A_i, R of all of them, K = PN⁻¹Pᵀ ⊗ I, M = I + RᵀKR, V = RᵀK, T = Rᵀ(Q ⊗ I),
    W = Q ⊗ I − VᵀM⁻¹T and B the penalty of Q they are the blocks [n, c, c] on the diagonal of
    K − VᵀM⁻¹V + W (B + TᵀM⁻¹T)⁻¹ Wᵀ.

    Args:
        gram: PN⁻¹Pᵀ [n, n], float64.
        roots: R_i, [n, c, c].
        free: Q [n, f]; f may be 0.
        penalty: B [f·c, f·c].

    Raises:
        numpy.linalg.LinAlgError: the points do not determine the free features, or less than half
            of the digits of a form are left.
    """
    n, c, _ = roots.shape
    along = np.einsum("ji,jba->jaib", gram, roots).reshape(n * c, n, c)
    system = np.matmul(along.transpose(1, 0, 2), roots).transpose(1, 0, 2).reshape(n * c, n * c)
    system[np.diag_indices(n * c)] += 1
    factor = scipy.linalg.cholesky(system, lower=True, overwrite_a=True, check_finite=False)
    through = np.einsum("jf,jba->jafb", free, roots).reshape(n * c, -1)
    sides = np.concatenate([along.reshape(n * c, n * c), through], axis=1)
    solved = scipy.linalg.solve_triangular(factor, sides, lower=True, check_finite=False)
    solved, through = np.split(solved, [n * c], axis=1)
    by_point = solved.reshape(n * c, n, c)
    prior = np.diagonal(gram)
    forms = prior[:, np.newaxis, np.newaxis] * np.eye(c)
    forms -= np.einsum("kib,kid->ibd", by_point, by_point, optimize=True)
    schur = _inverse_factor(penalty + through.T @ through)
    left = np.einsum("if,bd->ibfd", free, np.eye(c)).reshape(n * c, -1) - solved.T @ through
    left = (left @ schur.T).reshape(n, c, -1)
    forms += left @ left.transpose(0, 2, 1)
    # Of the smallest, as a softmax leaves what all outputs have in common as it was before.
    if (np.linalg.eigvalsh(forms)[:, 0] < _LOST * prior).any():
        raise np.linalg.LinAlgError("The penalty is too small beside the points.")
    return forms


def _inverse_factor(matrix):
    """L⁻¹ of matrix = LLᵀ [f, f]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / np.sqrt(np.diagonal(matrix))
        scaled = matrix * scale * scale[:, np.newaxis]
    if not np.isfinite(scaled).all() or (np.linalg.eigvalsh(scaled) < _DETERMINED).any():
        raise np.linalg.LinAlgError("The points do not determine the features without a penalty.")
    return np.linalg.inv(np.linalg.cholesky(matrix))
