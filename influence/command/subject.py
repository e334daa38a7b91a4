"""What the command is asked about: a model with its training rows, and test rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import is_classifier

from influence.command import images, networks
from influence.command.columns import columns_of
from influence.command.fitting import fit_pipeline
from influence.command.models import as_fitted, fitted_columns, load_estimator
from influence.command.scoring import Rows, Scorer
from influence.command.tables import Kind, read_test_table, read_training_table
from influence.sklearn_models.adapter import from_sklearn

# What images are predicted to be.
_CLASS = "class"


@dataclass(frozen=True)
class Subject:
    """A model and its rows.

    Attributes:
        scorer: the model, and how its scores are computed.
        target: what it predicts, the column's name.
        kind: what that is.
        train, test: rows; ``test`` may be None.
        files: (training, test) as they were given.
        sentence: where the model comes from.
        unit: what a row is called, "row" or "image".
    """

    scorer: Scorer
    target: str
    kind: Kind
    train: Rows
    test: Rows | None
    files: tuple[Path, Path | None]
    sentence: str
    unit: str = "row"


def prepare(
    train: Path,
    test: Path | None = None,
    *,
    target: str | None = None,
    kind: Kind | None = None,
    model: Path | None = None,
    trust: bool = False,
    pixels: str = "255",
) -> Subject:
    """Read the tables or images, and read or fit the model.

    Args:
        train, test: files of tables, or folders of images by class.
        target: the column to predict; of folders None.
        kind: whether it is classes or numbers; None looks at it.
        model: a file of a fitted estimator or network; None fits one, to a table.
        trust: whether code in that file may run.
        pixels: "255" or "1", the largest value of a pixel that the network takes.

    Raises:
        ValueError: any of them is not what it must be, in one sentence.
    """
    files = train, test
    if any(path is not None and path.is_dir() for path in files):
        _check_folders(files, target, kind, model)
        assert model is not None
        return _of_images(files, model, networks.load_network(model, trust), pixels)
    if model is not None and model.suffix == ".keras":
        network = networks.load_network(model, trust)
        tables = _read(files, target, kind or networks.kind_of(network))
        return _of_network_and_table(tables, files, model, network, target)
    if model is not None:
        return _of_estimator(files, target, kind, load_estimator(model, trust), model)
    return _of_table(files, target, kind)


def _of_table(files, target, kind) -> Subject:
    """With the model that the command fits."""
    tables = _read(files, target, kind)
    columns = columns_of(tables[0].x, tables[0].path)
    shown = [columns.tidy(table.x, table.path) for table in tables]
    pipeline, sentence = fit_pipeline(shown[0], tables[0].y, tables[0].kind, columns)
    # Features are computed once, not again for every answer.
    rows = [Rows(x, pipeline[0].transform(x), table.y, table.y) for x, table in zip(shown, tables)]
    return _linear(pipeline[-1], rows, tables[0].kind, target, files, sentence)


def _of_estimator(files, target, kind, estimator, model) -> Subject:
    """With one of scikit-learn, read from ``model``."""
    tables = _read(files, target, kind or ("classes" if is_classifier(estimator) else "numbers"))
    frames = [fitted_columns(estimator, table.x, table.path) for table in tables]
    columns = columns_of(frames[0], tables[0].path)
    rows = [
        Rows(columns.tidy(x, table.path), as_fitted(estimator, x, table.path), table.y, table.y)
        for table, x in zip(tables, frames)
    ]
    sentence = f"Read {model}, a {_name(estimator)}, with its {len(rows[0])} training rows."
    return _linear(estimator, rows, tables[0].kind, target, files, sentence)


def _linear(estimator, rows, kind, target, files, sentence) -> Subject:
    scorer = Scorer(from_sklearn(estimator, rows[0].given, rows[0].labels), rows[0], kind)
    return Subject(scorer, target or "y", kind, rows[0], _second(rows), files, sentence)


def _of_network_and_table(tables, files, model, network, target) -> Subject:
    points = [networks.table_points(network, table.x, table.path) for table in tables]
    kind, classes = tables[0].kind, None
    labels = [table.y.astype(np.float32) if kind == "numbers" else table.y for table in tables]
    if kind == "classes":
        classes = networks.Classes(network, tables[0].y, tables[0].path)
        labels = [classes.labels(classes.places(table.y)) for table in tables]
    looked = images.are_images(points[0])
    rows = [
        Rows(_named(table) if looked else table.x, x, table.y, label, x if looked else None)
        for table, x, label in zip(tables, points, labels)
    ]
    unit = "image" if looked else "row"
    return _network(network, classes, rows, kind, target or "y", files, model, unit)


def _of_images(files, model, network, pixels) -> Subject:
    """With a network, and every image as large as it takes them."""
    folders = [images.list_images(path) for path in files if path is not None]
    known = set(folders[0].y)
    if len(known) < 2:
        raise ValueError(f"{files[0]} has images of one class, {folders[0].y[0]!r}, only.")
    for folder in folders[1:]:
        unknown = sorted(set(folder.y) - known)
        if unknown:
            raise ValueError(
                f"{folder.path} has images of the class {unknown[0]!r}, which is not in {files[0]}."
            )
    classes, rows = networks.Classes(network, folders[0].y, folders[0].path), []
    for folder in folders:
        points = images.load_images(folder, networks.point_shape(network), pixels)
        shown, labels = (
            pd.DataFrame({"file": folder.files}),
            classes.labels(classes.places(folder.y)),
        )
        rows.append(Rows(shown, points, folder.y, labels, points))
    return _network(network, classes, rows, "classes", _CLASS, files, model, "image")


def _named(table) -> pd.DataFrame:
    """What stands for the files of images that are rows of a table."""
    return pd.DataFrame(
        {"file": [f"row {row} of {table.path.name}" for row in range(len(table.y))]}
    )


def _check_folders(files, target, kind, model) -> None:
    """Raise a ValueError for what does not go with folders of images."""
    for path in files:
        if path is not None and not path.is_dir():
            what = "is a file" if path.exists() else "is not there"
            raise ValueError(f"{path} {what}: of images give folders for training and test alike.")
    if target is not None or kind == "numbers":
        raise ValueError(
            "The classes of images are the names of their folders: leave --target and --as out."
        )
    if model is None or model.suffix != ".keras":
        raise ValueError(
            f"For the images of {files[0]} the network that was trained on them is needed: give "
            f"--model MODEL.keras."
        )


def _network(network, classes, rows, kind, target, files, model, unit) -> Subject:
    scorer = networks.NetworkScorer(network, rows[0], classes)
    sentence = f"Read {model} with its {len(rows[0])} training {unit}s; {scorer.sentence}."
    if kind == "classes":
        right = scorer.predict(rows[0]) == rows[0].y
        sentence += f" It predicts {np.mean(right):.1%} of the training {unit}s."
        _warn_if_useless(right, rows[0].y, classes, unit)
    return Subject(scorer, target, kind, rows[0], _second(rows), files, sentence, unit)


def _warn_if_useless(right, y, classes, unit) -> None:
    """Say what may be wrong with the classes, or the pixels, of a network that knows nothing."""
    _, counts = np.unique(classes.places(y), return_counts=True)
    if right.mean() > counts.max() / len(y):
        return
    about = ", and its pixels up to 255 (else give --pixels 1)" if unit == "image" else ""
    names = ", ".join(map(str, classes.names[:8]))
    warnings.warn(
        f"The model predicts {right.mean():.1%} of the training {unit}s, no more than who always "
        f"says the most frequent class: are its outputs in the order {names}{about}?",
        stacklevel=2,
    )


def _read(files, target, kind):
    train, test = files
    trained = read_training_table(train, target, kind)
    return [trained] if test is None else [trained, read_test_table(test, target, trained)]


def _second(rows):
    return rows[1] if len(rows) > 1 else None


def _name(estimator) -> str:
    inner = getattr(estimator, "best_estimator_", estimator)
    steps = getattr(inner, "steps", None)
    if steps is None:
        return type(inner).__name__
    return f"pipeline that ends in {type(steps[-1][1]).__name__}"
