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
    product = loss_product(model, logits, labels)
    outputs = int(np.prod(logits.shape[1:]))
    return tf.stack([_column(product, logits, output) for output in range(outputs)], axis=1)


def loss_scale(model: Model, logits: tf.Tensor, labels: Tensors) -> tf.Tensor:
    """How large each point's Λ is where outputs are 0, by the largest entry for the first of them;
    0 where that is not finite: [m]. Traceable.

    Where a softmax is sure, Λ = diag(p) − ppᵀ is the small difference of large numbers: these, not
    Λ, say how much of it is rounding.
    """
    level = at_zero(logits)
    entries = tf.abs(_column(loss_product(model, level, labels), level, 0))
    largest = tf.reduce_max(entries, axis=1)
    return tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))


def at_zero(logits: tf.Tensor) -> tf.Tensor:
    """Outputs that are 0, with the mask of ``logits``."""
    level = tf.zeros_like(logits)
    if getattr(logits, "_keras_mask", None) is not None:
        level._keras_mask = logits._keras_mask
    return level


def _column(product, logits, output):
    """Λ_i times the unit vector of an output: [m, c]."""
    shape = tf.shape(logits)
    size, outputs = shape[0], int(np.prod(logits.shape[1:]))
    along = tf.one_hot(tf.fill([size], output), outputs, dtype=logits.dtype)
    return tf.reshape(product(tf.reshape(along, shape)), [size, outputs])
