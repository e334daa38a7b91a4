"""The columns of a table as a model can take them: numbers, dates, and categories."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from influence.command.tables import as_numbers, as_texts, check_rows, missing_columns

_DATE = r"\s*\d{4}-\d{2}-\d{2}([T ].*)?\s*"
# The zone of a time of day.
_ZONE = r"([T ][\d:.]+)\s*(?:Z|[+-][\d:]+)\s*$"
_GAP = "(empty)"
# Categories of a column beyond these are one, "infrequent".
_MOST_CATEGORIES = 20
# A text that has another value in more than every second row is a name, not a category.
_NAMES_FROM = 20
_DATE_NUMBERS = ("days", "month", "weekday")


@dataclass(frozen=True)
class Columns:
    """Which columns of a training table are what.

    Attributes:
        numbers, dates, categories: their names.
        left_out: the names of the others, and why.
        zones: of those dates that have one, which is not in each of their texts.
    """

    numbers: list[str]
    dates: list[str]
    categories: list[str]
    left_out: dict[str, str]
    zones: dict[str, Any] = field(default_factory=dict)

    @property
    def used(self) -> list[str]:
        """The names of all that a model is given."""
        return self.numbers + self.dates + self.categories

    def tidy(self, x: pd.DataFrame, path: Path) -> pd.DataFrame:
        """The columns in use as floats, times and texts.

        Raises:
            ValueError: a column is missing, or is text where the training table has numbers or
                dates.
        """
        missing_columns(self.used, x, path, "the training table")
        parts = {name: as_numbers(x[name], path) for name in self.numbers}
        for name in self.dates:
            parts[name] = _as_dates(x[name], self.zones.get(name))
            check_rows(x[name], parts[name].notna().to_numpy(), path, "dates such as 2024-05-31")
        parts |= {name: as_texts(x[name]).fillna(_GAP) for name in self.categories}
        return pd.DataFrame(parts, index=x.index)

    def encoder(self) -> ColumnTransformer:
        """An unfitted transformer of tidy tables to standardised numbers, with names."""
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        expand = FunctionTransformer(_date_numbers, feature_names_out=_date_names)
        one_hot = OneHotEncoder(
            handle_unknown="warn",
            max_categories=_MOST_CATEGORIES,
            sparse_output=False,
            feature_name_combiner=_category_name,
        )
        return ColumnTransformer(
            [
                ("numbers", numbers, self.numbers),
                ("dates", make_pipeline(expand, numbers), self.dates),
                ("categories", one_hot, self.categories),
            ],
            verbose_feature_names_out=False,
        ).set_output(transform="pandas")

    def __str__(self) -> str:
        used = {
            "standardised": (self.numbers, "number", "numbers"),
            "as days, month and weekday": (self.dates, "date", "dates"),
            "one-hot": (self.categories, "category", "categories"),
        }
        parts = [
            f"{len(names)} {singular if len(names) == 1 else plural} {how}"
            for how, (names, singular, plural) in used.items()
            if names
        ]
        return ", ".join(parts)


def columns_of(x: pd.DataFrame, path: Path) -> Columns:
    """What the columns of a training table are.

    Raises:
        ValueError: a column is numbers in most rows and text in others, or none is of use.
    """
    numbers, dates, categories, left_out = [], [], [], {}
    for name in x.columns:
        column = x[name]
        if name.startswith("Unnamed: "):
            left_out[name] = "it has no name, as row numbers that were saved along"
        elif column.isna().all():
            left_out[name] = "it is empty"
        elif _are_numbers(column):
            as_numbers(column, path)
            numbers.append(name)
        elif _are_dates(values := column.dropna()):
            dates.append(name)
        elif _are_names(values):
            left_out[name] = "nearly every row has another text in it"
        else:
            categories.append(name)
    zones = {name: x[name].dt.tz for name in dates if _are_times(x[name])}
    columns = Columns(numbers, dates, categories, left_out, zones)
    if not columns.used:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in left_out.items())
        raise ValueError(f"{path} has no column to predict from ({reasons}).")
    return columns


def differences(x: pd.DataFrame, row: pd.Series, others: pd.DataFrame) -> pd.DataFrame:
    """How far each of ``others`` [k, d] is from a row in each column, in standard deviations of
    the column in ``x``; categories that differ are one apart, and a gap is not apart.

    Args:
        x, row, others: tidy.
    """
    numbers = [name for name, kind in x.dtypes.items() if pd.api.types.is_numeric_dtype(kind)]
    values, there = x[numbers].astype(np.float64), others[numbers].astype(np.float64)
    here = pd.Series(row[numbers].to_list(), numbers, np.float64)
    # Of a column of one value, or one row, there is no deviation.
    apart = (there - here) / values.std().where(values.max() > values.min(), 1.0)
    parts = {}
    for name in x.columns.difference(numbers, sort=False):
        column = x[name]
        if _are_times(column):
            spread = column.std() if column.nunique() > 1 else pd.Timedelta(days=1)
            parts[name] = (others[name] - row[name]) / spread
        else:
            parts[name] = (others[name] != row[name]).astype(np.float64)
    apart = pd.concat([apart, pd.DataFrame(parts, index=others.index)], axis=1)
    return apart[list(x.columns)].abs().fillna(0.0).astype(np.float64)


def _are_numbers(column) -> bool:
    """Whether most values are numbers; that all are is for ``as_numbers`` to see."""
    if pd.api.types.is_numeric_dtype(column):
        return True
    if _are_times(column) or pd.api.types.is_timedelta64_dtype(column):
        return False
    if isinstance(column.dtype, pd.CategoricalDtype):
        return False  # whatever they are called
    values = column.dropna().astype(str)
    return bool(pd.to_numeric(values, errors="coerce").notna().mean() > 0.5)


def _are_dates(values) -> bool:
    return _are_times(values) or bool(_as_dates(values).notna().all())


def _are_times(column) -> bool:
    return pd.api.types.is_datetime64_any_dtype(column)


def _as_dates(column, zone=None):
    """Times as they are written, without a zone: its days are those of people there. NaT where
    there is none; times that know their zone are converted to ``zone``, if that is one."""
    if _are_times(column):
        known = zone is not None and column.dt.tz is not None
        return (column.dt.tz_convert(zone) if known else column).dt.tz_localize(None)
    texts = column.astype(str).where(column.notna())
    texts = texts.where(texts.str.fullmatch(_DATE, na=False))
    texts = texts.str.replace(_ZONE, r"\1", regex=True)
    # In UTC, as if all were there.
    return pd.to_datetime(texts, errors="coerce", utc=True, format="ISO8601").dt.tz_localize(None)


def _are_names(values) -> bool:
    different = values.astype(str).nunique()
    return different > _NAMES_FROM and different > len(values) / 2


def _date_numbers(x: pd.DataFrame) -> pd.DataFrame:
    parts = {}
    for name in x.columns:
        times = x[name]
        numbers = (times - pd.Timestamp(1970, 1, 1)) / pd.Timedelta(days=1), times.dt.month
        for part, values in zip(_DATE_NUMBERS, (*numbers, times.dt.day_of_week)):
            parts[f"{name} ({part})"] = values.astype(np.float64)
    return pd.DataFrame(parts, index=x.index)


def _date_names(transformer, names) -> list[str]:
    return [f"{name} ({part})" for name in names for part in _DATE_NUMBERS]


def _category_name(name, category) -> str:
    return f"{name} = {category}"
