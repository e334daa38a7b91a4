"""``influence mislabelled``: which labels deserve a look?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from influence.command import words
from influence.command.subject import Subject
from influence.studies.label_fixing import fix_and_refit, most_suspicious

# What is planted in the trial, as in section 5.4 of the paper up to its size.
_FLIPPED = 0.05
_CHECKED = (0.05, 0.1, 0.2, 0.3)


@dataclass(frozen=True)
class Suspects:
    """All training rows in the order in which they deserve a look.

    Attributes:
        subject: the model, and its rows.
        order: [n] rows, the most suspicious first.
        scores: [n] by how much the loss of each row would rise if it were removed, to first order:
            its self-influence over n.
        flipped: labels that were changed on purpose for the trial; 0 where there was none.
        trial: the share of rows checked -> the share of the flipped ones found among them.
    """

    subject: Subject
    order: np.ndarray
    scores: np.ndarray
    flipped: int
    trial: dict[float, float]

    def frame(self, count: int | None = None) -> pd.DataFrame:
        """A row for each training row (or the first ``count``), in that order: its number, its
        score, its label and what the model predicts, and then what the table has."""
        subject, order = self.subject, self.order[:count]
        predicted = np.asarray(subject.model.predict(subject.train.given))
        columns = {
            "row": order,
            "score": self.scores[order],
            subject.target: subject.train.y[order],
            "predicted": predicted[order],
        }
        probabilities = subject.of_label(subject.train)
        if probabilities is not None:
            columns["probability_of_label"] = probabilities[order]
        ours = pd.DataFrame(columns)
        theirs = subject.train.shown.iloc[order].reset_index(drop=True)
        return pd.concat([ours, theirs], axis=1)


def find_suspects(subject: Subject) -> Suspects:
    """Rank rows by self-influence; of classes, see in a trial how good this order is.

    In the trial 5% of the labels are changed at random (seed 0) and the model is fitted again: what
    share of them is among the first rows by its self-influences is what checking is worth.

    Raises:
        ValueError, SolverError: the model cannot be fitted again, or the scores not computed.
    """
    scores = subject.model.self_influence() / len(subject.train)
    order = most_suspicious(scores, len(scores))
    flipped, trial = _trial(subject) if subject.kind == "classes" else (0, {})
    return Suspects(subject, order, scores, flipped, trial)


def in_words(suspects: Suspects, top: int = 10) -> str:
    """What the terminal shows.

    Args:
        suspects: all rows.
        top: so many are listed.
    """
    target, n = suspects.subject.target, len(suspects.order)
    parts = [
        suspects.subject.sentence,
        f"Rows of {suspects.subject.files[0]} whose {target} deserves a look, the most suspicious "
        f"first. The score is how much the loss of a row would rise if it were removed: how far it "
        f"holds up its own label against all others. It is no verdict: a row may be right, and "
        f"rare.",
        _listing(suspects, top),
    ]
    if suspects.trial:
        found = ", ".join(
            f"{round(share * n)} rows {found:.0%}" for share, found in suspects.trial.items()
        )
        parts.append(
            f"What checking is worth: of {suspects.flipped} labels that were changed on purpose in "
            f"a trial, the first rows of this order had: {found} (at random "
            f"{', '.join(f'{share:.0%}' for share in suspects.trial)}). Real mistakes may be "
            f"harder to find than these."
        )
    return "\n\n".join(parts)


def _listing(suspects, top):
    frame = suspects.frame(top).iloc[:, :5]
    known = "probability_of_label" in frame.columns
    frame = frame if known else frame.iloc[:, :4]
    header = ["row", "score", suspects.subject.target, "predicted", "probability of its label"]
    rows = [
        [str(cells[0]), f"{cells[1]:.4g}", *map(words.value, cells[2:])]
        for cells in frame.itertuples(index=False, name=None)
    ]
    return words.table(header[: frame.shape[1]], rows)


def _trial(subject):
    """(how many labels were changed, the share of them found by the share of rows checked)."""
    labels, n = subject.model.train.labels, len(subject.train)
    generator = np.random.default_rng(0)
    flipped = generator.choice(n, max(1, round(_FLIPPED * n)), replace=False)
    codes = np.unique(labels)
    places = np.searchsorted(codes, labels[flipped])
    others = places + generator.integers(1, len(codes), len(flipped))
    changed = labels.copy()
    changed[flipped] = codes[others % len(codes)]
    if len(np.unique(changed)) < len(codes):
        return 0, {}  # so few rows that a class is gone
    refitted, _ = fix_and_refit(subject.model, flipped, changed)
    order = most_suspicious(refitted.self_influence(), n)
    return len(flipped), {
        share: float(np.isin(flipped, order[: round(share * n)]).mean()) for share in _CHECKED
    }
