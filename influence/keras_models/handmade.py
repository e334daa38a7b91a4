"""Gradients that somebody wrote by hand, which need not be those of what is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from influence.curvature.modes import REVERSE

Function = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]

# What tf.quantization is made of.
_QUANTISED = ("FakeQuant", "QuantizeAndDequantize")
# Steps of a difference, relative to the values, and how far beside them it is taken: a ReLU may
# have its kink exactly at them, as at an image's border of zeros.
_STEPS, _BESIDE = (1e-2, 1e-3, 1e-4), 0.1
# A number's difference agrees with its derivative within this; and the share of numbers that need
# not, because there is a kink within the step.
_TOLERANCE, _AT_KINKS = 0.03, 0.1
# A gradient is linear in what comes from above, but for rounding.
_ROUNDING = 1e-3


def handmade(starts: Iterable[tf.Tensor]) -> Counter[str]:
    """How many operations with a gradient by hand come after ``starts`` in a graph: "Stopped",
    "Quantised", which is straight through, and "Custom"."""
    found: Counter[str] = Counter()
    todo, seen = list(starts), set()
    while todo:
        for operation in todo.pop().consumers():
            if operation.name not in seen:
                seen.add(operation.name)
                todo.extend(operation.outputs)
                found.update(_kinds(operation))
    return found


def contradicted(function: Function, values: Sequence[tf.Tensor]) -> bool:
    """Whether the gradient of ``function`` beside ``values`` is not linear in what comes from
    above, as a clipped one, or is contradicted by finite differences, as a straight-through one.
    """
    random = np.random.default_rng(0)
    values = _beside(random, values)
    direction = _direction(random, values)

    def joined(values):
        return tf.concat([tf.reshape(output, [-1]) for output in function(values)], axis=0)

    linearized = REVERSE.linearized(lambda: joined(values), values)
    outputs, along, transposed = linearized(direction)
    [weights] = _normal(random, [outputs])
    below = _flat(transposed(weights)) * _flat(direction)
    above = _flat([weights]) * _flat([along])
    error = abs(below.sum() - above.sum())
    if error > _ROUNDING * (np.linalg.norm(below) + np.linalg.norm(above)):
        return True
    return _differs(lambda values: [joined(values)], [along], values, direction)


def second_contradicted(function: Function, values: Sequence[tf.Tensor]) -> bool:
    """Whether finite differences contradict the second derivatives of ``function`` beside
    ``values``."""
    random = np.random.default_rng(0)
    values = _beside(random, values)
    direction, weights = _direction(random, values), _normal(random, function(values))

    def total(values):
        return tf.add_n([tf.reduce_sum(w * o) for w, o in zip(weights, function(values))])

    def gradient(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            value = total(values)
        return tape.gradient(value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    product = REVERSE.second(lambda: total(values), values, values)(direction)
    return _differs(gradient, product, values, direction)


def _differs(function, derivative, values, direction):
    """Whether at every step more of a derivative's numbers differ from finite differences of the
    function than kinks explain."""
    derivative, outputs = _flat(derivative), _flat(function(values))
    rounding = np.abs(outputs) + np.linalg.norm(outputs) / np.sqrt(outputs.size)
    rounding *= 10 * np.finfo(values[0].dtype.as_numpy_dtype).eps

    def share(step):
        ahead, behind = (
            _flat(function([v + sign * step * d for v, d in zip(values, direction)]))
            for sign in (1, -1)
        )
        error = np.abs((ahead - behind) / (2 * step) - derivative)
        return np.mean(error > _TOLERANCE * np.abs(derivative) + rounding / step)

    return all(share(step) > _AT_KINKS for step in _STEPS)


def _kinds(operation):
    """What is by hand in an operation, or in the functions that it calls."""
    if operation.type == "StopGradient":
        yield "Stopped"
    if operation.type.startswith(_QUANTISED):
        yield "Quantised"
    for name, attribute in operation.node_def.attr.items():
        if name == "_gradient_op_type" and attribute.s.startswith(b"CustomGradient"):
            yield "Custom"
        for function in [attribute.func, *attribute.list.func]:
            if function.name:
                for inner in operation.graph._get_function(function.name).graph.get_operations():
                    yield from _kinds(inner)


def _beside(random, values):
    return [v + _BESIDE * d for v, d in zip(values, _direction(random, values))]


def _direction(random, values):
    """Random tensors as large as the values."""
    sizes = [np.linalg.norm(value) / np.sqrt(max(1, np.size(value))) for value in values]
    return [(size or 1.0) * normal for size, normal in zip(sizes, _normal(random, values))]


def _normal(random, tensors):
    return [tf.constant(random.standard_normal(t.shape), t.dtype) for t in tensors]


def _flat(tensors):
    return np.concatenate([np.ravel(np.float64(tensor)) for tensor in tensors])
