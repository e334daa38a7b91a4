"""``influence mislabelled``: which labels deserve a look?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from influence.command import words
from influence.command.subject import Subject
from influence.data.frames import Framed
from influence.studies.label_fixing import most_suspicious

# What is planted in the trial, as in section 5.4 of the paper up to its size.
_FLIPPED = 0.05
_CHECKED = (0.05, 0.1, 0.2, 0.3)
# What is said of a row beside what the table has.
_OURS = ("row", "score", "predicted", "probability_of_label")


@dataclass(frozen=True)
class Suspects(Framed):
    """All training rows in the order in which they deserve a look.

    Attributes:
        subject: the model, and its rows.
        order: [n] rows, the most suspicious first.
        scores: [n] by how much the loss of each row would rise if it were removed, to first order:
            its self-influence over n and, of a model with weights, over its own weight.
        flipped: labels that were changed on purpose for the trial; 0 where there was none.
        trial: the share of rows checked -> the share of the flipped ones found among them.
    """

    subject: Subject
    order: np.ndarray
    scores: np.ndarray
    flipped: int
    trial: dict[float, float]

    def to_frame(self, count: int | None = None) -> pd.DataFrame:
        """A row for each training row (or the first ``count``), in that order: its number, its
        score, its label and what the model predicts, and then what the table has; columns of the
        table that have one of these names are "NAME (table)"."""
        subject, order = self.subject, self.order[:count]
        theirs = subject.train.shown.iloc[order].reset_index(drop=True)
        target, *names = words.beside(_OURS, [subject.target, *theirs.columns])
        predicted = subject.scorer.predict(subject.train)
        columns = {
            "row": order,
            "score": self.scores[order],
            target: subject.train.y[order],
            "predicted": predicted[order],
        }
        probabilities = subject.scorer.of_label(subject.train)
        if probabilities is not None:
            columns["probability_of_label"] = probabilities[order]
        return pd.concat([pd.DataFrame(columns), theirs.set_axis(names, axis=1)], axis=1)


def find_suspects(subject: Subject) -> Suspects:
    """Rank rows by self-influence; of classes, see in a trial how good this order is.

    In the trial 5% of the labels are changed at random (seed 0) and the model is fitted again: what
    share of them is among the first rows by its self-influences is what checking is worth.

    Raises:
        ValueError, SolverError: the model cannot be fitted again, or the scores not computed.
    """
    scores = subject.scorer.rises()
    order = most_suspicious(scores, len(scores))
    flipped, trial = _trial(subject) if subject.kind == "classes" else (0, {})
    return Suspects(subject, order, scores, flipped, trial)


def in_words(suspects: Suspects, top: int = 10) -> str:
    """What the terminal shows.

    Args:
        suspects: all rows.
        top: so many are listed.
    """
    subject = suspects.subject
    parts = [
        subject.sentence,
        f"The {subject.unit}s of {subject.files[0]} whose {subject.target} deserves a look, the "
        f"most suspicious first. The score is how much the loss of one would rise if it were "
        f"removed: how far it holds up its own label against all others. It is no verdict: it may "
        f"be right, and rare.",
        _listing(suspects, top),
    ]
    if suspects.trial:
        parts.append(f"What checking is worth: {worth(suspects)}")
    return "\n\n".join(parts)


def worth(suspects: Suspects) -> str:
    """What the trial says, in words; "" where there was none."""
    if not suspects.trial:
        return ""
    n, unit = len(suspects.order), suspects.subject.unit
    found = ", ".join(
        f"{round(share * n)} {unit}s {found:.0%}" for share, found in suspects.trial.items()
    )
    return (
        f"of {suspects.flipped} labels that were changed on purpose in a trial, the first of this "
        f"order had: {found} (at random {', '.join(f'{share:.0%}' for share in suspects.trial)}). "
        f"Real mistakes may be harder to find than these."
    )


def _listing(suspects, top):
    frame, subject = suspects.to_frame(top), suspects.subject
    ours = ["score", "predicted", "probability of its label"]
    [target] = words.beside([subject.unit, *ours, "file"], [subject.target])
    header = [subject.unit, "score", target, *ours[1:]]
    if "probability_of_label" not in frame.columns:
        header.pop()
    shown = frame.iloc[:, : len(header)]
    rows = [
        [str(cells[0]), f"{cells[1]:.4g}", *map(words.value, cells[2:])]
        for cells in shown.itertuples(index=False, name=None)
    ]
    if subject.unit == "image":
        files = subject.train.shown["file"].iloc[suspects.order[:top]]
        rows = [[*cells, file] for cells, file in zip(rows, files)]
        return words.table([*header, "file"], rows, left=1)
    return words.table(header, rows)


def _trial(subject):
    """(how many labels were changed, the share of them found by the share of rows checked)."""
    places, n = subject.scorer.places(subject.train), len(subject.train)
    known, generator = np.unique(places), np.random.default_rng(0)
    flipped = generator.choice(n, max(1, round(_FLIPPED * n)), replace=False)
    others = np.searchsorted(known, places[flipped]) + generator.integers(
        1, len(known), len(flipped)
    )
    changed = places.copy()
    changed[flipped] = known[others % len(known)]
    if len(np.unique(changed)) < len(known):
        return 0, {}  # so few rows that a class is gone
    order = most_suspicious(subject.scorer.rises_with(changed), n)
    return len(flipped), {
        share: float(np.isin(flipped, order[: round(share * n)]).mean()) for share in _CHECKED
    }
