"""The small convolutional network of the paper's Figure 2 (after Springenberg et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import tensorflow as tf

from influence.data.dataset import Dataset, check_classes
from influence.data.types import DType, File, Inputs
from influence.fitting.adam import Adam
from influence.models.cnn_gradient import sum_gradient
from influence.models.cnn_hessian import CNNHessian
from influence.objective.generic_neural_net import GenericNeuralNet

# Activations of this many points at a time. No number of them stays in cache, so that many are
# faster than few; four batches of the paper's 5,500 points.
_BATCH_SIZE = 1375
_FILTER = 3


class AllCNNC(GenericNeuralNet):
    """Convolutions with tanh and without padding, a global mean, and a dense layer.

    With the paper's settings: six convolutions, 3×3×8 with strides 1, 2, 1, 2, 1 and then 1×1×10,
    2,616 parameters on 28×28 images. Weights start as truncated normal numbers with standard
    deviation 2/√fan_in (1/√fan_in in the dense layer), biases as 0; the regulariser is
    (λ/2)‖W‖² of the weights alone.

    Args:
        train: square grey images [n, side²] or [n, side, side], labels 0 … classes − 1.
        weight_decay: λ.
        classes: c; the last convolution has as many channels.
        channels: of the other convolutions.
        strides: of the 3×3 convolutions.
        steps: of Adam that ``fit`` makes in all, with the paper's schedule.
        seed: of the initial weights and of the order of the batches.
        dtype: "float32" or "float64".
        batch_size: points that are held as floating-point numbers at a time.

    Examples:
        >>> import numpy as np
        >>> from influence import AllCNNC, Dataset
        >>> images = np.random.default_rng(0).random((6, 28, 28))
        >>> model = AllCNNC(Dataset(images, [0, 1, 2, 3, 4, 5]))
        >>> model.num_parameters, model.outputs(images).shape
        (2616, (6, 10))

        A smaller one, and five steps of Adam, which are not yet a training:

        >>> settings = {"classes": 6, "channels": 2, "strides": (2, 3), "steps": 5}
        >>> small = AllCNNC(Dataset(images, [0, 1, 2, 3, 4, 5]), **settings).fit()
        >>> small.num_parameters, small.predict(images).shape
        (118, (6,))
    """

    def __init__(
        self,
        train: Dataset,
        weight_decay: float = 0.001,
        classes: int = 10,
        *,
        channels: int = 8,
        strides: tuple[int, ...] = (1, 2, 1, 2, 1),
        steps: int = 500_000,
        seed: int = 0,
        dtype: DType = "float32",
        batch_size: int | None = None,
    ) -> None:
        if not 0 <= weight_decay < np.inf:
            raise ValueError(f"weight_decay must be at least 0, not {weight_decay!r}.")
        self.weight_decay, self.classes = float(weight_decay), int(classes)
        self._settings: dict[str, Any] = {
            "channels": channels, "strides": tuple(strides), "steps": steps, "seed": seed,
            "dtype": dtype, "batch_size": batch_size,
        }  # fmt: skip
        self.side = _side(train, strides)
        self.steps, self.strides = steps, tuple(strides)
        widths = [1, *[channels] * len(strides), self.classes]
        filters = [_FILTER] * len(strides) + [1]
        shapes: list[tuple[int, ...]] = [
            (k, k, *pair) for k, pair in zip(filters, zip(widths, widths[1:]))
        ]
        gains = [2.0] * len(shapes) + [1.0]
        shapes.append((self.classes, self.classes))
        self.weights, self.biases = [], []
        for layer, (shape, gain) in enumerate(zip(shapes, gains)):
            deviation = gain / np.sqrt(np.prod(shape[:-1]))
            weights = tf.random.stateless_truncated_normal(
                shape, [seed, layer], stddev=deviation, dtype=dtype
            )
            self.weights.append(tf.Variable(weights, name=f"weights_{layer}"))
            self.biases.append(tf.Variable(tf.zeros(shape[-1:], dtype), name=f"biases_{layer}"))
        variables = [v for pair in zip(self.weights, self.biases) for v in pair]
        super().__init__(train, variables, dtype, batch_size or _BATCH_SIZE)

    @property
    def stages(self) -> list[tuple[Any, Callable[[tf.Tensor], tf.Tensor]]]:
        """(variables, function) of every layer, in order: what ``SequentialHessian`` asks for."""
        layers = [
            lambda x, layer=layer: tf.tanh(self._sums(layer, x))
            for layer in range(len(self.strides) + 1)
        ]
        return list(zip(zip(self.weights, self.biases), [*layers, self._dense]))

    def as_images(self, x: tf.Tensor) -> tf.Tensor:
        """Images that may come in rows, as [m, side, side, 1]."""
        return tf.reshape(x, [-1, self.side, self.side, 1])

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        """The outputs [m, c] of images [m, ...]."""
        for _, function in self.stages:
            x = function(x)
        return x

    def example_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Cross-entropy, [m]."""
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    def adversarial_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """log(1 − p(y|x)), [m]."""
        wrong = tf.one_hot(labels, self.classes, on_value=-np.inf, off_value=0.0, dtype=self.dtype)
        return tf.reduce_logsumexp(logits + wrong, axis=1) - tf.reduce_logsumexp(logits, axis=1)

    def class_probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(logits)

    def regularization(self) -> tf.Tensor:
        """(λ/2)‖W‖²: the biases are free."""
        squares = [tf.reduce_sum(tf.square(weights)) for weights in self.weights]
        return self.weight_decay / 2 * tf.add_n(squares)

    def fit(self, *, checkpoint: File | None = None, progress: bool = False) -> Self:
        """Adam with the paper's schedule, ``steps`` in all; see ``Adam.run`` for the options."""
        adam = Adam(seed=self._settings["seed"])
        adam.run(self, self.steps, checkpoint=checkpoint, progress=progress)
        return self

    def predict(self, x: Inputs) -> np.ndarray:
        """The most likely class of each point, [m]."""
        return self.outputs(x).argmax(axis=1)

    def sum_gradient(
        self, x: tf.Tensor, labels: tf.Tensor, slopes: tf.Tensor | None = None
    ) -> tf.Tensor:
        """As the generic one, but written out by hand."""
        return sum_gradient(self, x, labels, slopes)

    def output_jacobians(self, x: tf.Tensor) -> tf.Tensor:
        """As the generic one, but with one backward pass of the whole batch an output."""
        size, patches, sums = tf.shape(x)[0], [], []
        with tf.GradientTape(persistent=True) as tape:
            for layer in range(len(self.strides) + 1):
                patches.append(self._patches(layer, x))
                sums.append(self._sums(layer, x))
                x = tf.tanh(sums[-1])
            means = tf.reduce_mean(x, axis=[1, 2])
            outputs = tf.unstack(means @ self.weights[-1] + self.biases[-1], axis=1)
        rows = []
        for output, value in enumerate(outputs):
            parts = []
            for patch, slopes in zip(patches, tape.gradient(value, sums)):
                slopes = tf.reshape(slopes, [size, -1, slopes.shape[-1]])
                weights = tf.matmul(patch, slopes, transpose_a=True)
                parts += [tf.reshape(weights, [size, -1]), tf.reduce_sum(slopes, axis=1)]
            chosen = tf.one_hot(tf.fill([size], output), self.classes, dtype=self.dtype)
            weights = means[:, :, tf.newaxis] * chosen[:, tf.newaxis]
            parts += [tf.reshape(weights, [size, -1]), chosen]
            rows.append(tf.concat(parts, axis=1))
        return tf.stack(rows, axis=1)

    def _make_hessian(self):
        return CNNHessian(self)

    def _clone(self, train):
        return AllCNNC(train, self.weight_decay, self.classes, **self._settings)

    def _check_labels(self, labels, name):
        check_classes(labels, self.classes, name)

    def _sums(self, layer, x):
        """What goes into the tanh of a convolution: [m, side, side, channels]."""
        x = self.as_images(x) if layer == 0 else x
        stride = [*self.strides, 1][layer]
        # bias_add, unlike +, is joined to the convolution.
        convolved = tf.nn.conv2d(x, self.weights[layer], stride, "VALID")
        return tf.nn.bias_add(convolved, self.biases[layer])

    def _patches(self, layer, x):
        """What the weights of a convolution are multiplied by: [m, positions, fan-in]."""
        x = self.as_images(x) if layer == 0 else x
        width, stride = self.weights[layer].shape[0], [*self.strides, 1][layer]
        patches = tf.image.extract_patches(
            x, [1, width, width, 1], [1, stride, stride, 1], [1, 1, 1, 1], "VALID"
        )
        return tf.reshape(patches, [tf.shape(x)[0], -1, patches.shape[-1]])

    def _dense(self, x):
        return tf.reduce_mean(x, axis=[1, 2]) @ self.weights[-1] + self.biases[-1]


def _side(train: Dataset, strides) -> int:
    """The side of the images, once they are known to be square and large enough."""
    numbers = int(np.prod(train.x.shape[1:]))
    side = round(np.sqrt(numbers))
    left = side
    for stride in strides:
        left = (left - _FILTER) // stride + 1
    if side**2 != numbers or left < 1:
        raise ValueError(
            f"train.x must be square grey images, [n, side²] or [n, side, side], that strides "
            f"{tuple(strides)} leave a pixel of; its shape is {train.x.shape}."
        )
    return side
