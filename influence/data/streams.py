"""Streams of batches, every pass over which is held against the first one, at no second reading.

The first pass leaves a running checksum at every batch. Later ones compute it again on their way
and fail at the first batch that differs, so nothing is computed from rows that have changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from influence.data.types import Tensors

CHANGED = (
    "train gave other rows than at its first pass: indices would mean nothing. Use "
    "shuffle(..., reshuffle_each_iteration=False) and no random map(), or cache() the "
    "tf.data.Dataset."
)


def checksums(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """(running checksum, batch) of every batch, and of an empty one that marks the end."""

    def add(before, element):
        after = _checksum(before, element)
        return after, (after, element[1])

    return _marked(dataset).scan(tf.constant(0, tf.int64), add)


def held(dataset: tf.data.Dataset, first: np.ndarray) -> tf.data.Dataset:
    """The same batches; a pass fails where its checksums are not those of the ``first`` one.

    Args:
        dataset: whose elements are tuples of tensors with an open first axis, which may be nested.
        first: [batches + 1] int64, what ``checksums`` gave.
    """
    expected = tf.constant(first)

    def check(state, element):
        number, before = state
        after = _checksum(before, element)
        with tf.control_dependencies([tf.debugging.Assert(after == expected[number], [CHANGED])]):
            return (number + 1, tf.identity(after)), tf.nest.map_structure(tf.identity, element)

    checked = _marked(dataset).scan((0, tf.constant(0, tf.int64)), check)
    unended = checked.filter(lambda end, batch: tf.logical_not(end))
    batches = unended.map(lambda end, batch: batch)
    return batches.apply(tf.data.experimental.assert_cardinality(len(first) - 1))


def read(dataset: tf.data.Dataset) -> Iterator[Tensors]:
    """Its elements, in Python.

    Raises:
        ValueError: it is ``held``, and has changed.
    """
    with explained():
        yield from dataset


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise a ValueError of one sentence where a stream inside has changed."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if CHANGED not in error.message:
            raise
        raise ValueError(CHANGED) from None


def _marked(dataset):
    """(False, batch) of every batch, then (True, an empty one): an end that comes too early or too
    late is another element than expected."""
    empty = tf.nest.map_structure(
        lambda spec: tf.zeros([0, *spec.shape[1:]], spec.dtype), dataset.element_spec
    )
    end = tf.data.Dataset.from_tensors((True, empty))
    return dataset.map(lambda *batch: (False, batch)).concatenate(end)


def _checksum(before, element):
    """FarmHash64 of the bytes of all tensors of an element and of the checksum before it."""
    parts = [_hash(leaf) for leaf in tf.nest.flatten(element)]
    return tf.bitcast(_hash(tf.stack([tf.bitcast(before, tf.uint8), *parts])), tf.int64)


def _hash(tensor):
    if tensor.dtype == tf.string:
        # Of no strings at all, Fingerprint gives whatever is in the memory.
        tensor = tf.strings.to_hash_bucket_fast(tensor, 2**63 - 1)
    return tf.raw_ops.Fingerprint(data=tf.reshape(tensor, [1, -1]), method="farmhash64")[0]
