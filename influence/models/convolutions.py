"""What the derivatives of the small convolutional network share: layouts, and convolutions' slopes.

A stride of 2 is dear, above all on the way back. Where a convolution with stride 2 reads what one
with stride 1 wrote, each square of 2×2 pixels can be one pixel of four times the channels instead:
the first layer's kernel is then one of 4×4 with stride 2, the second's one of 2×2 with stride 1.
"""

from __future__ import annotations

import tensorflow as tf


def writing_squares(weights: tf.Tensor) -> tf.Tensor:
    """[3, 3, i, o], at the four places that it has in [4, 4, i, (row, column, o)]."""
    shifts = [([row, 1 - row], [column, 1 - column]) for row in (0, 1) for column in (0, 1)]
    return tf.concat([tf.pad(weights, [*shift, [0, 0], [0, 0]]) for shift in shifts], axis=3)


def reading_squares(weights: tf.Tensor) -> tf.Tensor:
    """[3, 3, i, o] (with zeros around it) or [4, 4, i, o], as [2, 2, (row, column, i), o]."""
    width, _, inputs, outputs = weights.shape
    padded = tf.pad(weights, [[0, 4 - width], [0, 4 - width], [0, 0], [0, 0]])
    squares = tf.reshape(padded, [2, 2, 2, 2, inputs, outputs])
    return tf.reshape(tf.transpose(squares, [0, 2, 1, 3, 4, 5]), [2, 2, 4 * inputs, outputs])


def in_kernel(inputs: tf.Tensor, kernel: tf.Tensor, slopes: tf.Tensor, stride: int) -> tf.Tensor:
    """The slopes in the kernel of a convolution from those in its sums."""
    return tf.raw_ops.Conv2DBackpropFilter(
        input=inputs,
        filter_sizes=kernel.shape,
        out_backprop=slopes,
        strides=[1, stride, stride, 1],
        padding="VALID",
    )


def in_inputs(inputs: tf.Tensor, kernel: tf.Tensor, slopes: tf.Tensor, stride: int) -> tf.Tensor:
    """The slopes in the inputs of a convolution from those in its sums."""
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(inputs),
        filter=kernel,
        out_backprop=slopes,
        strides=[1, stride, stride, 1],
        padding="VALID",
    )
