"""The gradient of the small convolutional network, written out by hand.

The chain rule, as automatic differentiation has it: with a layer a = tanh z, z = a' ∗ W + b, the
slopes δ = ∂L/∂z = (1 − a²) ∂L/∂a give

    ∂L/∂W = a' ⋆ δ,    ∂L/∂b = Σ δ,    ∂L/∂a' = δ ∗ᵀ W,

and only how the sums are laid out is chosen, for what is slow is not the arithmetic but the passes
over the memory, and convolutions of few channels:

* a stride of 1 followed by one of 2 goes by squares of 2×2 pixels (``convolutions``);
* the first such pair of layers, with nine tenths of all numbers, is products of tall matrices:
  the first layer's of patches, cut out of the images; the second's of single squares with the four
  parts of the kernel at once, whose results are shifted and then summed, so that the many numbers
  between the two layers are never copied;
* on images of few pixels a convolution is one matrix.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from influence.data.vectors import flatten
from influence.models.convolutions import in_inputs, in_kernel, reading_squares, writing_squares

# Up to this side, a matrix of all pixels is faster than a convolution.
_FEW_PIXELS = 4
# (i, j) of the parts of a kernel of 2×2.
_SHIFTS = [(i, j) for i in (0, 1) for j in (0, 1)]


def sum_gradient(model, x, labels):
    """Σ ∇L(z_i) of a batch of an ``AllCNNC``'s points, not yet converted: [p]."""
    with tf.GradientTape() as tape:
        layers = _laid_out(model)
        dense = [tf.convert_to_tensor(part) for part in (model.weights[-1], model.biases[-1])]
    a, states = model.as_images(model.convert(x)), []
    for layer in layers:
        inputs = layer.taken(a)
        a = layer.forward(inputs)
        states.append((inputs, a))
    slopes, products = _from_the_top(*dense, a, labels)
    for layer, (inputs, a) in zip(reversed(layers), reversed(states)):
        slopes = tf.raw_ops.TanhGrad(y=a, dy=tf.reshape(slopes, tf.shape(a)))
        slopes, here = layer.backward(inputs, slopes)
        products = [*here, *products]
    variables = [part for layer in layers for part in (layer.kernel, layer.biases)]
    return flatten(tape.gradient([*variables, *dense], model.variables, output_gradients=products))


def _laid_out(model):
    """The convolutions, their variables as they take them: linear in the model's variables."""
    variables, layers, side = list(zip(model.weights, model.biases)), [], model.side
    strides = [*model.strides, 1]
    while len(layers) < len(strides):
        number = len(layers)
        if strides[number : number + 2] == [1, 2] and side % 2 == 0:
            pair = (_Patches, _Shifts) if number == 0 else (_OfSquares, _Convolution)
            (weights, biases), (next_weights, next_biases) = variables[number : number + 2]
            kernel = reading_squares(writing_squares(weights))
            layers.append(pair[0](kernel, tf.tile(biases, [4])))
            layers.append(pair[1](reading_squares(next_weights), next_biases))
            side = side // 2 - 2
            continue
        weights, biases = variables[number]
        stride = strides[number]
        kind = _Matrix if side <= _FEW_PIXELS else _Convolution
        layers.append(kind(weights, biases, stride, side))
        side = (side - weights.shape[0]) // stride + 1
    return layers


class _Convolution:
    """A convolution as it is.

    Attributes:
        kernel, biases: what it multiplies by and adds.
    """

    def __init__(self, kernel, biases, stride=1, side=None):
        self.kernel, self.biases = tf.convert_to_tensor(kernel), tf.convert_to_tensor(biases)
        self.stride, self.side = stride, side

    def taken(self, a):
        """Activations in the layout that it works on."""
        return a

    def forward(self, inputs):
        """a = tanh z."""
        # bias_add, unlike +, is joined to the convolution.
        z = tf.nn.conv2d(inputs, self.kernel, self.stride, "VALID")
        return tf.tanh(tf.nn.bias_add(z, self.biases))

    def backward(self, inputs, slopes):
        """The slopes in the activations taken from those in z; those in kernel and biases."""
        product = in_kernel(inputs, self.kernel, slopes, self.stride)
        below = in_inputs(inputs, self.kernel, slopes, self.stride)
        return below, [product, _sums(slopes)]


class _OfSquares(_Convolution):
    """A convolution of squares of 2×2 pixels."""

    def taken(self, a):
        return tf.nn.space_to_depth(a, 2)

    def backward(self, inputs, slopes):
        below, products = super().backward(inputs, slopes)
        return tf.nn.depth_to_space(below, 2), products


class _Patches(_Convolution):
    """The first layer, that writes squares: a product of patches of 4×4 pixels, two apart."""

    def __init__(self, kernel, biases):
        super().__init__(tf.reshape(kernel, [-1, kernel.shape[-1]]), biases)

    def taken(self, a):
        return _patches(a)

    def forward(self, inputs):
        a = tf.tanh(tf.nn.bias_add(_rows(inputs) @ self.kernel, self.biases))
        return tf.reshape(a, [-1, *inputs.shape[1:3], a.shape[1]])

    def backward(self, inputs, slopes):
        # Nobody asks for the slopes in the images.
        return None, [_in_matrix(inputs, slopes), _sums(slopes)]


class _Shifts(_Convolution):
    """The second layer, that reads squares: with Y = a' [W₀₀ W₀₁ W₁₀ W₁₁], which is one product,
    z at (r, c) is the sum of Yᵢⱼ at (r + i, c + j), and ∂L/∂Y is δ, shifted back.
    """

    def __init__(self, kernel, biases):
        inputs, outputs = kernel.shape[2:]
        kernel = tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [inputs, 4 * outputs])
        super().__init__(kernel, biases)

    def forward(self, inputs):
        products = tf.reshape(
            _rows(inputs) @ self.kernel, [-1, *inputs.shape[1:3], self.kernel.shape[1]]
        )
        return tf.tanh(_sum_of_shifted(products, self.biases))

    def backward(self, inputs, slopes):
        apart = _shifted(tf.pad(slopes, [[0, 0], [1, 1], [1, 1], [0, 0]]))
        below = tf.matmul(_rows(apart), self.kernel, transpose_b=True)
        return below, [_in_matrix(inputs, apart), _sums(slopes)]


class _Matrix(_Convolution):
    """A convolution of few pixels: one matrix, of all of them."""

    def __init__(self, kernel, biases, stride, side):
        places = _places(side, kernel.shape[0], stride)
        width, outputs = round(np.sqrt(places.shape[1])), kernel.shape[3]
        self.shape = [width, width, outputs]
        flat = tf.reshape(kernel, [-1, *kernel.shape[2:]])
        matrix = tf.einsum("xyk,kio->xiyo", tf.constant(places, flat.dtype), flat)
        matrix = tf.reshape(matrix, [-1, width**2 * outputs])
        super().__init__(matrix, tf.tile(biases, [width**2]))

    def taken(self, a):
        return tf.reshape(a, [-1, self.kernel.shape[0]])

    def forward(self, inputs):
        a = tf.tanh(tf.nn.bias_add(inputs @ self.kernel, self.biases))
        return tf.reshape(a, [-1, *self.shape])

    def backward(self, inputs, slopes):
        slopes = tf.reshape(slopes, [-1, self.kernel.shape[1]])
        below = tf.matmul(slopes, self.kernel, transpose_b=True)
        return below, [_in_matrix(inputs, slopes), _sums(slopes)]


def _places(side, width, stride):
    """1 where pixel x of an image meets number k of a kernel that writes pixel y: [x, y, k]."""
    steps = (side - width) // stride + 1
    # The same of one row of pixels.
    line = np.zeros((side, steps, width))
    for step in range(steps):
        line[stride * step + np.arange(width), step, np.arange(width)] = 1
    places = np.einsum("ayk,bzl->abyzkl", line, line)
    return places.reshape(side**2, steps**2, width**2)


def _from_the_top(weights, biases, a, labels):
    """The mean, the dense layer and the loss: the slopes in ``a``, and in weights and biases."""
    means = tf.reduce_mean(a, axis=[1, 2])
    p = tf.nn.softmax(means @ weights + biases)
    residuals = p - tf.one_hot(labels, p.shape[1], dtype=p.dtype)
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


@tf.function(jit_compile=True)
def _patches(images):
    """The patches of 4×4 pixels, two apart, square by square: [m, side, side, 16]."""
    side = images.shape[1] // 2
    squares = tf.reshape(images, [-1, side, 2, side, 2])
    squares = tf.reshape(tf.transpose(squares, [0, 1, 3, 2, 4]), [-1, side, side, 4])
    return tf.concat([squares[:, i : side - 1 + i, j : side - 1 + j] for i, j in _SHIFTS], axis=3)


@tf.function(jit_compile=True)
def _sum_of_shifted(products, biases):
    """Σᵢⱼ Yᵢⱼ(r + i, c + j) + b of [m, side, side, (i, j, channel)]."""
    parts, side = tf.split(products, 4, axis=3), products.shape[1] - 1
    parts = [part[:, i : side + i, j : side + j] for part, (i, j) in zip(parts, _SHIFTS)]
    return tf.add_n(parts) + biases


@tf.function(jit_compile=True)
def _shifted(padded):
    """δ(r − i, c − j) of δ with zeros around it, [m, side, side, (i, j, channel)]."""
    side = padded.shape[1] - 1
    return tf.concat([padded[:, 1 - i : side + 1 - i, 1 - j : side + 1 - j] for i, j in _SHIFTS], 3)
