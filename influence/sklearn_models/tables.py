"""Tables of pandas, polars and Arrow: their columns, their rows' names and their numbers.

None of those packages is imported: a table is known by what it answers to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from influence.data.types import Inputs


def column_names(x: Any) -> list[Any] | None:
    """Of a table, or of one row of it (a pandas ``Series``); None of what has no names."""
    # Arrow's columns are the data.
    names = getattr(x, "column_names", getattr(x, "columns", None))
    if names is None and np.ndim(x) == 1:
        names = row_names(x)
    return None if names is None else list(names)


def row_names(x: Any) -> Any:
    """The index of a pandas table; None of what has none."""
    index = getattr(x, "index", None)
    # That of a list is a method.
    return None if callable(index) else index


def check_columns(x: Any, estimator: Any, name: str) -> None:
    """Raise a ValueError where ``x`` has other columns than ``estimator`` was fitted on, or has
    them in another order."""
    known = getattr(estimator, "feature_names_in_", None)
    names = column_names(x)
    if known is None or names is None or list(known) == names:
        return
    raise ValueError(
        f"{name} must have the columns that {type(estimator).__name__} was fitted on, in their "
        f"order: {list(known)}."
    )


def numbers(x: Inputs) -> Inputs:
    """A table, or what is none, as a matrix of numbers, where it is one: CSR if sparse."""
    if scipy.sparse.issparse(x):
        return scipy.sparse.csr_array(x)
    array = np.asarray(x)
    if array.dtype != object or column_names(x) is None:
        return array
    # Columns of truth values beside others, and columns with gaps.
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        return array
