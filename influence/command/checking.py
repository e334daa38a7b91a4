"""``influence check``: can the scores of this model be trusted?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from influence.command import words
from influence.command.subject import Subject
from influence.data.frames import Framed
from influence.objective.validation import Validation

# The limits of docs/reading-the-scores.md, and what counts as a slope near 1.
_GOOD, _FAIR, _NEAR = 0.95, 0.7, 0.1


@dataclass(frozen=True)
class Check(Framed):
    """Predicted changes against those of refits.

    Attributes:
        subject: the model, and its rows.
        validation: the refits; of the mean loss of all test rows.
        leverage: [n] of the training rows, where it is known.
    """

    subject: Subject
    validation: Validation
    leverage: np.ndarray | None

    def to_frame(self) -> pd.DataFrame:
        """Predicted and actual changes, by training row."""
        return self.validation.to_frame()

    @property
    def heading(self) -> str:
        """The verdict."""
        return self.verdict

    @property
    def verdict(self) -> str:
        """Whether to trust the scores, in a sentence."""
        return verdict(self.validation)


def check(subject: Subject, points: int = 20) -> Check:
    """Refit without each of the ``points`` most influential training rows, and compare.

    Args:
        subject: with test rows.
        points: k, in 2..n.

    Raises:
        ValueError: there are no test rows, or as ``validate``.
    """
    if subject.test is None:
        raise ValueError("To check the scores test rows are needed: give --test.")
    test, points = subject.test, min(points, len(subject.train))
    found = subject.scorer.validate(test, points)
    return Check(subject, found, subject.scorer.leverage())


def verdict(validation: Validation) -> str:
    """What docs/reading-the-scores.md says of a correlation and a slope."""
    r, slope = validation.pearson_r, validation.slope
    numbers = f"(R = {r:.3f}, slope = {slope:.2f})"
    if np.isnan(r):
        return "No verdict: all of these changes are the same."
    if r < _FAIR:
        return f"Do not trust these scores: they say little about this model {numbers}."
    if r < _GOOD:
        return (
            f"Trust them with care: the first few rows are likely right, the order within them is "
            f"not {numbers}."
        )
    if abs(slope - 1) > _NEAR:
        return f"Trust their order, and divide their size by {slope:.2f} {numbers}."
    return f"Trust them, their order and their size {numbers}."


def in_words(checked: Check) -> str:
    """What the terminal shows."""
    found, subject, leverage = checked.validation, checked.subject, checked.leverage
    rows = [
        [str(index), f"{predicted:+.3e}", f"{actual:+.3e}"]
        for index, predicted, actual in zip(found.indices, found.predicted, found.actual)
    ]
    skipped = ""
    if found.skipped:
        skipped = f" Without rows {', '.join(map(str, found.skipped))} it could not be fitted."
    parts = [
        subject.sentence,
        f"The model was fitted again without each of the {len(found.indices)} training "
        f"{subject.unit}s that matter most to the mean loss of {subject.files[1]}.{skipped}",
        words.table([subject.unit, "predicted change", "change by refit"], rows),
    ]
    if leverage is not None:
        parts.append(
            f"Leverage (how much of its own prediction a row decides): {of_leverage(leverage)}"
        )
    return "\n\n".join([*parts, checked.verdict])


def of_leverage(leverage: np.ndarray) -> str:
    """Its mean and its maximum, in words."""
    highest = int(leverage.argmax())
    return f"{leverage.mean():.3f} on average, at most {leverage[highest]:.3f}, for row {highest}."
