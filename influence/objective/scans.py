"""The compiled scans of a model's points: losses, gradients, derivatives along a vector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from influence.curvature.modes import REVERSE
from influence.data.batches import (
    map_over_batches,
    number_of_rows,
    spec_of,
    sum_over_batches,
)
from influence.data.types import Loss, Model, PointTensors, Tensors
from influence.data.vectors import flatten, split


class Scans:
    """What is computed point by point, traced once for each kind of points.

    All of it follows from what a model says of itself, by automatic differentiation. Points are as
    in ``data.batches``: (x, labels) tensors, or a stream of them. ``loss`` is "normal" or
    "adversarial".

    Args:
        model: gives ``variables``, ``dtype``, ``mode``, ``batch_size``, ``convert``, ``logits``,
            ``example_losses``, ``adversarial_losses``, ``sum_gradient`` and ``input_logits``.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._compiled: dict[tuple[Any, Any, str], Callable[..., Tensors]] = {}

    def losses(self, loss: Loss, points: PointTensors) -> tf.Tensor:
        """The loss of every point, [m]."""
        return self._run("_traced_losses", loss, points)

    def gradients(self, loss: Loss, points: PointTensors) -> np.ndarray:
        """∇L of every point, [m, p]."""
        return self._run("_traced_gradients", loss, points).numpy()

    def gradient_blocks(self, points: PointTensors) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(which of the points [b], their ∇L [b, p]), a few points at a time."""
        first = 0
        for block in self._model.points.blocks(points):
            gradients = self.gradients("normal", block)
            yield np.arange(first, first + len(gradients)), gradients
            first += len(gradients)

    def gradient_norms(self, points: PointTensors) -> np.ndarray:
        """‖∇L‖ of every point, [m]."""
        return np.linalg.norm(self.gradients("normal", points), axis=1)

    def mean_gradient(self, loss: Loss, points: PointTensors) -> np.ndarray:
        """The mean of ∇L, [p]."""
        return self._run("_traced_mean_gradient", loss, points).numpy()

    def directional_derivatives(self, points: PointTensors, block: tf.Tensor) -> np.ndarray:
        """∇L(z_i)ᵀ of every column of ``block`` [p, k]: [m, k]."""
        return self._run("_traced_directional_derivatives", "normal", points, block).numpy()

    def input_gradients(self, points: PointTensors, direction: tf.Tensor) -> Tensors:
        """∇_x of ∇L(z_i)ᵀ ``direction`` [p, 1], in converted units: [m, ...]."""
        gradients = self._run("_traced_input_gradients", "normal", points, direction)
        return tf.nest.map_structure(lambda gradient: gradient.numpy(), gradients)

    def outputs(self, x: Tensors) -> tf.Tensor:
        """The logits of points ``x``."""
        return self._model.logits(self._model.convert(x))

    def output_gradients(self, x: Tensors, slopes: tf.Tensor) -> np.ndarray:
        """∇(s_iᵀ f_i) of the outputs f_i of every point, for slopes s [m, ...]: [m, p]."""
        return self._run("_traced_output_gradients", "normal", (x, slopes)).numpy()

    def compiled(
        self, name: Any, function: Callable[..., Tensors], points: PointTensors, blocks: int = 0
    ) -> Callable[..., Tensors]:
        """``function(points, *blocks)``, traced once for each ``name``, mode and kind of points.

        A block is [p, k].
        """
        spec = spec_of(points)
        key = (name, self._model.mode, repr(spec))
        if key not in self._compiled:
            block = tf.TensorSpec([self._model.num_parameters, None], self._model.dtype)
            signature = [spec, *[block] * blocks]
            self._compiled[key] = tf.function(function, autograph=False, input_signature=signature)
        return self._compiled[key]

    def losses_of(self, loss: Loss) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """The function (logits, labels) -> [m] that ``loss`` names."""
        model = self._model
        functions = {"normal": model.example_losses, "adversarial": model.adversarial_losses}
        if loss not in functions:
            raise ValueError(f'loss must be "normal" or "adversarial", not {loss!r}.')
        return functions[loss]

    def _run(self, function: str, loss: Loss, points, *blocks):
        traced = functools.partial(getattr(self, function), loss)
        return self.compiled((function, loss), traced, points, len(blocks))(points, *blocks)

    def _batch_losses(self, loss, x, labels):
        model = self._model
        return self.losses_of(loss)(model.logits(model.convert(x)), labels)

    def _sum_gradient(self, loss, x, labels):
        if loss == "normal":
            return self._model.sum_gradient(x, labels)
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(self._batch_losses(loss, x, labels))
        variables = self._model.variables
        return flatten(tape.gradient(value, variables, unconnected_gradients="zero"))

    def _traced_losses(self, loss, points):
        return map_over_batches(
            functools.partial(self._batch_losses, loss),
            points,
            self._model.batch_size,
            tf.TensorSpec([None], self._model.dtype),
        )

    def _traced_mean_gradient(self, loss, points):
        def of_batch(x, labels):
            return self._sum_gradient(loss, x, labels), number_of_rows(labels)

        model = self._model
        zero = tf.zeros(model.num_parameters, model.dtype)
        total, number = sum_over_batches(of_batch, points, model.batch_size, (zero, 0))
        return total / tf.cast(number, model.dtype)

    def _traced_gradients(self, loss, points):
        def of_point(point):
            alone = tf.nest.map_structure(lambda array: array[tf.newaxis], point)
            return self._sum_gradient(loss, *alone)

        return tf.map_fn(of_point, points, fn_output_signature=self._model.dtype)

    def _traced_output_gradients(self, _, points):
        model = self._model

        def of_point(point):
            x, slopes = tf.nest.map_structure(lambda array: array[tf.newaxis], point)
            with tf.GradientTape() as tape:
                value = tf.reduce_sum(slopes * model.logits(model.convert(x)))
            return flatten(tape.gradient(value, model.variables, unconnected_gradients="zero"))

        return tf.map_fn(of_point, points, fn_output_signature=model.dtype)

    def _traced_directional_derivatives(self, loss, points, block):
        model = self._model

        def of_batch(x, labels):
            linearized = model.mode.linearized(
                lambda: self._batch_losses(loss, x, labels), model.variables
            )
            columns = tf.map_fn(
                lambda vector: linearized(split(vector, model.variables))[1], tf.transpose(block)
            )
            return tf.transpose(columns)

        like = tf.TensorSpec([None, None], model.dtype)
        return map_over_batches(of_batch, points, model.batch_size, like)

    def _traced_input_gradients(self, _, points, block):
        model = self._model

        def of_batch(x, labels):
            x = model.convert(x)

            def loss():
                return tf.reduce_sum(model.example_losses(model.input_logits(x), labels))

            # By gradients of gradients in every mode: there is but one vector.
            mixed = REVERSE.second(loss, tf.nest.flatten(x), model.variables)
            return tf.nest.pack_sequence_as(x, mixed(split(block[:, 0], model.variables)))

        like = tf.nest.map_structure(
            lambda array: tf.TensorSpec([None, *array.shape[1:]], model.dtype), points[0]
        )
        return map_over_batches(of_batch, points, model.batch_size, like)
