"""Derivatives computed in one way, held against those computed in another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from influence.curvature.modes import REVERSE, Mode
from influence.keras_models.errors import said

# What is agreement. Float32 of deep networks, and operations that compute in float32 whatever comes
# (resizing), keep that many digits.
_TOLERANCE = {"float32": 5e-3, "float64": 1e-6}
# A part of a derivative this much smaller than others may be rounding: that of the keys' bias in
# an attention is, which adds the same to all that a softmax compares.
_SMALL = {"float32": 1e-2, "float64": 1e-4}
_WRONG = "what it gives for one is not that of the gradient"
_INFINITE = "it is not finite at some training points"

Total = Callable[[Sequence[Any]], tf.Tensor]


class Comparison:
    """A scalar function, and its derivatives by gradients, computed one operation after the other,
    along a vector in which each source has its share.

    Args:
        total: sources -> a scalar.
        sources: variables or tensors.

    Attributes:
        vector: a random tensor for each source.
    """

    def __init__(self, total: Total, sources: Sequence[Any]) -> None:
        self._total, self._sources = total, list(sources)
        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = total(sources)
        gradients = tape.gradient(value, self._sources)
        self._tolerance, self._small = (of[value.dtype.name] for of in (_TOLERANCE, _SMALL))
        arrays = [
            np.zeros(source.shape) if gradient is None else tf.convert_to_tensor(gradient).numpy()
            for source, gradient in zip(sources, gradients)
        ]
        sizes = [np.linalg.norm(array) / np.sqrt(max(1, array.size)) for array in arrays]
        random, floor = np.random.default_rng(0), self._small * max(sizes) or 1.0
        shares = [
            random.standard_normal(array.shape) / max(size, floor)
            for array, size in zip(arrays, sizes)
        ]
        self.vector = [tf.constant(share, value.dtype) for share in shares]
        terms = np.concatenate([np.ravel(array * share) for array, share in zip(arrays, shares)])
        self._slope, self._slope_size = terms.sum(), np.linalg.norm(terms)

    def first_problem(self, along: Callable[[], Any]) -> str | None:
        """What is wrong with ``along()``, the derivative along ``vector`` by another way; None if
        nothing is."""
        if not np.isfinite(self._slope):
            return _INFINITE
        try:
            error = abs(float(along()) - self._slope)
        except Exception as raised:
            return said(raised)
        return None if error <= self._tolerance * self._slope_size else _WRONG

    def second_problem(self, product: Callable[[], Sequence[Any]]) -> str | None:
        """What is wrong with ``product()``, second derivatives times ``vector``; None if nothing
        is."""
        try:
            pairs = [(np.float64(a), np.float64(b)) for a, b in zip(product(), self._product)]
        except Exception as raised:
            return said(raised)
        sizes = [np.linalg.norm(truth) for _, truth in pairs]
        if not np.isfinite(sizes).all():
            return _INFINITE
        floor = self._small * max(sizes)
        right = all(
            np.linalg.norm(found - truth) <= self._tolerance * max(size, floor)
            for (found, truth), size in zip(pairs, sizes)
        )
        return None if right else _WRONG

    def lack_of_second(self) -> str | None:
        """Why there are no second derivatives at all, or None."""
        return self.second_problem(lambda: self._product)

    def problem_in(self, mode: Mode, second: bool) -> str | None:
        """What is wrong with first or ``second`` derivatives in a mode, compiled."""

        @tf.function(autograph=False)
        def compiled(sources, vector):
            total = functools.partial(self._total, sources)
            if second:
                return mode.second(total, sources, sources)(vector)
            return mode.linearized(total, sources)(vector)[1]

        result = functools.partial(compiled, self._sources, self.vector)
        return self.second_problem(result) if second else self.first_problem(result)

    @functools.cached_property
    def _product(self):
        total = functools.partial(self._total, self._sources)
        return REVERSE.second(total, self._sources, self._sources)(self.vector)
