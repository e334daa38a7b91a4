"""Functions of TensorFlow with all of their derivatives, where its own lack some.

Each has the values of TensorFlow's function of that name. They stand in its place while a network
is called here, and only then: nothing is changed at import or for good, and what another thread
computes meanwhile has the same values. So layers, and functions of Keras that come down to these,
are served wherever they are used.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

_max_pool, _resize = tf.nn.max_pool, tf.image.resize
_FORMATS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


def moments(
    x: tf.Tensor, axes: Any, shift: Any = None, keepdims: bool = False, name: str | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance. TensorFlow stops the gradient of the mean inside the variance, which
    leaves its first derivative right and makes the second one wrong."""
    return tf.reduce_mean(x, axes, keepdims), tf.math.reduce_variance(x, axes, keepdims)


def reduce_logsumexp(
    input_tensor: tf.Tensor, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> tf.Tensor:
    """log Σ exp. TensorFlow stops the gradient of the maximum, of which the sum is independent:
    harmless, but not to be told from a harmful one."""
    x = tf.convert_to_tensor(input_tensor)
    largest = tf.reduce_max(x, axis, keepdims=True)
    largest = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
    sums = tf.reduce_sum(tf.exp(x - largest), axis, keepdims)
    return tf.math.log(sums) + tf.reshape(largest, tf.shape(sums))


def softsign(features: tf.Tensor, name: str | None = None) -> tf.Tensor:
    """x / (1 + |x|), of which TensorFlow has no second derivative."""
    return features / (1 + tf.abs(features))


def max_pool(
    input: tf.Tensor,
    ksize: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """The largest of each window. Where outputs have the shape of inputs, TensorFlow's kernel for
    derivatives along a vector may write over what it still has to read: stride 1 and "SAME" is
    padded here, and then pooled as "VALID". For windows that do not overlap, the derivatives
    that TensorFlow has take as long as a convolution's, and those of a choice and a mean do not.

    Raises:
        ValueError: no window fits into the map. TensorFlow divides by the number of windows in a
            row, and a division of integers by 0 ends the process.
    """
    x = tf.convert_to_tensor(input)
    spatial = x.shape.rank - 2
    sizes, steps = _spatial(ksize, spatial), _spatial(strides, spatial)
    last = data_format is None or not data_format.startswith("NC")
    lengths = list(x.shape[1:-1] if last else x.shape[2:])
    if padding == "VALID" and any(n is not None and n < size for n, size in zip(lengths, sizes)):
        raise ValueError(f"a map of {lengths} is too small for pooling windows of {sizes}")
    apart = all(size <= step for size, step in zip(sizes, steps))
    if padding == "VALID" and apart and last and x.dtype.is_floating:
        with tf.GradientTape() as tape:
            tape.watch(x)
            largest = _max_pool(x, sizes, steps, padding, _FORMATS[spatial])
        # Compared, so that no derivative is asked of what is chosen.
        chosen = tape.gradient(largest, x, tf.ones_like(largest)) > 0
        alone = tf.math.multiply_no_nan(x, tf.cast(chosen, x.dtype))
        mean = tf.nn.avg_pool(alone, sizes, steps, padding, _FORMATS[spatial], name)
        return math.prod(sizes) * mean
    if padding != "SAME" or set(steps) != {1} or not last or not x.dtype.is_floating:
        return _max_pool(x, ksize, strides, padding, data_format, name)
    around = [[0, 0], *([(size - 1) // 2, size // 2] for size in sizes), [0, 0]]
    padded = tf.pad(x, around, constant_values=x.dtype.min)
    return max_pool(padded, sizes, steps, "VALID", data_format, name)


def resize(
    images: tf.Tensor,
    size: Any,
    method: Any = "bilinear",
    preserve_aspect_ratio: bool = False,
    antialias: bool = False,
    name: str | None = None,
) -> tf.Tensor:
    """Images of another size. Of most methods TensorFlow has no derivative along a vector, or reads
    it as 0; but each is a matrix for the rows and one for the columns."""
    x, sizes = tf.convert_to_tensor(images), tf.get_static_value(tf.convert_to_tensor(size))
    known = sizes is not None and x.shape.rank == 4 and None not in x.shape[1:3]
    if preserve_aspect_ratio or not known or x.dtype not in (tf.float32, tf.float64):
        return _resize(images, size, method, preserve_aspect_ratio, antialias, name)

    def weights(old, new):
        """[new, old], from what becomes of unit vectors."""
        units = tf.reshape(tf.eye(old, dtype=x.dtype), [1, old, 1, old])
        return tf.reshape(_resize(units, (new, 1), method, antialias=antialias), [new, old])

    rows, columns = weights(x.shape[1], sizes[0]), weights(x.shape[2], sizes[1])
    x = tf.einsum("ij,bjwc->biwc", tf.cast(rows, x.dtype), x)
    x = tf.einsum("ij,bhjc->bhic", tf.cast(columns, x.dtype), x)
    # Most methods give float32 whatever comes.
    return tf.cast(x, rows.dtype)


_FORMULAS: dict[tuple[Any, str], Callable[..., Any]] = {
    (tf.nn, "moments"): moments,
    (tf, "reduce_logsumexp"): reduce_logsumexp,
    (tf.math, "reduce_logsumexp"): reduce_logsumexp,
    (tf.nn, "softsign"): softsign,
    (tf.nn, "max_pool"): max_pool,
    (tf.nn, "max_pool1d"): max_pool,
    (tf.nn, "max_pool2d"): max_pool,
    (tf.image, "resize"): resize,
}
_lock, _scopes = threading.Lock(), 0
_originals: dict[tuple[Any, str], Any] = {}


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """The functions of this file stand for those of TensorFlow."""
    global _scopes
    with _lock:
        if _scopes == 0:
            _originals.update({place: getattr(*place) for place in _FORMULAS})
            _put(_FORMULAS)
        _scopes += 1
    try:
        yield
    finally:
        with _lock:
            _scopes -= 1
            if _scopes == 0:
                _put(_originals)


def _put(functions):
    for (module, name), function in functions.items():
        setattr(module, name, function)


def _spatial(sizes, rank):
    """One number for each spatial axis, from the ways to say it."""
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    if len(sizes) == 1:
        return sizes * rank
    return sizes[1:-1] if len(sizes) == rank + 2 else sizes
