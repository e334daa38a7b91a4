"""The training points, checked once at the door and never changed afterwards."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike

from influence.data.types import Inputs


class Dataset:
    """Points ``x`` with their ``labels``: checked once, immutable, kept in their own dtype.

    Args:
        x: [n, ...] numbers, one row a point; copied, unless the array is read-only or
            memory-mapped (``np.load(file, mmap_mode="r")``: linear models read it in blocks of
            rows). Eight-bit images stay eight-bit: a model converts a batch at a time. A SciPy
            sparse matrix [n, d] stays sparse (CSR); linear models take it.
        labels: [n] numbers, one label a point; [n, c] of several targets, which estimators of
            scikit-learn have.
        scale: what a model multiplies ``x`` by as it converts a batch, e.g. ``1 / 255`` for
            eight-bit pixels. Everything that is compared with the data (test points) is in the
            units of ``x``, before scaling.

    Raises:
        ValueError: empty data, lengths that differ, NaN or infinite entries (with the first row
            where one stands), or a dtype that is not a number.

    Examples:
        >>> from influence import Dataset
        >>> train = Dataset([[0, 255], [128, 0], [255, 255]], [0, 0, 1], scale=1 / 255)
        >>> len(train), train.x.shape
        (3, (3, 2))
        >>> train.without(0).labels.tolist(), train.relabelled([1], [1]).labels.tolist()
        ([0, 1], [0, 1, 1])
        >>> train.where(train.labels == 0).x.tolist()
        [[0, 255], [128, 0]]
    """

    def __init__(self, x: Inputs, labels: ArrayLike, scale: float = 1.0) -> None:
        self.x = _frozen(_check_numbers(x, "x"))
        self.labels = _frozen(_check_numbers(labels, "labels"))
        if not np.isfinite(scale) or scale == 0:
            raise ValueError(f"scale must be a finite number other than 0, not {scale!r}.")
        self.scale = float(scale)
        if self.x.ndim < 2:
            raise ValueError(
                f"x must have a row for each point and at least one feature, [n, d]; its shape is "
                f"{self.x.shape}."
            )
        if self.labels.ndim not in (1, 2):
            raise ValueError(_not_a_vector(self.labels))
        if self.x.shape[0] != len(self.labels):
            raise ValueError(
                f"x has {self.x.shape[0]} rows and labels has {len(self.labels)}: give one label "
                f"a row."
            )
        if 0 in self.x.shape:
            raise ValueError(f"The data set is empty: x has shape {self.x.shape}.")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Dataset(x={self.x.dtype}{list(self.x.shape)}, scale={self.scale:g})"

    def without(self, indices: ArrayLike) -> Dataset:
        """The same points without those at ``indices`` (one index or several)."""
        keep = np.ones(len(self), bool)
        keep[check_indices(indices, len(self))] = False
        if not keep.any():
            raise ValueError("Nothing is left when every point is removed.")
        return self.where(keep)

    def relabelled(self, indices: ArrayLike, labels: ArrayLike) -> Dataset:
        """The same points with ``labels`` at ``indices``."""
        indices = check_indices(indices, len(self))
        changed = self.labels.copy()
        changed[indices] = labels
        return Dataset(self.x, changed, self.scale)

    def moved(self, indices: ArrayLike, x: Inputs) -> Dataset:
        """The same labels, with the points ``x`` [k, ...] at ``indices``, one or several."""
        indices = check_indices(indices, len(self))
        if scipy.sparse.issparse(self.x):
            raise ValueError("Sparse points cannot be moved: use x.toarray().")
        x = check_inputs(x, self.x.shape[1:], "x")
        if len(x) != len(indices):
            raise ValueError(f"There are {len(indices)} indices and {len(x)} points for them.")
        if not np.can_cast(x.dtype, self.x.dtype, "same_kind"):
            raise ValueError(f"Points of dtype {x.dtype} do not fit into {self.x.dtype}.")
        changed = self.x.copy()
        changed[indices] = x
        changed.flags.writeable = False
        return Dataset(changed, self.labels, self.scale)

    def where(self, mask: ArrayLike) -> Dataset:
        """The points at which ``mask`` [n] is true, in their order."""
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (len(self),):
            raise ValueError(
                f"mask must be {len(self)} booleans, one a point; it is {mask.dtype}"
                f"{list(mask.shape)}."
            )
        return Dataset(_selected(self.x, mask), _selected(self.labels, mask), self.scale)


def is_mapped(array: Any) -> bool:
    """Whether an array is memory-mapped, or a view of one that is.

    Examples:
        >>> import numpy as np
        >>> from influence.data.dataset import is_mapped
        >>> is_mapped(np.zeros(3)[:2])
        False
    """
    while array is not None:
        if isinstance(array, mmap.mmap):
            return True
        array = getattr(array, "base", None)
    return False


def check_dataset(train: object, several: bool = False) -> None:
    """Raise a ValueError unless ``train`` is a Dataset, of ``several`` targets a point or of one
    label."""
    if not isinstance(train, Dataset):
        raise ValueError(f"train must be an influence.Dataset, not {type(train).__name__}.")
    if not several and train.labels.ndim != 1:
        raise ValueError(_not_a_vector(train.labels))


def check_indices(indices: ArrayLike, size: int, name: str = "indices") -> np.ndarray:
    """``indices`` (one or several) as an int64 vector, each in [0, size) and none twice.

    Raises:
        ValueError: names the first index that is not an integer, out of range, or repeated.
    """
    array = np.asarray(list(indices) if isinstance(indices, range) else indices)
    array = np.atleast_1d(array)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers, one or a vector; got {indices!r}.")
    array = array.astype(np.int64)
    outside = (array < 0) | (array >= size)
    if outside.any():
        raise ValueError(
            f"{name} must lie in 0..{size - 1}; {array[outside][0]} at position "
            f"{np.flatnonzero(outside)[0]} does not."
        )
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} must not repeat; {values[counts > 1][0]} occurs twice or more.")
    return array


def check_chosen(indices: ArrayLike, size: int) -> np.ndarray:
    """``train_indices`` as ``check_indices`` has them: one at least.

    Raises:
        ValueError: as there, or there is none.
    """
    indices = check_indices(indices, size, "train_indices")
    if not len(indices):
        raise ValueError("train_indices is empty: name at least one training point.")
    return indices


def check_points(
    x: Inputs,
    labels: ArrayLike,
    shape: Iterable[int],
    x_name: str,
    labels_name: str,
    targets: tuple[int, ...] = (),
) -> tuple[Any, np.ndarray]:
    """Test or phantom points as ``(x [m, *shape], labels [m, *targets])``; one point may come
    without ``m``.

    Raises:
        ValueError: says which of the two arrays is wrong and how.
    """
    x = check_inputs(x, shape, x_name)
    array = _check_numbers(labels, labels_name)
    if array.shape == targets:
        array = array[np.newaxis]
    if array.shape != (x.shape[0], *targets):
        wanted = f"[{x.shape[0]}, {targets[0]}]" if targets else f"a vector of {x.shape[0]} labels"
        raise ValueError(
            f"{labels_name} must be {wanted}, one for each row of {x_name}; its shape is "
            f"{array.shape}."
        )
    return x, array


def check_inputs(x: Inputs, shape: Iterable[int], name: str) -> np.ndarray:
    """Points without labels as [m, *shape]; one point may come without ``m``.

    Raises:
        ValueError: another shape, no points, or entries that are not finite.
    """
    shape = tuple(shape)
    x = _check_numbers(x, name)
    if x.shape == shape:
        x = x[np.newaxis]
    if x.shape[1:] != shape:
        raise ValueError(
            f"{name} must be [m, {', '.join(map(str, shape))}], like the training points; its "
            f"shape is {x.shape}."
        )
    if x.shape[0] == 0:
        raise ValueError(f"{name} is empty: give at least one point.")
    return x


def check_classes(labels: np.ndarray, num_classes: int, name: str) -> None:
    """Raise a ValueError unless every label is a whole number in 0..num_classes − 1."""
    wrong = (labels != np.floor(labels)) | (labels < 0) | (labels >= num_classes)
    if wrong.any():
        raise ValueError(
            f"{name} must be the classes 0..{num_classes - 1}; {labels[wrong][0]} at position "
            f"{np.flatnonzero(wrong)[0]} is not."
        )


def check_two_classes(labels: np.ndarray) -> None:
    """Raise a ValueError where all training labels are the same."""
    if (labels == labels[0]).all():
        raise ValueError(
            f"train.labels has a single class, {labels[0]}: a classifier needs points of two."
        )


def _not_a_vector(labels: np.ndarray) -> str:
    return f"labels must be a vector [n], one label a point; their shape is {labels.shape}."


def _check_numbers(values, name: str):
    if scipy.sparse.issparse(values):
        matrix = scipy.sparse.csr_array(values)
        _check_numbers(matrix.data, f"the stored entries of {name}")
        return matrix
    array = np.asarray(values)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be numbers; its dtype is {array.dtype}.")
    if array.dtype.kind == "f":
        # A sum is finite only if every entry is (or on overflow): a pass without a second array.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(array.sum())
        if suspicious:
            bad = ~np.isfinite(array)
            if bad.any():
                where = tuple(int(i) for i in np.argwhere(bad)[0])
                raise ValueError(
                    f"{name} must be finite; the entry at {list(where)} is {array[where]}."
                )
    return array


def _frozen(array):
    """The array itself where it is already read-only, a view of a memory-mapped one, else a
    read-only copy of the caller's."""
    if scipy.sparse.issparse(array):
        if array.data.flags.writeable:
            array = array.copy()
            array.data.flags.writeable = False
        return array
    if array.flags.writeable:
        array = array.view() if is_mapped(array) else array.copy()
        array.flags.writeable = False
    return array


def _selected(array, mask: np.ndarray):
    chosen = array[mask]
    (chosen.data if scipy.sparse.issparse(chosen) else chosen).flags.writeable = False
    return chosen
