"""Losses of Keras without curvature, and smooth ones in their place.

A loss that is linear in the outputs but for its kinks has a Hessian of 0 wherever it has one, so
that nothing but a regulariser would be left of H. What a removal moves are the points at the kinks.
At temperature t each kink max(s, 0) becomes t log(1 + exp(s/t)), as in ``SmoothHinge``.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

Smooth = Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]


def _absolute(r, t):
    """|r| = max(r, 0) + max(−r, 0)."""
    return t * (tf.nn.softplus(r / t) + tf.nn.softplus(-r / t))


def _mean_absolute_error(labels, outputs, t):
    return tf.reduce_mean(_absolute(labels - outputs, t), axis=-1)


def _mean_absolute_percentage_error(labels, outputs, t):
    # Keras' own smallest divisor. The temperature is one of the relative error.
    size = tf.maximum(tf.abs(labels), keras.config.epsilon())
    return 100 * tf.reduce_mean(_absolute((labels - outputs) / size, t), axis=-1)


def _hinge(labels, outputs, t):
    # Keras takes 0 and 1 for −1 and 1.
    signs = tf.where(labels == 0, -tf.ones_like(labels), labels)
    return tf.reduce_mean(t * tf.nn.softplus((1 - signs * outputs) / t), axis=-1)


def _categorical_hinge(labels, outputs, t):
    """max(0, 1 + the largest wrong output − the right one)."""
    right = tf.reduce_sum(labels * outputs, axis=-1, keepdims=True)
    wrong = (1 - labels) * outputs - right + 1
    zero = tf.zeros_like(right)
    return t * tf.reduce_logsumexp(tf.concat([zero, wrong], axis=-1) / t, axis=-1)


# By what Keras calls the functions; its loss objects have the same names.
SMOOTH: dict[str, Smooth] = {
    "mean_absolute_error": _mean_absolute_error,
    "mean_absolute_percentage_error": _mean_absolute_percentage_error,
    "hinge": _hinge,
    "categorical_hinge": _categorical_hinge,
}
# What can be fitted instead.
_INSTEAD = {
    "mean_absolute_error": "'huber' or 'log_cosh'",
    "mean_absolute_percentage_error": "'mean_squared_logarithmic_error'",
    "hinge": "'squared_hinge' or a cross-entropy",
    "categorical_hinge": "a cross-entropy",
}


def refusal(name: str, smoothed: str | None) -> ValueError:
    """What to say of a loss ``name`` without curvature; ``smoothed``, its name in ``SMOOTH``."""
    remedy = "give one that is smooth, with t log(1 + exp(s/t)) in place of each max(s, 0)"
    if smoothed is not None:
        remedy = f"fit with {_INSTEAD[smoothed]}, or give smoothing=t for a smooth one in its place"
    return ValueError(
        f"The loss {name!r} has no curvature: its second derivative in the outputs is 0, so that "
        f"the Hessian would be the regulariser's alone; {remedy}."
    )
