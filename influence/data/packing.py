"""What travels to other processes: a few bytes, and the large arrays beside them as they are."""

from __future__ import annotations

import io
import mmap
import pickle
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from influence.data.files import fingerprint

# joblib maps arrays into the memory of all processes of a machine from this size on; what is
# smaller travels with the rest.
_LARGE = 2**20


@dataclass(frozen=True)
class Packed:
    """An object as arrays of bytes.

    Attributes:
        head: the object, but for its large arrays.
        buffers: the bytes of each of those, without a copy.
        key: the same for objects with the same bytes.

    Examples:
        >>> import numpy as np
        >>> from influence.data.packing import Packed
        >>> packed = Packed.of({"x": np.arange(3), "f": lambda x: 2 * x})
        >>> there = Packed.unpacked(packed.head, packed.buffers)
        >>> there["f"](there["x"]).tolist()
        [0, 2, 4]
    """

    head: np.ndarray
    buffers: list[np.ndarray]
    key: str

    @classmethod
    def of(cls, thing: Any) -> Packed:
        """Pack anything that pickles: functions of a notebook too, and memory-mapped arrays by the
        name of their file.

        Raises:
            ValueError: it does not, and why.
        """
        buffers: list[np.ndarray] = []

        def beside(buffer):
            raw = np.frombuffer(buffer.raw(), np.uint8)
            if raw.nbytes < _LARGE:
                return True
            buffers.append(raw)
            return False

        file = io.BytesIO()
        try:
            _Pickler(file, protocol=5, buffer_callback=beside).dump(thing)
        except Exception as error:  # whatever an object's own pickling raises
            raise ValueError(
                f"The work cannot be sent to other processes: {_in_short(error)}. Compute here, "
                f"outside joblib.parallel_config, without jobs and without shards, or give what "
                f"can be sent."
            ) from error
        head = np.frombuffer(file.getvalue(), np.uint8)
        return cls(head, buffers, fingerprint(head, *buffers))

    @staticmethod
    def unpacked(head: np.ndarray, buffers: list[np.ndarray]) -> Any:
        """The object again; its large arrays are read-only views of ``buffers``.

        Raises:
            ValueError: it cannot be made again, and why.
        """
        # As memoryviews: arrays that joblib has mapped must be like any others to a model, which
        # computes in another way where its user has mapped them.
        views = [one.data.toreadonly() for one in buffers]
        try:
            return pickle.loads(head.data, buffers=views)
        except Exception as error:  # whatever an object's own making raises
            raise ValueError(
                f"What was sent to another process cannot be made again there: {_in_short(error)}. "
                f"Give what can be, or compute without other processes."
            ) from error


def _in_short(error):
    """The first paragraph of a message, on one line: Keras' have examples after it."""
    return " ".join(str(error).strip().split("\n\n")[0].split()).rstrip(".")


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj):
        """Arrays that a file has stay there."""
        if isinstance(obj, np.memmap) and obj.flags.c_contiguous and obj.mode in ("r", "r+"):
            return _mapped, (obj.filename, obj.dtype, _offset(obj), obj.shape)
        return super().reducer_override(obj)


def _mapped(filename, dtype, offset, shape):
    return np.memmap(filename, dtype, "r", offset, shape)


def _offset(array):
    """Where in its file a memory-mapped array starts, which may be a part of one."""
    memory = array
    while not isinstance(memory, mmap.mmap):
        memory = memory.base
    start = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    first = array.__array_interface__["data"][0]
    return array.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY + first - start
