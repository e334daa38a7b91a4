"""A model's variables, and tensors shaped like them, as one vector of parameters."""

from __future__ import annotations

import tensorflow as tf


def flatten(tensors) -> tf.Tensor:
    """Tensors shaped as a model's variables, as one vector [p]."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def split(vector, variables) -> list[tf.Tensor]:
    """A vector [p] as tensors shaped as ``variables``."""
    parts = tf.split(vector, [variable.shape.num_elements() for variable in variables])
    return [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables)]
