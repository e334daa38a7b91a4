"""Values and tables as people read them on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

_LONGEST = 24


def value(value: Any) -> str:
    """A cell: four digits of a number, the day of a date, not more than a few words of a text."""
    if isinstance(value, pd.Timestamp):
        return str(value.date()) if value == value.normalize() else str(value)[:16]
    if value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return "(empty)"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    text = line(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def line(text: Any) -> str:
    """A text on one line."""
    return " ".join(str(text).split())


def beside(ours: Iterable[str], theirs: Iterable[str]) -> list[str]:
    """Names of a table's own columns to stand beside ``ours``: all of them different, such as
    "score (table)"."""
    taken, names = set(ours), []
    for name in theirs:
        while name in taken:
            name += " (table)"
        taken.add(name)
        names.append(name)
    return names


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Cells in columns, the last ``left`` of them flush left."""
    lines = [list(map(line, header)), *rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    first = len(header) - left
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place < first else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths))
        ).rstrip()
        for cells in lines
    )
