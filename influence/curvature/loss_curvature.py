"""The second derivatives Λ of each point's loss in its outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from influence.curvature.modes import REVERSE
from influence.data.types import Model, Tensors


def loss_product(
    model: Model, logits: tf.Tensor, labels: Tensors
) -> Callable[[tf.Tensor], tf.Tensor]:
    """v -> Λ_i v_i for every point of a batch, for v shaped as the logits [m, ...]; traceable."""

    def loss():
        return tf.reduce_sum(model.example_losses(logits, labels))

    # A gradient of a gradient also in forward mode: a loss is no place to save time.
    product = REVERSE.second(loss, [logits], [logits])
    return lambda along: product([along])[0]


def loss_matrices(model: Model, logits: tf.Tensor, labels: Tensors) -> tf.Tensor:
    """Λ_i of every point of a batch, [m, c, c]; traceable."""
    shape = tf.shape(logits)
    size, outputs = shape[0], int(np.prod(logits.shape[1:]))
    product = loss_product(model, logits, labels)

    def of_output(output):
        along = tf.one_hot(tf.fill([size], output), outputs, dtype=logits.dtype)
        return tf.reshape(product(tf.reshape(along, shape)), [size, outputs])

    return tf.stack([of_output(output) for output in range(outputs)], axis=1)
