"""The loss of one output of a Keras model as one number a point, from before its softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from influence.keras_models.formulas import differentiable
from influence.keras_models.smoothing import SMOOTH, refusal

# How far from the outputs, and from the labels, a loss is looked at for its curvature.
_AROUND = (0.0, 0.01, 0.1, 1.0, 10.0)


class OutputLoss:
    """(labels, logits, weights) -> [m]: the loss without Keras' reduction of the points.

    A point whose loss has several entries, such as those of a sequence, has their mean, over those
    that count where there is a mask (``mask_zero``, ``Masking``, ``ignore_class``); weights of the
    entries multiply them before, as in Keras.

    Args:
        loss: a function (labels, outputs) -> [m, ...], or a name or loss of Keras.
        outputs: of the model for a few points, straight from it.
        smoothing: the temperature of losses of Keras that have no curvature, or None.

    Attributes:
        name: the loss's.
        sums: its reduction is "sum".
        smoothed: it is one of those without curvature, made smooth.
        classifies: labels are classes, as far as that is known.
    """

    def __init__(self, loss: Any, outputs: tf.Tensor, smoothing: float | None = None) -> None:
        function = keras.losses.get(loss) if isinstance(loss, str) else loss
        if not callable(function):
            raise ValueError(f"loss must be a function, a name or a Keras loss, not {function!r}.")
        of_keras = isinstance(function, keras.Loss)
        self.sums = of_keras and function.reduction == "sum"
        self._divides_by_weights = of_keras and function.reduction == "mean_with_sample_weight"
        named = getattr(function, "__name__", type(function).__name__)
        self.name = function.name if of_keras else named
        # Losses of other people's take whatever labels they like.
        source = function.__class__ if of_keras else function
        self._of_keras = getattr(source, "__module__", "").startswith("keras.")
        inner = getattr(function, "fn", function) if self._of_keras else None
        self._smooth_name = getattr(inner, "__name__", None)
        if self._smooth_name not in SMOOTH:
            self._smooth_name = None
        self._loss = function.call if of_keras else _aligned(function)
        if smoothing is not None and self._smooth_name is not None:
            smooth = SMOOTH[self._smooth_name]
            self._loss = _aligned(lambda labels, outputs: smooth(labels, outputs, smoothing))
        self.smoothed = smoothing is not None and self._smooth_name is not None
        self._ignored = getattr(function, "ignore_class", None) if self._of_keras else None
        self._sparse = self._of_keras and "sparse" in (getattr(inner, "__name__", "") or self.name)
        self._outputs = tuple(outputs.shape[1:])
        self._activation = _activation(outputs)
        self._masked = getattr(outputs, "_keras_mask", None) is not None
        inner_name = getattr(inner, "__name__", "")
        self._squash = _squash(function, inner_name)
        self.classifies = self.activates or self._squash is not None or "hinge" in inner_name

    def logits(self, outputs: tf.Tensor) -> tf.Tensor:
        """What goes into the softmax or sigmoid that the outputs come from, else the outputs; with
        their mask."""
        logits = outputs if self._activation is None else outputs._keras_logits
        if self._masked:
            logits._keras_mask = outputs._keras_mask
        return logits

    @property
    def activates(self) -> bool:
        """Whether the outputs come from a softmax or sigmoid."""
        return self._activation is not None

    @property
    def of_differences(self) -> bool:
        """Whether the loss is known to depend on the differences of a point's logits [c] alone, as
        what is made of a softmax of them does."""
        softmax = self._activation is keras.activations.softmax or self._squash is tf.nn.softmax
        return softmax and len(self._outputs) == 1

    def activate(self, logits: tf.Tensor) -> tf.Tensor:
        """The outputs again."""
        return logits if self._activation is None else self._activation(logits)

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor | None:
        """Of every class, [m, ..., c], where the outputs, or what a cross-entropy makes of them,
        are a softmax or sigmoid; else None."""
        if self.activates:
            values = self.activate(logits)
        elif self._squash is not None:
            values = self._squash(logits)
        else:
            return None
        return values if values.shape[-1] > 1 else tf.concat([1 - values, values], axis=-1)

    def __call__(
        self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The loss of each point, [m].

        Args:
            labels: [m, ...].
            logits: [m, ...], with a mask (``_keras_mask``) where the model gives one.
            weights: [m] or, of the entries of each point, [m, ...].
        """
        losses = self._entries(labels, logits)
        kept = _both(getattr(logits, "_keras_mask", None), getattr(losses, "_keras_mask", None))
        losses = tf.cast(losses, logits.dtype)
        if weights is not None:
            weights = tf.reshape(weights, _opened(weights, losses))
            losses *= tf.cast(weights, losses.dtype)
        entries = tf.reshape(losses, [tf.shape(logits)[0], -1])
        if kept is None:
            return tf.reduce_mean(entries, axis=1)
        kept = tf.cast(tf.reshape(kept, tf.shape(entries)), entries.dtype)
        number = tf.reduce_sum(kept, axis=1)
        return tf.math.divide_no_nan(tf.reduce_sum(kept * entries, axis=1), number)

    def check(self, labels: tf.Tensor, logits: tf.Tensor, weights_shape: Any) -> None:
        """Raise a ValueError unless the loss has a first axis for the points, masks and weights for
        its entries, and curvature.

        Args:
            labels, logits: of a few points.
            weights_shape: of the weights of a point, or None.
        """
        values = self._entries(labels, logits)
        shape, m = tuple(values.shape), logits.shape[0]
        if len(shape) == 0 or shape[0] != m:
            raise ValueError(
                f"The loss {self.name!r} must return one number a point, [m]; for {m} points its "
                f"shape is {shape}. Leave out the mean or sum over the points."
            )
        mask = getattr(logits, "_keras_mask", None)
        if mask is not None and mask.shape.num_elements() != values.shape.num_elements():
            raise ValueError(
                f"The model's outputs carry a mask {_rows(mask.shape[1:])}, and the loss "
                f"{self.name!r} has the shape {_rows(shape[1:])}: give loss= a function of its own "
                f"that has a number for each entry of the mask, or one number a point and a model "
                f"without mask."
            )
        if weights_shape and not _weighs(weights_shape, shape[1:]):
            raise ValueError(
                f"sample_weight must be one number a point or, as the loss {self.name!r}, "
                f"{_rows(shape[1:])}; it is {_rows(weights_shape)}."
            )
        if weights_shape is not None and self._divides_by_weights:
            raise ValueError(
                f"The loss {self.name!r} has reduction='mean_with_sample_weight', by which every "
                f"weight depends on the others: give it 'sum_over_batch_size'."
            )
        self._check_curvature(labels, logits)

    def _check_curvature(self, labels, logits):
        random = np.random.default_rng(0)
        starts = [logits]
        if labels.shape.num_elements() == logits.shape.num_elements():
            # Where a regression is good; a loss such as Huber's is curved there alone.
            starts.append(tf.reshape(tf.cast(labels, logits.dtype), logits.shape))
        for start in starts:
            for distance in _AROUND:
                noise = distance * random.standard_normal(start.shape)
                around = start + tf.constant(noise, start.dtype)
                try:
                    curvature = self._curvature(labels, around)
                except LookupError:
                    return  # said where the model's derivatives are looked at
                if tf.reduce_any(curvature != 0):
                    return
        raise refusal(self.name, self._smooth_name)

    def _curvature(self, labels, logits):
        """The second derivative along (1, 2, …), zero where there is none to be had."""
        numbers = tf.range(1, 1 + logits[0].shape.num_elements(), dtype=logits.dtype)
        along = tf.broadcast_to(tf.reshape(numbers, logits.shape[1:]), logits.shape)
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                value = tf.reduce_sum(self._entries(labels, logits))
            slopes = inner.gradient(value, logits, unconnected_gradients="zero")
        return outer.gradient(slopes, logits, along, unconnected_gradients="zero")

    def _entries(self, labels, logits):
        """The loss [m, ...] of each entry of each point, as the function gives it."""
        with differentiable():
            return self._loss(tf.cast(labels, logits.dtype), self.activate(logits))

    def check_labels(
        self,
        shape: tuple[int, ...],
        range_of: Callable[[int | None], tuple[float, float]],
        name: str,
    ) -> None:
        """Raise a ValueError for labels that a loss of Keras would take, or broadcast, wrongly.

        Args:
            shape: of one label.
            range_of: the label that does not count, or None -> (smallest, largest) of the others.
            name: of the labels.
        """
        if not self._of_keras:
            return
        outputs = self._outputs
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
        if not self._sparse:
            return
        ends = np.array(range_of(self._ignored))
        if ((ends < 0) | (ends >= outputs[-1]) | (ends % 1 != 0)).any():
            but = "" if self._ignored is None else f", or {self._ignored} for what does not count,"
            raise ValueError(
                f"{name} must be the classes 0..{outputs[-1] - 1}{but} for the loss "
                f"{self.name!r}; they go from {ends[0]:g} to {ends[1]:g}."
            )


def _rows(shape) -> str:
    return "[" + ", ".join(["m", *map(str, shape)]) + "]"


def _both(mask, other):
    """The conjunction of two masks, either of which may be None."""
    if mask is None or other is None:
        return other if mask is None else mask
    return tf.logical_and(tf.reshape(tf.cast(mask, bool), tf.shape(other)), tf.cast(other, bool))


def _weighs(weights, losses) -> bool:
    """Whether weights of that shape a point are weights of its entries."""
    return np.prod(weights, dtype=int) in (1, np.prod(losses, dtype=int))


def _opened(weights, losses):
    """The shape of the weights with axes for the entries of each point."""
    if weights.shape[1:].num_elements() == 1:
        return [-1, *[1] * (losses.shape.rank - 1)]
    return tf.shape(losses)


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


def _squash(loss, name):
    """What a cross-entropy of Keras that takes logits makes of them, else None."""
    settings = getattr(loss, "_fn_kwargs", None) or {}
    if not settings.get("from_logits") or "crossentropy" not in name:
        return None
    return tf.sigmoid if name.startswith("binary") else tf.nn.softmax
