"""What the command is asked about: a model with its training rows, and test rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.base import is_classifier

from influence.command.columns import Columns, columns_of
from influence.command.fitting import fit_pipeline
from influence.command.models import as_fitted, fitted_columns, load_estimator
from influence.command.tables import Kind, Table, read_test_table, read_training_table
from influence.sklearn_models.adapter import SklearnModel, from_sklearn


@dataclass(frozen=True)
class Rows:
    """Rows of a table in the two forms in which they are used.

    Attributes:
        shown: [n, d] tidy, for people.
        given: the same as the model is given them.
        y: [n] labels.
    """

    shown: pd.DataFrame
    given: Any
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def at(self, index: int) -> tuple[Any, np.ndarray]:
        """(x, y) of one row, as the model is given them."""
        chosen = slice(index, index + 1)
        x = self.given.iloc[chosen] if isinstance(self.given, pd.DataFrame) else self.given[chosen]
        return x, self.y[chosen]


@dataclass(frozen=True)
class Subject:
    """A model and its rows.

    Attributes:
        model: ``from_sklearn`` of it.
        target: what it predicts, the column's name.
        kind: what that is.
        train, test: rows; ``test`` may be None.
        files: (training, test) as they were given.
        sentence: where the model comes from.
    """

    model: SklearnModel
    target: str
    kind: Kind
    train: Rows
    test: Rows | None
    files: tuple[Path, Path | None]
    sentence: str

    def of_label(self, rows: Rows) -> np.ndarray | None:
        """The probability that the model gives each row's own label, [n]; None of a model that has
        no probabilities."""
        if self.kind == "numbers":
            return None
        outputs = self.model.outputs(rows.given)
        probabilities = self.model.class_probabilities(tf.constant(outputs))
        if probabilities is None:
            return None
        return probabilities.numpy()[np.arange(len(rows)), self.places(rows)]

    def places(self, rows: Rows) -> np.ndarray:
        """Where the label of each row is among the classes of the model, [n]."""
        codes, labels = pd.factorize(rows.y)
        return np.array([self.model.class_position(label) for label in labels.tolist()])[codes]


def prepare(
    train: Path,
    test: Path | None = None,
    *,
    target: str | None = None,
    kind: Kind | None = None,
    model: Path | None = None,
    trust: bool = False,
) -> Subject:
    """Read the tables, and read or fit the model.

    Args:
        train, test: files of tables.
        target: the column to predict.
        kind: whether it is classes or numbers; None looks at it.
        model: a file of a fitted estimator; None fits one.
        trust: whether code in that file may run.

    Raises:
        ValueError: any of them is not what it must be, in one sentence.
    """
    estimator = None if model is None else load_estimator(model, trust)
    if estimator is not None and kind is None:
        kind = "classes" if is_classifier(estimator) else "numbers"
    trained = read_training_table(train, target, kind)
    tables = [trained] if test is None else [trained, read_test_table(test, target, trained)]
    if estimator is None:
        columns = columns_of(trained.x, train)
        rows = [_rows(table, table.x, columns) for table in tables]
        pipeline, sentence = fit_pipeline(rows[0].shown, trained.y, trained.kind, columns)
        # Features are computed once, not again for every answer.
        encoder, estimator = pipeline[0], pipeline[-1]
        rows = [replace(each, given=encoder.transform(each.shown)) for each in rows]
    else:
        frames = [fitted_columns(estimator, table.x, table.path) for table in tables]
        columns = columns_of(frames[0], train)
        rows = [_rows(table, x, columns, estimator) for table, x in zip(tables, frames)]
        sentence = f"Read {model}, a {_name(estimator)}, with its {len(trained.y)} training rows."
    return Subject(
        from_sklearn(estimator, rows[0].given, rows[0].y),
        target or "y",
        trained.kind,
        rows[0],
        rows[1] if len(rows) > 1 else None,
        (train, test),
        sentence,
    )


def _rows(table: Table, x: pd.DataFrame, columns: Columns, estimator: Any = None) -> Rows:
    shown = columns.tidy(x, table.path)
    given = shown if estimator is None else as_fitted(estimator, x, table.path)
    return Rows(shown, given, table.y)


def _name(estimator) -> str:
    inner = getattr(estimator, "best_estimator_", estimator)
    steps = getattr(inner, "steps", None)
    if steps is None:
        return type(inner).__name__
    return f"pipeline that ends in {type(steps[-1][1]).__name__}"
