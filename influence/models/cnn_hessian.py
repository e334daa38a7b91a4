"""Products with the Hessian of the small convolutional network, written out by hand."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from influence.curvature.sequential import SequentialHessian
from influence.data.vectors import flatten, split
from influence.models.convolutions import in_inputs, in_kernel, reading_squares, writing_squares


class CNNHessian(SequentialHessian):
    """The Hessian of an ``AllCNNC``, with products by the R-operator of Pearlmutter (1994).

    R f is the derivative of f along the vector v, and the product is the gradient of R L. What
    goes forward is the pair [f, R f], side by side in the channels. With a kernel W and the part V
    of v that belongs to it, a convolution of pairs is one ordinary convolution,

        [z, R z] = [a, R a] ∗ K,    K = [[W, V], [0, W]],

    and what comes back is the derivative of R L in the pair, [R ∇L, ∇L], through the same K. So
    few channels leave a processor half idle, and the one wide convolution takes hardly longer than
    a quarter of it.

    The first layer has three quarters of the activations, and there it is memory that takes time:
    the two of its pair stay apart.

    Args:
        model: an ``AllCNNC``.
        progress: as for ``SequentialHessian``.
    """

    _model: Any  # an AllCNNC

    def _loss_product(self, x, labels):
        """v -> Σ ∇²L(z_i) v over a batch, [p]."""
        return functools.partial(self._along, x, labels)

    def _along(self, x, labels, vector):
        model = self._model
        with tf.GradientTape() as tape:
            variables, strides = self._laid_out(model.variables)
        parts, _ = self._laid_out(split(vector, model.variables))
        layers = zip(variables[::2], variables[1::2], parts[::2], parts[1::2], strides)
        first, *others, dense = (_Layer(*layer) for layer in layers)
        images = model.as_images(model.convert(x))
        a, r_z = _first_forward(first, images)
        # A pair is one array, or two that are its halves.
        pair, states = [a, tf.raw_ops.TanhGrad(y=a, dy=r_z)], []
        for layer in others:
            inputs, kernels = pair, _kernels(layer, len(pair))
            sums = _forward(layer, inputs, kernels)
            pair = [_tanh(sums)]
            states.append((inputs, kernels, sums, *pair))
        slopes, products = _from_the_top(dense, pair, labels)
        for layer, state in zip(reversed(others), reversed(states)):
            slopes, here = _backward(layer, *state, *slopes)
            products = [*here, *products]
        products = [*_first_backward(first, images, a, r_z, *slopes), *products]
        return flatten(tape.gradient(variables, model.variables, output_gradients=products))

    def _laid_out(self, variables):
        """The variables, or what is shaped as they are, as the convolutions below take them: a
        linear function; and the strides that go with it.

        Where a stride of 2 follows the first layer, that layer writes squares of 2×2 pixels, and
        the second reads them.
        """
        variables = [tf.convert_to_tensor(variable) for variable in variables]
        strides = [*self._model.strides, 1, None]
        if strides[:2] == [1, 2] and self._model.side % 2 == 0:
            weights, biases, next_weights, *rest = variables
            squares = [
                writing_squares(weights),
                tf.tile(biases, [4]),
                reading_squares(next_weights),
            ]
            return [*squares, *rest], [2, 1, *strides[2:]]
        return variables, strides


class _Layer(NamedTuple):
    """Its variables, the parts of the vector that belong to them, and its stride if it has one."""

    weights: tf.Tensor
    biases: tf.Tensor
    r_weights: tf.Tensor
    r_biases: tf.Tensor
    stride: int | None


def _first_forward(layer, images):
    """a = tanh z and R z. The images do not depend on the parameters: R of them is 0."""
    # bias_add, unlike +, is joined to the convolution.
    z = tf.nn.conv2d(images, layer.weights, layer.stride, "VALID")
    r_z = tf.nn.conv2d(images, layer.r_weights, layer.stride, "VALID")
    return tf.tanh(tf.nn.bias_add(z, layer.biases)), tf.nn.bias_add(r_z, layer.r_biases)


def _kernels(layer, number):
    """K, or its two halves for a pair that is two arrays."""
    upper = tf.concat([layer.weights, layer.r_weights], axis=3)
    lower = tf.concat([tf.zeros_like(layer.weights), layer.weights], axis=3)
    return [upper, lower] if number == 2 else [tf.concat([upper, lower], axis=2)]


def _forward(layer, inputs, kernels):
    """[z, R z]."""
    convolved = [
        tf.nn.conv2d(array, kernel, layer.stride, "VALID") for array, kernel in zip(inputs, kernels)
    ]
    convolved[0] = tf.nn.bias_add(convolved[0], tf.concat([layer.biases, layer.r_biases], 0))
    return sum(convolved[1:], start=convolved[0])


def _from_the_top(layer, pair, labels):
    """The mean, the dense layer and the loss: the slopes in ``pair``, and the layer's products."""
    weights, biases, r_weights, r_biases, _ = layer
    a = tf.concat(pair, axis=3)
    means, r_means = tf.split(tf.reduce_mean(a, axis=[1, 2]), 2, axis=1)
    p = tf.nn.softmax(means @ weights + biases)
    r_logits = r_means @ weights + means @ r_weights + r_biases
    residuals = p - tf.one_hot(labels, p.shape[1], dtype=p.dtype)
    r_residuals = p * (r_logits - tf.reduce_sum(p * r_logits, axis=1, keepdims=True))
    product = tf.matmul(means, r_residuals, transpose_a=True)
    product += tf.matmul(r_means, residuals, transpose_a=True)
    slope = tf.matmul(residuals, weights, transpose_b=True)
    r_slope = tf.matmul(r_residuals, weights, transpose_b=True)
    r_slope += tf.matmul(residuals, r_weights, transpose_b=True)
    slopes = tf.concat([r_slope, slope], axis=1)[:, tf.newaxis, tf.newaxis]
    slopes = tf.broadcast_to(slopes / (a.shape[1] * a.shape[2]), tf.shape(a))
    return tf.split(slopes, len(pair), axis=3), [product, tf.reduce_sum(r_residuals, axis=0)]


def _backward(layer, inputs, kernels, sums, pair, slopes):
    """The slopes in ``inputs`` from those in ``pair``, and the layer's products."""
    slopes = _tanh_slopes(sums, pair, slopes)
    products = [in_kernel(*each, slopes, layer.stride) for each in zip(inputs, kernels)]
    both = tf.concat(products, axis=2)
    into, out = layer.weights.shape[2:]
    # W is in K twice.
    product = both[:, :, :into, :out] + both[:, :, into:, out:]
    below = [in_inputs(*each, slopes, layer.stride) for each in zip(inputs, kernels)]
    return below, [product, _sums(slopes)[:out]]


def _first_backward(layer, images, a, r_z, r_slope, slope):
    """The products of the first layer."""
    r_slope = _r_tanh_slope(a, r_z, r_slope, slope)
    return [in_kernel(images, layer.weights, r_slope, layer.stride), _sums(r_slope)]


def _sums(slopes):
    # The sums of each image first: they are what threads can share.
    return tf.reduce_sum(tf.reduce_sum(slopes, axis=[1, 2]), axis=0)


# Every elementary operation is another pass over the memory; XLA makes one of them all. It is slow
# where the halves of a pair are cut out and joined again, and fast where they are rolled.


@tf.function(autograph=False, jit_compile=True)
def _tanh(sums):
    """[a, R a] = [tanh z, (1 − a²) R z] of [z, R z]."""
    a = tf.tanh(sums)
    return tf.where(_is_first(sums), a, _swapped(1 - a * a) * sums)


@tf.function(autograph=False, jit_compile=True)
def _tanh_slopes(sums, pair, slopes):
    """[R ∇L, ∇L] in [z, R z] from those in the pair [a, R a]."""
    first = _is_first(pair)
    a = tf.where(first, pair, _swapped(pair))
    r_tanh_slope = tf.where(first, -2 * a * _swapped(sums), tf.zeros_like(sums))
    return (1 - a * a) * (slopes + r_tanh_slope * _swapped(slopes))


@tf.function(autograph=False, jit_compile=True)
def _r_tanh_slope(a, r_z, r_slope, slope):
    """R ∇L in z from R ∇L and ∇L in a."""
    return (1 - a * a) * (r_slope - 2 * a * r_z * slope)


def _is_first(pair):
    return tf.range(pair.shape[-1]) < pair.shape[-1] // 2


def _swapped(pair):
    return tf.roll(pair, pair.shape[-1] // 2, axis=-1)
