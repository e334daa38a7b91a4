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
from influence.command.tables import Kind, in_order_of, read_test_table, read_training_table
from influence.sklearn_models.adapter import from_sklearn

# What images are predicted to be.
_CLASS = "class"
# What may be asked of the points of a network that knows nothing.
_SCALE = "its numbers on the scale that it was trained on"
_SCALES = {
    "255": "its pixels up to 255 (else give --pixels 1)",
    "1": "its pixels up to 1 (else leave --pixels out)",
}


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
    pixels: str | None = None,
) -> Subject:
    """Read the tables or images, and read or fit the model.

    Args:
        train, test: files of tables, or folders of images by class.
        target: the column to predict; of folders None.
        kind: whether it is classes or numbers; None looks at it.
        model: a file of a fitted estimator or network; None fits one, to a table.
        trust: whether code in that file may run.
        pixels: of folders "255" or "1", the largest value of a pixel that the network takes; None
            is "255".

    Raises:
        ValueError: any of them is not what it must be, in one sentence.
    """
    files = train, test
    if any(path is not None and path.is_dir() for path in files):
        _check_folders(files, target, kind, model)
        assert model is not None
        return _of_images(files, model, networks.load_network(model, trust), pixels or "255")
    if pixels is not None:
        raise ValueError(f"--pixels is for folders of images, and {train} is none: leave it out.")
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
    if not hasattr(estimator, "feature_names_in_"):
        tables = _in_order(tables)
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
    tables = _in_order(tables)
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
    return _network(
        network, classes, rows, "classes", _CLASS, files, model, "image", _SCALES[pixels]
    )


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


def _network(network, classes, rows, kind, target, files, model, unit, scale=_SCALE) -> Subject:
    known, doubt = _first_look(network, classes, rows[0], unit, scale)
    try:
        scorer = networks.NetworkScorer(network, rows[0], classes)
    except ValueError as error:
        # Of pixels on another scale outputs are so large that a loss has no curvature there.
        raise ValueError(f"{doubt} {error}".strip()) from None
    if doubt:
        warnings.warn(doubt, stacklevel=2)
    sentence = f"Read {model} with its {len(rows[0])} training {unit}s; {scorer.sentence}.{known}"
    return Subject(scorer, target, kind, rows[0], _second(rows), files, sentence, unit)


def _first_look(network, classes, train, unit, scale) -> tuple[str, str]:
    """(what a network knows, what may be wrong with its classes or its points), in words, before
    its derivatives are computed; "" of numbers, and of a network that knows something."""
    if classes is None:
        return "", ""
    says, places = networks.probabilities(network, train.given), classes.places(train.y)
    right = np.mean(says.argmax(axis=1) == places)
    known, doubt = f" It predicts {right:.1%} of the training {unit}s.", ""
    if right <= np.unique(places, return_counts=True)[1].max() / len(places):
        doubt = "no more than who always says the most frequent class"
    elif (says.max(axis=1) == 1).all():
        doubt = "and all with a probability of 1"
    if doubt:
        doubt = (
            f"The model predicts {right:.1%} of the training {unit}s, {doubt}: are its outputs in "
            f"the order {', '.join(map(str, classes.names[:8]))}, and {scale}?"
        )
    return known, doubt


def _read(files, target, kind):
    train, test = files
    trained = read_training_table(train, target, kind)
    return [trained] if test is None else [trained, read_test_table(test, target, trained)]


def _in_order(tables):
    """For a model that knows columns by their places."""
    return [tables[0], *(in_order_of(tables[0], table) for table in tables[1:])]


def _second(rows):
    return rows[1] if len(rows) > 1 else None


def _name(estimator) -> str:
    inner = getattr(estimator, "best_estimator_", estimator)
    steps = getattr(inner, "steps", None)
    if steps is None:
        return type(inner).__name__
    return f"pipeline that ends in {type(steps[-1][1]).__name__}"
