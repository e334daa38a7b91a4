"""The loss of a Keras model as one number a point, from the outputs before their softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class KerasLoss:
    """(labels, logits) -> [m]: the loss without its reduction; the mean over the other axes of a
    point, as Keras' own reduction takes it.

    Args:
        model: whose compiled loss is meant where ``loss`` is None.
        loss: a function (labels, outputs) -> [m, ...], or a name or loss of Keras.
        outputs: of the model for a few points, straight from it.
        regularised: the objective has the model's own weight regularisers.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: str | Callable[..., Any] | None,
        outputs: tf.Tensor,
        regularised: bool,
    ) -> None:
        function: Any = _compiled_loss(model) if loss is None else loss
        if isinstance(function, str):
            function = keras.losses.get(function)
        if not callable(function):
            raise ValueError(f"loss must be a function, a name or a Keras loss, not {function!r}.")
        of_keras = isinstance(function, keras.Loss)
        if of_keras and function.reduction == "sum" and regularised and _regularised(model):
            raise ValueError(
                "The loss has reduction='sum', but the objective here is a mean: its minimum is "
                "another one with regularisers of the same strength. Give regularization= what "
                "they are for one point on average."
            )
        if getattr(outputs, "_keras_mask", None) is not None:
            raise ValueError(
                "The model's outputs carry a mask, over which Keras averages a whole batch at a "
                "time: give loss= a function of its own that has one number a point."
            )
        self._loss = function.call if of_keras else _aligned(function)
        named = getattr(function, "__name__", type(function).__name__)
        self.name = function.name if of_keras else named
        # Losses of other people's take whatever labels they like.
        source = function.__class__ if of_keras else function
        self._of_keras = getattr(source, "__module__", "").startswith("keras.")
        self._sparse = "sparse" in self.name
        self._outputs = tuple(outputs.shape[1:])
        self._activation = _activation(outputs)

    def logits(self, outputs: tf.Tensor) -> tf.Tensor:
        """What goes into the softmax or sigmoid that the outputs come from, else the outputs."""
        return outputs if self._activation is None else outputs._keras_logits

    def activate(self, logits: tf.Tensor) -> tf.Tensor:
        """The outputs again."""
        return logits if self._activation is None else self._activation(logits)

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        losses = self._loss(tf.cast(labels, logits.dtype), self.activate(logits))
        losses = tf.cast(losses, logits.dtype)
        return tf.reduce_mean(tf.reshape(losses, [tf.shape(logits)[0], -1]), axis=1)

    def check_one_a_point(self, labels: tf.Tensor, logits: tf.Tensor) -> None:
        """Raise a ValueError unless the loss has a first axis for the points."""
        values = self._loss(tf.cast(labels, logits.dtype), self.activate(logits))
        if len(values.shape) == 0 or values.shape[0] != logits.shape[0]:
            raise ValueError(
                f"The loss {self.name!r} must return one number a point, [m]; for "
                f"{logits.shape[0]} points its shape is {tuple(values.shape)}. Leave out the mean "
                f"or sum over the points."
            )

    def check_labels(
        self, shape: Iterable[int], smallest: float, largest: float, name: str
    ) -> None:
        """Raise a ValueError for labels that a loss of Keras would take, or broadcast, wrongly.

        Args:
            shape: of one label.
            smallest, largest: of all labels.
        """
        if not self._of_keras:
            return
        shape, outputs = tuple(shape), self._outputs
        if self._sparse:
            allowed = [outputs[:-1], (*outputs[:-1], 1)]
        else:
            # A last axis of one may be there or not.
            other = {(): [(1,)], (1,): [outputs[:-1]]}.get(outputs[-1:], [])
            allowed = [outputs, *other]
        if shape not in allowed:
            raise ValueError(
                f"{name} must be {' or '.join(_rows(one) for one in allowed)} for the loss "
                f"{self.name!r} and outputs {_rows(outputs)}; they are {_rows(shape)}."
            )
        ends = np.array([smallest, largest])
        if self._sparse and ((ends < 0) | (ends >= outputs[-1]) | (ends % 1 != 0)).any():
            raise ValueError(
                f"{name} must be the classes 0..{outputs[-1] - 1} for the loss {self.name!r}; "
                f"they go from {smallest:g} to {largest:g}."
            )


def _rows(shape) -> str:
    return "[" + ", ".join(["m", *map(str, shape)]) + "]"


def _compiled_loss(model):
    if getattr(model, "loss", None) is None:
        raise ValueError(
            f"The model {model.name!r} has no loss: compile() it with one, or give loss=."
        )
    weights = getattr(model._compile_loss, "_user_loss_weights", None)
    if weights is not None:
        raise ValueError("loss_weights are not read here: give loss= with the weight in it.")
    losses = keras.tree.flatten(model.loss)
    if len(losses) != 1:
        raise ValueError(f"The model is compiled with {len(losses)} losses: give loss= one.")
    return losses[0]


def _regularised(model) -> bool:
    return any(v.regularizer is not None for v in model.trainable_variables)


def _aligned(function):
    """A function as ``compile`` wraps it: labels get, or lose, a last axis of one like outputs."""

    def loss(labels, outputs):
        more = outputs.shape.rank - labels.shape.rank
        if more == 1 and outputs.shape[-1] == 1:
            labels = labels[..., tf.newaxis]
        if more == -1 and labels.shape[-1] == 1:
            labels = labels[..., 0]
        return tf.convert_to_tensor(function(labels, outputs))

    return loss


def _activation(outputs):
    """The softmax or sigmoid that Keras says the outputs come from, else None."""
    logits = getattr(outputs, "_keras_logits", None)
    if logits is None or logits.shape != outputs.shape:
        return None
    for activation in (keras.activations.sigmoid, keras.activations.softmax):
        if np.allclose(activation(logits), outputs, rtol=1e-5, atol=1e-6):
            return activation
    return None
