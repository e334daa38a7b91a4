"""Scans over minibatches inside the graph, so that Python makes one call a scan.

What is scanned, ``points``, is a tuple of tensors with equal first axes, which may be nested (the
inputs of a network as a dict); or ``(dataset,)``, a ``tf.data.Dataset`` that gives such tuples a
batch at a time and knows how many there are (its cardinality).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from influence.data.types import PointTensors, Tensors

# Batches that may be in flight at once: enough to keep two or more cores busy, while memory stays
# a small multiple of one batch.
PARALLEL_BATCHES = 10


def default_batch_size(num_features: int) -> int:
    """Rows that make about two million numbers: 8 MB in float32, so that a batch stays in cache."""
    return max(1, 2**21 // max(1, num_features))


def sum_over_batches(
    function: Callable[..., Tensors],
    points: PointTensors,
    batch_size: int,
    initial: Tensors,
    parallel: int = PARALLEL_BATCHES,
) -> Tensors:
    """Σ ``function(*batch)`` over the minibatches of ``points``, at most ``parallel`` in flight.

    ``initial`` has the structure of a result and is what the sum starts from. The order of the
    additions is fixed, so the same data give the same sum.
    """
    number, batch_at, most, end = _batches(points, batch_size)

    def add(i, total):
        return i + 1, tf.nest.map_structure(tf.add, total, function(*batch_at(i)))

    total = tf.while_loop(
        lambda i, total: i < number, add, (0, initial), parallel_iterations=min(parallel, most)
    )[1]
    end()
    return total


def map_over_batches(
    function: Callable[..., Tensors], points: PointTensors, batch_size: int, like: Tensors
) -> Tensors:
    """``function(*batch)`` of every minibatch, joined along the first axis.

    ``like`` says what one batch gives, a ``tf.TensorSpec`` or a structure of them; their first
    axes are None.
    """
    number, batch_at, parallel, end = _batches(points, batch_size)
    parts = [
        tf.TensorArray(spec.dtype, size=number, infer_shape=False, element_shape=spec.shape)
        for spec in tf.nest.flatten(like)
    ]

    def write(i, parts):
        results = tf.nest.flatten(function(*batch_at(i)))
        return i + 1, [part.write(i, result) for part, result in zip(parts, results)]

    parts = tf.while_loop(
        lambda i, parts: i < number, write, (0, parts), parallel_iterations=parallel
    )[1]
    end()
    return tf.nest.pack_sequence_as(like, [part.concat() for part in parts])


def take_rows(points: Tensors, rows: slice | tf.Tensor) -> Tensors:
    """The ``rows`` (a slice, or indices) of every tensor of ``points``."""
    if isinstance(rows, slice):
        return tf.nest.map_structure(lambda array: array[rows], points)
    return tf.nest.map_structure(lambda array: tf.gather(array, rows), points)


def number_of_rows(points: Tensors) -> tf.Tensor:
    """The first axis of every tensor of ``points``, in the graph."""
    return tf.shape(tf.nest.flatten(points)[0])[0]


def spec_of(points: Tensors) -> Any:
    """What a compiled function has to know of ``points``: everything but the number of rows."""
    if is_stream(points):
        return (tf.data.DatasetSpec(points[0].element_spec),)
    return tf.nest.map_structure(
        lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype), points
    )


def is_stream(points: Tensors) -> bool:
    """Whether ``points`` come from a ``tf.data.Dataset``."""
    return len(points) == 1 and isinstance(points[0], tf.data.Dataset)


def _batches(points, batch_size):
    """(their number, index -> batch, how many may be in flight at once, what ends the pass)."""
    if is_stream(points):
        iterator = iter(points[0])
        number = tf.cast(points[0].cardinality(), tf.int32)
        # One after the other: an iterator has no place to go back to. What comes after the last
        # batch is asked for as well, because a stream may have grown (see data.streams).
        return number, lambda i: next(iterator), 1, iterator.get_next_as_optional
    number = (number_of_rows(points) + batch_size - 1) // batch_size

    def batch_at(i):
        return take_rows(points, slice(i * batch_size, (i + 1) * batch_size))

    return number, batch_at, PARALLEL_BATCHES, lambda: None
