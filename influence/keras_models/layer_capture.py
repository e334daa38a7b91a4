"""Which layers' gradients can be made of inputs and slopes, and both for a batch of points."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from influence.curvature.ekfac import Places
from influence.data.batches import number_of_rows, spec_of, take_rows
from influence.data.types import Tensors
from influence.data.vectors import flatten
from influence.keras_models.layer_factors import (
    EmbeddingFactors,
    LayerFactors,
    LinearFactors,
    ScaleFactors,
)
from influence.keras_models.network import KerasNetwork

# What the variables of a kind of layer are called.
_LINEAR, _SCALE = ("_kernel", "bias"), ("gamma", "beta")
_NAMES: dict[type, tuple[str, ...]] = {
    keras.layers.Dense: _LINEAR,
    keras.layers.Conv1D: _LINEAR,
    keras.layers.Conv2D: _LINEAR,
    keras.layers.Conv3D: _LINEAR,
    keras.layers.Embedding: ("_embeddings",),
    keras.layers.BatchNormalization: _SCALE,
    keras.layers.LayerNormalization: _SCALE,
    keras.layers.GroupNormalization: _SCALE,
}
# Points that it is tried out with, and how far gradients may then be from TensorFlow's.
_TRIED = 3
_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}


@dataclasses.dataclass(frozen=True, eq=False)
class Captured:
    """A batch on its way through the network.

    Attributes:
        logits: [m, ...].
        inputs: of each layer.
        tape: persistent.
        sums: of each layer, those of its calls.
        layers: they.
    """

    logits: tf.Tensor
    inputs: list[tf.Tensor]
    tape: tf.GradientTape
    sums: list[list[tf.Tensor]]
    layers: Sequence[LayerFactors]

    def slopes(self, along: tf.Tensor) -> list[tf.Tensor]:
        """Of each layer, those of the sum of ``along`` [m, ...] times the logits."""
        zero = tf.UnconnectedGradients.ZERO
        slopes = self.tape.gradient(self.logits, self.sums, along, zero)

        def of_call(layer, sums, slope):
            # Of a shape that some gradients do not know of themselves.
            return layer.slopes(tf.ensure_shape(tf.convert_to_tensor(slope), sums.shape))

        return [
            tf.concat([of_call(layer, *pair) for pair in zip(sums, own)], axis=1)
            for layer, sums, own in zip(self.layers, self.sums, slopes)
        ]


class LayerCapture:
    """The layers that can be taken apart, and the chosen variables that are in none of them.

    Dense layers, convolutions without groups, embeddings and normalisations, wherever they are in
    the model and however often they are called. It is tried out on a few points: a layer whose
    gradient is not TensorFlow's, because its weights are used elsewhere, too, or it is called
    inside a loop, is not one of them, nor is one that has no gradients there.

    Args:
        model: a ``KerasModel``.
        network: its network.

    Attributes:
        layers: they.
        numbers: that the inputs of all have for a point.
        rest, rest_variables: the other variables, and their places.
    """

    def __init__(self, model: Any, network: KerasNetwork) -> None:
        self._model, self._network = model, network
        sizes = [variable.shape.num_elements() for variable in network.variables]
        ends = np.cumsum(sizes)
        places = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes)]
        self._places = {id(v): place for v, place in zip(network.chosen, places)}
        self._at = {place.start: v for v, place in zip(network.variables, places)}
        found = [self._factors_of(layer) for layer in network.top._flatten_layers()]
        self.layers: list[LayerFactors] = [layer for layer in found if layer is not None]
        self.numbers = 0
        if self.layers:
            self._keep_faithful()
        taken = {place.start for layer in self.layers for place in layer.places}
        self.rest: Places = tuple(place for place in places if place.start not in taken)
        self.rest_variables = self._variables(self.rest)

    def captured(self, x: Tensors) -> Captured:
        """A batch of points as they came, traceable."""
        return self._captured(*self._run(x))

    def _run(self, x):
        """(logits, tape, calls of each layer)."""
        calls: dict[int, list[_Call]] = {id(layer): [] for layer in self.layers}
        with tf.GradientTape(persistent=True) as tape, _recorded(self.layers, calls):
            logits = self._model.logits(self._model.convert(x))
        return logits, tape, calls

    def _captured(self, logits, tape, calls):
        inputs = [
            tf.concat([layer.inputs(call.inputs) for call in calls[id(layer)]], axis=1)
            for layer in self.layers
        ]
        sums = [[call.sums for call in calls[id(layer)]] for layer in self.layers]
        return Captured(logits, inputs, tape, sums, self.layers)

    def _variables(self, places):
        return [self._at[place.start] for place in places]

    def _factors_of(self, layer) -> LayerFactors | None:
        names = next((_NAMES[kind] for kind in _NAMES if isinstance(layer, kind)), ())
        variables = [getattr(layer, name, None) for name in names]
        there = [v if id(v) in self._places else None for v in variables]
        places = tuple(self._places[id(v)] for v in there if v is not None)
        if not places:
            return None
        if isinstance(layer, keras.layers.Embedding):
            return EmbeddingFactors(layer, places)
        if names is _SCALE:
            return ScaleFactors(layer, places, self._network.state, *there)
        last = getattr(layer, "data_format", "channels_last") == "channels_last"
        if not last or getattr(layer, "groups", 1) != 1:
            return None
        return LinearFactors(layer, places, *(v is not None for v in there))

    def _keep_faithful(self) -> None:
        """Leave the layers whose gradients are TensorFlow's, of each of a few points."""
        x, _ = self._model.points.sample(_TRIED)
        x = take_rows(x, tf.range(_TRIED) % number_of_rows(x))

        def differences(x):
            logits, tape, calls = self._run(x)
            self.layers = [layer for layer in self.layers if _connected(layer, calls, logits)]
            captured = self._captured(logits, tape, calls)
            shapes = [inputs.shape[1:] for inputs in captured.inputs]
            self.numbers = sum(shape.num_elements() for shape in shapes)
            return [self._differences(captured, point) for point in range(_TRIED)]

        [spec] = spec_of((x,))
        compiled = tf.function(
            differences, autograph=False, input_signature=[spec]
        ).get_concrete_function()
        # [tried, layers] each.
        errors, sizes = np.stack([each.numpy() for each in compiled(x)], axis=1)
        small = errors <= _TOLERANCE[self._model.dtype.name] * sizes
        # Gradients that are all 0, as behind a last layer of zeros, say nothing of others.
        faithful = small.all(axis=0) & sizes.any(axis=0)
        self.layers = [layer for layer, fine in zip(self.layers, faithful) if fine]

    def _differences(self, captured, point):
        """[2, layers]: how far the gradients of all points are from what they are where only the
        logits of one count, and the size of the latter."""
        logits = captured.logits
        random = tf.constant(np.random.default_rng(0).standard_normal(logits.shape[1:]))
        one = tf.one_hot(point, _TRIED, dtype=logits.dtype)
        along = tf.tensordot(one, tf.cast(random, logits.dtype), 0)
        results = []
        for layer, inputs, slopes in zip(captured.layers, captured.inputs, captured.slopes(along)):
            found = tf.reshape(layer.gradients(inputs, slopes), [_TRIED, -1])
            variables = self._variables(layer.places)
            truth = flatten(captured.tape.gradient(logits, variables, along, "zero"))
            results.append([tf.norm(found - tf.tensordot(one, truth, 0)), tf.norm(truth)])
        return tf.transpose(tf.reshape(tf.stack(results), [-1, 2])) if results else tf.zeros([2, 0])


@dataclasses.dataclass(eq=False)
class _Call:
    """A call of a layer: what it was called with, and the sums before its activation."""

    inputs: tf.Tensor
    sums: tf.Tensor | None = None


@contextlib.contextmanager
def _recorded(layers: Sequence[LayerFactors], calls: dict[int, list[_Call]]) -> Iterator[None]:
    """The calls of the layers are written down. Keras has no hook for it, so that meanwhile each
    layer has a ``call`` and an activation of its own, which do as before."""

    def recorder(layer, function):
        def call(inputs, *others, **named):
            made = _Call(inputs)
            calls[id(layer)].append(made)
            outputs = function(inputs, *others, **named)
            if made.sums is None:
                made.sums = outputs
            return outputs

        return call

    def before(layer, activation):
        def activate(sums):
            calls[id(layer)][-1].sums = sums
            return activation(sums)

        return activate

    activations = {
        id(each): vars(each.layer)["activation"]
        for each in layers
        if vars(each.layer).get("activation") is not None
    }
    for each in layers:
        vars(each.layer)["call"] = recorder(each, each.layer.call)
        if id(each) in activations:
            vars(each.layer)["activation"] = before(each, activations[id(each)])
    try:
        yield
    finally:
        for each in layers:
            del vars(each.layer)["call"]
            if id(each) in activations:
                vars(each.layer)["activation"] = activations[id(each)]


def _connected(layer, calls, logits) -> bool:
    """Whether the layer was called, and in the same graph, not in a loop's."""
    made = calls[id(layer)]
    tensors = [tensor for call in made for tensor in (call.inputs, call.sums)]
    if not made or not all(getattr(t, "graph", None) is logits.graph for t in tensors):
        return False
    return all(None not in (*call.inputs.shape[1:], *call.sums.shape[1:]) for call in made)
