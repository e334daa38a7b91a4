"""Tables, and the column of them that is to be predicted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from influence.command.readers import TARGET_OF_ARRAYS, listed, read_frame

Kind = Literal["classes", "numbers"]

# More classes than this are names or numbers of something, not classes.
_MOST_CLASSES = 50
# Whole numbers with up to so many values are taken as classes, where nobody says otherwise.
_CLASSES_OF_WHOLE_NUMBERS = 10


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
    # What is text there, such as "01" beside "1b", stays as it is written where all are numbers.
    texts = [name for name in train.x.columns if _is_text(train.x[name])]
    if train.y.dtype == object and target is not None:
        texts.append(target)
    frame, column = _read(path, target, "test", texts)
    y = _labels(column, train.kind, path)
    if train.kind == "classes":
        y = _matched(y, train, path, column.name)
    return Table(path, frame, y, train.kind)


def in_order_of(train: Table, test: Table) -> Table:
    """A test table with its columns in the order of the training table's, for a model that knows
    them by their places.

    Raises:
        ValueError: one of them has another name.
    """
    names = list(train.x.columns)
    if len(test.x.columns) != len(names):
        return test  # as many as the model takes, or it says so
    missing_columns(names, test.x, test.path, "the training table")
    return replace(test, x=test.x[names])


def as_numbers(column: pd.Series, path: Path) -> pd.Series:
    """A column as floats, with NaN where it has no value.

    Raises:
        ValueError: names the first row that is text, or a number beyond computing.
    """
    if column.dtype.kind in "mMc":  # which have numbers in them, too
        numbers = np.full(len(column), np.nan)
    else:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    check_rows(column, ~np.isnan(numbers), path, "numbers")
    large = np.flatnonzero(np.abs(numbers) > 1e100)  # infinite, too
    if len(large):
        row = large[0]
        raise ValueError(
            f"Column {column.name!r} of {path} has {numbers[row]:g} in row {row} (counted from 0), "
            f"which is too large to compute with: mend it or leave it empty."
        )
    return pd.Series(numbers, column.index, name=column.name)


def as_texts(column: pd.Series) -> pd.Series:
    """The values of a column as texts, 1.0 as "1"; gaps stay."""
    texts = column.astype(str).str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
    return texts.astype(object).where(column.notna())


def check_rows(column: pd.Series, right: np.ndarray, path: Path, what: str) -> None:
    """Raise a ValueError that names the first row with a value that is not ``right`` [n], so that
    the column is not ``what`` it must be."""
    if right.all():  # of tables of many columns most are
        return
    wrong = np.flatnonzero(~right & column.notna())
    if len(wrong):
        raise ValueError(
            f"Column {column.name!r} of {path} must be {what}, and row {wrong[0]} (counted from 0) "
            f"has {_shown(column.iloc[wrong[0]])}: mend the row or delete the column."
        )


def missing_columns(wanted: list[str], x: pd.DataFrame, path: Path, owner: str) -> None:
    """Raise a ValueError where the table lacks a column that ``owner`` (in words) has."""
    missing = [name for name in wanted if name not in x.columns]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]!r}, which {owner} has: it has {listed(x.columns)}."
        )


def _read(path, target, part, texts=()):
    """(the other columns, the target's) of a file."""
    frame = read_frame(path, part, texts)
    if target is None:
        if path.suffix.lower() != ".npz":
            raise ValueError(f"Which column of {path} is to be predicted? Give --target COLUMN.")
        target = TARGET_OF_ARRAYS
    if target not in frame.columns:
        near = [name for name in frame.columns if name.strip() == target.strip()]
        if near:
            raise ValueError(f"{path} has no column {target!r}: give --target {near[0]!r}.")
        raise ValueError(f"{path} has no column {target!r}: it has {listed(frame.columns)}.")
    if not len(frame):
        raise ValueError(f"{path} has no rows.")
    column = frame.pop(target)
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise ValueError(
            f"The target {target!r} of {path} is empty in row {row} (counted from 0), or NA: fill "
            f"it in or delete the row."
        )
    if not len(frame.columns):
        raise ValueError(f"{path} has no column beside the target {target!r}.")
    return frame, column


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


def _matched(y, train, path, name):
    """Test labels as the training table has them, where 1, 1.0 and "1" are one."""
    known = pd.unique(train.y).tolist()
    by_text = dict(zip(as_texts(pd.Series(known)), known))
    codes, values = pd.factorize(y)
    matched = []
    for value, text in zip(values.tolist(), as_texts(pd.Series(values))):
        if value not in known and text not in by_text:
            raise ValueError(
                f"The target {name!r} of {path} has the class {_shown(value)}, which is not in "
                f"{train.path}: it has {listed(sorted(known, key=str))}."
            )
        matched.append(value if value in known else by_text[text])
    return np.array(matched, train.y.dtype)[codes]


def _is_text(column) -> bool:
    return pd.api.types.infer_dtype(column, skipna=True) == "string"


def _shown(value) -> str:
    """A value as people write it, not longer than a line."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
