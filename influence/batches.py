"""Scans over minibatches inside the graph, so that Python makes one call a scan."""

from __future__ import annotations

import tensorflow as tf

# Batches that may be in flight at once: enough to keep two or more cores busy, while memory stays
# a small multiple of one batch.
PARALLEL_BATCHES = 10


def default_batch_size(num_features: int) -> int:
    """Rows that make about two million numbers: 8 MB in float32, so that a batch stays in cache."""
    return max(1, 2**21 // max(1, num_features))


def sum_over_batches(function, arrays, batch_size: int, initial):
    """Σ ``function(*batch)`` over the minibatches of ``arrays`` (equal first axes).

    ``initial`` has the structure of a result and is what the sum starts from. The order of the
    additions is fixed, so the same data give the same sum.
    """
    size = tf.shape(arrays[0])[0]

    def add(start, total):
        batch = [array[start : start + batch_size] for array in arrays]
        return start + batch_size, tf.nest.map_structure(tf.add, total, function(*batch))

    return tf.while_loop(
        lambda start, total: start < size,
        add,
        (0, initial),
        parallel_iterations=PARALLEL_BATCHES,
    )[1]


def map_over_batches(function, arrays, batch_size: int, like: tf.TensorSpec):
    """``function(*batch)`` of every minibatch, joined along the first axis.

    ``like`` says what one batch gives; its first axis is None.
    """
    size = tf.shape(arrays[0])[0]
    number = (size + batch_size - 1) // batch_size
    parts = tf.TensorArray(like.dtype, size=number, infer_shape=False, element_shape=like.shape)

    def write(i, parts):
        start = i * batch_size
        batch = [array[start : start + batch_size] for array in arrays]
        return i + 1, parts.write(i, function(*batch))

    parts = tf.while_loop(
        lambda i, parts: i < number, write, (0, parts), parallel_iterations=PARALLEL_BATCHES
    )[1]
    return parts.concat()
