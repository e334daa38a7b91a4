"""Weights of training points, as Keras takes them: ``sample_weight`` and ``class_weight``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.dataset import check_inputs


class WeightedLabels(NamedTuple):
    """Labels and the weights of their points: what stands for labels where there are weights.

    Attributes:
        labels: [m, ...], or a structure of such arrays.
        weights: [m], or [m, t] with a weight for each entry of the loss of a point.
    """

    labels: Any
    weights: Any


def checked_weights(sample_weight: ArrayLike, n: int, name: str) -> np.ndarray:
    """``sample_weight`` as an array [n] or [n, ...].

    Raises:
        ValueError: another number of rows, negative or not finite, or 0 everywhere.
    """
    weights = check_inputs(sample_weight, np.shape(sample_weight)[1:], name)
    if len(weights) != n:
        raise ValueError(
            f"{name} has {len(weights)} rows and there are {n} points: one weight a row."
        )
    check_weight_range(float(weights.min()), float(weights.max()), name)
    return weights


def check_weight_range(smallest: float, largest: float, name: str) -> None:
    """Raise a ValueError for weights below 0, or 0 everywhere."""
    if smallest < 0 or largest == 0:
        raise ValueError(
            f"{name} must be at least 0, and not 0 everywhere; it goes from {smallest:g} to "
            f"{largest:g}."
        )


class ClassWeights:
    """``class_weight`` of ``keras.Model.fit`` as a weight of each point: 1 for those not named.

    Args:
        class_weight: class -> weight.

    Raises:
        ValueError: classes that are not whole numbers, or weights below 0 or not finite.
    """

    def __init__(self, class_weight: Mapping[int, float]) -> None:
        classes = np.array(list(class_weight), np.float64)
        weights = np.array(list(class_weight.values()), np.float64)
        fine = classes.size and (classes >= 0).all() and (classes % 1 == 0).all()
        if not fine or not np.isfinite(weights).all() or (weights < 0).any():
            raise ValueError(
                f"class_weight must map classes, whole numbers from 0 on, to finite weights of at "
                f"least 0; it is {dict(class_weight)}."
            )
        # The last entry is of all classes beyond.
        self._table = np.ones(int(classes.max()) + 2)
        self._table[classes.astype(int)] = weights

    def of(self, labels: Any) -> tf.Tensor:
        """Of labels [m], [m, 1] or, one-hot, [m, c]: [m], float32; traceable.

        Raises:
            ValueError: labels that are no classes of points.
        """
        if keras.tree.is_nested(labels) or len(labels.shape) > 2:
            raise ValueError(
                "class_weight is for one output with labels [n], or one-hot [n, c]: give "
                "sample_weight= instead."
            )
        if len(labels.shape) == 2:
            one_hot = labels.shape[1] != 1
            labels = tf.argmax(labels, axis=1) if one_hot else labels[:, 0]
        classes = tf.cast(labels, tf.int64)
        last = tf.constant(len(self._table) - 1, tf.int64)
        # A label below 0 is one that the loss ignores.
        classes = tf.where(classes < 0, last, tf.minimum(classes, last))
        return tf.gather(tf.constant(self._table, tf.float32), classes)
