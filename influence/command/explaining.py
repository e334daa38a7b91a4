"""``influence explain``: which training rows made the model predict this?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from influence.command import words
from influence.command.columns import differences
from influence.command.scoring import Rows
from influence.command.subject import Subject
from influence.data.frames import Framed

_DIFFERENCES = 3


@dataclass(frozen=True)
class Explanation(Framed):
    """A test row, and what every training row does to its loss.

    Attributes:
        subject: the model, and all rows.
        row: the test row, from 0.
        chosen: why it is this one, in words.
        loss: of the test row.
        predicted: what the model says of it.
        probability: of its own label; None of a model without probabilities.
        scores: [n] the predicted change of that loss if a training row is removed.
        harmful, helpful: training rows, the strongest first.
    """

    subject: Subject
    row: int
    chosen: str
    loss: float
    predicted: object
    probability: float | None
    scores: np.ndarray
    harmful: list[int]
    helpful: list[int]

    @property
    def label(self) -> object:
        """Of the test row."""
        return _tested(self.subject).y[self.row]

    def to_frame(self) -> pd.DataFrame:
        """The harmful and the helpful rows, the strongest first: score, label, prediction, and what
        the table has; columns of the table that have one of these names are "NAME (table)"."""
        rows, subject = [*self.harmful, *self.helpful], self.subject
        index = pd.Index(rows, name=f"training {subject.unit}")
        theirs = subject.train.shown.iloc[rows].set_index(index)
        ours = [index.name, "score", "predicted"]
        target, *names = words.beside(ours, [subject.target, *theirs.columns])
        columns = {
            "score": self.scores[rows],
            target: subject.train.y[rows],
            "predicted": self.predictions(rows),
        }
        return pd.concat([pd.DataFrame(columns, index), theirs.set_axis(names, axis=1)], axis=1)

    @property
    def heading(self) -> str:
        """The question."""
        return question(self)

    def apart(self, rows: list[int]) -> pd.DataFrame:
        """How far training rows are from the test row in each column, see ``differences``."""
        train, test = self.subject.train.shown, _tested(self.subject).shown
        return differences(train, test.iloc[self.row], train.iloc[rows])

    def predictions(self, rows: list[int]) -> np.ndarray:
        """What the model says of training rows."""
        return self.subject.scorer.predict(self.subject.train)[rows]


def explain(subject: Subject, row: int | None = None, top: int = 5) -> Explanation:
    """The training rows that a prediction rests on.

    Args:
        subject: with test rows.
        row: of the test table, from 0; None is the one with the largest loss.
        top: at most so many rows of each kind.

    Raises:
        ValueError: there is no such row.
        SolverError: the scores cannot be computed.
    """
    test, scorer = _tested(subject), subject.scorer
    if row is not None and not 0 <= row < len(test):
        raise ValueError(
            f"--row must lie in 0..{len(test) - 1}, the rows of {subject.files[1]}, not be {row}."
        )
    if top < 1:
        raise ValueError(f"--top must be at least 1, not {top}.")
    losses = scorer.losses(test)
    chosen = f"the one asked for, of {len(test)}"
    if row is None:
        row, chosen = int(np.argmax(losses)), f"the most wrong of {len(test)}"
    point = test.at(row)
    scores = scorer.influences(point)
    order = np.argsort(scores, kind="stable")
    of_label = scorer.of_label(point)
    return Explanation(
        subject,
        row,
        chosen,
        float(losses[row]),
        scorer.predict(point)[0],
        None if of_label is None else float(of_label[0]),
        scores,
        [int(i) for i in order[:top] if scores[i] < 0],
        [int(i) for i in order[::-1][:top] if scores[i] > 0],
    )


def question(explanation: Explanation) -> str:
    """What was asked, in a sentence."""
    subject = explanation.subject
    return (
        f"Which training {subject.unit}s made the model predict {subject.target} = "
        f"{words.value(explanation.predicted)} for {subject.unit} {explanation.row} of "
        f"{subject.files[1]}, whose label is {words.value(explanation.label)}?"
    )


def about_test_row(explanation: Explanation) -> str:
    """What the model makes of the test row, in a sentence."""
    text = (
        f"Test {explanation.subject.unit} {explanation.row} is {explanation.chosen}: its loss is "
        f"{explanation.loss:.4g}"
    )
    if explanation.probability is not None:
        text += f", the probability of its label {explanation.probability:.3g}"
    return text + "."


def in_words(explanation: Explanation) -> str:
    """What the terminal shows."""
    unit = explanation.subject.unit
    last = "file" if unit == "image" else "differs most in (test row)"
    [target] = words.beside([unit, "predicted", "score", last], [explanation.subject.target])
    parts = [
        explanation.subject.sentence,
        question(explanation),
        about_test_row(explanation),
        f"The score of a training {unit} is the predicted change of that loss if it is removed.",
    ]
    kinds = {
        "Harmful: without it the loss would fall": explanation.harmful,
        "Helpful: without it the loss would rise": explanation.helpful,
    }
    for title, rows in kinds.items():
        if rows:
            header = [unit, target, "predicted", "score", last]
            lines = words.table(header, _cells(explanation, rows), left=1)
            parts.append(f"{title}\n{lines}")
        else:
            parts.append(f"{title}\n(none)")
    return "\n\n".join(parts)


def most_different(explanation: Explanation, row: int, apart: pd.Series) -> list[str]:
    """ "column value (the test row's value)" of those in which a training row is farthest."""
    train = explanation.subject.train.shown.iloc[row]
    test = _tested(explanation.subject).shown.iloc[explanation.row]
    names = apart[apart > 0].sort_values(ascending=False, kind="stable").index[:_DIFFERENCES]
    return [
        f"{words.line(name)} {words.value(train[name])} ({words.value(test[name])})"
        for name in names
    ]


def _cells(explanation, rows):
    subject = explanation.subject
    if subject.unit == "image":
        last = subject.train.shown["file"].iloc[rows].tolist()
    else:
        apart = explanation.apart(rows)
        last = [", ".join(most_different(explanation, row, apart.loc[row])) for row in rows]
    return [
        (
            str(row),
            words.value(subject.train.y[row]),
            words.value(predicted),
            f"{explanation.scores[row]:+.4f}",
            text,
        )
        for row, predicted, text in zip(rows, explanation.predictions(rows), last)
    ]


def _tested(subject: Subject) -> Rows:
    if subject.test is None:
        raise ValueError("To explain a prediction test rows are needed: give --test.")
    return subject.test
