"""The closed forms of ``linear.functions`` for rows that are no tensor, by NumPy and SciPy.

Rows come a block at a time; the loss is the same, on tensors of all logits at once: between the
products of two libraries the threads of one would wait for those of the other.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
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


class ArrayFunctions(abc.ABC):
    """The functions of ``linear.functions.compiled`` for x [n, d] of a kind that a subclass knows.

    Sums over points are in float64, and in one order, whatever the number of threads.

    Args:
        loss: the loss on the logits.
        dtype: of the arithmetic and of the results.
        scale: what x is multiplied by.
    """

    def __init__(self, loss: LinearLoss, dtype: DType, scale: float) -> None:
        self._loss, self._dtype, self._scale = loss, np.dtype(dtype), scale
        self._of_logits = _losses_and_slopes(loss, str(self._dtype))
        # The last (x, w, z) and (z, labels, losses and slopes): a fitted model asks for those of
        # its points again and again.
        self._last: tuple[Any, ...] = (None, None, None)
        self._last_slopes: tuple[Any, ...] = (None, None, None)

    # What a subclass says.

    @abc.abstractmethod
    def _blocks(self, x: Any) -> Iterator[tuple[slice, Any, Any]]:
        """(where, rows [b, d], which ``@`` multiplies, what ``_back`` takes), scaled and in the
        dtype."""

    @abc.abstractmethod
    def _back(self, back: Any, columns: np.ndarray) -> np.ndarray:
        """Σ x ⊗ s over rows, for s [b, k]: [d, k]."""

    @abc.abstractmethod
    def _squared_back(self, back: Any, columns: np.ndarray) -> np.ndarray:
        """The same of x²."""

    @abc.abstractmethod
    def _gram(self, forward: Any, back: Any, weights: np.ndarray) -> np.ndarray:
        """Σ w xxᵀ of rows, [d, d]."""

    @abc.abstractmethod
    def _dense(self, forward: Any) -> np.ndarray:
        """Rows as an array [b, d]."""

    # The functions.

    def logits(self, x: Any, w: ArrayLike) -> tf.Tensor:
        """xW: [n, c]."""
        w = np.asarray(w)
        last, of, z = self._last
        if last is not x or not np.array_equal(of, w):
            z = np.empty((x.shape[0], self._loss.outputs), self._dtype)
            for where, forward, _ in self._blocks(x):
                z[where] = forward @ w
            z = tf.constant(z)
            self._last = x, w.copy(), z
        return z

    def _losses_and_slopes(self, x, labels, w):
        """ℓ [n] and ∂ℓ/∂z [n, c]."""
        z = self.logits(x, w)
        last, of, result = self._last_slopes
        if last is not z or of is not labels:
            result = self._of_logits(z, labels)
            self._last_slopes = z, labels, result
        return result

    def value_and_gradient(self, x: Any, labels: tf.Tensor, w: ArrayLike) -> tuple[Any, tf.Tensor]:
        """Σ ℓ and its gradient [d, c]."""
        losses, slopes = self._losses_and_slopes(x, labels, w)
        slopes, gradient = slopes.numpy(), np.zeros(np.shape(w))
        for where, _, back in self._blocks(x):
            gradient += self._back(back, slopes[where])
        return losses.numpy().sum(dtype=np.float64), tf.constant(gradient, self._dtype)

    def losses(self, x: Any, labels: tf.Tensor, w: ArrayLike) -> tf.Tensor:
        """ℓ of every point, [n]."""
        return self._losses_and_slopes(x, labels, w)[0]

    def curvature(self, x: Any, labels: tf.Tensor, w: ArrayLike) -> np.ndarray:
        """The state that the curvature methods of the loss need, [n, c]."""
        return self._loss.curvature(self.logits(x, w), labels).numpy()

    def product(self, x: Any, curvature: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Σ ∇²L @ block, [d·c, k]. An array: a tensor would take as long as the product."""
        c, k = self._loss.outputs, block.shape[1]
        columns, total = np.reshape(block, (x.shape[1], c * k)), np.zeros((x.shape[1], c * k))
        for where, forward, back in self._blocks(x):
            u = (forward @ columns).reshape(-1, c, k)
            total += self._back(back, self._curved(curvature[where], u).reshape(-1, c * k))
        return total.reshape(-1, k).astype(self._dtype, copy=False)

    def product_on(
        self, x: Any, curvature: np.ndarray, rows: tf.Tensor, block: tf.Tensor
    ) -> tf.Tensor:
        """Not for these: a compiled loop cannot pick rows of them."""
        raise ValueError("Lissa needs dense points in memory: use ConjugateGradient() or Exact().")

    def diagonal(self, x: Any, curvature: np.ndarray) -> tf.Tensor:
        """Σ x²ℓ'', [d, c]."""
        total = np.zeros((x.shape[1], self._loss.outputs))
        for where, _, back in self._blocks(x):
            second = np.diagonal(self._matrices(curvature[where]), axis1=1, axis2=2)
            total += self._squared_back(back, second)
        return tf.constant(total, self._dtype)

    def dense(self, x: Any, curvature: np.ndarray) -> np.ndarray:
        """Σ ∇²L in one scan, float64: [d, c, d, c]."""
        d, c = x.shape[1], self._loss.outputs
        total = np.zeros((c, c, d, d))
        for where, forward, back in self._blocks(x):
            matrices = self._matrices(curvature[where])
            for a in range(c):
                for b in range(a, c):
                    total[a, b] += self._gram(forward, back, matrices[:, a, b])
        for a in range(c):
            total[a + 1 :, a] = total[a, a + 1 :]
        return total.transpose(2, 0, 3, 1)

    def dense_block(self, x: Any, curvature: np.ndarray, a: int, b: int) -> tf.Tensor:
        """Σ ℓ''_ab xxᵀ, [d, d]."""
        total = np.zeros((x.shape[1], x.shape[1]))
        for where, forward, back in self._blocks(x):
            total += self._gram(forward, back, self._matrices(curvature[where])[:, a, b])
        return tf.constant(total, self._dtype)

    def directional_derivatives(
        self, x: Any, labels: tf.Tensor, w: ArrayLike, block: np.ndarray
    ) -> np.ndarray:
        """∇L(z_i)ᵀ block, [n, k]."""
        c, k = self._loss.outputs, block.shape[1]
        slopes = self._losses_and_slopes(x, labels, w)[1].numpy()
        columns = np.reshape(block, (x.shape[1], c * k))
        result = np.empty((x.shape[0], k), self._dtype)
        for where, forward, _ in self._blocks(x):
            if c == 1:
                np.multiply(slopes[where], forward @ columns, out=result[where])
            else:
                u = (forward @ columns).reshape(-1, c, k)
                np.einsum("nc,nck->nk", slopes[where], u, out=result[where])
        return result

    def gradients(self, x: Any, labels: tf.Tensor, w: ArrayLike) -> tf.Tensor:
        """∇L of every point, [n, d·c], dense."""
        slopes = self._losses_and_slopes(x, labels, w)[1].numpy()
        result = np.empty((x.shape[0], np.size(w)), self._dtype)
        for where, forward, _ in self._blocks(x):
            block = self._dense(forward)[:, :, np.newaxis] * slopes[where][:, np.newaxis]
            result[where] = block.reshape(len(block), -1)
        return tf.constant(result)

    def gradients_at(self, x: Any, labels: tf.Tensor, thetas: ArrayLike) -> tf.Tensor:
        """Σ ∇L at k different parameter vectors [d·c, k]: [d·c, k]."""
        columns = [
            self.value_and_gradient(x, labels, theta.reshape(x.shape[1], -1))[1].numpy().ravel()
            for theta in np.asarray(thetas).T
        ]
        return tf.constant(np.stack(columns, axis=1))

    def losses_at(self, x: Any, labels: tf.Tensor, thetas: ArrayLike) -> tf.Tensor:
        """ℓ of every point at k different parameter vectors: [n, k]."""
        columns = [
            self._loss.losses(self.logits(x, theta.reshape(x.shape[1], -1)), labels)
            for theta in np.asarray(thetas).T
        ]
        return tf.stack(columns, axis=1)

    def _curved(self, curvature, u):
        """(∂²ℓ/∂z²) u for u [b, c, k]."""
        if self._loss.outputs == 1:
            return curvature[:, :, np.newaxis] * u
        return self._loss.curvature_product(tf.constant(curvature), tf.constant(u)).numpy()

    def _matrices(self, curvature):
        """∂²ℓ/∂z²: [b, c, c]."""
        if self._loss.outputs == 1:
            return curvature[:, :, np.newaxis]
        return self._loss.curvature_matrix(tf.constant(curvature)).numpy()
