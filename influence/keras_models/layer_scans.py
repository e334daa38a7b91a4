"""Scans of a Keras network layer by layer: factors, squares in their basis, and scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from influence.curvature.ekfac import EKFAC
from influence.curvature.loss_roots import LossRoots
from influence.data.batches import (
    is_stream,
    map_over_batches,
    number_of_rows,
    spec_of,
    sum_over_batches,
    take_rows,
)
from influence.data.types import PointTensors, Tensors
from influence.data.vectors import flatten
from influence.keras_models.layer_capture import LayerCapture
from influence.keras_models.layer_factors import gram
from influence.keras_models.network import KerasNetwork
from influence.keras_models.weights import WeightedLabels

# Numbers that the inputs of all layers may have at a time: 8 MB in float32.
_NUMBERS = 2**21
# Batches at a time, each with all that its derivatives are made of.
_PARALLEL = 4
# Points that the kind of the loss is looked up at.
_TRIED = 8


class LayerScans:
    """What the points of a network come to, made of the inputs and slopes of its layers.

    Args:
        model: a ``KerasModel``.
        network: its network.

    Attributes:
        layers: that are taken apart.
        rest: places of the other parameters, point by point.

    Raises:
        ValueError: a loss that ``LossRoots`` does not take.
    """

    def __init__(self, model: Any, network: KerasNetwork) -> None:
        self._model, self._capture = model, LayerCapture(model, network)
        self.layers, self.rest = self._capture.layers, self._capture.rest
        self._kronecker = [i for i, layer in enumerate(self.layers) if layer.kronecker]
        self._size = sum(place.stop - place.start for place in self.rest)
        fitting = max(1, _NUMBERS // max(1, self._capture.numbers))
        self._batch_size = min(model.batch_size, fitting)
        self._compiled: dict[Any, Callable[..., Tensors]] = {}

    @property
    def capture(self) -> LayerCapture:
        """What takes the layers apart."""
        return self._capture

    @functools.cached_property
    def _roots(self) -> LossRoots:
        x, labels = self._model.points.sample(_TRIED)
        return LossRoots(self._model, self._model.logits(self._model.convert(x)), labels)

    def factors(
        self, points: PointTensors, seed: int, first: int = 0
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(Σ w a aᵀ [a, a] or its diagonal [a], Σ g gᵀ [b, b]) of each Kronecker layer: w are the
        points' weights and g slopes along the roots of the loss's curvature.

        Args:
            first: the number of the first point, by which draws are told apart.

        Raises:
            ValueError: the loss is not convex in the outputs.
        """
        points = _numbered(points, first)
        *factors, health = self._run(self._traced_factors, points, tf.constant(seed))
        self._roots.check(health.numpy())
        return [(left.numpy(), right.numpy()) for left, right in zip(*factors)]

    def squares(
        self,
        points: PointTensors,
        seed: int,
        bases: Sequence[Sequence[np.ndarray]],
        first: int = 0,
    ) -> list[np.ndarray]:
        """The sum over points and roots of the squares of gradients in ``bases``, [a, b] of each
        layer and [q] of the rest.

        Args:
            bases: (left, right) of each Kronecker layer, or (right,) where left is the identity.
            first: as for ``factors``.
        """
        points = _numbered(points, first)
        squares = self._run(self._traced_squares, points, tf.constant(seed), self._tensors(bases))
        return [each.numpy() for each in squares]

    def quadratic(self, points: PointTensors, operator: EKFAC) -> np.ndarray:
        """∇L(z)ᵀ ``operator`` ∇L(z) of every point, [m], for an operator that fits."""
        bases, values = [], [block.values + operator.damping for block in operator.blocks]
        for i in self._kronecker:
            block: Any = operator.blocks[i]
            bases.append([side for side in (block.left, block.right) if side is not None])
        arrays = self._tensors((bases, values))
        return self._run(self._traced_quadratic, points, *arrays).numpy()

    def directional_derivatives(self, points: PointTensors, block: tf.Tensor) -> np.ndarray:
        """∇L(z)ᵀ of every column of ``block`` [p, k]: [m, k]."""
        return self._run(self._traced_directional_derivatives, points, block).numpy()

    def fits(self, operator: Any) -> bool:
        """Whether an operator is an EK-FAC of these layers."""
        if not isinstance(operator, EKFAC):
            return False
        shapes = [(layer.places, layer.shape) for layer in self.layers]
        rest = [(self.rest, (self._size,))] if self.rest else []
        return [(block.places, block.values.shape) for block in operator.blocks] == shapes + rest

    def _run(self, function, points, *others):
        """One compiled call, traced once for each kind of points."""
        model, given = self._model, tf.nest.map_structure(tf.TensorSpec.from_tensor, others)
        if function in (self._traced_factors, self._traced_squares):
            _ = self._roots  # made outside of what is traced
        spec = spec_of(points)
        key = (function.__name__, repr(spec))
        if key not in self._compiled:
            if function == self._traced_directional_derivatives:
                given = (tf.TensorSpec([model.num_parameters, None], model.dtype),)
            self._compiled[key] = tf.function(
                function, autograph=False, input_signature=[spec, *given]
            )
        # By the model's scans, which say in one sentence what TensorFlow raises; but with the θ of
        # the model that asked for these, which may be another one.
        return model._scans._explained(self._compiled[key], points, *others)

    def _tensors(self, arrays):
        return tf.nest.map_structure(lambda array: tf.constant(array, self._model.dtype), arrays)

    def _traced_factors(self, points, seed):
        layers, dtype = [self.layers[i] for i in self._kronecker], self._model.dtype

        def of_batch(x, labels, rows):
            captured = self._capture.captured(x)
            inputs = [captured.inputs[i] for i in self._kronecker]
            roots, chosen, health = self._roots(captured.logits, labels, rows, seed)
            weights = _weights(labels, dtype)
            left = [layer.input_factor(each, weights) for layer, each in zip(layers, inputs)]

            def of_root(slopes):
                return [gram(slopes[i]) for i in self._kronecker]

            counted = self._capture.captured(take_rows(x, chosen))
            right = self._over_roots(counted, roots, of_root, zeros[1])
            return left, right, health

        zeros = (
            [tf.zeros(layer.input_shape, dtype) for layer in layers],
            [tf.zeros([layer.shape[1]] * 2, dtype) for layer in layers],
            tf.zeros(2, dtype),
        )
        return sum_over_batches(of_batch, points, self._batch_size, zeros, _PARALLEL)

    def _traced_squares(self, points, seed, bases):
        def of_batch(x, labels, rows):
            logits = self._model.logits(self._model.convert(x))
            roots, chosen, _ = self._roots(logits, labels, rows, seed)
            captured = self._capture.captured(take_rows(x, chosen))
            inputs, rotate = self._in_basis(captured.inputs, bases)

            def of_root(slopes):
                parts = zip(self.layers, inputs, rotate(slopes))
                return [layer.squares(own, slope) for layer, own, slope in parts]

            squares = self._over_roots(captured, roots, of_root, zeros[:-1])
            rest = self._of_rest(self._rest_squares(seed), (x, labels, rows))
            return [*squares, tf.reduce_sum(rest, axis=0)]

        zeros = [tf.zeros(layer.shape, self._model.dtype) for layer in self.layers]
        zeros.append(tf.zeros(self._size, self._model.dtype))
        return sum_over_batches(of_batch, points, self._batch_size, zeros, _PARALLEL)

    def _traced_quadratic(self, points, bases, values):
        def of_batch(x, labels):
            captured = self._capture.captured(x)
            inputs, rotate = self._in_basis(captured.inputs, bases)
            slopes = rotate(captured.slopes(self._loss_slopes(captured.logits, labels)))
            parts = zip(self.layers, inputs, slopes, values)
            total = [layer.weighted(own, slope, weights) for layer, own, slope, weights in parts]
            if self.rest:
                rest = self._of_rest(self._rest_gradient, (x, labels))
                total.append(tf.linalg.matvec(tf.square(rest), values[-1]))
            return tf.add_n(total)

        like = tf.TensorSpec([None], self._model.dtype)
        return map_over_batches(of_batch, points, self._batch_size, like)

    def _traced_directional_derivatives(self, points, block):
        def of_batch(x, labels):
            captured = self._capture.captured(x)
            slopes = captured.slopes(self._loss_slopes(captured.logits, labels))
            total = []
            for layer, own, slope in zip(self.layers, captured.inputs, slopes):
                directions = tf.reshape(_rows(block, layer.places), [*layer.shape, -1])
                total.append(layer.along(own, slope, directions))
            if self.rest:
                rest = self._of_rest(self._rest_gradient, (x, labels))
                total.append(rest @ _rows(block, self.rest))
            return tf.add_n(total)

        like = tf.TensorSpec([None, None], self._model.dtype)
        return map_over_batches(of_batch, points, self._batch_size, like)

    def _in_basis(self, inputs, bases):
        """(inputs, slopes -> slopes) in the bases of the layers that have any."""
        inputs, right = list(inputs), {}
        for i, (*left, right[i]) in zip(self._kronecker, bases):
            inputs[i] = self.layers[i].in_basis(inputs[i], *left)

        def rotate(slopes):
            return [
                tf.tensordot(each, right[i], 1) if i in right else each
                for i, each in enumerate(slopes)
            ]

        return inputs, rotate

    def _over_roots(self, captured, roots, function, zeros):
        """Σ ``function(slopes)`` over the roots."""

        def add(i, totals):
            new = function(captured.slopes(roots[i]))
            return i + 1, [total + each for total, each in zip(totals, new)]

        number = tf.shape(roots)[0]
        # One after the other: the batches are what runs side by side.
        sums = tf.while_loop(lambda i, _: i < number, add, (0, list(zeros)), parallel_iterations=1)
        return sums[1]

    def _loss_slopes(self, logits, labels):
        """∂L/∂logits of every point."""
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = self._model.example_losses(logits, labels)
        return tape.gradient(losses, logits)

    # The parameters that are in no layer that can be taken apart: point by point.

    def _of_rest(self, function, batch):
        """``function`` of every point alone, [m, q]."""
        if not self.rest:
            return tf.zeros([number_of_rows(batch[1]), 0], self._model.dtype)

        def of_point(point):
            return function(*tf.nest.map_structure(lambda array: array[tf.newaxis], point))

        return tf.map_fn(of_point, batch, fn_output_signature=self._model.dtype)

    def _rest_gradient(self, x, labels):
        model = self._model
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.example_losses(model.logits(model.convert(x)), labels))
        return flatten(tape.gradient(loss, self._capture.rest_variables, None, "zero"))

    def _rest_squares(self, seed):
        model, variables = self._model, self._capture.rest_variables

        def of_point(x, labels, rows):
            with tf.GradientTape(persistent=True) as tape:
                logits = model.logits(model.convert(x))
            roots, *_ = self._roots(logits, labels, rows, seed)

            def of_root(root):
                return tf.square(flatten(tape.gradient(logits, variables, root, "zero")))

            return tf.reduce_sum(tf.map_fn(of_root, roots), axis=0)

        return of_point


def _weights(labels, dtype):
    """Of the points, [m]: as many times each counts."""
    if not isinstance(labels, WeightedLabels):
        return tf.ones(number_of_rows(labels), dtype)
    weights = tf.cast(labels.weights, dtype)
    return tf.reduce_mean(tf.reshape(weights, [tf.shape(weights)[0], -1]), axis=1)


def _rows(block, places):
    """The rows of a block at ``places``."""
    return tf.concat([block[place] for place in places], axis=0)


def _numbered(points: PointTensors, first: int) -> PointTensors:
    """The points with a third part, their numbers, from the ``first`` one's on."""
    if not is_stream(points):
        return *points, tf.range(first, first + number_of_rows(points))
    batches = points[0].cardinality()

    def add(first, batch):
        end = first + number_of_rows(batch)
        return end, (*batch, tf.range(first, end))

    numbered = points[0].scan(first, add)
    return (numbered.apply(tf.data.experimental.assert_cardinality(batches)),)
