"""Tables from files, as pandas has them, and the column that is to be predicted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from influence.data.files import DAMAGED

Kind = Literal["classes", "numbers"]

# The columns of what is saved without names.
_TARGET_OF_ARRAYS = "y"
# More classes than this are names or numbers of something, not classes.
_MOST_CLASSES = 50
# Whole numbers with up to so many values are taken as classes, where nobody says otherwise.
_CLASSES_OF_WHOLE_NUMBERS = 10
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Table:
    """Rows of a file, and the labels of those rows.

    Attributes:
        path: the file.
        x: [n, d] all columns but the target, with the index 0..n − 1 (the rows of the file).
        y: [n] the target: class labels, or floats.
        kind: what the target is.
    """

    path: Path
    x: pd.DataFrame
    y: np.ndarray
    kind: Kind


def read_training_table(path: Path, target: str | None, kind: Kind | None) -> Table:
    """The table that a model is, or was, fitted to.

    Args:
        path: a file of ``READERS``.
        target: the column to predict; of a .npz it is y.
        kind: None looks at the target: text, truth values and few whole numbers are classes.

    Raises:
        ValueError: the file, or the target, is not what it must be, in one sentence.
    """
    frame, column = _read(path, target, "train")
    if kind is None:
        kind = _kind(column)
    y = _labels(column, kind, path)
    values = pd.unique(y)
    if len(values) < 2:
        what = "has one class" if kind == "classes" else "is one number"
        raise ValueError(
            f"The target {column.name!r} of {path} {what}, {_shown(values[0])}, in all {len(y)} "
            f"rows: there is nothing to learn."
        )
    if kind == "classes" and len(values) > _MOST_CLASSES:
        remedy = "give --as numbers" if y.dtype.kind in "iuf" else "choose another column"
        raise ValueError(
            f"The target {column.name!r} of {path} has {len(values)} different values, too many "
            f"for classes: {remedy}."
        )
    return Table(path, frame, y, kind)


def read_test_table(path: Path, target: str | None, train: Table) -> Table:
    """A table of test rows, with labels like those of ``train``.

    Raises:
        ValueError: as ``read_training_table``.
    """
    frame, column = _read(path, target, "test")
    y = _labels(column, train.kind, path)
    if train.kind == "classes":
        if train.y.dtype == object:
            y = y.astype(str).astype(object)  # such as only the numbers among them
        known = pd.unique(train.y).tolist()
        unknown = [value for value in pd.unique(y).tolist() if value not in known]
        if unknown:
            raise ValueError(
                f"The target {column.name!r} of {path} has the class {_shown(unknown[0])}, which "
                f"is not in {train.path}: it has {_listed(sorted(known, key=str))}."
            )
    return Table(path, frame, y, train.kind)


def as_numbers(column: pd.Series, path: Path) -> pd.Series:
    """A column as floats, with NaN where it has no value.

    Raises:
        ValueError: names the first row that is text, or a number beyond computing.
    """
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    wrong = numbers.isna() & column.notna()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"Column {column.name!r} of {path} must be numbers, and row {row} (counted from 0) has "
            f"{_shown(column.iloc[row])}: mend the row or delete the column."
        )
    wrong = numbers.abs() > 1e100  # infinite, too
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"Column {column.name!r} of {path} has {numbers.iloc[row]:g} in row {row} (counted "
            f"from 0), which is too large to compute with: mend it or leave it empty."
        )
    return numbers


def missing_columns(wanted: list[str], x: pd.DataFrame, path: Path, owner: str) -> None:
    """Raise a ValueError where the table lacks a column that ``owner`` (in words) has."""
    missing = [name for name in wanted if name not in x.columns]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]!r}, which {owner} has: it has {_listed(x.columns)}."
        )


def _read(path, target, part):
    """(the other columns, the target's) of a file."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(
            f"{path} is no table that can be read: give a file that ends in {', '.join(READERS)}."
        )
    if target is None:
        if suffix != ".npz":
            raise ValueError(f"Which column of {path} is to be predicted? Give --target COLUMN.")
        target = _TARGET_OF_ARRAYS
    frame = READERS[suffix](path, part)
    frame.columns = frame.columns.map(str)
    frame = frame.reset_index(drop=True)
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"{path} has two columns {repeated[0]!r}: rename one of them.")
    if target not in frame.columns:
        raise ValueError(f"{path} has no column {target!r}: it has {_listed(frame.columns)}.")
    if not len(frame):
        raise ValueError(f"{path} has no rows.")
    column = frame.pop(target)
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise ValueError(
            f"The target {target!r} of {path} is empty in row {row} (counted from 0): fill it in "
            f"or delete the row."
        )
    if not len(frame.columns):
        raise ValueError(f"{path} has no column beside the target {target!r}.")
    return frame, column


def _read_csv(path, part):
    try:
        # Of text that is nearly a number, such as 1e5000, it makes infinity, which is refused.
        return pd.read_csv(path, low_memory=False)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a CSV table ({_first_line(error)}).") from None


def _read_arrow(read: Callable[[Path], pd.DataFrame], name: str):
    def reader(path: Path, part: str) -> pd.DataFrame:
        if importlib.util.find_spec("pyarrow") is None:
            raise ValueError(
                f"To read {path} pyarrow is needed: install influence[arrow], or save a CSV."
            )
        try:
            return read(path)
        except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow raises
            raise ValueError(f"{path} is not {name} file ({_first_line(error)}).") from None

    return reader


def _read_npz(path, part):
    """``X`` [n, ...] and ``y`` [n], or ``x_train`` and ``y_train`` (``x_test`` and ``y_test``)."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            names = saved.files
            found = next((n for n in ("X", "x", f"x_{part}") if n in names), None)
            labels = f"y_{part}" if found == f"x_{part}" else "y"
            arrays = [saved[name] for name in (found, labels) if name in names]
    except DAMAGED:
        raise ValueError(
            f"{path} is not a .npz of numbers and plain texts: write it with np.savez."
        ) from None
    if len(arrays) != 2 or {array.ndim for array in arrays} & {0} or arrays[1].ndim > 1:
        raise ValueError(
            f"{path} must have the arrays X [n, d] and y [n] (or x_{part} and y_{part}): it has "
            f"{_listed(names)}."
        )
    x, y = arrays
    if len(x) != len(y):
        raise ValueError(f"{path} has {len(x)} rows of points and {len(y)} labels: give one each.")
    x = x.reshape(len(x), -1) if len(x) else x.reshape(0, 1)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    return frame.assign(**{_TARGET_OF_ARRAYS: y})


READERS: dict[str, Callable[[Path, str], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".parquet": _read_arrow(pd.read_parquet, "a Parquet"),
    ".feather": _read_arrow(pd.read_feather, "a Feather"),
    ".arrow": _read_arrow(pd.read_feather, "an Arrow"),
    ".npz": _read_npz,
}


def _kind(column) -> Kind:
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        return "classes"
    values = column.unique()
    whole = bool((np.asarray(values, np.float64) % 1 == 0).all())
    return "classes" if whole and len(values) <= _CLASSES_OF_WHOLE_NUMBERS else "numbers"


def _labels(column, kind, path):
    if kind == "numbers":
        return as_numbers(column, path).to_numpy()
    numeric = pd.api.types.is_numeric_dtype(column)  # truth values are numbers, too
    if numeric:
        as_numbers(column, path)
    return column.to_numpy() if numeric else column.astype(str).to_numpy(object)


def _listed(names) -> str:
    names = [str(name) for name in names]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "none") + more


def _shown(value) -> str:
    """A value as people write it, not longer than a line."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _first_line(error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
