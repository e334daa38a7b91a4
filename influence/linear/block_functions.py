"""The closed forms of ``linear.functions`` for large and memory-mapped arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.linalg
import tensorflow as tf

from influence.data.types import DType
from influence.linear.array_functions import ArrayFunctions
from influence.linear.functions import LinearLoss, compiled
from influence.linear.rows import RowBlocks

# A block and what is made of it stay in cache: they have this part of a batch's rows.
_IN_CACHE = 4


class BlockFunctions(ArrayFunctions):
    """``ArrayFunctions`` of ``RowBlocks`` [n, d].

    Args:
        loss, dtype, scale: as there.
        batch_size: rows of a batch, of which a block has a part.
    """

    def __init__(self, loss: LinearLoss, dtype: DType, scale: float, batch_size: int) -> None:
        super().__init__(loss, dtype, scale)
        self._batch_size = max(1, batch_size // _IN_CACHE)
        self._kept = np.empty((0, 0))
        self._tensors: tuple[Any, ...] = (None,)

    def product_on(
        self, x: RowBlocks, curvature: np.ndarray, rows: tf.Tensor, block: tf.Tensor
    ) -> tf.Tensor:
        """Mean of ∇²L @ block over the rows of each stack, by a tensor of all points: [r, p, k].

        Raises:
            ValueError: the points are memory-mapped.
        """
        if x.mapped:
            return super().product_on(x, curvature, rows, block)
        with tf.init_scope():  # outside any loop that is being traced
            if self._tensors[0] is not x:
                self._tensors = x, tf.constant(x.numpy())
            tensor, state = self._tensors[1], tf.constant(curvature)
        scans = compiled(self._loss, tensor.dtype, str(self._dtype), self._scale, self._batch_size)
        return scans.product_on(tensor, state, rows, block)

    def class_inverses(self, x: RowBlocks, curvature: np.ndarray, ridge: tf.Tensor) -> tf.Tensor:
        """The inverse of every (1/n) Σ ℓ''_aa xxᵀ + ridge, in float32: [c, d, d]."""
        n, d = x.shape
        inverses = []
        for a in range(self._loss.outputs):
            block = self.dense_block(x, curvature, a, a).numpy().astype(np.float64) / n
            block[np.diag_indices(d)] += float(ridge)
            inverses.append(scipy.linalg.inv(block, assume_a="pos").astype(np.float32))
        return tf.constant(np.stack(inverses))

    def _blocks(self, x: Any) -> Iterator[tuple[slice, Any, Any]]:
        for where, block in x.split_blocks(self._dtype, self._scale, self._batch_size):
            yield where, block, block

    def _back(self, back: Any, columns: np.ndarray) -> np.ndarray:
        return back.back(columns)

    def _squared_back(self, back: Any, columns: np.ndarray) -> np.ndarray:
        return np.square(self._dense(back)).T @ columns

    def _gram(self, forward: Any, back: Any, weights: np.ndarray) -> np.ndarray:
        """Of weights with one sign, as the curvature of a loss between two classes has them, the
        product of a matrix with itself, which BLAS does in half of the time."""
        weights = weights.astype(self._dtype, copy=False)
        if weights.min() < 0 < weights.max():
            rows = self._dense(forward)
            return rows.T @ (rows * weights[:, np.newaxis])
        roots = forward.joined(self._room(forward), np.sqrt(np.abs(weights)))
        gram = roots.T @ roots
        return -gram if weights.min() < 0 else gram

    def _dense(self, forward: Any) -> np.ndarray:
        return forward.joined(self._room(forward))

    def _room(self, block):
        """An array for the rows of a block; the same for all, as fresh memory takes time."""
        b, d = block.shape
        if self._kept.shape[1] != d or len(self._kept) < b:
            self._kept = np.empty((b, d), self._dtype)
        return self._kept[:b]
