"""The gradient of the small convolutional network, written out by hand.

The chain rule, as automatic differentiation has it: with a layer a = tanh z, z = a' ∗ W + b, the
slopes δ = ∂L/∂z = (1 − a²) ∂L/∂a give

    ∂L/∂W = a' ⋆ δ,    ∂L/∂b = Σ δ,    ∂L/∂a' = δ ∗ᵀ W,

and only how the sums are laid out is chosen, for what is slow is not the arithmetic but the passes
over the memory, and convolutions of few channels:

* a stride of 1 followed by one of 2 goes by squares of 2×2 pixels (``convolutions``);
* the second of such a pair is one product of single squares with the four parts of its kernel,
  whose results are shifted and then summed: what the pair has most numbers of, the activations in
  between, is never copied. Where the images are what the first one reads, it is a product as well,
  of patches cut out of them;
* on images of few pixels a convolution is one matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from influence.data.vectors import flatten
from influence.models.convolutions import in_inputs, in_kernel, reading_squares, writing_squares

# From this many points on, two halves of a batch are computed side by side, so that what only one
# thread can do of one half keeps no other thread waiting. (A tenth faster on two threads, and a
# fifth on one.)
_HALVED = 100
# Up to this side, a matrix of all pixels is faster than a convolution.
_FEW_PIXELS = 4
# (i, j) of the parts of a kernel of 2×2.
_SHIFTS = [(i, j) for i in (0, 1) for j in (0, 1)]


def sum_gradient(
    model: Any, x: tf.Tensor, labels: tf.Tensor, shift: tf.Tensor | None = None
) -> tf.Tensor:
    """Σ ∇(L(z_i) − s_iᵀ f_i) of a batch of an ``AllCNNC``'s points, not yet converted, with f the
    logits and s = ``shift`` [m, c], or 0: [p]."""
    variables = [tf.convert_to_tensor(variable) for variable in model.variables]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        parts = _laid_out(model.side, model.strides, variables)
    size = x.shape[0] or 0
    cut = [slice(size // 2), slice(size // 2, None)] if size >= _HALVED else [slice(None)]
    slopes = [
        _slopes(model, parts, x[half], labels[half], None if shift is None else shift[half])
        for half in cut
    ]
    products = [tf.add_n(halves) for halves in zip(*slopes)]
    return flatten(tape.gradient(parts, variables, output_gradients=products))


def _slopes(model, parts, x, labels, shift):
    """The slopes in what the layers multiply by, and in their biases."""
    *convolutions, dense = zip(parts[::2], parts[1::2])
    a, states = model.as_images(model.convert(x)), []
    for layer, (kernel, biases) in zip(_layers(model.side, model.strides), convolutions):
        inputs = layer.taken(a)
        a = layer.forward(inputs, kernel, biases)
        states.append((layer, kernel, inputs, a))
    slopes, products = _from_the_top(*dense, a, labels, shift)
    for layer, kernel, inputs, a in reversed(states):
        slopes = tf.raw_ops.TanhGrad(y=a, dy=tf.reshape(slopes, tf.shape(a)))
        slopes, here = layer.backward(inputs, kernel, slopes)
        products = [*here, *products]
    return products


def _layers(side, strides):
    """How each convolution is computed."""
    strides, layers = [*strides, 1], list[_Convolution]()
    while len(layers) < len(strides):
        number = len(layers)
        if strides[number : number + 2] == [1, 2] and side % 2 == 0:
            layers += [_OfSquares() if layers else _Patches(), _Shifts()]
            side = side // 2 - 2
            continue
        stride, width = strides[number], 1 if number == len(strides) - 1 else 3
        after = (side - width) // stride + 1
        few = side <= _FEW_PIXELS
        layers.append(_Matrix(side, after, stride) if few else _Convolution(stride))
        side = after
    return layers


# A hundred operations on small tensors, there and back, are one for XLA.
@tf.function(autograph=False, jit_compile=True)
def _laid_out(side, strides, variables):
    """The variables as the layers take them: a linear function."""
    *convolutions, dense = zip(variables[::2], variables[1::2])
    pairs = [layer.laid_out(*pair) for layer, pair in zip(_layers(side, strides), convolutions)]
    return [part for pair in [*pairs, dense] for part in pair]


class _Convolution:
    """A convolution as it is."""

    def __init__(self, stride=1):
        self.stride = stride

    def laid_out(self, weights, biases):
        """The kernel that it multiplies by, and the biases that it adds."""
        return weights, biases

    def taken(self, a):
        """Activations in the layout that it works on."""
        return a

    def forward(self, inputs, kernel, biases):
        """a = tanh z."""
        # bias_add, unlike +, is joined to the convolution.
        z = tf.nn.conv2d(inputs, kernel, self.stride, "VALID")
        return tf.tanh(tf.nn.bias_add(z, biases))

    def backward(self, inputs, kernel, slopes):
        """The slopes in the activations taken from those in z; those in kernel and biases."""
        product = in_kernel(inputs, kernel, slopes, self.stride)
        below = in_inputs(inputs, kernel, slopes, self.stride)
        return below, [product, _sums(slopes)]


class _OfSquares(_Convolution):
    """The first of a pair: a convolution of squares of 2×2 pixels, that writes squares."""

    def laid_out(self, weights, biases):
        return reading_squares(writing_squares(weights)), tf.tile(biases, [4])

    def taken(self, a):
        return tf.nn.space_to_depth(a, 2)

    def backward(self, inputs, kernel, slopes):
        below, products = super().backward(inputs, kernel, slopes)
        return tf.nn.depth_to_space(below, 2), products


class _Patches(_OfSquares):
    """The same of the images: a product of patches of 4×4 pixels, two apart."""

    def laid_out(self, weights, biases):
        kernel, biases = super().laid_out(weights, biases)
        return _rows(kernel), biases

    def taken(self, a):
        return _patches(a)

    def forward(self, inputs, kernel, biases):
        a = tf.tanh(tf.nn.bias_add(_rows(inputs) @ kernel, biases))
        return tf.reshape(a, [-1, *inputs.shape[1:3], a.shape[1]])

    def backward(self, inputs, kernel, slopes):
        # Nobody asks for the slopes in the images.
        return None, [_in_matrix(inputs, slopes), _sums(slopes)]


class _Shifts(_Convolution):
    """The second of a pair, that reads squares: with Y = a' [W₀₀ W₀₁ W₁₀ W₁₁], one product, z at
    (r, c) is the sum of Yᵢⱼ at (r + i, c + j), and ∂L/∂Y is δ, shifted back.
    """

    def laid_out(self, weights, biases):
        kernel = tf.transpose(reading_squares(weights), [2, 0, 1, 3])
        return tf.reshape(kernel, [kernel.shape[0], -1]), biases

    def forward(self, inputs, kernel, biases):
        products = _rows(inputs) @ kernel
        products = tf.reshape(products, [-1, *inputs.shape[1:3], kernel.shape[1]])
        return tf.tanh(_sum_of_shifted(products, biases))

    def backward(self, inputs, kernel, slopes):
        apart = _shifted(tf.pad(slopes, [[0, 0], [1, 1], [1, 1], [0, 0]]))
        below = tf.matmul(_rows(apart), kernel, transpose_b=True)
        return below, [_in_matrix(inputs, apart), _sums(slopes)]


class _Matrix(_Convolution):
    """A convolution of few pixels: one matrix, of all of them."""

    def __init__(self, side, after, stride):
        super().__init__(stride)
        self.side, self.after = side, after

    def laid_out(self, weights, biases):
        places = _places(self.side, self.after, self.stride, weights.shape[0])
        flat = tf.reshape(weights, [-1, *weights.shape[2:]])
        matrix = tf.einsum("xyk,kio->xiyo", tf.constant(places, flat.dtype), flat)
        biases = tf.tile(biases, [self.after**2])
        return tf.reshape(matrix, [-1, biases.shape[0]]), biases

    def taken(self, a):
        return tf.reshape(a, [-1, a.shape[1] * a.shape[2] * a.shape[3]])

    def forward(self, inputs, kernel, biases):
        a = tf.tanh(tf.nn.bias_add(inputs @ kernel, biases))
        return tf.reshape(a, [-1, self.after, self.after, a.shape[1] // self.after**2])

    def backward(self, inputs, kernel, slopes):
        slopes = tf.reshape(slopes, [-1, kernel.shape[1]])
        below = tf.matmul(slopes, kernel, transpose_b=True)
        return below, [_in_matrix(inputs, slopes), _sums(slopes)]


def _places(side, after, stride, width):
    """1 where pixel x of an image meets number k of the kernel that writes pixel y: [x, y, k]."""
    # In one row of pixels x = stride y + k.
    x, y, k = np.ogrid[:side, :after, :width]
    line = (x == stride * y + k).astype(float)
    places = np.einsum("ayk,bzl->abyzkl", line, line)
    return places.reshape(side**2, after**2, width**2)


def _from_the_top(weights, biases, a, labels, shift):
    """The mean, the dense layer and the loss: the slopes in ``a``, and in weights and biases."""
    means = tf.reduce_mean(a, axis=[1, 2])
    p = tf.nn.softmax(means @ weights + biases)
    residuals = p - tf.one_hot(labels, p.shape[1], dtype=p.dtype)
    if shift is not None:
        residuals -= shift
    slopes = tf.matmul(residuals, weights, transpose_b=True) / (a.shape[1] * a.shape[2])
    slopes = tf.broadcast_to(slopes[:, tf.newaxis, tf.newaxis], tf.shape(a))
    return slopes, [_in_matrix(means, residuals), _sums(residuals)]


def _rows(array):
    return tf.reshape(array, [-1, array.shape[-1]])


def _in_matrix(inputs, slopes):
    """The slopes in the matrix of a product from those in what it gives."""
    return tf.matmul(_rows(inputs), _rows(slopes), transpose_a=True)


def _sums(slopes):
    """Over all but the channels: a product, which is faster than a sum."""
    slopes = _rows(slopes)
    return tf.matmul(tf.ones([1, tf.shape(slopes)[0]], slopes.dtype), slopes)[0]


# What only moves numbers is one pass over the memory where XLA makes one operation of it.


@tf.function(autograph=False, jit_compile=True)
def _patches(images):
    """The patches of 4×4 pixels, two apart, square by square: [m, side, side, 16]."""
    side = images.shape[1] // 2
    squares = tf.reshape(images, [-1, side, 2, side, 2])
    squares = tf.reshape(tf.transpose(squares, [0, 1, 3, 2, 4]), [-1, side, side, 4])
    return tf.concat([squares[:, i : side - 1 + i, j : side - 1 + j] for i, j in _SHIFTS], axis=3)


@tf.function(autograph=False, jit_compile=True)
def _sum_of_shifted(products, biases):
    """Σᵢⱼ Yᵢⱼ(r + i, c + j) + b of [m, side, side, (i, j, channel)]."""
    parts, side = tf.split(products, 4, axis=3), products.shape[1] - 1
    parts = [part[:, i : side + i, j : side + j] for part, (i, j) in zip(parts, _SHIFTS)]
    return tf.add_n(parts) + biases


@tf.function(autograph=False, jit_compile=True)
def _shifted(padded):
    """δ(r − i, c − j) of δ with zeros around it, [m, side, side, (i, j, channel)]."""
    side = padded.shape[1] - 1
    return tf.concat([padded[:, 1 - i : side + 1 - i, 1 - j : side + 1 - j] for i, j in _SHIFTS], 3)
