"""The loss of a Keras model, of one output or of several, as it is compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from influence.data.types import Inputs, Tensors
from influence.keras_models.loss import OutputLoss
from influence.keras_models.smoothing import SMOOTH
from influence.keras_models.weights import WeightedLabels


class KerasLoss:
    """(labels, logits) -> [m]: the weighted sum of the losses of the outputs.

    The logits of several outputs stand side by side, [m, c], in the order in which Keras flattens
    them, so that they are one vector of outputs for all that is computed of them.

    Args:
        model: whose compiled losses and ``loss_weights`` are meant where ``loss`` is None.
        loss: of an output, as ``OutputLoss`` takes it; for several outputs one for all, a dict by
            their names, or a list in their order, with None for those that have none.
        outputs: of the model for a few points, straight from it.
        labels: a structure of the labels: that of the outputs, or of those with a loss.
        smoothing: as for ``OutputLoss``.

    Attributes:
        name: of the losses, quoted.
        sums: whether Keras sums over the points, where others take the mean.
        like: the ``tf.TensorSpec`` of the logits.

    Raises:
        ValueError: losses, weights or labels that do not fit to the outputs.
    """

    def __init__(
        self, model: keras.Model, loss: Any, outputs: Tensors, labels: Any, smoothing: float | None
    ) -> None:
        self._single = not keras.tree.is_nested(outputs)
        self._structure = keras.tree.map_structure(lambda output: 0, outputs)
        flat = keras.tree.flatten(outputs)
        self._shapes = [tuple(output.shape[1:]) for output in flat]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        names = _names(model, outputs)
        if loss is None and getattr(model, "loss", None) is None:
            raise ValueError(
                f"The model {model.name!r} has no loss: compile() it with one, or give loss=."
            )
        factors = _of_outputs(1.0, names, "loss_weights")
        if loss is None:
            loss = model.loss
            own = getattr(model._compile_loss, "_user_loss_weights", None)
            if own is not None:
                factors = _of_outputs(own, names, "loss_weights")
        losses = _of_outputs(loss, names, "loss")
        # An output without a loss still has its logits.
        self._outputs = [
            OutputLoss("mse" if one is None else one, output, smoothing)
            for one, output in zip(losses, flat)
        ]
        self._factors = [
            None if one is None else 1.0 if factor is None else float(factor)
            for one, factor in zip(losses, factors)
        ]
        self._places = _places(names, self._factors, labels, self._single)
        counted = [self._outputs[i] for i in self._places]
        if len({output.sums for output in counted}) > 1:
            raise ValueError("Some losses have reduction='sum' and others not: give all the same.")
        self.sums = counted[0].sums
        self.name = " and ".join(repr(output.name) for output in counted)
        if smoothing is not None and not any(output.smoothed for output in counted):
            raise ValueError(
                f"smoothing is for the losses {', '.join(SMOOTH)} of Keras; the model's "
                f"{self.name} needs none, or is not one of them."
            )
        logits = self.logits(outputs)
        self.like = tf.TensorSpec([None, *logits.shape[1:]], logits.dtype)

    def logits(self, outputs: Tensors) -> tf.Tensor:
        """What goes into the softmax or sigmoid of each output, else the output: [m, ...]."""
        flat = keras.tree.flatten(outputs)
        parts = [loss.logits(output) for loss, output in zip(self._outputs, flat)]
        if self._single:
            return parts[0]
        flat = [tf.reshape(part, [-1, size]) for part, size in zip(parts, self._sizes)]
        logits = tf.concat(flat, axis=1)
        logits._keras_mask = [getattr(part, "_keras_mask", None) for part in parts]
        return logits

    def activate(self, logits: tf.Tensor) -> Tensors:
        """The outputs again, in their structure."""
        parts = [loss.activate(part) for loss, part in zip(self._outputs, self._parts(logits))]
        return keras.tree.pack_sequence_as(self._structure, parts)

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor | None:
        """Of every class, where there is one output that is, or of whose logits its loss makes, a
        softmax or sigmoid; else None."""
        return self._outputs[0].probabilities(logits) if self._single else None

    @property
    def classifies(self) -> bool:
        """Whether the labels of the one output are known to be classes."""
        return self._single and self._outputs[0].classifies

    @property
    def of_differences(self) -> bool:
        """Whether the one output's loss is known to depend on the differences of logits alone."""
        return self._single and self._outputs[0].of_differences

    def split(self, logits: tf.Tensor) -> Tensors:
        """The logits of each output, in the structure of the outputs."""
        return keras.tree.pack_sequence_as(self._structure, self._parts(logits))

    def __call__(self, labels: Tensors, logits: tf.Tensor) -> tf.Tensor:
        """The loss of each point, [m]; ``labels`` may be ``WeightedLabels``."""
        return self._sum(labels, self._parts(logits))

    def of_outputs(self, labels: Tensors, outputs: Tensors) -> tf.Tensor:
        """The same of the outputs themselves: what has no loss is not connected to it."""
        flat = keras.tree.flatten(outputs)
        return self._sum(labels, [loss.logits(part) for loss, part in zip(self._outputs, flat)])

    def _sum(self, labels, parts):
        labels, weights = labels if isinstance(labels, WeightedLabels) else (labels, None)
        total = [
            self._factors[i] * self._outputs[i](label, part, weights)
            for i, label, part in self._pairs(labels, parts)
        ]
        return tf.add_n(total)

    def check(self, labels: Tensors, logits: tf.Tensor) -> None:
        """Raise a ValueError for a loss that is not one number a point, or has no curvature."""
        labels, weights = labels if isinstance(labels, WeightedLabels) else (labels, None)
        shape = None if weights is None else tuple(weights.shape[1:])
        for i, label, part in self._pairs(labels, self._parts(logits)):
            self._outputs[i].check(label, part, shape)

    def check_labels(
        self,
        shapes: list[tuple[int, ...]],
        range_of: Callable[[int, int | None], tuple[float, float]],
        name: str,
    ) -> None:
        """Raise a ValueError for labels that a loss of Keras would take wrongly.

        Args:
            shapes: of one point, of each array of the labels in the order in which Keras flattens.
            range_of: (number of an array, the label that does not count) -> (smallest, largest).
            name: of the labels.
        """
        for i, place in self._places.items():
            of_array = functools.partial(range_of, place)
            self._outputs[i].check_labels(shapes[place], of_array, name)

    def _pairs(self, labels, parts):
        """(number of the output, its labels, its logits) of every output with a loss."""
        flat = keras.tree.flatten(labels)
        return [(i, flat[place], parts[i]) for i, place in self._places.items()]

    def _parts(self, logits):
        if self._single:
            return [logits]
        masks = getattr(logits, "_keras_mask", [None] * len(self._shapes))
        parts = []
        for part, shape, mask in zip(tf.split(logits, self._sizes, axis=1), self._shapes, masks):
            part = tf.reshape(part, [-1, *shape])
            if mask is not None:
                part._keras_mask = mask
            parts.append(part)
        return parts


def _names(model, outputs) -> list[str]:
    """Of the outputs, in the order in which Keras flattens them."""
    if not keras.tree.is_nested(outputs):
        return [""]
    if isinstance(outputs, dict):
        return sorted(outputs)
    known = getattr(model, "output_names", None)
    return list(known) if known is not None else [str(i) for i in range(len(outputs))]


def _of_outputs(value, names: list[str], what: str) -> list[Any]:
    """A value for each output: of one for all, of a dict by name, or of a list in their order."""
    if isinstance(value, dict):
        wrong = sorted(set(value) - set(names)) if len(names) > 1 else []
        if wrong:
            raise ValueError(
                f"{what} names the outputs {wrong}, which the model has not: they are {names}."
            )
        return list(value.values()) if len(names) == 1 else [value.get(name) for name in names]
    if isinstance(value, (list, tuple)):
        if len(value) != len(names):
            raise ValueError(f"{what} has {len(value)} entries and the model {len(names)} outputs.")
        return list(value)
    return [value] * len(names)


def _places(names, factors, labels, single) -> dict[int, int]:
    """Output with a loss -> where its labels stand among the arrays of the labels."""
    counted = [i for i, factor in enumerate(factors) if factor is not None]
    if not counted:
        raise ValueError("No output of the model has a loss.")
    arrays = len(keras.tree.flatten(labels))
    if single:
        if arrays != 1:
            raise ValueError(
                f"train.labels must be one array [n, ...], not {arrays}: the model has one output."
            )
        return {0: 0}
    given = ", ".join(names[i] for i in counted)
    if isinstance(labels, dict):
        keys = sorted(labels)
        if not {names[i] for i in counted} <= set(keys):
            raise ValueError(
                f"train.labels must be a dict with labels of the outputs {given}; it has {keys}."
            )
        return {i: keys.index(names[i]) for i in counted}
    if arrays not in (len(names), len(counted)):
        raise ValueError(
            f"train.labels must be a dict, list or tuple with labels of the outputs {given}; it "
            f"has {arrays} arrays."
        )
    return {i: (i if arrays == len(names) else place) for place, i in enumerate(counted)}


def numpy(outputs: Tensors) -> Inputs:
    """Tensors as arrays, in their structure."""
    return keras.tree.map_structure(lambda output: output.numpy(), outputs)
