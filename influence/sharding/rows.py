"""Rows of arrays that are in files, and arrays of memory that are put there.

They are read, not mapped into memory: a file that is cut off while it is read is then an error,
where a page of a mapped one would kill the process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from influence.data.types import File


@dataclass(frozen=True)
class FileRows:
    """Rows ``first`` to ``last`` of an array in a file, as the file was when this was made.

    Args:
        path: of the file.
        dtype, shape: of a row.
        offset: of row 0, in bytes.
        stamp: the file's size and time.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    first: int
    last: int
    stamp: tuple[int, int]

    @classmethod
    def of(cls, mapped: np.memmap) -> FileRows:
        """All rows of a memory-mapped array."""
        path = os.path.abspath(os.fspath(mapped.filename))  # type: ignore[arg-type]
        shape = tuple(mapped.shape[1:])
        rows = 0, len(mapped), _stamp(path)
        return cls(path, mapped.dtype.str, shape, mapped.offset, *rows)

    def rows(self, first: int, last: int) -> FileRows:
        """Some of them."""
        return replace(self, first=self.first + first, last=self.first + last)

    def __len__(self) -> int:
        return self.last - self.first

    def check(self) -> None:
        """Raise a ValueError unless the file is as it was."""
        if _stamp(self.path) != self.stamp:
            raise ValueError(
                f"{self.path}, which holds training rows, has changed since the model was sharded: "
                f"nothing is computed from changed rows. Shard the model again."
            )

    def load(self) -> np.ndarray:
        """[rows, ...], read-only.

        Raises:
            ValueError: the file is gone, cut off, or has changed.
        """
        self.check()
        dtype = np.dtype(self.dtype)
        width = int(np.prod(self.shape, dtype=int))
        where = self.offset + self.first * width * dtype.itemsize
        array = np.fromfile(self.path, dtype, len(self) * width, offset=where)
        self.check()  # while it was read
        array = array.reshape(len(self), *self.shape)
        array.flags.writeable = False
        return array


@dataclass(frozen=True)
class SparseRows:
    """Rows of a sparse matrix whose three arrays are in files."""

    data: FileRows
    indices: FileRows
    pointers: FileRows
    width: int

    def rows(self, first: int, last: int) -> SparseRows:
        """Some of them."""
        pointers = self.pointers.rows(first, last + 1)
        start, *_, end = pointers.load().tolist()
        data, indices = self.data.rows(start, end), self.indices.rows(start, end)
        return replace(self, data=data, indices=indices, pointers=pointers)

    def __len__(self) -> int:
        return len(self.pointers) - 1

    def load(self) -> scipy.sparse.csr_array:
        """[rows, width], its data read-only."""
        pointers = self.pointers.load()
        pointers = pointers - pointers[0]
        shape = len(pointers) - 1, self.width
        return scipy.sparse.csr_array((self.data.load(), self.indices.load(), pointers), shape)

    def check(self) -> None:
        """Raise a ValueError unless the files are as they were."""
        for file in (self.data, self.indices, self.pointers):
            file.check()


class Folder:
    """A temporary folder for the files of rows that are in memory; it goes when this goes."""

    def __init__(self) -> None:
        self._path, self._number = Path(tempfile.mkdtemp(prefix="shards")), 0
        weakref.finalize(self, shutil.rmtree, self._path, ignore_errors=True)

    def kept(self, array: Any) -> FileRows | SparseRows:
        """The rows of an array; those of a memory-mapped one stay in their own file."""
        if scipy.sparse.issparse(array):
            array = scipy.sparse.csr_array(array)
            data, indices = self._saved(array.data), self._saved(array.indices)
            return SparseRows(data, indices, self._saved(array.indptr), array.shape[1])
        return _mapped(array) or self._saved(array)

    def _saved(self, array):
        self._number += 1
        path = str(self._path / f"rows{self._number}")
        array.tofile(path)  # in C order, however it lies in memory
        return FileRows(path, array.dtype.str, array.shape[1:], 0, 0, len(array), _stamp(path))


def npy_rows(path: File) -> FileRows:
    """All rows of the array in a ``.npy`` file.

    Raises:
        ValueError: there is none, or not in C order.
    """
    try:
        mapped = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no readable .npy file: {error}") from error
    if mapped.ndim == 0 or not mapped.flags.c_contiguous:
        raise ValueError(f"{path} must hold an array [n, ...] in C order.")
    return FileRows.of(mapped)


def _mapped(array):
    """Where the rows of an array are in a memory-mapped file, one after the other; else None."""
    whole = array
    while whole is not None and not isinstance(whole, np.memmap):
        whole = whole.base if isinstance(whole, np.ndarray) else None
    while isinstance(whole, np.memmap) and isinstance(whole.base, np.memmap):
        whole = whole.base  # of parts the offset is not known
    if whole is None or whole.filename is None or not array.flags.c_contiguous:
        return None
    if whole.mode == "c":
        return None  # what was changed is in memory alone
    width = array.nbytes // max(1, len(array))
    first, rest = divmod(array.ctypes.data - whole.ctypes.data, max(1, width))
    if rest or array.dtype != whole.dtype or array.shape[1:] != whole.shape[1:]:
        return None
    # So that the file's time tells of what is written to it from now on.
    whole.flush()
    return FileRows.of(whole).rows(first, first + len(array))


def _stamp(path):
    try:
        status = os.stat(path)
    except OSError:
        raise ValueError(
            f"{path}, which holds training rows, is gone: put it back, or shard the model again."
        ) from None
    return status.st_size, status.st_mtime_ns
