"""A model's variables, and tensors shaped like them, as one vector of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tensorflow as tf


def flatten(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
    """Tensors shaped as a model's variables, as one vector [p]."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def split(vector: tf.Tensor, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    """A vector [p] as tensors shaped as ``variables``."""
    parts = tf.split(vector, [variable.shape.num_elements() for variable in variables])
    return [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables)]
