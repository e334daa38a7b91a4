"""What the gradients of a network's layers are made of: inputs, and slopes of the sums.

In a batch each point's gradient in a layer's parameters, a matrix [a, b], is made of ``inputs``,
what the parameters are multiplied by, and of ``slopes``, of what comes out before the activation.
"""

from __future__ import annotations

import abc
import itertools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from influence.curvature.ekfac import Block, DiagonalBlock, KroneckerBlock, Places
from influence.data.batches import map_over_batches, sum_over_batches

# Numbers that the gradients of points held at a time may have: 128 MB in float32.
_GRADIENT_NUMBERS = 2**25


class LayerFactors(abc.ABC):
    """A layer of Keras with parameters [a, b] among the chosen ones.

    Args:
        layer: of Keras.
        places: of its chosen variables in θ.
        shape: (a, b).

    Attributes:
        kronecker: its block has Kronecker factors, and is diagonal otherwise.
    """

    kronecker = True

    def __init__(self, layer: keras.Layer, places: Places, shape: tuple[int, int]) -> None:
        self.layer, self.places, self.shape = layer, places, shape
        self._points = max(1, _GRADIENT_NUMBERS // int(np.prod(shape)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of its input factor."""
        return (self.shape[0],) * 2

    @abc.abstractmethod
    def inputs(self, x: tf.Tensor) -> tf.Tensor:
        """[m, t, …], of what the layer is called with [m, ...]."""

    def slopes(self, slopes: tf.Tensor) -> tf.Tensor:
        """[m, t, b], of those of the layer's sums [m, ..., b]."""
        return tf.reshape(slopes, [-1, np.prod(slopes.shape[1:-1], dtype=int), self.shape[1]])

    @abc.abstractmethod
    def gradients(self, inputs: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
        """[m, a, b]"""

    def input_factor(self, inputs: tf.Tensor) -> tf.Tensor:
        """Σ over points and positions, [a, a], or its diagonal [a] where that is all."""
        raise NotImplementedError

    def in_basis(self, inputs: tf.Tensor, left: tf.Tensor | None = None) -> tf.Tensor:
        """The inputs in a basis [a, a] of theirs."""
        return inputs

    def squares(self, inputs: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
        """The sum over the points of the squares of their gradients, [a, b]."""

        def of_points(inputs, slopes):
            return tf.reduce_sum(tf.square(self.gradients(inputs, slopes)), axis=0)

        zero = tf.zeros(self.shape, slopes.dtype)
        return sum_over_batches(of_points, (inputs, slopes), self._points, zero)

    def weighted(self, inputs: tf.Tensor, slopes: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """The sum of ``weights`` [a, b] times the squares of each point's gradient, [m]."""

        def of_points(inputs, slopes):
            return tf.tensordot(tf.square(self.gradients(inputs, slopes)), weights, 2)

        like = tf.TensorSpec([None], slopes.dtype)
        return map_over_batches(of_points, (inputs, slopes), self._points, like)

    def along(self, inputs: tf.Tensor, slopes: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
        """Each point's gradient times each of ``directions`` [a, b, k], [m, k]."""

        def of_points(inputs, slopes):
            return tf.tensordot(self.gradients(inputs, slopes), directions, 2)

        like = tf.TensorSpec([None, None], slopes.dtype)
        return map_over_batches(of_points, (inputs, slopes), self._points, like)

    def block(self, values: np.ndarray, left: np.ndarray | None, right: np.ndarray) -> Block:
        """Of eigenvalues [a, b] in the basis of ``left`` and ``right``."""
        if self.kronecker:
            return KroneckerBlock(self.places, values, left, right)
        return DiagonalBlock(self.places, values.ravel())


class LinearFactors(LayerFactors):
    """A dense layer, or a convolution of any dimension: Σ_t a_t g_tᵀ over its positions t, with
    a_t the inputs there, of a convolution its patch, and 1 for the bias."""

    def __init__(self, layer: Any, places: Places, kernel: bool, bias: bool) -> None:
        self._kernel, self._bias = kernel, bias
        *inner, outputs = layer.kernel.shape
        rows = int(np.prod(inner)) * kernel + bias
        super().__init__(layer, places, (rows, outputs))

    def inputs(self, x: tf.Tensor) -> tf.Tensor:
        rows = patches(self.layer, x) if hasattr(self.layer, "kernel_size") else x
        positions, width = int(np.prod(rows.shape[1:-1])), rows.shape[-1]
        rows = tf.reshape(rows, [-1, positions, width])
        parts = [rows] * self._kernel + [tf.ones_like(rows[..., :1])] * self._bias
        return tf.concat(parts, axis=2)

    def gradients(self, inputs: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
        return tf.matmul(inputs, slopes, transpose_a=True)

    def input_factor(self, inputs: tf.Tensor) -> tf.Tensor:
        return gram(inputs)

    def in_basis(self, inputs: tf.Tensor, left: tf.Tensor | None = None) -> tf.Tensor:
        return tf.reshape(tf.reshape(inputs, [-1, self.shape[0]]) @ left, tf.shape(inputs))

    # Of one position the gradient is an outer product, which need not be made.

    def squares(self, inputs: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
        if inputs.shape[1] != 1:
            return super().squares(inputs, slopes)
        return tf.matmul(tf.square(inputs[:, 0]), tf.square(slopes[:, 0]), transpose_a=True)

    def weighted(self, inputs: tf.Tensor, slopes: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        if inputs.shape[1] != 1:
            return super().weighted(inputs, slopes, weights)
        rows = tf.square(inputs[:, 0]) @ weights
        return tf.reduce_sum(rows * tf.square(slopes[:, 0]), axis=1)

    def along(self, inputs: tf.Tensor, slopes: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
        if inputs.shape[1] != 1:
            return super().along(inputs, slopes, directions)
        rows = tf.reshape(directions, [self.shape[0], -1])
        sums = tf.reshape(inputs[:, 0] @ rows, [-1, self.shape[1], tf.shape(directions)[2]])
        return tf.linalg.matvec(sums, slopes[:, 0], transpose_a=True)


class EmbeddingFactors(LayerFactors):
    """Σ_t e_t g_tᵀ over the tokens t, with e_t the unit vector of what stands there: its inputs are
    the numbers of the tokens, [m, t], and their factor is diagonal."""

    def __init__(self, layer: Any, places: Places) -> None:
        super().__init__(layer, places, tuple(layer.embeddings.shape))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.shape[:1]

    def inputs(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.cast(x, tf.int32), [-1, np.prod(x.shape[1:], dtype=int)])

    def gradients(self, inputs: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
        units = tf.one_hot(inputs, self.shape[0], dtype=slopes.dtype)
        return tf.matmul(units, slopes, transpose_a=True)

    def input_factor(self, inputs: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(inputs, [-1])
        return tf.math.bincount(flat, minlength=self.shape[0], maxlength=self.shape[0])

    # Without the gradients, most of whose rows are 0: each token of a point stands for its share
    # of what all that are the same have together.

    def squares(self, inputs: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
        sums, share = _together(inputs, slopes)
        zero = tf.zeros(self.shape, slopes.dtype)
        return tf.tensor_scatter_nd_add(zero, inputs[..., tf.newaxis], share * tf.square(sums))

    def weighted(self, inputs: tf.Tensor, slopes: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        sums, share = _together(inputs, slopes)
        return tf.reduce_sum(share * tf.square(sums) * tf.gather(weights, inputs), axis=[1, 2])

    def along(self, inputs: tf.Tensor, slopes: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
        def of_direction(direction):
            return tf.reduce_sum(slopes * tf.gather(direction, inputs), axis=[1, 2])

        return tf.transpose(tf.map_fn(of_direction, tf.transpose(directions, [2, 0, 1])))


def gram(rows: tf.Tensor) -> tf.Tensor:
    """Σ r rᵀ over all but the last axis."""
    flat = tf.reshape(rows, [-1, rows.shape[-1]])
    # Transposed first, which is twice as fast as within the product.
    return tf.matmul(tf.transpose(flat), flat)


def patches(layer: Any, x: tf.Tensor) -> tf.Tensor:
    """What a convolution of Keras multiplies its kernel by: [m, ..., numbers of the kernel], from
    [m, ..., channels], for any dimension, stride, dilation and padding."""
    spatial = x.shape[1:-1]
    widths = [(size - 1) * step + 1 for size, step in zip(layer.kernel_size, layer.dilation_rate)]
    around = [
        _padding(layer.padding, length, width, stride)
        for length, width, stride in zip(spatial, widths, layer.strides)
    ]
    padded = tf.pad(x, [[0, 0], *around, [0, 0]])
    counts = [
        (length - width) // stride + 1
        for length, width, stride in zip(padded.shape[1:-1], widths, layer.strides)
    ]
    parts = []
    for offsets in itertools.product(*map(range, layer.kernel_size)):
        starts = [offset * step for offset, step in zip(offsets, layer.dilation_rate)]
        inner = [
            slice(start, start + (count - 1) * stride + 1, stride)
            for start, count, stride in zip(starts, counts, layer.strides)
        ]
        parts.append(padded[(slice(None), *inner)])
    return tf.concat(parts, axis=-1)


def _padding(padding, length, width, stride):
    """Zeros before and after an axis."""
    if padding == "causal":
        return [width - 1, 0]
    total = 0 if padding == "valid" else max(0, (-(-length // stride) - 1) * stride + width - length)
    return [total // 2, total - total // 2]


def _together(inputs, slopes):
    """The slopes [m, t, b] of each token summed over all of its point that are the same, and one
    over their number [m, t, 1]."""
    same = tf.cast(inputs[:, :, tf.newaxis] == inputs[:, tf.newaxis], slopes.dtype)
    return same @ slopes, 1 / tf.reduce_sum(same, axis=2, keepdims=True)
