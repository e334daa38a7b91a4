"""Sets of training points that are removed together: lists of indices, or a label a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from influence.data.dataset import check_chosen, check_indices


@dataclass(frozen=True)
class Sets:
    """Checked sets of training points.

    Attributes:
        members: the indices of each set; single points are one array [q, 1].
        names: what a message calls set number j: ``names[j]``, or "set j" (None).
    """

    members: Sequence[np.ndarray] | np.ndarray
    names: Sequence[str] | None = None

    @classmethod
    def of(cls, sets: Any, size: int) -> Sets:
        """From a list of index arrays, or an array of ``size`` group labels.

        Raises:
            ValueError: neither of the two; indices that are out of range or repeat; a set that is
                empty, or all that there is.

        Examples:
            >>> from influence.objective.sets import Sets
            >>> [members.tolist() for members in Sets.of(["b", "a", "b"], 3).members]
            [[1], [0, 2]]
            >>> Sets.of([[0, 2], [1]], 3).name(1)
            'set 1'
        """
        if not len(sets):
            raise ValueError("sets is empty: give at least one set of training points.")
        if isinstance(sets, np.ndarray) and sets.ndim == 2 and sets.shape[1] == 1:
            return cls(_single(sets, size))
        first = sets.iloc[0] if hasattr(sets, "iloc") else sets[0]
        if isinstance(first, (str, bytes)) or np.ndim(first) == 0:
            return cls._of_labels(np.asarray(sets), size)
        found = [check_indices(members, size, f"set {j}") for j, members in enumerate(sets)]
        checked = cls(found)
        checked._check_sizes(size)
        return cls(np.stack(found)) if all(len(members) == 1 for members in found) else checked

    @classmethod
    def of_points(cls, indices: ArrayLike | None, size: int) -> Sets:
        """Every one of these training points, or all (None), as a set of its own."""
        chosen = np.arange(size) if indices is None else check_chosen(indices, size)
        return cls(_single(chosen[:, np.newaxis], size), _PointNames(chosen))

    @classmethod
    def _of_labels(cls, labels, size):
        if labels.shape != (size,):
            raise ValueError(
                f"sets must be a list of index arrays, or {size} group labels, one a training "
                f"point; it is an array of shape {labels.shape}."
            )
        missing = labels != labels
        if np.any(missing) or None in labels.tolist():
            raise ValueError("sets has a group label that is missing: give every point one.")
        groups, of_point, counts = np.unique(labels, return_inverse=True, return_counts=True)
        order = np.argsort(of_point, kind="stable")
        names = [f"set {j} ({group!r})" for j, group in enumerate(groups.tolist())]
        checked = cls(np.split(order, np.cumsum(counts)[:-1]), names)
        checked._check_sizes(size)
        return checked

    def __len__(self) -> int:
        return len(self.members)

    @property
    def single(self) -> bool:
        """Whether every set is one point, and ``members`` an array."""
        return isinstance(self.members, np.ndarray)

    @property
    def sizes(self) -> np.ndarray:
        """Points in each set, [k]."""
        if self.single:
            return np.ones(len(self), int)
        return np.array([len(members) for members in self.members])

    def name(self, number: int) -> str:
        """What a message calls a set."""
        return f"set {number}" if self.names is None else self.names[number]

    def _check_sizes(self, size):
        for number, members in enumerate(self.members):
            if not len(members):
                raise ValueError(f"{self.name(number)} is empty: a set needs a training point.")
            if len(members) == size:
                raise ValueError(
                    f"{self.name(number)} is all {size} training points: nothing would be left."
                )


class _PointNames(Sequence[str]):
    """ "training point i" for each of these, made when it is asked for."""

    def __init__(self, indices):
        self._indices = indices

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, number):
        return f"training point {self._indices[number]}"


def _single(column, size):
    if size == 1:
        raise ValueError("There is a single training point: nothing would be left without it.")
    for number in np.flatnonzero((column < 0) | (column >= size))[:1]:
        check_indices(column[number], size, f"set {number}")
    return column.astype(np.int64)
