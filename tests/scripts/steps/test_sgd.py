"""Stochastic gradient descent in one loop: against Keras, and what the seed decides."""

import dataclasses

import keras
import numpy as np
import pytest

from influence import Dataset
from scripts.steps.sgd import Sgd, SgdRecipe

RANDOM = np.random.default_rng(0)
POINTS = Dataset(
    RANDOM.standard_normal((10, 6)).astype(np.float32), np.arange(10, dtype=np.int64) % 3
)
SGD = Sgd((6, 5, 3), passes=3, rate=0.1, momentum=0.9, batch_size=4)


def keras_network(theta):
    """The same network in Keras at θ."""
    network = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(3)]
    )
    network.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    sizes = np.cumsum([np.prod(v.shape) for v in network.trainable_variables])
    for variable, values in zip(network.trainable_variables, np.split(theta, sizes[:-1])):
        variable.assign(values.reshape(variable.shape))
    return network


def test_it_takes_the_steps_of_keras():
    kept, seed = np.array([0, 2, 3, 4, 7, 8]), 5
    network = keras_network(np.concatenate([a.ravel() for a in SGD._start(seed)]))
    for theta, steps in zip(SGD.train(POINTS, kept, seed), SGD._batches(kept, 10, seed)):
        assert sorted(steps[steps >= 0]) == kept.tolist()
        assert [(step >= 0).sum() for step in steps] == [4, 2]
        for step in steps:
            rows = step[step >= 0]
            network.train_on_batch(POINTS.x[rows], POINTS.labels[rows])
        ours = np.concatenate([v.numpy().ravel() for v in network.trainable_variables])
        np.testing.assert_allclose(theta, ours, atol=1e-5)


def test_losses_are_those_of_the_network():
    theta = SGD.train(POINTS, np.arange(10), 0)[-1]
    outputs = keras_network(theta).predict(POINTS.x, verbose=0)
    truth = keras.losses.sparse_categorical_crossentropy(POINTS.labels, outputs, from_logits=True)
    np.testing.assert_allclose(SGD.losses(theta, POINTS), truth, rtol=1e-5)


def test_passes_differ_by_the_missing_point_alone():
    everything, without = np.arange(10), np.delete(np.arange(10), 6)
    for whole, rest in zip(SGD._batches(everything, 10, 1), SGD._batches(without, 10, 1)):
        order = whole.ravel()[whole.ravel() >= 0]
        assert order[order != 6].tolist() == rest.ravel()[rest.ravel() >= 0].tolist()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_seed_decides(dropout):
    recipe = SgdRecipe(dataclasses.replace(SGD, dropout=dropout), POINTS, POINTS)
    kept = np.arange(8)
    np.testing.assert_array_equal(recipe(kept, 1), recipe(kept, 1))
    assert np.abs(recipe(kept, 1) - recipe(kept, 2)).max() > 1e-3
    assert recipe.key == SgdRecipe(recipe.sgd, POINTS, POINTS).key
    assert recipe.key != SgdRecipe(dataclasses.replace(SGD, passes=2), POINTS, POINTS).key
