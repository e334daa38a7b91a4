"""``influence explain``: which training rows made the model predict this?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from influence.command import words
from influence.command.columns import differences
from influence.command.subject import Rows, Subject

_DIFFERENCES = 3


@dataclass(frozen=True)
class Explanation:
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

    def apart(self, rows: list[int]) -> pd.DataFrame:
        """How far training rows are from the test row in each column, see ``differences``."""
        train, test = self.subject.train.shown, _tested(self.subject).shown
        return differences(train, test.iloc[self.row], train.iloc[rows])

    def predictions(self, rows: list[int]) -> np.ndarray:
        """What the model says of training rows."""
        return np.asarray(self.subject.model.predict(self.subject.train.given))[rows]


def explain(subject: Subject, row: int | None = None, top: int = 5) -> Explanation:
    """The training rows that a prediction rests on, by ``influence_on_loss(order="newton")``.

    Args:
        subject: with test rows.
        row: of the test table, from 0; None is the one with the largest loss.
        top: at most so many rows of each kind.

    Raises:
        ValueError: there is no such row.
        SolverError: the scores cannot be computed.
    """
    test, model = _tested(subject), subject.model
    if row is not None and not 0 <= row < len(test):
        raise ValueError(
            f"--row must lie in 0..{len(test) - 1}, the rows of {subject.files[1]}, not be {row}."
        )
    if top < 1:
        raise ValueError(f"--top must be at least 1, not {top}.")
    losses = model.losses(test.given, test.y)
    chosen = f"the one asked for, of {len(test)}"
    if row is None:
        row, chosen = int(np.argmax(losses)), f"the most wrong of {len(test)}"
    x, y = test.at(row)
    scores = model.influence_on_loss(x, y, order="newton")[0]
    order = np.argsort(scores, kind="stable")
    of_label = subject.of_label(test)
    return Explanation(
        subject,
        row,
        chosen,
        float(losses[row]),
        np.asarray(model.predict(x))[0],
        None if of_label is None else float(of_label[row]),
        scores,
        [int(i) for i in order[:top] if scores[i] < 0],
        [int(i) for i in order[::-1][:top] if scores[i] > 0],
    )


def question(explanation: Explanation) -> str:
    """What was asked, in a sentence."""
    subject = explanation.subject
    return (
        f"Which training rows made the model predict {subject.target} = "
        f"{words.value(explanation.predicted)} for row {explanation.row} of {subject.files[1]}, "
        f"whose label is {words.value(explanation.label)}?"
    )


def about_test_row(explanation: Explanation) -> str:
    """What the model makes of the test row, in a sentence."""
    text = f"Test row {explanation.row} is {explanation.chosen}: its loss is {explanation.loss:.4g}"
    if explanation.probability is not None:
        text += f", the probability of its label {explanation.probability:.3g}"
    return text + "."


def in_words(explanation: Explanation) -> str:
    """What the terminal shows."""
    target = explanation.subject.target
    parts = [
        explanation.subject.sentence,
        question(explanation),
        about_test_row(explanation),
        "The score of a training row is the predicted change of that loss if it is removed.",
    ]
    kinds = {
        "Harmful: without it the loss would fall": explanation.harmful,
        "Helpful: without it the loss would rise": explanation.helpful,
    }
    for title, rows in kinds.items():
        if rows:
            header = ["row", target, "predicted", "score", "differs most in (test row)"]
            lines = words.table(header, _cells(explanation, rows), left=1)
            parts.append(f"{title}\n{lines}")
        else:
            parts.append(f"{title}\n(no row)")
    return "\n\n".join(parts)


def most_different(explanation: Explanation, row: int, apart: pd.Series) -> list[str]:
    """ "column value (the test row's value)" of those in which a training row is farthest."""
    train = explanation.subject.train.shown.iloc[row]
    test = _tested(explanation.subject).shown.iloc[explanation.row]
    names = apart[apart > 0].sort_values(ascending=False, kind="stable").index[:_DIFFERENCES]
    return [f"{name} {words.value(train[name])} ({words.value(test[name])})" for name in names]


def _cells(explanation, rows):
    subject, apart = explanation.subject, explanation.apart(rows)
    return [
        (
            str(row),
            words.value(subject.train.y[row]),
            words.value(predicted),
            f"{explanation.scores[row]:+.4f}",
            ", ".join(most_different(explanation, row, apart.loc[row])),
        )
        for row, predicted in zip(rows, explanation.predictions(rows))
    ]


def _tested(subject: Subject) -> Rows:
    if subject.test is None:
        raise ValueError("To explain a prediction test rows are needed: give --test.")
    return subject.test
