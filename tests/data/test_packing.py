"""What travels: everything that should, large arrays as they are, and mapped ones by their file."""

import threading

import numpy as np
import pytest

from influence.data.dataset import is_mapped
from influence.data.packing import Packed


def trip(thing):
    packed = Packed.of(thing)
    return packed, Packed.unpacked(packed.head, packed.buffers)


def test_functions_and_small_arrays_are_in_the_head():
    offset = np.arange(3)
    packed, there = trip(lambda x: x + offset)
    assert not packed.buffers
    assert there(1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_beside_it_without_a_copy(order):
    large = np.asarray(np.random.default_rng(0).random((400, 500)), order=order)
    packed, there = trip({"large": large, "again": large})
    assert packed.head.nbytes < 1000
    [buffer] = packed.buffers
    assert np.shares_memory(buffer, large)
    np.testing.assert_array_equal(there["large"], large)
    assert there["large"] is there["again"]
    assert not there["large"].flags.writeable
    # To a model it is an array like any other, though joblib may have mapped the buffer.
    assert not is_mapped(there["large"])


def test_the_key_is_of_the_bytes():
    array = np.zeros(200_000)
    one, same = Packed.of(array), Packed.of(array.copy())
    array[-1] = 1
    assert one.key == same.key != Packed.of(array).key


def test_a_mapped_buffer_is_not_a_mapped_array(tmp_path):
    packed = Packed.of(np.arange(200_000))
    np.save(tmp_path / "buffer.npy", packed.buffers[0])
    mapped = np.load(tmp_path / "buffer.npy", mmap_mode="r")
    there = Packed.unpacked(packed.head, [mapped])
    assert there[-1] == 199_999
    assert not is_mapped(there)


@pytest.mark.parametrize("part", [slice(None), slice(100, 300)])
def test_a_mapped_array_travels_by_the_name_of_its_file(part, tmp_path):
    whole = np.random.default_rng(0).random((400, 500))
    np.save(tmp_path / "x.npy", whole)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")[part]
    packed, there = trip(mapped)
    assert packed.head.nbytes < 1000
    assert not packed.buffers
    assert is_mapped(there)
    np.testing.assert_array_equal(there, whole[part])


def test_what_is_changed_in_memory_alone_travels_itself(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[1] = 5
    assert trip(changed)[1].tolist() == [0, 5, 0]


def test_what_cannot_travel_is_said():
    with pytest.raises(
        ValueError, match="cannot be sent to other processes: .*lock.* Compute here"
    ):
        Packed.of(threading.Lock())
