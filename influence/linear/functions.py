"""Closed forms for logits that are linear in the weights, z = xW, as compiled scans.

Then ∇L = x ⊗ ℓ'(z) and ∇²L = xxᵀ ⊗ ℓ''(z): two thin matrix products a batch give a Hessian
product, one gives a directional derivative.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from influence.data.batches import map_over_batches, sum_over_batches


class LinearLoss(abc.ABC):
    """A loss ℓ(z, y) on ``outputs`` logits, with its derivatives with respect to them.

    Implementations are hashable values: the compiled functions are shared by all equal ones, and by
    those that ``split`` into the same loss and other numbers.
    """

    outputs: int
    # Whether it never rises with a point's margins, as the losses of classifiers do: it has no
    # single minimum where a direction separates the classes.
    falls_with_margins = True
    # Whether it is a sum of losses of one logit each, as that of one class against the rest is.
    separate = False
    # Whether it is convex in the logits, whatever they are.
    convex = True
    # What it is of a distribution: nothing ("none"), its negative log-likelihood ("full"), the same
    # up to a dispersion that is not known ("dispersed"), or a normal one's ("normal").
    likelihood = "none"
    # What the methods take as labels of b points.
    labels_spec = tf.TensorSpec([None], tf.int64)

    def split(self) -> tuple[LinearLoss, tuple[float, ...]]:
        """A loss to compile functions for, and the numbers with which its ``at`` is this one."""
        return self, ()

    def at(self, numbers: Sequence[tf.Tensor]) -> LinearLoss:
        """This loss with other numbers, a scalar tensor each. ``curvature_product`` and
        ``curvature_matrix`` must not depend on them."""
        return self

    def class_probabilities(self, z: tf.Tensor) -> tf.Tensor | None:
        """Of every class for z [..., c]; None for a loss that is not of probabilities."""
        return None

    @abc.abstractmethod
    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """ℓ for z [b, c]: [b]."""

    @abc.abstractmethod
    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """∂ℓ/∂z: [b, c]."""

    @abc.abstractmethod
    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """What the two methods below need to know of ∂²ℓ/∂z²: [b, c]."""

    @abc.abstractmethod
    def curvature_product(self, curvature: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """(∂²ℓ/∂z²) u for u [b, c, k]: [b, c, k]."""

    @abc.abstractmethod
    def curvature_matrix(self, curvature: tf.Tensor) -> tf.Tensor:
        """∂²ℓ/∂z²: [b, c, c]."""

    def information(self, z: tf.Tensor) -> tf.Tensor:
        """The mean of ∂²ℓ/∂z² over labels of the distribution that z says, [b, 1]: of losses on one
        logit whose dispersion is not known."""
        raise NotImplementedError(f"{type(self).__name__} has no information.")


class OneLogitLoss(LinearLoss):
    """A loss on one logit: its ``curvature`` is all that there is of ∂²ℓ/∂z²."""

    outputs = 1

    def curvature_product(self, curvature: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        return curvature[:, :, tf.newaxis] * u

    def curvature_matrix(self, curvature: tf.Tensor) -> tf.Tensor:
        return curvature[:, :, tf.newaxis]


@functools.lru_cache(maxsize=64)
def compiled(
    loss: LinearLoss, x_dtype: tf.DType, dtype: str, scale: float, batch_size: int
) -> SimpleNamespace:
    """The compiled scans, shared by all models of the same kind so that refits retrace nothing.

    Shapes: x [n, d] in ``x_dtype``; W [d, c]; blocks [d·c, k], row-major as W is flattened.
    """
    kind, numbers = loss.split()
    asking, others = _scans(kind, len(numbers), x_dtype, dtype, scale, batch_size)
    numbers = tf.constant(numbers, dtype, [len(numbers)])
    bound = {name: functools.partial(scan, numbers) for name, scan in asking.items()}
    return SimpleNamespace(**bound, **others)


def with_numbers(
    kind: LinearLoss,
    function: Callable[..., Any],
    numbers: tf.TensorSpec,
    signature: Sequence[tf.TensorSpec],
) -> Any:
    """``function(loss, …)`` compiled as a function of the loss's numbers and the rest."""

    @functools.wraps(function)
    def of_numbers(numbers, *rest):
        return function(kind.at(tf.unstack(numbers)), *rest)

    return tf.function(of_numbers, autograph=False, input_signature=[numbers, *signature])


@functools.lru_cache(maxsize=64)
def _scans(kind, size, x_dtype, dtype, scale, batch_size) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scans that ask the loss itself, which take its numbers [size] first; and the others."""
    dtype, c = tf.as_dtype(dtype), kind.outputs
    x_spec = tf.TensorSpec([None, None], x_dtype)
    labels_spec = kind.labels_spec
    numbers = tf.TensorSpec([size], dtype)
    matrix = tf.TensorSpec([None, None], dtype)
    state = tf.TensorSpec([None, c], dtype)

    def function(*signature):
        return functools.partial(tf.function, autograph=False, input_signature=signature)

    def of_loss(*signature):
        return lambda body: with_numbers(kind, body, numbers, signature)

    def convert(x):
        x = tf.cast(x, dtype)
        return x if scale == 1 else x * tf.constant(scale, dtype)

    def outputs_along(x, block):
        """x times every column of a block, [b, c, k]."""
        k = tf.shape(block)[1]
        return tf.reshape(x @ tf.reshape(block, [tf.shape(x)[1], c * k]), [-1, c, k])

    def back(x, s):
        """Σ x ⊗ s over a batch for s [b, c, k]: [d·c, k]."""
        k = tf.shape(s)[2]
        product = tf.matmul(x, tf.reshape(s, [-1, c * k]), transpose_a=True)
        return tf.reshape(product, [tf.shape(x)[1] * c, k])

    def repeated(labels, k):
        return tf.tile(labels, [k, *[1] * (labels.shape.rank - 1)])

    def weighted_gram(x, weights):
        return tf.matmul(x, x * weights[:, tf.newaxis], transpose_a=True)

    @of_loss(x_spec, labels_spec, matrix)
    def value_and_gradient(loss, x, labels, w):
        """Σ ℓ and its gradient [d, c]."""

        def of_batch(x, labels):
            x = convert(x)
            z = x @ w
            gradient = tf.matmul(x, loss.slopes(z, labels), transpose_a=True)
            return tf.reduce_sum(loss.losses(z, labels)), gradient

        start = (tf.zeros([], dtype), tf.zeros_like(w))
        return sum_over_batches(of_batch, (x, labels), batch_size, start)

    @of_loss(x_spec, labels_spec, matrix)
    def gradients_at(loss, x, labels, thetas):
        """Σ ∇L at k different parameter vectors [d·c, k]: [d·c, k]."""
        d, k = tf.shape(x)[1], tf.shape(thetas)[1]
        # The weights of one vector side by side: then the logits come in the loss's own order, and
        # no batch has to be transposed.
        weights = tf.reshape(tf.transpose(tf.reshape(thetas, [d, c, k]), [0, 2, 1]), [d, k * c])

        def of_batch(x, labels):
            x = convert(x)
            z = tf.reshape(x @ weights, [-1, c])
            slopes = loss.slopes(z, tf.repeat(labels, k, axis=0))
            return tf.matmul(x, tf.reshape(slopes, [-1, k * c]), transpose_a=True)

        total = sum_over_batches(of_batch, (x, labels), batch_size, tf.zeros_like(weights))
        return tf.reshape(tf.transpose(tf.reshape(total, [d, k, c]), [0, 2, 1]), [d * c, k])

    @of_loss(x_spec, labels_spec, matrix)
    def losses(loss, x, labels, w):
        """ℓ of every point, [n]."""
        return map_over_batches(
            lambda x, labels: loss.losses(convert(x) @ w, labels),
            (x, labels),
            batch_size,
            tf.TensorSpec([None], dtype),
        )

    @of_loss(x_spec, labels_spec, matrix)
    def losses_at(loss, x, labels, thetas):
        """ℓ of every point at k different parameter vectors: [b, k]."""
        z = tf.transpose(outputs_along(convert(x), thetas), [2, 0, 1])
        k = tf.shape(z)[0]
        losses = loss.losses(tf.reshape(z, [-1, c]), repeated(labels, k))
        return tf.transpose(tf.reshape(losses, [k, -1]))

    @of_loss(x_spec, labels_spec, matrix)
    def curvature(loss, x, labels, w):
        """The state that the curvature methods of the loss need, [n, c]."""
        return map_over_batches(
            lambda x, labels: loss.curvature(convert(x) @ w, labels),
            (x, labels),
            batch_size,
            tf.TensorSpec([None, c], dtype),
        )

    @function(x_spec, state, matrix)
    def product(x, curvature, block):
        """Σ ∇²L @ block, [d·c, k]."""

        def of_batch(x, curvature):
            x = convert(x)
            return back(x, kind.curvature_product(curvature, outputs_along(x, block)))

        return sum_over_batches(of_batch, (x, curvature), batch_size, tf.zeros_like(block))

    def product_on(x, curvature, rows, block):
        """Mean of ∇²L @ block over the rows of each stack: rows [r, b], block [r, p, k]."""
        r, b, k = tf.shape(rows)[0], tf.shape(rows)[1], tf.shape(block)[2]
        x, state = convert(tf.gather(x, rows)), tf.gather(curvature, rows)
        d = tf.shape(x)[2]
        u = tf.reshape(x @ tf.reshape(block, [r, d, c * k]), [r * b, c, k])
        s = kind.curvature_product(tf.reshape(state, [r * b, c]), u)
        result = tf.matmul(x, tf.reshape(s, [r, b, c * k]), transpose_a=True)
        return tf.reshape(result, [r, d * c, k]) / tf.cast(b, dtype)

    @function(x_spec, state)
    def diagonal(x, curvature):
        """Σ x²ℓ'', [d, c]."""

        def of_batch(x, curvature):
            second = tf.linalg.diag_part(kind.curvature_matrix(curvature))
            return tf.matmul(tf.square(convert(x)), second, transpose_a=True)

        start = tf.zeros([tf.shape(x)[1], c], dtype)
        return sum_over_batches(of_batch, (x, curvature), batch_size, start)

    @function(x_spec, state, tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32))
    def dense_block(x, curvature, a, b):
        """Σ ℓ''_ab xxᵀ, [d, d]."""

        def of_batch(x, curvature):
            return weighted_gram(convert(x), kind.curvature_matrix(curvature)[:, a, b])

        start = tf.zeros([tf.shape(x)[1], tf.shape(x)[1]], dtype)
        return sum_over_batches(of_batch, (x, curvature), batch_size, start)

    @function(x_spec, state, tf.TensorSpec([], tf.float64))
    def class_inverses(x, curvature, ridge):
        """The inverse of every (1/n) Σ ℓ''_aa xxᵀ + ridge, in float32: [c, d, d]."""
        n, d = tf.cast(tf.shape(x)[0], tf.float64), tf.shape(x)[1]

        def of_class(a):
            block = tf.cast(dense_block(x, curvature, a, a), tf.float64) / n
            factor = tf.linalg.cholesky(block + ridge * tf.eye(d, dtype=tf.float64))
            return tf.linalg.cholesky_solve(tf.cast(factor, tf.float32), tf.eye(d))

        # One after the other needs the least memory; two at a time keep two cores busy.
        classes = tf.range(c)
        return tf.map_fn(of_class, classes, parallel_iterations=2, fn_output_signature=tf.float32)

    @of_loss(x_spec, labels_spec, matrix, matrix)
    def directional_derivatives(loss, x, labels, w, block):
        """∇L(z_i)ᵀ block, [n, k]."""

        def of_batch(x, labels):
            x = convert(x)
            slopes = loss.slopes(x @ w, labels)
            return tf.reduce_sum(slopes[:, :, tf.newaxis] * outputs_along(x, block), axis=1)

        return map_over_batches(
            of_batch, (x, labels), batch_size, tf.TensorSpec([None, None], dtype)
        )

    @of_loss(x_spec, labels_spec, matrix)
    def gradients(loss, x, labels, w):
        """∇L of every point, [n, d·c]."""
        x = convert(x)
        slopes = loss.slopes(x @ w, labels)
        gradient = x[:, :, tf.newaxis] * slopes[:, tf.newaxis, :]
        return tf.reshape(gradient, [-1, tf.shape(x)[1] * c])

    @of_loss(x_spec, labels_spec, matrix, matrix)
    def input_gradients(loss, x, labels, w, direction):
        """∇_x of ∇L(z_i)ᵀ direction for one direction [d·c, 1]: [n, d]."""
        along = tf.reshape(direction, tf.shape(w))

        def of_batch(x, labels):
            x = convert(x)
            z, u = x @ w, x @ along
            second = loss.curvature_product(loss.curvature(z, labels), u[:, :, tf.newaxis])
            return tf.matmul(second[:, :, 0], w, transpose_b=True) + tf.matmul(
                loss.slopes(z, labels), along, transpose_b=True
            )

        return map_over_batches(
            of_batch, (x, labels), batch_size, tf.TensorSpec([None, None], dtype)
        )

    asking = {
        "value_and_gradient": value_and_gradient,
        "gradients_at": gradients_at,
        "losses": losses,
        "losses_at": losses_at,
        "curvature": curvature,
        "directional_derivatives": directional_derivatives,
        "gradients": gradients,
        "input_gradients": input_gradients,
    }
    others = {
        "product": product,
        "product_on": product_on,
        "diagonal": diagonal,
        "dense_block": dense_block,
        "class_inverses": class_inverses,
    }
    return asking, others
