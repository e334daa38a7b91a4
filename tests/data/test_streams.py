"""A stream that gives anything else than at its first pass is refused at the batch that differs."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from influence.data.batches import map_over_batches, sum_over_batches
from influence.data.streams import checksums, explained, held, read

BATCHES = [
    ({"a": np.float32([[i, 0.5], [1, 2 * i]]), "b": np.int32([i, 7])}, np.int64([i, 1 - i]))
    for i in range(4)
]
MESSAGE = "other rows than at its first pass"


def stream(*passes):
    """A dataset that gives these batches at its first pass, at its second one, …"""
    versions = iter(passes)
    tensors = tf.nest.map_structure(
        lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype), passes[0][0]
    )
    return tf.data.Dataset.from_generator(lambda: next(versions), output_signature=tensors)


def held_stream(*passes):
    """The same, held against the first."""
    dataset = stream(*passes)
    return held(dataset, np.array([checksum for checksum, _ in read(checksums(dataset))]))


def changed(i, key, row, value):
    """The batches with one number changed."""
    batches = tf.nest.map_structure(np.copy, BATCHES)
    (batches[i][1] if key is None else batches[i][0][key])[row] = value
    return batches


def joined(first, second):
    return tf.nest.map_structure(lambda a, b: np.concatenate([a, b]), first, second)


def permuted(order):
    """The rows in another order, in batches of two."""
    rows = tf.nest.map_structure(lambda *a: np.concatenate(a)[list(order)], *BATCHES)
    return [tf.nest.map_structure(lambda a, i=i: a[i : i + 2], rows) for i in range(0, 8, 2)]


CHANGES = {
    "one ulp": changed(2, "a", (1, 0), np.nextafter(np.float32(1), np.float32(2))),
    "the sign of a zero": changed(0, "a", (0, 0), -0.0),
    "an integer input": changed(3, "b", 1, 8),
    "a label": changed(1, None, 0, 2),
    "the last row": changed(3, None, 1, 9),
    "two batches in another order": [BATCHES[i] for i in (0, 2, 1, 3)],
    "two rows in another order": permuted([0, 1, 2, 4, 3, 5, 6, 7]),
    "a batch less": BATCHES[:3],
    "none": [],
    "a batch more": [*BATCHES, BATCHES[0]],
    "an empty batch more": [*BATCHES, tf.nest.map_structure(lambda a: a[:0], BATCHES[0])],
    "a batch twice": [*BATCHES[:3], BATCHES[2]],
    "other batches of the same rows": [joined(*BATCHES[:2]), *BATCHES[2:]],
}


@tf.function
def summed(points):
    return sum_over_batches(lambda x, _: tf.reduce_sum(x["a"]), points, 1, 0.0)


@tf.function
def mapped(points):
    return map_over_batches(lambda x, _: x["a"], points, 1, tf.TensorSpec([None, 2]))


def listed(points):
    return list(read(points[0]))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("once", [summed, mapped, listed])
def test_what_differs_from_the_first_pass_is_refused(once, change):
    points = (held_stream(BATCHES, BATCHES, CHANGES[change]),)
    once(points)
    with pytest.raises(ValueError, match=MESSAGE) as caught, explained():
        once(points)
    assert "\n" not in str(caught.value)


def test_the_same_rows_pass_as_they_are():
    dataset = held_stream(BATCHES, BATCHES, BATCHES)
    assert int(dataset.cardinality()) == 4
    for _ in range(2):
        for given, batch in zip(read(dataset), BATCHES, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, given, batch)


def test_a_pass_that_ends_early_is_held_as_far_as_it_went():
    dataset = held_stream(BATCHES, *[CHANGES["an integer input"]] * 2, CHANGES["one ulp"])
    for _ in range(2):
        assert len(list(itertools.islice(read(dataset), 3))) == 3
    with pytest.raises(ValueError, match=MESSAGE):
        list(itertools.islice(read(dataset), 3))


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "bool", "int8", "S"])
def test_any_type_is_held(dtype):
    one, other = ([(np.array([a], dtype),)] for a in ([[0, 1], [1, 1]], [[0, 1], [1, 0]]))
    if dtype == "S":
        one, other = ([(np.array([a]),)] for a in ([b"a", b"bc"], [b"ab", b"c"]))
    dataset = held_stream(one, one, other)
    list(read(dataset))
    with pytest.raises(ValueError, match=MESSAGE):
        list(read(dataset))


def test_another_error_stays_what_it_is():
    dataset = tf.data.Dataset.range(3).map(lambda i: tf.debugging.check_numerics(1 / (i - 1), "at"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="at"):
        list(read(dataset))
