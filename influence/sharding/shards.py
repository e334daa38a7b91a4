"""A shard is how its rows are loaded, so that a worker that is lost can be replaced by any other.

Rows of files are read, not mapped into memory: a file that is cut off while it is read is then an
error, where a page of a mapped one would kill the process.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.data.dataset import check_indices
from influence.data.files import fingerprint
from influence.data.streams import checksums
from influence.data.types import File


class Shard(Protocol):
    """What gives some of the training rows, on any worker."""

    @property
    def key(self) -> str:
        """Of its content: equal keys are equal rows."""

    def check(self) -> None:
        """Raise a ValueError where its files are known to be gone or to have changed."""

    def load(self) -> Any:
        """(x, labels), or what else a model of its family takes for training points."""


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


@dataclass(frozen=True)
class FileShard:
    """Rows of files.

    Args:
        files: ``FileRows`` and ``SparseRows`` in the structure of what ``load`` gives.
    """

    files: Any

    @property
    def key(self) -> str:
        return fingerprint(repr(self.files))

    def __len__(self) -> int:
        return _length(tf.nest.flatten(self.files)[0])

    def check(self) -> None:
        for file in tf.nest.flatten(self.files):
            file.check()

    def load(self) -> Any:
        return tf.nest.map_structure(lambda file: file.load(), self.files)


@dataclass(frozen=True)
class LoadedShard:
    """Rows that a function gives.

    Args:
        function: () -> (x, labels) and so on, always the same, pickled: it travels to the workers.
        number: of the shard, for messages.
        content: the fingerprint of its rows at the first time; None the first time itself.
    """

    function: bytes
    number: int
    content: str | None = None

    @classmethod
    def of(cls, function: Callable[[], Any], number: int) -> LoadedShard:
        """The shard that ``function`` gives."""
        return cls(cloudpickle.dumps(function), number)

    @property
    def key(self) -> str:
        return fingerprint(repr(self))

    def check(self) -> None:
        pass  # where the rows come from is the function's own business

    def load(self) -> Any:
        try:
            rows = pickle.loads(self.function)()
        except Exception as error:
            raise ValueError(f"Shard {self.number} cannot be loaded: {error}") from error
        if self.content is not None and content(rows) != self.content:
            raise ValueError(
                f"Shard {self.number} has other rows than at first: nothing is computed from "
                f"changed rows. Shard the model again."
            )
        return rows


@dataclass(frozen=True)
class Without:
    """A shard without some of its rows.

    Args:
        shard: the whole one.
        gone: their numbers in it.
    """

    shard: Shard
    gone: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"{self.shard.key} without {self.gone}"

    def check(self) -> None:
        self.shard.check()

    def load(self) -> Any:
        rows = self.shard.load()
        if isinstance(rows, tf.data.Dataset):
            raise ValueError(
                "Rows of a tf.data.Dataset in shards cannot be left out: let the functions of the "
                "shards give arrays."
            )

        def left(array):
            keep = np.ones(array.shape[0], bool)
            keep[list(self.gone)] = False
            return array[keep]

        return tf.nest.map_structure(left, rows)


def content(rows: Any) -> str:
    """The fingerprint of arrays in any structure, or of a ``tf.data.Dataset`` by a pass."""
    if isinstance(rows, tf.data.Dataset):
        sums = [int(after) for after, _ in checksums(rows)]
        return fingerprint(repr(sums[-1:]))
    leaves = tf.nest.flatten(rows)
    return fingerprint(
        *[each if scipy.sparse.issparse(each) else np.asarray(each) for each in leaves]
    )


def file_shards(files: Any, number: int) -> list[FileShard]:
    """Files cut into ``number`` shards of consecutive rows.

    Args:
        files: ``FileRows`` and ``SparseRows`` of all rows, in a structure.
    """
    [first, *others] = [_length(file) for file in tf.nest.flatten(files)]
    if any(other != first for other in others):
        raise ValueError(f"The files have {[first, *others]} rows: give as many labels as points.")
    if not 1 <= number <= first:
        raise ValueError(f"shards must be between 1 and the {first} rows, not {number!r}.")
    ends = np.linspace(0, first, number + 1).astype(int)

    def shard(a, b):
        return FileShard(tf.nest.map_structure(lambda file: _part(file, a, b), files))

    return [shard(a, b) for a, b in zip(ends[:-1].tolist(), ends[1:].tolist())]


def npy_shards(x: File, labels: File, number: int) -> list[FileShard]:
    """The rows of two ``.npy`` files in ``number`` shards: what ``model.sharded`` takes for rows
    that nobody holds in memory.

    Args:
        x: file of an array [n, ...].
        labels: file of an array [n].

    Raises:
        ValueError: files that are not there, or not arrays with as many rows.

    Examples:
        >>> import numpy as np, tempfile
        >>> from influence.sharding.shards import npy_shards
        >>> folder = tempfile.mkdtemp()
        >>> np.save(f"{folder}/x.npy", np.arange(12.0).reshape(6, 2))
        >>> np.save(f"{folder}/y.npy", np.arange(6))
        >>> shards = npy_shards(f"{folder}/x.npy", f"{folder}/y.npy", 3)
        >>> len(shards), shards[2].load()[1].tolist()
        (3, [4, 5])
    """
    return file_shards((_npy(x), _npy(labels)), number)


def parquet_shards(
    path: File, label: str, features: Sequence[str] | None = None
) -> list[Callable[[], tuple[np.ndarray, np.ndarray]]]:
    """The row groups of a Parquet file as shards: what ``model.sharded`` takes.

    Args:
        path: of the file.
        label: the column of the labels.
        features: the columns of the points, in this order; None for all others.

    Raises:
        ImportError: pyarrow is not there.
    """
    import pyarrow.parquet  # what has Parquet files has it

    file = pyarrow.parquet.ParquetFile(os.fspath(path))
    names = [name for name in file.schema_arrow.names if name != label]
    columns = tuple(names if features is None else features)
    return [
        RowGroup(os.path.abspath(os.fspath(path)), group, columns, label)
        for group in range(file.num_row_groups)
    ]


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file; calling it loads (x [n, d], labels [n])."""

    path: str
    group: int
    columns: tuple[str, ...]
    label: str

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows."""
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(self.path)
        table = file.read_row_group(self.group, [*self.columns, self.label])
        x = np.column_stack([table[name].to_numpy() for name in self.columns])
        return x, table[self.label].to_numpy()


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
        path = self._path / f"rows{self._number}.npy"
        np.save(path, array)
        return _npy(path)


def _npy(path):
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
    width = array.nbytes // max(1, len(array))
    first, rest = divmod(array.ctypes.data - whole.ctypes.data, max(1, width))
    if rest or array.dtype != whole.dtype or array.shape[1:] != whole.shape[1:]:
        return None
    return FileRows.of(whole).rows(first, first + len(array))


def _stamp(path):
    try:
        status = os.stat(path)
    except OSError:
        raise ValueError(
            f"{path}, which holds training rows, is gone: put it back, or shard the model again."
        ) from None
    return status.st_size, status.st_mtime_ns


def _length(file):
    return len(file.pointers) - 1 if isinstance(file, SparseRows) else len(file)


def _part(file, first, last):
    if isinstance(file, FileRows):
        return file.rows(first, last)
    pointers = file.pointers.rows(first, last + 1)
    start, *_, end = pointers.load().tolist()
    return replace(
        file,
        data=file.data.rows(start, end),
        indices=file.indices.rows(start, end),
        pointers=pointers,
    )


def local_rows(ends: np.ndarray, indices: Any) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(shard, rows in it, places among ``indices``) of training points, shard by shard.

    Args:
        ends: of the shards, cumulative: [s].
        indices: of training points, in any order.
    """
    indices = check_indices(indices, int(ends[-1]), "train_indices")
    owners = np.searchsorted(ends, indices, side="right")
    result = []
    for shard in np.unique(owners):
        places = np.flatnonzero(owners == shard)
        first = ends[shard - 1] if shard else 0
        result.append((int(shard), indices[places] - first, places))
    return result
