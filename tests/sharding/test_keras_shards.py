"""Keras models whose rows are in shards, asked about points that are in memory, and by layers."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import KerasModel, tracin
from influence.objective.sharded import ShardedPoints
from influence.targets import Loss
from tests.sharding.engines import PROBLEM, X_TEST, Here, network, network_model

N = len(PROBLEM.labels)
TEST = X_TEST, PROBLEM.labels[:3]
OTHERS = PROBLEM.x_test, PROBLEM.y_test  # in no shard


def rows(first, last):
    return PROBLEM.x[first:last], PROBLEM.labels[first:last]


def loaded(make=network, load=rows):
    """Of rows that only functions have."""
    shards = [functools.partial(load, *ends) for ends in ((0, 20), (20, 65), (65, N))]
    return KerasModel(make(), load(0, 9)).sharded(Here(), shards)


@pytest.fixture(scope="module")
def models():
    """Of rows that are cut, of rows that are loaded, and of all rows in memory."""
    whole = network_model()
    return whole.sharded(Here(), 3), loaded(), whole


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["ekfac", "gauss_newton"])
@pytest.mark.parametrize("tests", [1, 3])
def test_points_in_memory(curvature, tests, models):
    few = X_TEST[:tests], PROBLEM.labels[:tests]
    found = []
    for model in models:
        operator = getattr(model, curvature)() + 0.1
        of_others = model.influence_of_points(*OTHERS, *few, curvature=operator)
        of_train = model.influence_on(Loss(*few), curvature=operator)
        found.append(np.concatenate([of_others, of_train], axis=1))
    *sharded, expected = found
    assert expected.shape == (tests, len(PROBLEM.x_test) + N)
    for scores in sharded:
        np.testing.assert_allclose(scores, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["ekfac", "gauss_newton"])
def test_scores_that_need_not_fit_go_over_the_shards(curvature, models, tmp_path, monkeypatch):
    _, model, whole = models
    operator = getattr(model, curvature)() + 0.1
    expected = whole.influence_on_loss(*TEST, curvature=getattr(whole, curvature)() + 0.1)

    def fetched(self, indices=None):
        assert indices is not None
        assert len(indices) < N
        return original(self, indices)

    original = ShardedPoints.chosen
    monkeypatch.setattr(ShardedPoints, "chosen", fetched)
    scores = model.influence_on_loss(*TEST, curvature=operator, out=tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, expected, rtol=1e-8, atol=1e-12)
    top = model.influence_on_loss(*TEST, curvature=operator, top=1)
    np.testing.assert_array_equal(top["score"][:, 0], scores.max(axis=1))


def test_traces_of_a_training_go_over_the_shards(models, monkeypatch):
    _, model, whole = models
    checkpoints = [model.parameters, model.parameters + 0.1]
    expected = tracin(whole, checkpoints, [0.1, 0.2], *TEST)
    monkeypatch.setattr(ShardedPoints, "chosen", None)
    for indices in (None, [70, 3]):
        scores = tracin(model, checkpoints, [0.1, 0.2], *TEST, train_indices=indices)
        chosen = slice(None) if indices is None else indices
        np.testing.assert_allclose(scores, expected[:, chosen], rtol=1e-9)


class Unnamed(keras.layers.Layer):
    """Has a setting that Keras cannot save."""

    def __init__(self, setting):
        super().__init__(dtype="float64")
        self.layer = keras.layers.Dense(3, dtype="float64")

    def call(self, x):
        return self.layer(x)


class Model(keras.Model):
    """Cannot be made of its configuration."""

    def __init__(self, layer):
        super().__init__(dtype="float64")
        self.layer = layer

    def call(self, x):
        return self.layer(x)

    def get_config(self):
        return {}


class Doubled(keras.losses.SparseCategoricalCrossentropy):
    """Is not registered."""

    def call(self, labels, outputs):
        return 2 * super().call(labels, outputs)


def not_saved():
    return keras.Sequential([keras.Input((5,)), Unnamed(object())])


def not_made_again():
    model = Model(keras.layers.Dense(3, dtype="float64"))
    model(PROBLEM.x[:2])
    return model


@pytest.mark.parametrize(
    ("make", "loss", "said"),
    [
        (not_saved, None, "cannot be sent .*: Object Unnamed was created by passing"),
        (not_made_again, None, "cannot be made again there: .*Model'> could not be deserialized"),
        (network, Doubled(from_logits=True), "cannot be made again there: .* class 'Doubled'"),
    ],
)
def test_a_network_that_does_not_travel_is_one_sentence(make, loss, said):
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = KerasModel(make(), rows(0, N), loss)
    with pytest.raises(ValueError, match=said) as caught:
        model.sharded(Here(), 3).gradient()
    assert "\n" not in str(caught.value)


def wide():
    """A network of 40 classes, of whose labels EK-FAC draws."""
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(3, "tanh", dtype="float64")
    model = keras.Sequential([keras.Input((5,), dtype="float64"), hidden])
    model.add(keras.layers.Dense(40, dtype="float64"))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def pipeline(first, last):
    return tf.data.Dataset.from_tensor_slices(rows(first, last)).batch(7)


@pytest.mark.slow
@pytest.mark.parametrize("load", [rows, pipeline])
def test_draws_of_ekfac_are_those_of_the_whole_model(load):
    sharded, whole = loaded(wide, load), KerasModel(wide(), rows(0, N))
    for seed in (0, 1):
        operators = [model.ekfac(seed=seed) + 0.1 for model in (sharded, whole)]
        np.testing.assert_allclose(*[each.dense() for each in operators], rtol=1e-9, atol=1e-12)
    assert not np.allclose(whole.ekfac(seed=0).dense(), whole.ekfac(seed=1).dense())


@pytest.mark.slow
def test_a_file_of_ekfac_is_of_the_shards_rows(tmp_path):
    path = tmp_path / "ekfac.h5"
    first = loaded().ekfac(path=path)
    np.testing.assert_array_equal(loaded().ekfac(path=path).dense(), first.dense())
    with pytest.raises(ValueError, match="holds no EK-FAC of this model"):
        loaded(load=lambda a, b: (PROBLEM.x[a:b] + 1, PROBLEM.labels[a:b])).ekfac(path=path)
