"""An explanation as one page of HTML, which needs no other file, script or network."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from influence.command import pictures, words
from influence.command.checking import verdict
from influence.command.explaining import Explanation, about_test_row, question
from influence.objective.validation import Validation

_REFITS = 20
# Columns in which the shown rows are compared, and of each row how many are marked.
_COMPARED, _MARKED = 8, 3
_PACKAGES = ("influence", "tensorflow", "scikit-learn", "numpy", "pandas")


def report(explanation: Explanation, notes: list[str], command: str) -> str:
    """The page.

    Args:
        explanation: what it is about.
        notes: what was warned of.
        command: that made it.
    """
    subject, scores = explanation.subject, explanation.scores
    leverage, found = subject.model.leverage(), _refits(explanation)
    shown = explanation.harmful, explanation.helpful
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        question=question(explanation),
        about=about_test_row(explanation),
        model=subject.sentence,
        row=explanation.row,
        cells=_test_cells(explanation),
        kinds=[
            (
                "Harmful",
                "Without such a row the loss would fall.",
                _compared(explanation, shown[0]),
            ),
            (
                "Helpful",
                "Without such a row the loss would rise.",
                _compared(explanation, shown[1]),
            ),
        ],
        pictures={
            "All scores": pictures.of_scores(scores, *shown),
            "Leverage against score": pictures.of_leverage(leverage, scores, *shown),
        }
        | ({} if found is None else {"Scores against refits": _picture(found)}),
        checks=_checks(leverage, found, notes),
        command=command,
        versions={name: _version(name) for name in _PACKAGES},
    )


def _refits(explanation) -> Validation | None:
    """Of the rows that matter most to the test row; None where there is nothing to compare."""
    subject = explanation.subject
    x, y = subject.test.at(explanation.row)
    try:
        points = min(_REFITS, len(subject.train))
        return subject.model.validate(x, y, points=points, order="newton")
    except ValueError:
        return None


def _picture(found):
    return pictures.of_refits(found.predicted, found.actual)


def _checks(leverage, found, notes) -> list[tuple[str, str]]:
    """(what was checked, what was found)."""
    most = int(leverage.argmax())
    refits = "Nothing to compare." if found is None else verdict(found)
    number = "" if found is None else f" without each of {len(found.indices)} rows"
    return [
        (f"The model fitted again{number}, against the scores", refits),
        (
            "Leverage, how much of its own prediction a row decides",
            f"{leverage.mean():.3f} on average, at most {leverage[most]:.3f}, for row {most}.",
        ),
        (
            "The minimum of the objective, the solves, the columns",
            " ".join(notes) or "Nothing to note.",
        ),
    ]


def _test_cells(explanation) -> list[tuple[str, str]]:
    subject = explanation.subject
    cells = [
        (subject.target, words.value(explanation.label)),
        (f"{subject.target}, predicted", words.value(explanation.predicted)),
    ]
    values = subject.test.shown.iloc[explanation.row]
    return cells + [(name, words.value(values[name])) for name in subject.test.shown.columns]


def _compared(explanation, rows) -> dict[str, Any] | None:
    """A table with a column for the test row and for each of these training rows, and a line for
    each of the features in which they are farthest apart; None without rows."""
    if not rows:
        return None
    subject, apart = explanation.subject, explanation.apart(rows)
    train = subject.train.shown.iloc[rows]
    test = subject.test.shown.iloc[explanation.row]
    marked = apart.rank(axis=1, ascending=False, method="first") <= _MARKED
    names = apart.max().sort_values(ascending=False, kind="stable").index[:_COMPARED]
    lines = [
        (subject.target, [explanation.label, *subject.train.y[rows]]),
        ("predicted", [explanation.predicted, *explanation.predictions(rows)]),
    ]
    texts = [(name, [(words.value(value), False) for value in values]) for name, values in lines]
    texts.append(
        ("score", [("", False), *((f"{s:+.4f}", False) for s in explanation.scores[rows])])
    )
    for name in names:
        marks = marked[name].to_numpy() & (apart[name].to_numpy() > 0)
        cells = zip(map(words.value, train[name]), marks.tolist())
        texts.append((name, [(words.value(test[name]), False), *cells]))
    return {"rows": rows, "lines": texts}


def _version(name) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout that is not installed
        return "from a folder"
