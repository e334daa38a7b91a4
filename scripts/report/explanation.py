"""A test point and the training points that mattered most to it: as a table, a CSV, a picture."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from influence import plots

COLUMNS = ("effect", "training_point", "label", "predicted", "loss", "score")
_IMAGE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Point:
    """A point as it is shown; ``label`` and ``predicted`` are words.

    Attributes:
        index: in its array.
        loss: the model's, of this point.
        score: the predicted change of the test loss if this training point is removed; 0 for the
            test point itself.
    """

    index: int
    label: str
    predicted: str
    loss: float
    score: float = 0.0


@dataclass(frozen=True)
class Explanation:
    """The test point, and the training points that help and harm it, strongest first."""

    test: Point
    helpful: list[Point]
    harmful: list[Point]

    @property
    def rows(self):
        """(effect, point) of every training point."""
        for effect, points in (("helpful", self.helpful), ("harmful", self.harmful)):
            yield from ((effect, point) for point in points)


def explain(model, train, test, index: int, top: int, scores: np.ndarray) -> Explanation:
    """Choose the training points to show.

    Args:
        model: gives ``losses`` and ``predict``.
        train, test: (x, labels).
        index: of the test point.
        top: at most so many points of each kind.
        scores: [n] of every training point for the test point.
    """
    order = np.argsort(scores, kind="stable")
    helpful = [i for i in order[::-1][:top] if scores[i] > 0]
    harmful = [i for i in order[:top] if scores[i] < 0]
    (shown,) = _points(model, *test, [index], [0.0])
    return Explanation(
        shown,
        _points(model, *train, helpful, scores[helpful]),
        _points(model, *train, harmful, scores[harmful]),
    )


def table(explanation: Explanation) -> str:
    """What the terminal shows."""
    test = explanation.test
    lines = [
        f"Test point {test.index}: label {test.label}, predicted {test.predicted}, "
        f"loss {test.loss:.4g}",
        "Score: the predicted change of this loss if the training point is removed.",
    ]
    words = {"helpful": "it holds the loss down", "harmful": "it drives the loss up"}
    for effect, meaning in words.items():
        lines += ["", f"{effect} ({meaning})".capitalize()]
        cells = [_cells(kind, point)[1:] for kind, point in explanation.rows if kind == effect]
        cells = [tuple(name.replace("_", " ") for name in COLUMNS[1:]), *cells]
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in cells]
    return "\n".join(lines)


def as_csv(explanation: Explanation) -> str:
    """The training points, a row each, scores and losses with all of their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for effect, point in explanation.rows:
        numbers = repr(point.loss), repr(point.score)
        writer.writerow((effect, point.index, point.label, point.predicted, *numbers))
    return text.getvalue()


def are_images(x: np.ndarray) -> bool:
    """Whether ``x`` is [n, h, w], [n, h, w, 1] or [n, h, w, 3]."""
    return x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in _IMAGE_CHANNELS)


def picture(explanation: Explanation, x_train: np.ndarray, x_test: np.ndarray) -> Figure:
    """The test image, a row of the helpful training images, and one of the harmful ones."""
    columns = max(len(explanation.helpful), len(explanation.harmful), 1)
    figure, axes = plt.subplots(
        2, columns + 1, figsize=(1.45 * (columns + 1), 4.2), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    limits, test = (float(x_train.min()), float(x_train.max())), explanation.test
    title = f"test {test.index}\n{_labels(test)}"
    plots.image_grid(x_test[[test.index]], [title], axes[0, :1], limits=limits)
    rows = ("helpful", explanation.helpful), ("harmful", explanation.harmful)
    for row, (effect, points) in zip(axes[:, 1:], rows):
        row[0].set_ylabel(effect)
        titles = [f"{point.index}: {point.score:+.1e}\n{_labels(point)}" for point in points]
        if points:
            images = x_train[[point.index for point in points]]
            plots.image_grid(images, titles, row, limits=limits)
    return figure


def _points(model, x, labels, indices, scores) -> list[Point]:
    if len(indices) == 0:
        return []
    x, labels = x[indices], labels[indices]
    predicted = np.asarray(model.predict(x))
    losses = model.losses(x, labels)
    classes = labels.dtype.kind in "iub" or _one_hot(labels)
    return [
        Point(int(index), _word(label, classes), _word(output, classes), float(loss), float(score))
        for index, label, output, loss, score in zip(indices, labels, predicted, losses, scores)
    ]


def _one_hot(labels) -> bool:
    """Whether each label is a row of zeros with a single one."""
    return labels.ndim == 2 and labels.shape[1] > 1 and set(np.unique(labels)) == {0, 1}


def _word(value, classes: bool) -> str:
    """A label or a prediction: the class of several numbers, else the numbers."""
    value = np.ravel(value)
    if classes and len(value) > 1:
        return str(int(value.argmax()))
    return " ".join(f"{number:.4g}" for number in value)


def _cells(effect, point) -> tuple[str, ...]:
    return (
        effect,
        str(point.index),
        point.label,
        point.predicted,
        f"{point.loss:.3g}",
        f"{point.score:+.3e}",
    )


def _labels(point) -> str:
    return f"label {point.label}, pred. {point.predicted}"
