"""Dataset: checked once, immutable, in its own dtype."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence import Dataset
from influence.data.dataset import check_indices, check_points

X = np.arange(12.0).reshape(4, 3)
LABELS = np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (X[:3], LABELS, "3 rows and labels has 4"),
        (X[:, 0], LABELS, r"\[n, d\]"),
        (X, LABELS[:, np.newaxis, np.newaxis], "vector"),
        (np.where(X == 7, np.nan, X), LABELS, r"\[2, 1\] is nan"),
        (np.where(X == 4, -np.inf, X), LABELS, r"\[1, 1\] is -inf"),
        (X, np.array([0, 1, np.nan, 0]), r"labels must be finite; the entry at \[2\]"),
        (X[:0], LABELS[:0], "empty"),
        (X.astype(str), LABELS, "must be numbers"),
        (X + 1j, LABELS, "must be numbers"),
    ],
)
def test_bad_data_is_named(x, labels, message):
    with pytest.raises(ValueError, match=message):
        Dataset(x, labels)


def test_large_finite_numbers_are_not_mistaken_for_infinity():
    assert len(Dataset(np.full((4, 3), 3e38, np.float32), LABELS)) == 4


@pytest.mark.parametrize("scale", [0, np.nan, np.inf])
def test_scale_must_be_a_number(scale):
    with pytest.raises(ValueError, match="scale"):
        Dataset(X, LABELS, scale)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_dtype_is_kept(dtype):
    assert Dataset(X.astype(dtype), LABELS).x.dtype == dtype


def test_nothing_changes_it_afterwards():
    x = X.copy()
    data = Dataset(x, LABELS)
    x[0, 0] = 99
    assert data.x[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        data.x[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 1


def test_without_relabelled_and_where_return_new_ones():
    data = Dataset(X, LABELS, scale=0.5)
    np.testing.assert_array_equal(data.without(1).x, X[[0, 2, 3]])
    np.testing.assert_array_equal(data.without([0, 3]).labels, [1, 1])
    np.testing.assert_array_equal(data.relabelled([0, 1], [1, 0]).labels, [1, 0, 1, 0])
    np.testing.assert_array_equal(data.where(LABELS == 1).x, X[1:3])
    np.testing.assert_array_equal(data.labels, LABELS)
    assert {part.scale for part in (data.without(0), data.relabelled(0, 1))} == {0.5}


def test_moved_points_keep_their_labels():
    data = Dataset(X, LABELS, scale=0.5)
    moved = data.moved([2, 0], np.array([[1, 2, 3], [4, 5, 6]]))
    np.testing.assert_array_equal(moved.x, [[4, 5, 6], X[1], [1, 2, 3], X[3]])
    np.testing.assert_array_equal(moved.labels, LABELS)
    assert moved.scale == 0.5
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.moved(1, X[3]).x[1], X[3])


@pytest.mark.parametrize(
    ("indices", "x", "message"),
    [
        ([0, 1], X[:1], "2 indices and 1 points"),
        ([0], np.ones((1, 4)), r"\[m, 3\]"),
        ([4], X[:1], "4 at position 0"),
        ([0], np.full((1, 3), np.nan), "must be finite"),
        ([0], np.full((1, 3), 0.5), "dtype float64 do not fit into uint8"),
    ],
)
def test_points_that_cannot_be_moved(indices, x, message):
    data = Dataset(X.astype(np.uint8) if "uint8" in message else X, LABELS)
    with pytest.raises(ValueError, match=message):
        data.moved(indices, x)


@pytest.mark.parametrize(
    ("indices", "message"),
    [(4, "0..3; 4 at position 0"), ([1, -1], "-1 at position 1"), ([2, 0, 2], "2 occurs twice")],
)
def test_bad_indices_are_named(indices, message):
    with pytest.raises(ValueError, match=message):
        Dataset(X, LABELS).without(indices)


@pytest.mark.parametrize("indices", [1.0, [True, False], "1", [[0, 1]]])
def test_indices_must_be_whole_numbers(indices):
    with pytest.raises(ValueError, match="whole numbers"):
        check_indices(indices, 4)


def test_not_every_point_can_be_removed():
    with pytest.raises(ValueError, match="Nothing is left"):
        Dataset(X, LABELS).without(range(4))


def test_mask_must_be_booleans_of_the_right_length():
    with pytest.raises(ValueError, match="4 booleans"):
        Dataset(X, LABELS).where([0, 1, 1, 0])


@given(st.sets(st.integers(0, 19), min_size=1, max_size=19))
def test_without_is_np_delete(removed):
    x, labels = np.arange(40.0).reshape(20, 2), np.arange(20)
    left = Dataset(x, labels).without(sorted(removed))
    np.testing.assert_array_equal(left.x, np.delete(x, sorted(removed), 0))
    np.testing.assert_array_equal(left.labels, np.delete(labels, sorted(removed)))


def test_one_point_may_come_without_its_axis():
    x, labels = check_points(X[0], 1, (3,), "x_test", "y_test")
    assert x.shape == (1, 3)
    assert labels.shape == (1,)


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (X[:, :2], LABELS, r"x_test must be \[m, 3\]"),
        (X, LABELS[:2], "y_test must be a vector of 4"),
        (X[:0], LABELS[:0], "x_test is empty"),
        (X * np.nan, LABELS, "x_test must be finite"),
    ],
)
def test_bad_test_points_are_named(x, labels, message):
    with pytest.raises(ValueError, match=message):
        check_points(x, labels, (3,), "x_test", "y_test")
