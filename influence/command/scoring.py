"""Rows, and a model with the way its scores are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from influence.objective.validation import Validation
from influence.sklearn_models.adapter import from_sklearn


@dataclass(frozen=True)
class Rows:
    """Rows of a table, or images, in the forms in which they are used.

    Attributes:
        shown: [n, d] tidy, for people; of images their files.
        given: [n, ...] the same as the model is given them.
        y: [n] labels, for people.
        labels: [n, ...] the same as the model is given them.
        images: [n, h, w] or [n, h, w, 1 or 3], where people can look at the rows; else None.
    """

    shown: pd.DataFrame
    given: Any
    y: np.ndarray
    labels: np.ndarray
    images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def at(self, index: int) -> Rows:
        """One of them."""
        row = slice(index, index + 1)
        given = self.given.iloc[row] if isinstance(self.given, pd.DataFrame) else self.given[row]
        images = None if self.images is None else self.images[row]
        return Rows(self.shown.iloc[row], given, self.y[row], self.labels[row], images)


class Scorer:
    """A linear model, and what the command asks of it.

    Args:
        model: of ``from_sklearn``.
        train: the rows that it was fitted to.
        kind: "classes" or "numbers", what it predicts.

    Attributes:
        model: the same.
    """

    def __init__(self, model: Any, train: Rows, kind: str) -> None:
        self.model, self._train, self._kind = model, train, kind

    def losses(self, rows: Rows) -> np.ndarray:
        """[m]."""
        return self.model.losses(rows.given, rows.labels)

    def influences(self, rows: Rows) -> np.ndarray:
        """The predicted change of the mean loss of ``rows`` without each training row, [n]."""
        return self.model.influence_on_loss(
            rows.given, rows.labels, order="newton", reduction="mean"
        )

    def rises(self) -> np.ndarray:
        """By how much the loss of each training row would rise without it, to first order, [n]."""
        return _rises(self.model)

    def leverage(self) -> np.ndarray | None:
        """[n], where it is known."""
        return self.model.leverage()

    def validate(self, rows: Rows, points: int) -> Validation:
        """``influences`` against refits without the ``points`` rows where they are largest."""
        return self.model.validate(rows.given, rows.labels, points=points, order="newton")

    def predict(self, rows: Rows) -> np.ndarray:
        """[m] classes or numbers, as people have them."""
        return np.asarray(self.model.predict(rows.given))

    def of_label(self, rows: Rows) -> np.ndarray | None:
        """The probability that the model gives each row's own label, [m]; None of a model that has
        no probabilities."""
        if self._kind == "numbers":
            return None
        outputs = self.model.outputs(rows.given)
        probabilities = self.model.class_probabilities(tf.constant(outputs))
        if probabilities is None:
            return None
        return probabilities.numpy()[np.arange(len(rows)), self.places(rows)]

    def places(self, rows: Rows) -> np.ndarray:
        """Where the label of each row is among the classes of the model, [m]."""
        codes, labels = pd.factorize(rows.y)
        return np.array([self.model.class_position(label) for label in labels.tolist()])[codes]

    def rises_with(self, places: np.ndarray) -> np.ndarray:
        """``rises`` after the model is fitted to other labels, given by their ``places`` among the
        classes, [n]."""
        # Read again, because the weights of classes go with the labels.
        x, labels = self.model.train.x, self.model.estimator.classes_[places]
        estimator = self.model.unfitted.fit(x, labels)
        return _rises(from_sklearn(estimator, x, labels))


def _rises(model) -> np.ndarray:
    """Of ∇ℓᵀ H⁻¹ (w∇ℓ)/n: its weight w goes with a row, and its own loss has none. (A
    self-influence has it twice.)"""
    own, weights = model.self_influence(), model.example_weights
    rises = np.divide(own, weights, out=np.zeros_like(own), where=weights > 0)
    return rises / len(own)
