"""Rows of arrays stay what they are in memory, wherever they are read from."""

import numpy as np
import pytest

from influence.sharding.rows import Folder

ROWS = np.random.default_rng(0).standard_normal((6, 6))


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    return tmp_path / "x.npy"


def changed(path):
    mapped = np.load(path, mmap_mode="c")
    mapped[2] = 7  # in memory alone
    return mapped


def in_columns(path):
    np.save(path, np.asfortranarray(ROWS[:, :5]))
    return np.load(path, mmap_mode="r")


# name -> (array of a path, whether it stays in that file)
ARRAYS = {
    "mapped": (lambda path: np.load(path, mmap_mode="r"), True),
    "some rows": (lambda path: np.load(path, mmap_mode="r")[2:5], True),
    "rows of rows": (lambda path: np.asarray(np.load(path, mmap_mode="r")[1:])[1:4], True),
    "raw, behind others": (lambda path: np.memmap(path, float, "r", 128 + 48, (5, 6)), True),
    "writeable": (lambda path: np.load(path, mmap_mode="r+"), True),
    "changed in memory": (changed, False),
    "part of a changed one": (lambda path: changed(path)[1:4], False),
    "every second row": (lambda path: np.load(path, mmap_mode="r")[::2], False),
    "backwards": (lambda path: np.load(path, mmap_mode="r")[::-1], False),
    "some columns": (lambda path: np.load(path, mmap_mode="r")[:, 1:4], False),
    "one column": (lambda path: np.load(path, mmap_mode="r")[:, 1], False),
    "transposed": (lambda path: np.load(path, mmap_mode="r").T, False),
    "by columns": (in_columns, False),
    "by columns, transposed": (lambda path: in_columns(path).T, False),
    "of another shape": (lambda path: np.load(path, mmap_mode="r").reshape(12, 3), False),
    "of another type": (lambda path: np.load(path, mmap_mode="r").view(np.int64), False),
    "in memory by columns": (lambda path: np.asfortranarray(ROWS), False),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_rows_are_those_of_the_array(name, path):
    make, stays = ARRAYS[name]
    array, folder = make(path), Folder()
    rows = folder.kept(array)
    assert (rows.path == str(path)) is stays
    assert len(rows) == len(array)
    np.testing.assert_array_equal(rows.load(), array)
    np.testing.assert_array_equal(rows.rows(1, 3).load(), array[1:3])


def test_what_is_written_through_a_map_later_shows(path):
    mapped = np.load(path, mmap_mode="r+")
    mapped[0] = 1
    rows = Folder().kept(mapped)
    rows.load()
    mapped[0] = 2
    with pytest.raises(ValueError, match="has changed"):
        rows.load()
