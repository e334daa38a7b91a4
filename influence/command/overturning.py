"""``influence overturn``: how few training rows does a conclusion rest on?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from influence.command import words
from influence.command.networks import NetworkScorer
from influence.command.readers import listed
from influence.command.subject import Subject
from influence.data.frames import Framed
from influence.objective.targets import Coefficient, Metric, Target
from influence.studies.sets import InfluentialSet, smallest_set

# Rows named on the terminal.
_SHOWN = 10


@dataclass(frozen=True)
class Overturned(Framed):
    """The fewest rows that change a conclusion, by the refit without them.

    Attributes:
        subject: the model, and its rows.
        conclusion: what is overturned, in words.
        found: the rows, and the refit.
    """

    subject: Subject
    conclusion: str
    found: InfluentialSet

    def to_frame(self) -> pd.DataFrame:
        """The rows of the set, as the table has them, with their labels."""
        rows, train = self.found.indices, self.subject.train
        labels = pd.DataFrame({self.subject.target: train.y[rows]}, train.shown.index[rows])
        return pd.concat([labels, train.shown.iloc[rows]], axis=1)

    @property
    def heading(self) -> str:
        """What the set does."""
        return f"{self.conclusion}: {self.found.heading}"


def overturn(
    subject: Subject,
    *,
    coefficient: str | None = None,
    metric: str | None = None,
    below: float | None = None,
    above: float | None = None,
) -> Overturned:
    """``smallest_set`` for a coefficient, or for a metric of the test rows (the training rows where
    there are none).

    Args:
        subject: what is asked about.
        coefficient: a feature of the model's last step; without a value to pass it is 0, so the
            sign.
        metric: one of ``METRICS``, which needs a value to pass.
        below, above: the value that the rows' removal must take it past, at most one.

    Raises:
        ValueError: the model has no such coefficient or metric, there is no value to pass, or no
            set of up to half of the rows does it.
    """
    if isinstance(subject.scorer, NetworkScorer):
        raise ValueError(
            "overturn is for linear models: for a network use influence.targets in Python."
        )
    target: Target
    if coefficient is not None:
        target, what = _coefficient(subject, coefficient), f"the coefficient of {coefficient!r}"
    else:
        target, what = _metric(subject, metric), f"the {metric} of {_tested(subject)}"
    if below is None and above is None:
        if coefficient is None:
            raise ValueError(f"Which value shall {what} pass? Give --below or --above.")
        now = float(target.values(subject.scorer.model, subject.scorer.model.parameters))
        below, above = (0.0, None) if now > 0 else (None, 0.0)
    found = smallest_set(subject.scorer.model, target, below=below, above=above)
    side = f"below {below:g}" if below is not None else f"above {above:g}"
    return Overturned(subject, f"{what} {side}", found)


def in_words(overturned: Overturned) -> str:
    """What the terminal shows."""
    found, subject = overturned.found, overturned.subject
    count = len(found.indices)
    if not count:
        answer = f"With all {found.size} rows it is there: {found.before:.4g}."
        return "\n\n".join([subject.sentence, _question(overturned), answer])
    answer = (
        f"{count} of {found.size} training rows ({count / found.size:.2%}): with all rows it is "
        f"{found.before:.4g}, and {found.before + found.actual:.4g} after the refit without "
        f"{'it' if count == 1 else 'them'} (predicted: {found.before + found.predicted:.4g}). That "
        f"there are no fewer is not proven."
    )
    return "\n\n".join([subject.sentence, _question(overturned), answer, _listing(overturned)])


def _question(overturned) -> str:
    return f"How few training rows must go to take {overturned.conclusion}?"


def _listing(overturned) -> str:
    subject, indices = overturned.subject, overturned.found.indices
    shown = indices[:_SHOWN]
    columns = subject.train.shown.columns[:4]
    header = ["row", *words.beside(["row"], map(words.value, [subject.target, *columns]))]
    rows = [
        [str(row), words.value(subject.train.y[row])]
        + [words.value(subject.train.shown[name].iloc[row]) for name in columns]
        for row in shown.tolist()
    ]
    text = words.table(header, rows)
    if len(indices) > _SHOWN:
        others = ", ".join(map(str, indices[_SHOWN:]))
        text += f"\nand {others}"
    return text


def _coefficient(subject, name) -> Coefficient:
    if (
        np.ndim(subject.scorer.model.estimator.coef_) > 1
        and len(subject.scorer.model.estimator.coef_) > 1
    ):
        raise ValueError(
            f"The model has a coefficient of {name!r} for each of its classes: overturn is about "
            f"one number."
        )
    position: Any = name
    names = subject.scorer.model.parameter_names
    if name not in names:
        raise ValueError(f"The model has no coefficient {name!r}: it has {listed(names)}.")
    if name != "intercept" and not hasattr(subject.scorer.model.estimator, "feature_names_in_"):
        position = names.index(name)  # x0, x1, …, where the last step knows no names
    return Coefficient(position)


def _metric(subject, name) -> Target:
    if subject.kind != "classes":
        raise ValueError(f"The {name} is of classes, and {subject.target!r} is numbers.")
    if name == "auroc" and subject.scorer.model.num_outputs > 1:
        raise ValueError("The auroc is of two classes: take --metric accuracy.")
    rows = subject.train if subject.test is None else subject.test
    if name == "auroc" and len(np.unique(rows.y)) < 2:
        raise ValueError(f"The auroc needs both classes among the rows of {_tested(subject)}.")
    return Metric(METRICS[name], rows.given, subject.scorer.places(rows))


def _auroc(places: np.ndarray, outputs: np.ndarray) -> float:
    return float(roc_auc_score(places, outputs[:, 0]))


def _accuracy(places: np.ndarray, outputs: np.ndarray) -> float:
    binary = outputs.shape[1] == 1
    predicted = outputs[:, 0] > 0 if binary else outputs.argmax(axis=1)
    return float((predicted == places).mean())


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "auroc": _auroc,
}


def _tested(subject) -> str:
    train, test = subject.files
    return str(train if test is None else test)
