"""The closed forms of ``linear_functions`` for sparse points, which stay sparse.

SciPy's sparse products take the place of the compiled scans; the loss is the same.
"""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.types import DType
from influence.linear.functions import LinearLoss, with_numbers


def _losses_and_slopes(loss: LinearLoss, dtype: str):
    """(z [n, c], labels) -> (ℓ [n], ∂ℓ/∂z [n, c]), compiled once for all losses of a kind."""
    kind, numbers = loss.split()
    function = _of_kind(kind, len(numbers), dtype)
    return functools.partial(function, tf.constant(numbers, dtype, [len(numbers)]))


@functools.lru_cache(maxsize=64)
def _of_kind(kind: LinearLoss, size: int, dtype: str):
    def function(loss, z, labels):
        return loss.losses(z, labels), loss.slopes(z, labels)

    signature = [tf.TensorSpec([None, kind.outputs], dtype), kind.labels_spec]
    return with_numbers(kind, function, tf.TensorSpec([size], dtype), signature)


class SparseFunctions:
    """The functions of ``linear_functions.compiled``, with x a CSR matrix [n, d].

    Args:
        loss: the loss on the logits.
        dtype: of the arithmetic and of the results.
        scale: what x is multiplied by.
    """

    def __init__(self, loss: LinearLoss, dtype: DType, scale: float) -> None:
        self._loss, self._dtype, self._scale = loss, np.dtype(dtype), scale
        self._convert = functools.lru_cache(maxsize=2)(self._convert_once)
        self._losses_and_slopes = _losses_and_slopes(loss, str(self._dtype))

    def _convert_once(self, key):
        x = key.x.astype(self._dtype) * self._dtype.type(self._scale)
        # Both ways of going through the matrix are a product with a CSR matrix.
        return x.tocsr(), x.T.tocsr()

    def _pair(self, x):
        return self._convert(_ByIdentity(x))

    def logits(self, x: scipy.sparse.csr_array, w: ArrayLike) -> tf.Tensor:
        """xW: [n, c]."""
        return tf.constant(self._pair(x)[0] @ np.asarray(w))

    def value_and_gradient(
        self, x: scipy.sparse.csr_array, labels: tf.Tensor, w: ArrayLike
    ) -> tuple[float, tf.Tensor]:
        """Σ ℓ and its gradient [d, c]."""
        losses, slopes = self._losses_and_slopes(self.logits(x, w), labels)
        # NumPy's sum has one order, whatever the number of threads.
        return losses.numpy().sum(), tf.constant(self._pair(x)[1] @ slopes.numpy())

    def losses(self, x: scipy.sparse.csr_array, labels: tf.Tensor, w: ArrayLike) -> tf.Tensor:
        """ℓ of every point, [n]."""
        return self._losses_and_slopes(self.logits(x, w), labels)[0]

    def curvature(self, x: scipy.sparse.csr_array, labels: tf.Tensor, w: ArrayLike) -> np.ndarray:
        """∂²ℓ/∂z² of every point, [n, c, c]: what the methods below take."""
        state = self._loss.curvature(self.logits(x, w), labels)
        return self._loss.curvature_matrix(state).numpy()

    def product(
        self, x: scipy.sparse.csr_array, curvature: np.ndarray, block: np.ndarray
    ) -> np.ndarray:
        """Σ ∇²L @ block, [d·c, k]. An array: a tensor would take as long as the product."""
        forward, back = self._pair(x)
        (n, d), c, k = x.shape, self._loss.outputs, block.shape[1]
        u = (forward @ np.reshape(block, (d, c * k))).reshape(n, c, k)
        # Of one logit the matrices are numbers, and NumPy is slow with many small matrices.
        s = curvature * u if c == 1 else curvature @ u
        return (back @ s.reshape(n, c * k)).reshape(d * c, k)

    def product_on(
        self, x: scipy.sparse.csr_array, curvature: np.ndarray, rows: tf.Tensor, block: tf.Tensor
    ) -> tf.Tensor:
        """Not for sparse points: a compiled loop cannot pick rows of a SciPy matrix."""
        raise ValueError("Lissa needs dense points: use ConjugateGradient() or Exact().")

    def diagonal(self, x: scipy.sparse.csr_array, curvature: np.ndarray) -> tf.Tensor:
        """Σ x²ℓ'', [d, c]."""
        second = np.diagonal(curvature, axis1=1, axis2=2)
        back = self._pair(x)[1]
        return tf.constant(back.multiply(back) @ second)

    def dense_block(
        self, x: scipy.sparse.csr_array, curvature: np.ndarray, a: int, b: int
    ) -> tf.Tensor:
        """Σ ℓ''_ab xxᵀ, [d, d]."""
        forward, back = self._pair(x)
        weighted = forward.multiply(curvature[:, a, b, np.newaxis]).tocsr()
        return tf.constant((back @ weighted).toarray())

    def directional_derivatives(
        self, x: scipy.sparse.csr_array, labels: tf.Tensor, w: ArrayLike, block: np.ndarray
    ) -> tf.Tensor:
        """∇L(z_i)ᵀ block, [n, k]."""
        (n, d), c, k = x.shape, self._loss.outputs, block.shape[1]
        slopes = self._loss.slopes(self.logits(x, w), labels).numpy()
        u = (self._pair(x)[0] @ np.reshape(block, (d, c * k))).reshape(n, c, k)
        return tf.constant(np.einsum("nc,nck->nk", slopes, u))

    def gradients(self, x: scipy.sparse.csr_array, labels: tf.Tensor, w: ArrayLike) -> tf.Tensor:
        """∇L of every point, [n, d·c], dense."""
        slopes = self._loss.slopes(self.logits(x, w), labels).numpy()
        dense = self._pair(x)[0].toarray()
        return tf.constant(
            (dense[:, :, np.newaxis] * slopes[:, np.newaxis]).reshape(len(dense), -1)
        )

    def gradients_at(
        self, x: scipy.sparse.csr_array, labels: tf.Tensor, thetas: ArrayLike
    ) -> tf.Tensor:
        """Σ ∇L at k different parameter vectors [d·c, k]: [d·c, k]."""
        columns = [
            self.value_and_gradient(x, labels, theta.reshape(x.shape[1], -1))[1].numpy().ravel()
            for theta in np.asarray(thetas).T
        ]
        return tf.constant(np.stack(columns, axis=1))

    def losses_at(
        self, x: scipy.sparse.csr_array, labels: tf.Tensor, thetas: ArrayLike
    ) -> tf.Tensor:
        """ℓ of every point at k different parameter vectors: [n, k]."""
        columns = [
            self._loss.losses(self.logits(x, theta.reshape(x.shape[1], -1)), labels)
            for theta in np.asarray(thetas).T
        ]
        return tf.stack(columns, axis=1)


class _ByIdentity:
    """A matrix as the key of a cache: SciPy's have no hash."""

    def __init__(self, x):
        self.x = x

    def __hash__(self):
        return id(self.x)

    def __eq__(self, other):
        return self.x is other.x
