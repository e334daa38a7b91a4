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
# What TensorFlow says of a dataset that ends before its asserted cardinality.
_SHORTER = "Input dataset was expected to contain"


def checksums(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """(running checksum, batch) of every batch."""

    def add(before, batch):
        after = _checksum(before, batch)
        return after, (after, batch)

    return dataset.scan(tf.constant(0, tf.int64), add)


def held(dataset: tf.data.Dataset, first: np.ndarray) -> tf.data.Dataset:
    """The same batches; a pass fails where its checksums are not those of the ``first`` one.

    Args:
        dataset: its elements are tuples of tensors, which may be nested.
        first: [batches] int64, what ``checksums`` gave.
    """
    # One more, which no batch has, for those that come after the last one.
    expected = tf.constant([*first, ~first[-1]])

    def check(state, batch):
        number, before = state
        after = _checksum(before, batch)
        right = after == expected[number]
        with tf.control_dependencies([tf.debugging.Assert(right, [CHANGED])]):
            return (number + 1, tf.identity(after)), tf.nest.map_structure(tf.identity, batch)

    checked = dataset.scan((0, tf.constant(0, tf.int64)), check)
    return checked.apply(tf.data.experimental.assert_cardinality(len(first)))


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
    except (tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError) as error:
        if CHANGED not in error.message and _SHORTER not in error.message:
            raise
        raise ValueError(CHANGED) from None


def _checksum(before, batch):
    """FarmHash64 of the bytes of all tensors of a batch and of the checksum before it."""
    parts = [_hash(leaf) for leaf in tf.nest.flatten(batch)]
    return tf.bitcast(_hash(tf.stack([tf.bitcast(before, tf.uint8), *parts])), tf.int64)


def _hash(tensor):
    if tensor.dtype == tf.string:
        # Of no strings at all, Fingerprint gives whatever is in the memory.
        tensor = tf.strings.to_hash_bucket_fast(tensor, 2**63 - 1)
    return tf.raw_ops.Fingerprint(data=tf.reshape(tensor, [1, -1]), method="farmhash64")[0]
