"""A shard is how its rows are loaded: a worker that is lost can be replaced by any other."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cloudpickle
import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.data.dataset import check_chosen
from influence.data.files import fingerprint
from influence.data.streams import checksums
from influence.data.types import File
from influence.sharding.rows import npy_rows


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
        return len(tf.nest.flatten(self.files)[0])

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
        """The shard that ``function`` gives.

        Raises:
            ValueError: it does not pickle.
        """
        try:
            return cls(cloudpickle.dumps(function), number)
        except Exception as error:  # whatever an object's own pickling raises
            raise ValueError(
                f"The function of shard {number} cannot be sent to workers ({error}): let it open "
                f"itself what it reads."
            ) from error

    @property
    def key(self) -> str:
        return fingerprint(repr(self))

    def check(self) -> None:
        pass  # where the rows come from is the function's own business

    def load(self) -> Any:
        try:
            rows = _arrays(pickle.loads(self.function)())
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


def _arrays(rows):
    """What a function gives, as arrays that nobody changes later."""
    if isinstance(rows, tf.data.Dataset):
        return rows
    if not isinstance(rows, (tuple, list)) or len(rows) not in (2, 3):
        raise ValueError(
            f"its function must give arrays (x, labels), or a tf.data.Dataset, not {type(rows)}"
        )

    def frozen(leaf):
        if scipy.sparse.issparse(leaf):
            return leaf
        array = np.asarray(leaf)
        if array.flags.writeable:
            array = array.copy()
            array.flags.writeable = False
        return array

    def of_part(part):
        # A list is a structure of arrays, but for one of numbers.
        nested = any(np.ndim(leaf) for leaf in tf.nest.flatten(part))
        return tf.nest.map_structure(frozen, part if nested else np.asarray(part))

    return tuple(of_part(part) for part in rows)


def content(rows: Any) -> str:
    """The fingerprint of arrays in any structure, or of a ``tf.data.Dataset`` by a pass."""
    if isinstance(rows, tf.data.Dataset):
        sums = [int(after) for after, _ in checksums(rows)]
        return fingerprint(repr(sums[-1:]))
    leaves = tf.nest.flatten(rows)
    return fingerprint(
        *[each if scipy.sparse.issparse(each) else np.asarray(each) for each in leaves]
    )


def file_shards(files: Any, number: Any) -> list[FileShard]:
    """Files cut into ``number`` shards of consecutive rows.

    Args:
        files: ``FileRows`` and ``SparseRows`` of all rows, in a structure.
    """
    [first, *others] = [len(file) for file in tf.nest.flatten(files)]
    if any(other != first for other in others):
        raise ValueError(f"The files have {[first, *others]} rows: give as many labels as points.")
    whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not whole or not 1 <= number <= first:
        raise ValueError(f"shards must be between 1 and the {first} rows, not {number!r}.")
    ends = np.linspace(0, first, number + 1).astype(int)

    def shard(a, b):
        return FileShard(tf.nest.map_structure(lambda file: file.rows(a, b), files))

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
    return file_shards((npy_rows(x), npy_rows(labels)), number)


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


def local_rows(ends: np.ndarray, indices: Any) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(shard, rows in it, places among ``indices``) of training points, shard by shard.

    Args:
        ends: of the shards, cumulative: [s].
        indices: of training points, in any order.
    """
    indices = check_chosen(indices, int(ends[-1]))
    owners = np.searchsorted(ends, indices, side="right")
    result = []
    for shard in np.unique(owners):
        places = np.flatnonzero(owners == shard)
        first = ends[shard - 1] if shard else 0
        result.append((int(shard), indices[places] - first, places))
    return result
