"""Derivatives along a vector, in TensorFlow's forward mode or by reverse mode alone."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_ZERO = tf.UnconnectedGradients.ZERO
# Tangents (a tensor for each source) -> what is linear in them.
Linear = Callable[[Sequence[tf.Tensor]], Any]


class Mode(abc.ABC):
    """How derivatives along a vector are computed. All is traceable.

    ``function`` takes nothing and is differentiated in ``sources``: variables, or tensors that it
    was made of.

    Attributes:
        shares: what is computed once serves every vector.
    """

    shares: bool

    @abc.abstractmethod
    def linearized(self, function: Callable[[], tf.Tensor], sources: Sequence[Any]) -> Linear:
        """t -> (value, J t, s -> Jᵀ s) of ``value = function()`` and its Jacobian J."""

    @abc.abstractmethod
    def second(
        self, function: Callable[[], tf.Tensor], rows: Sequence[Any], columns: Sequence[Any]
    ) -> Linear:
        """t -> (∂²function/∂rows ∂columns) t, a list shaped as ``rows``, of a scalar function."""

    def __reduce__(self) -> str:
        # By its name: there is one of each, which models are compared with.
        return "FORWARD" if isinstance(self, ForwardMode) else "REVERSE"


class ForwardMode(Mode):
    """J t in forward mode, second derivatives by reverse over forward mode."""

    shares = False

    def linearized(self, function: Callable[[], tf.Tensor], sources: Sequence[Any]) -> Linear:
        def at(tangents):
            with tf.GradientTape() as tape:
                tape.watch(sources)
                with tf.autodiff.ForwardAccumulator(sources, tangents) as forward:
                    value = function()
                along = forward.jvp(value, unconnected_gradients=_ZERO)
            return value, along, lambda slopes: _gradient(tape, value, sources, slopes)

        return at

    def second(
        self, function: Callable[[], tf.Tensor], rows: Sequence[Any], columns: Sequence[Any]
    ) -> Linear:
        def at(tangents):
            with tf.GradientTape() as tape:
                tape.watch(rows)
                with tf.autodiff.ForwardAccumulator(columns, tangents) as forward:
                    value = function()
                along = forward.jvp(value, unconnected_gradients=_ZERO)
            return _gradient(tape, along, rows)

        return at


class ReverseMode(Mode):
    """By gradients of gradients. Jᵀu is linear in u, and the gradient of tᵀ(Jᵀu) in u is J t; a
    second derivative is the gradient of tᵀ∇."""

    shares = True

    def linearized(self, function: Callable[[], tf.Tensor], sources: Sequence[Any]) -> Linear:
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(sources)
                value = function()
            u = tf.zeros_like(value)
            outer.watch(u)
            pulled = _gradient(inner, value, sources, u)

        def at(tangents):
            along = outer.gradient(pulled, u, tangents, _ZERO)
            return value, along, lambda slopes: _gradient(inner, value, sources, slopes)

        return at

    def second(
        self, function: Callable[[], tf.Tensor], rows: Sequence[Any], columns: Sequence[Any]
    ) -> Linear:
        with tf.GradientTape(persistent=True) as outer:
            outer.watch([rows, columns])
            with tf.GradientTape() as inner:
                inner.watch(columns)
                value = function()
            slopes = _gradient(inner, value, columns)
        return lambda tangents: _gradient(outer, slopes, rows, tangents)


FORWARD, REVERSE = ForwardMode(), ReverseMode()


def _gradient(tape, value, sources, slopes=None):
    """Tensors, also where what is embedded has a gradient of a few rows."""
    gradients = tape.gradient(value, sources, slopes, _ZERO)
    return [tf.convert_to_tensor(gradient) for gradient in gradients]
