"""Tables from files, as pandas has them."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from influence.command import words
from influence.data.files import DAMAGED

# The column that is the target of what is saved without names.
TARGET_OF_ARRAYS = "y"
_NAMES_SHOWN = 8
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def read_frame(path: Path, part: str, texts: Collection[str] = ()) -> pd.DataFrame:
    """All columns of a file, by different names, with the index 0..n − 1.

    Args:
        path: a file of ``READERS``.
        part: "train" or "test", of a .npz that has both.
        texts: columns of a CSV whose values stay as they are written: "01" is not 1.

    Raises:
        ValueError: there is no such file, or it is not such a table, in one sentence.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(
            f"{path} is no table that can be read: give a file that ends in {', '.join(READERS)}."
        )
    frame = READERS[suffix](path, part, texts)
    frame.columns = frame.columns.map(str)
    _check_different(frame.columns, path)
    return frame.reset_index(drop=True)


def listed(names: Iterable[Any]) -> str:
    """The first of some names, in a line."""
    names = list(map(words.line, names))
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "none") + more


def _read_csv(path, part, texts):
    header = _parsed(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    names = header.iloc[0]
    for separator, called in _OTHER_SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            raise ValueError(
                f"{path} has {called} between its columns: save it with commas, and with points in "
                f"its numbers."
            )
    # pandas would call the second one by another name.
    _check_different(pd.Index(names[names != ""]), path)
    # Of text that is nearly a number, such as 1e5000, it makes infinity, which is refused. Without
    # index_col=False the values of longer rows would move to the left of their names.
    return _parsed(path, low_memory=False, index_col=False, dtype=dict.fromkeys(texts, str))


def _parsed(path, **options):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, **options)
    except pd.errors.ParserWarning:  # of longer rows, which it would cut off
        raise ValueError(
            f"{path} has rows that are longer than its header: give every column a name."
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a CSV table in UTF-8 ({_first_line(error)}): save it as such."
        ) from None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a CSV table ({_first_line(error)}).") from None


def _check_different(names, path):
    repeated = names[names.duplicated()]
    if len(repeated):
        raise ValueError(f"{path} has two columns {repeated[0]!r}: rename one of them.")


def _read_arrow(read: Callable[[Path], pd.DataFrame], name: str):
    def reader(path: Path, part: str, texts: Collection[str]) -> pd.DataFrame:
        if importlib.util.find_spec("pyarrow") is None:
            raise ValueError(
                f"To read {path} pyarrow is needed: install influence[arrow], or save a CSV."
            )
        try:
            return read(path)
        except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow raises
            raise ValueError(f"{path} is not {name} file ({_first_line(error)}).") from None

    return reader


def _read_npz(path, part, texts):
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
            f"{listed(names)}."
        )
    x, y = arrays
    if len(x) != len(y):
        raise ValueError(f"{path} has {len(x)} rows of points and {len(y)} labels: give one each.")
    x = x.reshape(len(x), -1) if len(x) else x.reshape(0, 1)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    return frame.assign(**{TARGET_OF_ARRAYS: y})


READERS: dict[str, Callable[[Path, str, Collection[str]], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".parquet": _read_arrow(pd.read_parquet, "a Parquet"),
    ".feather": _read_arrow(pd.read_feather, "a Feather"),
    ".arrow": _read_arrow(pd.read_feather, "an Arrow"),
    ".npz": _read_npz,
}


def _first_line(error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
