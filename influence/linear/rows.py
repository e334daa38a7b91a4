"""Dense rows that are left where they are: read, and converted, a block at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from influence.data.dataset import is_mapped
from influence.data.types import DType


class RowBlocks:
    """Points [n, ...] of an array as rows [n, d], with a constant feature in the last column.

    Where the array is memory-mapped, only the rows of a block are read; no second array of all rows
    is made.

    Args:
        x: [n, ...] numbers.
        constant: the last feature; 0 for none.

    Attributes:
        shape: (n, d), with the constant feature.
        dtype: of the array.
        mapped: whether the array is memory-mapped.

    Examples:
        >>> import numpy as np
        >>> from influence.linear.rows import RowBlocks
        >>> rows = RowBlocks(np.arange(6).reshape(3, 2), constant=1.0)
        >>> rows.shape
        (3, 3)
        >>> [block.tolist() for _, block in rows.blocks("float64", 0.5, size=2)]
        [[[0.0, 0.5, 0.5], [1.0, 1.5, 0.5]], [[2.0, 2.5, 0.5]]]
    """

    def __init__(self, x: np.ndarray, constant: float = 0.0) -> None:
        self._x, self._constant, self.dtype = x, constant, x.dtype
        self.mapped = is_mapped(x)
        self._width = math.prod(x.shape[1:])
        self.shape = x.shape[0], self._width + bool(constant)

    def __getitem__(self, rows: slice) -> RowBlocks:
        return RowBlocks(self._x[rows], self._constant)

    def numpy(self) -> np.ndarray:
        """All rows as one array [n, d]; where integers get a constant, in float64."""
        dtype = self.dtype if self.dtype.kind == "f" or not self._constant else np.dtype(float)
        [(_, rows)] = self.blocks(dtype, 1.0, max(1, self.shape[0]))
        return rows

    def blocks(self, dtype: DType, scale: float, size: int) -> Iterator[tuple[slice, np.ndarray]]:
        """(where, rows times ``scale`` in ``dtype`` [b, d]), ``size`` rows at a time, each block an
        array of its own or a view of the points."""
        for first in range(0, self.shape[0], size):
            where = slice(first, min(first + size, self.shape[0]))
            # Of one block, so that none takes its place.
            [(_, block)] = self[where].split_blocks(dtype, scale, size)
            if self._constant:
                yield where, block.joined(np.empty(block.shape, dtype))
            else:
                yield where, block.features

    def split_blocks(
        self, dtype: DType, scale: float, size: int
    ) -> Iterator[tuple[slice, SplitBlock]]:
        """The same, with the constant feature beside the others: they are not copied for it. A
        block is good until the next one is asked for, which may take its place."""
        n, dtype = self.shape[0], np.dtype(dtype)
        kept = None
        for first in range(0, n, size):
            where = slice(first, min(first + size, n))
            rows = self._x[where].reshape(where.stop - first, self._width)
            if rows.dtype != dtype or scale != 1 or not rows.flags.c_contiguous:
                kept = np.empty((len(rows), self._width), dtype) if kept is None else kept
                converted = kept[: len(rows)]
                rows = np.multiply(rows, dtype.type(scale), out=converted, casting="unsafe")
            yield where, SplitBlock(rows, self._constant * scale)


class SplitBlock:
    """Rows [b, d], the last of whose features is a constant that stands nowhere.

    Args:
        features: the others, [b, d − 1], or [b, d] where there is no constant.
        constant: 0 for none.
    """

    def __init__(self, features: np.ndarray, constant: float) -> None:
        self.features, self._constant = features, features.dtype.type(constant)

    @property
    def shape(self) -> tuple[int, int]:
        """[b, d]."""
        b, width = self.features.shape
        return b, width + bool(self._constant)

    def __matmul__(self, columns: np.ndarray) -> np.ndarray:
        """The rows times ``columns`` [d, k]: [b, k]."""
        if not self._constant:
            return self.features @ columns
        return self.features @ columns[:-1] + self._constant * columns[-1]

    def back(self, columns: np.ndarray) -> np.ndarray:
        """Σ x ⊗ s over the rows, for s [b, k]: [d, k]."""
        product = self.features.T @ columns
        if not self._constant:
            return product
        return np.concatenate([product, self._constant * columns.sum(axis=0, keepdims=True)])

    def joined(self, out: np.ndarray, factors: np.ndarray | None = None) -> np.ndarray:
        """All features in one array [b, d], ``out``; each row times its factor [b]."""
        width = self.features.shape[1]
        if factors is None:
            out[:, :width], out[:, width:] = self.features, self._constant
        else:
            np.multiply(self.features, factors[:, np.newaxis], out=out[:, :width])
            out[:, width:] = self._constant * factors[:, np.newaxis]
        return out
