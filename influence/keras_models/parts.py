"""What a network is made of, each as a function that can be looked at alone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from influence.data.types import Tensors
from influence.keras_models.formulas import differentiable
from influence.keras_models.network import KerasNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A layer, or another function, between θ and the objective.

    Attributes:
        name: to be understood in a message.
        instead: what a user can do without it.
        values: what depends on θ of the floating-point numbers that go in, variables included.
        function: values -> the floating-point numbers that come out.
        inside: parts that are computed within this one.
    """

    name: str
    instead: str
    values: list[tf.Tensor]
    function: Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
    inside: tuple[Part, ...] = ()

    def total(self, values: Sequence[tf.Tensor]) -> tf.Tensor:
        """A scalar that has to do with every number that comes out."""
        random = np.random.default_rng(0)
        return tf.add_n(
            [
                tf.reduce_sum(
                    output * tf.constant(random.standard_normal(output.shape), output.dtype)
                )
                for output in self.function(values)
            ]
        )


def layers_of(network: KerasNetwork, x: Tensors, after_inputs: bool = False) -> list[Part]:
    """The layers after θ, each as it is first called for points; in the order in which the calls
    end, so that a layer comes after those inside it.

    Args:
        x: what the body makes of points, or points where there is none.
        after_inputs: the layers after the points ``x`` themselves instead.
    """
    calls: list[_Call] = []
    with tf.GradientTape(persistent=True) as tape:
        if after_inputs:
            sources, chosen = tf.nest.flatten(x), []
            tape.watch(sources)
            with _observed(network.model, calls):
                network.whole(x)
        else:
            sources, chosen = network.variables, list(zip(network.chosen, network.variables))
            with _observed(network.top, calls):
                network.head(x)
    connected = functools.partial(_is_connected, tape, sources)
    parts: dict[int, Part] = {}
    for call in calls:
        inside = tuple(parts[id(other)] for other in call.inside if id(other) in parts)
        part = _part(network, call, connected, chosen, inside)
        if part.values and _floating(call.outputs):
            parts[id(call)] = part
    return list(parts.values())


@dataclasses.dataclass(eq=False)
class _Call:
    """A call of a layer: (positional, named) arguments, what it returned, and the calls of layers
    that it made."""

    layer: keras.Layer
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    outputs: Any = None
    inside: list[_Call] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def _observed(model: keras.Model, calls: list[_Call]) -> Iterator[None]:
    """The first call of each layer is written down as it ends. Keras has no hook for it, so that
    meanwhile each layer has a ``call`` of its own, which does as its class's."""
    callers: list[_Call] = []

    def observer(layer, function):
        def call(*positional, **named):
            made = _Call(layer, (positional, named))
            callers.append(made)
            try:
                made.outputs = function(*positional, **named)
            finally:
                callers.pop()
            if all(layer is not other.layer for other in calls):
                calls.append(made)
                if callers:
                    callers[-1].inside.append(made)
            return made.outputs

        return call

    layers = model._flatten_layers()
    for layer in layers:
        vars(layer)["call"] = observer(layer, layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["call"]


def _part(network, call, connected, chosen, inside):
    layer, arguments = call.layer, keras.tree.flatten(call.arguments)
    places = [place for place, argument in enumerate(arguments) if connected(argument)]
    own = {id(v) for v in layer.variables}
    chosen = [pair for pair in chosen if id(pair[0]) in own]

    def function(values):
        changed = list(arguments)
        for place, value in zip(places, values):
            changed[place] = value
        positional, named = keras.tree.pack_sequence_as(call.arguments, changed)
        variables = [v for v, _ in chosen]
        state = [*network.state(), *zip(variables, values[len(places) :])]
        with differentiable(), keras.StatelessScope(state):
            outputs = layer.call(*positional, **named)
        return _floating(outputs)

    values = [arguments[place] for place in places]
    values += [tf.convert_to_tensor(copy) for _, copy in chosen]
    kind = "model" if isinstance(layer, keras.Model) else "layer"
    name = f"the {kind} {layer.name!r} ({type(layer).__name__})"
    return Part(name, "choose layers after it with variables=", values, function, inside)


def _floating(structure):
    return [value for value in keras.tree.flatten(structure) if _is_floating(value)]


def _is_floating(value):
    return tf.is_tensor(value) and value.dtype.is_floating


def _is_connected(tape, sources, value):
    if not _is_floating(value):
        return False
    try:
        return any(gradient is not None for gradient in tape.gradient(value, sources))
    except Exception:  # It is, through an operation that has no gradient.
        return True
