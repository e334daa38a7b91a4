"""A whole network: scores through all of its layers, and what they are worth."""

import keras
import numpy as np
from sklearn.datasets import load_digits

from influence import KerasModel, plots, removal_curve

digits = load_digits()
x, y = (digits.data / 16).astype("float32"), digits.target
x_train, y_train, x_test, y_test = x[:300], y[:300], x[1500:1540], y[1500:1540]


def train(kept, seed):
    """A network of these training points; the recipe is all that is asked of yours."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    network = keras.Sequential(
        [layers.Input((64,)), layers.Dense(16, "tanh"), layers.Dense(10, "softmax")]
    )
    network.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    network.fit(x_train[kept], y_train[kept], epochs=15, verbose=0)
    return network


def losses(kept, seed):
    """Of the test points, after training without the others."""
    probabilities = train(kept, seed)(x_test, training=False)
    return keras.losses.sparse_categorical_crossentropy(y_test, probabilities)


# The network as it was trained: the Gauss-Newton matrix, damped, is positive definite.
model = KerasModel(train(np.arange(300), seed=0), (x_train, y_train))
curvature = model.gauss_newton() + 0.01
scores = model.influence_on_loss(x_test, y_test, reduction="mean", curvature=curvature)

# Does the loss rise most without the points that the scores put first?
rankings = {"influence": scores, "training loss": model.losses(x_train, y_train)}
curve = removal_curve(losses, rankings, [30, 90, 150], trainings=2)
print(curve.to_frame())

axes = plots.removal_curve(curve)
axes.figure.set_size_inches(5.5, 3.6)
axes.figure.savefig("whole_network.png", dpi=100)
