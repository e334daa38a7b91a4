"""Answers as pages of HTML, which need no other file, script or network."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from influence.command import doubting, images, pictures, words
from influence.command.checking import of_leverage, verdict
from influence.command.doubting import Suspects
from influence.command.explaining import Explanation, about_test_row, question
from influence.command.page import rendered
from influence.command.scoring import Rows
from influence.objective.validation import Validation

_REFITS = 20
# Columns in which the shown rows are compared, and of each row how many are marked.
_COMPARED, _MARKED = 8, 3
# Columns of a list of suspects, and how many of them a page has.
_COLUMNS, _SUSPECTS = 12, 60
_PACKAGES = ("influence", "tensorflow", "scikit-learn", "numpy", "pandas")


def report(explanation: Explanation, notes: list[str], command: str) -> str:
    """The page of an explanation.

    Args:
        explanation: what it is about.
        notes: what was warned of.
        command: that made it.
    """
    subject, scores = explanation.subject, explanation.scores
    leverage, found = subject.scorer.leverage(), _refits(explanation)
    shown = explanation.harmful, explanation.helpful
    drawn = {"All scores": pictures.of_scores(scores, *shown)}
    if leverage is not None:
        drawn["Leverage against score"] = pictures.of_leverage(leverage, scores, *shown)
    if found is not None:
        drawn["Scores against refits"] = pictures.of_refits(found.predicted, found.actual)
    kinds = zip(("Harmful", "Helpful"), ("fall", "rise"), shown)
    assert subject.test is not None
    test_image = _addresses(subject.test.at(explanation.row), [0], subject.train)
    return _page(
        "explain.html",
        command,
        title=question(explanation),
        about=about_test_row(explanation),
        model=subject.sentence,
        unit=subject.unit,
        row=explanation.row,
        test_image=test_image[0] if test_image else None,
        cells=_test_cells(explanation),
        kinds=[
            (
                kind,
                f"Without one of them the loss would {way}.",
                _compared(explanation, rows),
            )
            for kind, way, rows in kinds
        ],
        pictures=drawn,
        checks=_checks(leverage, found, notes),
    )


def report_of_suspects(suspects: Suspects, notes: list[str], command: str) -> str:
    """The page of a list of suspects, the first 60 of them.

    Args:
        suspects: what it is about.
        notes: what was warned of.
        command: that made it.
    """
    subject = suspects.subject
    frame = suspects.to_frame(_SUSPECTS)
    rows = frame["row"].tolist()
    gallery = None
    if subject.train.images is not None:
        predicted = frame["predicted"].tolist()
        gallery = _gallery(subject.train, rows, predicted, frame["score"].map("{:.4g}".format))
    shown = frame.iloc[:, :_COLUMNS]
    return _page(
        "suspects.html",
        command,
        title=f"Which {subject.unit}s of {subject.files[0]} have a doubtful {subject.target}?",
        about=f"The most suspicious first: how far each holds up its own {subject.target} against "
        f"all others.",
        model=subject.sentence,
        unit=subject.unit,
        count=len(rows),
        all=len(suspects.order),
        images=gallery,
        header=list(shown.columns),
        lines=[[words.value(cell) for cell in line] for line in shown.itertuples(index=False)],
        pictures={"All scores, by rank": pictures.of_ranks(suspects.scores[suspects.order])},
        worth=doubting.worth(suspects) or "No labels were changed to find out.",
        notes=" ".join(notes),
    )


def _page(template, command, **parts) -> str:
    versions = {name: _version(name) for name in _PACKAGES}
    path = Path(__file__).with_name(template)
    return rendered(path, command=command, versions=versions, **parts)


def _refits(explanation) -> Validation | None:
    """Of the rows that matter most to the test row; None where there is nothing to compare."""
    subject = explanation.subject
    try:
        points = min(_REFITS, len(subject.train))
        return subject.scorer.validate(subject.test.at(explanation.row), points)
    except ValueError:
        return None


def _checks(leverage, found, notes) -> list[tuple[str, str]]:
    """(what was checked, what was found)."""
    refits = "Nothing to compare." if found is None else verdict(found)
    number = "" if found is None else f" without each of {len(found.indices)} training points"
    checks = [(f"The model fitted again{number}, against the scores", refits)]
    if leverage is not None:
        what = "Leverage, how much of its own prediction a row decides"
        checks.append((what, of_leverage(leverage)))
    what = "The minimum of the objective, the solves, the columns"
    return [*checks, (what, " ".join(notes) or "Nothing to note.")]


def _test_cells(explanation) -> list[tuple[str, str]]:
    subject = explanation.subject
    cells = [
        (subject.target, words.value(explanation.label)),
        (f"{subject.target}, predicted", words.value(explanation.predicted)),
    ]
    values = subject.test.shown.iloc[explanation.row]
    names = words.beside([name for name, _ in cells], values.index)
    return cells + list(zip(names, map(words.value, values)))


def _compared(explanation, rows) -> dict[str, Any] | None:
    """What is shown of these training rows: images, or a table beside the test row with a line for
    each of the features in which they are farthest apart; None without rows."""
    if not rows:
        return None
    subject, scores = explanation.subject, [f"{s:+.4f}" for s in explanation.scores[rows]]
    if subject.train.images is not None:
        gallery = _gallery(subject.train, rows, explanation.predictions(rows), scores)
        return {"images": gallery}
    apart, train = explanation.apart(rows), subject.train.shown.iloc[rows]
    test = subject.test.shown.iloc[explanation.row]
    marked = apart.rank(axis=1, ascending=False, method="first") <= _MARKED
    names = apart.max().sort_values(ascending=False, kind="stable").index[:_COMPARED]
    target, *shown = words.beside(["row", "predicted", "score"], [subject.target, *names])
    lines = [
        (target, [explanation.label, *subject.train.y[rows]]),
        ("predicted", [explanation.predicted, *explanation.predictions(rows)]),
    ]
    texts = [(name, [(words.value(value), False) for value in values]) for name, values in lines]
    texts.append(("score", [("", False), *((score, False) for score in scores)]))
    for name, called in zip(names, shown):
        marks = marked[name].to_numpy() & (apart[name].to_numpy() > 0)
        cells = zip(map(words.value, train[name]), marks.tolist())
        texts.append((called, [(words.value(test[name]), False), *cells]))
    return {"images": None, "rows": rows, "lines": texts}


def _gallery(train: Rows, rows, predicted, numbers) -> list[dict[str, str]]:
    """What is said of images, and what has their content."""
    addresses = _addresses(train, rows, train)
    parts = zip(rows, addresses, predicted, numbers)
    return [
        {
            "address": address,
            "row": str(row),
            "label": words.value(train.y[row]),
            "predicted": words.value(says),
            "number": number,
            "file": str(train.shown["file"].iloc[row]),
            "words": f"Training image {row}",
        }
        for row, address, says, number in parts
    ]


def _addresses(rows: Rows, indices, train: Rows) -> list[str]:
    """Of images, black and white being the extremes of the training images."""
    if rows.images is None or train.images is None:
        return []
    low, high = float(np.min(train.images)), float(np.max(train.images))
    return images.as_pngs(rows.images[indices], low, high)


def _version(name) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout that is not installed
        return "from a folder"
