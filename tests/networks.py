"""Small networks: a non-linear model, and features of photographs."""

from __future__ import annotations

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from influence import BinaryInceptionModel, Dataset, GenericNeuralNet

# Pixels of a side, features and λ of the small network of photographs.
SIDE, FEATURES, DECAY = 9, 6, 0.05


class TinyNetwork(GenericNeuralNet):
    """softmax(tanh(x A + a) B), squared-norm regulariser on A and B but not on a."""

    def __init__(self, train, hidden=4, classes=3, weight_decay=0.1, dtype="float64", **settings):
        self.hidden, self.classes, self.weight_decay = hidden, classes, weight_decay
        random = np.random.default_rng(0)
        d = int(np.prod(train.x.shape[1:]))
        self.a = tf.Variable(random.standard_normal((d, hidden)) / np.sqrt(d), dtype=dtype)
        self.bias = tf.Variable(np.linspace(-0.5, 0.5, hidden), dtype=dtype)
        self.b = tf.Variable(random.standard_normal((hidden, classes)), dtype=dtype)
        super().__init__(train, [self.a, self.bias, self.b], dtype, **settings)
        self.settings = settings

    def logits(self, x):
        return tf.tanh(tf.reshape(x, [-1, self.a.shape[0]]) @ self.a + self.bias) @ self.b

    def example_losses(self, logits, labels):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    def regularization(self):
        squares = [tf.reduce_sum(tf.square(weights)) for weights in (self.a, self.b)]
        return self.weight_decay / 2 * tf.add_n(squares)

    def fit(self):
        def value_and_gradient(theta):
            self.parameters = theta
            return self.objective(), self.gradient()

        result = scipy.optimize.minimize(
            value_and_gradient,
            self.parameters,
            jac=True,
            method="BFGS",
            options={"gtol": 1e-9, "maxiter": 2000},
        )
        self.parameters = result.x
        return self

    def _clone(self, train):
        model = TinyNetwork(
            train, self.hidden, self.classes, self.weight_decay, self.dtype, **self.settings
        )
        return model

    def _check_labels(self, labels, name):
        if (labels < 0).any() or (labels >= self.classes).any():
            raise ValueError(f"{name} must be the classes 0..{self.classes - 1}.")


def network(dtype="float64", seed=0, activation="tanh"):
    """A small convolutional network with pooled features and a batch normalisation."""
    layers = [
        keras.layers.Input((SIDE, SIDE, 3), dtype=dtype),
        keras.layers.Conv2D(4, 3, strides=2, activation=activation, dtype=dtype),
        keras.layers.BatchNormalization(dtype=dtype),
        keras.layers.Conv2D(FEATURES, 2, activation=activation, dtype=dtype),
        keras.layers.GlobalAveragePooling2D(dtype=dtype),
    ]
    found = keras.Sequential(layers)
    random = np.random.default_rng(seed)
    # Positive where they must be: the variances of the normalisation.
    found.set_weights([0.5 * np.abs(random.standard_normal(w.shape)) for w in found.get_weights()])
    for layer in found.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(random.standard_normal(layer.kernel.shape))
    return found


def photographs(number, seed=0):
    """Eight-bit noise, brighter at one side, and labels that depend on which."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, number)
    x = random.integers(0, 200, (number, SIDE, SIDE, 3))
    x[:, :, : SIDE // 2] += (50 * labels)[:, np.newaxis, np.newaxis, np.newaxis]
    return x.astype(np.uint8), labels


def make(x=None, labels=None, backbone=None, **settings):
    """A model of the small network on 30 images, unfitted."""
    if x is None:
        x, labels = photographs(30)
    backbone = network() if backbone is None else backbone
    return BinaryInceptionModel(Dataset(x, labels), SIDE, DECAY, backbone=backbone, **settings)


def phi(model, images):
    """Features by the network itself, from eight-bit or scaled images."""
    scaled = images / 127.5 - 1 if images.dtype == np.uint8 else images
    return model.backbone(scaled, training=False).numpy()
