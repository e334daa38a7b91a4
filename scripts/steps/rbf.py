"""Kernel machines as linear models: exact distances of images, and features of an RBF kernel."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import tensorflow as tf

# Grey levels minus 128 have products of at most 2¹⁴, and float32 holds whole numbers up to 2²⁴.
_CENTRE = 128
_PIXELS = 2**10


def squared_distances(images, others) -> np.ndarray:
    """‖v − v'‖² in grey levels, for eight-bit images [m, ...] and [n, ...]: [m, n], float64.

    Exact: matrix products of 1,024 pixels at a time in float32, every partial sum of which is a
    whole number of at most 2²⁴, are added up in float64.

    Raises:
        ValueError: not eight-bit, or images of two shapes.
    """
    images, others = np.asarray(images), np.asarray(others)
    if images.dtype != np.uint8 or others.dtype != np.uint8:
        raise ValueError(
            f"Images must be eight-bit (uint8), not {images.dtype} and {others.dtype}."
        )
    if images.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"Images must have one shape, not {images.shape[1:]} and {others.shape[1:]}."
        )
    rows, columns = images.reshape(len(images), -1), others.reshape(len(others), -1)
    products = np.zeros((len(rows), len(columns)))
    row_norms, column_norms = np.zeros(len(rows)), np.zeros(len(columns))
    for first in range(0, rows.shape[1], _PIXELS):
        pixels = slice(first, first + _PIXELS)
        left = _centred(rows[:, pixels])
        right = left if others is images else _centred(columns[:, pixels])
        # Twice as fast as NumPy's, even where NumPy computes half of a symmetric product.
        products += tf.matmul(left, right, transpose_b=True).numpy()
        row_norms += np.square(left).sum(axis=1)
        column_norms += np.square(right).sum(axis=1)
    return row_norms[:, np.newaxis] + column_norms - 2 * products


def rbf_features(squared, test_squared, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Features φ whose inner products are the kernel exp(−γ‖x − x'‖²), so that a linear model on
    them is the kernel's.

    With K = LLᵀ on the training points these are the rows of L [n, n], and K_test L⁻ᵀ [m, n] for
    the test points. The factor of the stacked kernel of all n + m points, which the paper takes,
    has the same first n columns. The other m are 0 for all training points: there the weights of
    a regularised model are 0, and so are all gradients of training losses, hence predictions and
    influences are the same without them.

    Args:
        squared: ‖x − x'‖² of the training points, [n, n].
        test_squared: of test points and training points, [m, n].
        gamma: γ.

    Raises:
        ValueError: the kernel is not positive definite; it is whenever no two points are equal, up
            to rounding.
    """
    try:
        factor = scipy.linalg.cholesky(np.exp(-gamma * squared), lower=True, overwrite_a=True)
    except scipy.linalg.LinAlgError:
        raise ValueError(
            f"The kernel with gamma {gamma:.3g} is not positive definite: two training points are "
            f"equal, or too near for it."
        ) from None
    test_kernel = np.exp(-gamma * test_squared)
    return factor, scipy.linalg.solve_triangular(factor, test_kernel.T, lower=True).T


def _centred(pixels):
    return pixels.astype(np.float32) - _CENTRE
