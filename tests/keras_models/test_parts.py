"""The layers of a network, each alone."""

import keras
import numpy as np
import tensorflow as tf

from influence.keras_models.network import KerasNetwork
from influence.keras_models.parts import layers_of

layers = keras.layers


class Block(layers.Layer):
    """A layer with others inside, one of them called twice."""

    def __init__(self):
        super().__init__(name="block")
        self.inner, self.outer = layers.Dense(4, name="inner"), layers.Dense(4, name="outer")

    def call(self, x, scale=1.0):
        return scale * self.outer(self.inner(self.inner(x)))


def test_layers_after_the_parameters_innermost_first():
    inputs = layers.Input((4,))
    frozen = layers.Dense(4, name="frozen")(inputs)
    beside = layers.Dense(4, name="beside")(inputs)
    block = Block()
    outputs = layers.Dense(1, name="last")(layers.Add(name="sum")([block(frozen), beside]))
    model = keras.Model(inputs, outputs)
    x = tf.constant(np.random.default_rng(0).standard_normal((3, 4)), tf.float32)
    # Two branches, so that nothing is split off.
    network = KerasNetwork(model, [block.outer, model.get_layer("last")])
    parts = {part.name.split("'")[1]: part for part in layers_of(network, x)}
    assert list(parts) == ["outer", "block", "sum", "last", model.name]
    assert [part.name for part in parts["block"].inside] == [parts["outer"].name]
    # What does not depend on θ, the other summand, is no value.
    assert [len(part.values) for part in parts.values()] == [2, 2, 1, 3, 4]
    # Everything as it was, and the same function.
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    [alone] = parts["last"].function(parts["last"].values)
    np.testing.assert_allclose(alone, model(x), atol=1e-6)
    moved = [value + 1 for value in parts["last"].values]
    [elsewhere] = parts["last"].function(moved)
    np.testing.assert_allclose(elsewhere, moved[0] @ moved[1] + moved[2], rtol=1e-6)
    after_inputs = [part.name.split("'")[1] for part in layers_of(network, x, after_inputs=True)]
    names = ["frozen", "inner", "outer", "block", "beside", "sum", "last", model.name]
    assert after_inputs == names
