"""A small non-linear model, to test what every model gets for free."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import tensorflow as tf

from influence import GenericNeuralNet


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
