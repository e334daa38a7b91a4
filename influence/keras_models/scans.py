"""The compiled scans that only Keras models need."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from influence.data.batches import map_over_batches, number_of_rows, sum_over_batches
from influence.data.streams import CHANGED, explained
from influence.data.types import Model, PointTensors, Tensors
from influence.data.vectors import flatten
from influence.keras_models.errors import said
from influence.keras_models.network import KerasNetwork
from influence.objective.scans import Scans


class KerasScans(Scans):
    """``Scans`` whose outputs come a batch at a time, and the frozen layers' and the objective's.

    Args:
        model: a ``KerasModel``.
        network: its ``KerasNetwork``.
        outputs_like: the ``tf.TensorSpec`` of a batch of outputs.
    """

    _model: Any  # with ``layer_scans``

    def __init__(self, model: Model, network: KerasNetwork, outputs_like: tf.TensorSpec) -> None:
        super().__init__(model)
        self._network, self._outputs_like = network, outputs_like

    def of(self, model: Model) -> KerasScans:
        """The same compiled functions, for a model that shares the network's variables."""
        scans = copy.copy(self)
        scans._model = model
        return scans

    def compiled(
        self, name: Any, function: Callable[..., Tensors], points: PointTensors, blocks: int = 0
    ) -> Callable[..., Tensors]:
        """As for every model; what TensorFlow raises is a ValueError of one sentence."""
        compiled = super().compiled(name, function, points, blocks)
        return functools.partial(self._explained, compiled)

    def outputs(self, x: Tensors) -> tf.Tensor:
        return self._run("_traced_outputs", "normal", (x,))

    def features(self, x: Tensors) -> tf.Tensor:
        """What the frozen body of the network makes of points: [m, f]."""
        return self._run("_traced_features", "normal", (x,))

    def value_and_gradient(self, points: PointTensors) -> tuple[float, np.ndarray]:
        """R and ∇R, in float64."""
        value, gradient = self._run("_traced_value_and_gradient", "normal", points)
        return float(value), gradient.numpy()

    def directional_derivatives(self, points: PointTensors, block: tf.Tensor) -> np.ndarray:
        """As for every model; several columns layer by layer, where all layers have a form."""
        if block.shape[1] == 1 or self._model.layer_scans.rest:
            return super().directional_derivatives(points, block)
        return self._run("_traced_along_layers", "normal", points, block).numpy()

    def _explained(self, compiled, *arguments):
        try:
            with explained():
                return compiled(*arguments)
        except tf.errors.ResourceExhaustedError as error:
            raise ValueError(f"{said(error)}: a smaller batch_size= takes less memory.") from error
        except ValueError as error:
            if str(error) == CHANGED:  # one sentence already, and of the data
                raise
            raise ValueError(f"{said(error)}.") from error
        except Exception as error:
            name = self._network.model.name
            raise ValueError(
                f"TensorFlow fails to run the model {name!r}: {said(error)}."
            ) from error

    def _traced_outputs(self, _, points):
        model = self._model
        return map_over_batches(
            lambda x: model.logits(model.convert(x)),
            points,
            model.batch_size,
            self._outputs_like,
        )

    def _traced_features(self, _, points):
        model, body = self._model, self._network.body
        assert body is not None
        like = tf.TensorSpec([None, *body.outputs[0].shape[1:]], model.dtype)

        def of_batch(x):
            # As all points, they are scaled when they are converted.
            return self._network.features(model.convert(x)) / model.train.scale

        return map_over_batches(of_batch, points, model.batch_size, like)

    def _traced_along_layers(self, _, points, block):
        return self._model.layer_scans._traced_directional_derivatives(points, block)

    def _traced_value_and_gradient(self, loss, points):
        variables, size = self._model.variables, self._model.num_parameters

        def derivative(function):
            with tf.GradientTape() as tape:
                value = tf.reduce_sum(tf.cast(function(), tf.float64))
            gradient = flatten(tape.gradient(value, variables, None, "zero"))
            return value, tf.cast(gradient, tf.float64)

        def of_batch(x, labels):
            losses = derivative(lambda: self._batch_losses(loss, x, labels))
            return *losses, number_of_rows(labels)

        zero = tf.constant(0, tf.float64), tf.zeros(size, tf.float64), 0
        batch_size = self._model.batch_size
        value, gradient, number = sum_over_batches(of_batch, points, batch_size, zero)
        penalty, slope = derivative(self._model.regularization)
        number = tf.cast(number, tf.float64)
        return value / number + penalty, gradient / number + slope
