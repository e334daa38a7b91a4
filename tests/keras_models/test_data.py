"""A stream that changes is refused whatever is asked of the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import ConjugateGradient, KerasModel
from tests.keras_models.test_model import ANSWERS, softmax_keras

# What is read is asked of models that were never fitted.
pytestmark = pytest.mark.filterwarnings("ignore:KerasModel is not at a minimum")

RANDOM = np.random.default_rng(0)
X, LABELS = RANDOM.standard_normal((60, 5)), RANDOM.integers(0, 3, 60)
MESSAGE = "^train gave other rows than at its first pass: .*reshuffle_each_iteration=False"


class Switched:
    """Batches of ten that come as they are, until they are switched."""

    def __init__(self, switch):
        self.on, self._switch = False, switch

    def rows(self):
        """The dataset."""
        spec = tf.TensorSpec([None, 5], tf.float64), tf.TensorSpec([None], tf.int64)
        return tf.data.Dataset.from_generator(self._batches, output_signature=spec)

    def _batches(self):
        x, labels = self._switch(X, LABELS) if self.on else (X, LABELS)
        for first in range(0, len(x), 10):
            yield x[first : first + 10], labels[first : first + 10]


def one_label(x, labels):
    return x, np.where(np.arange(60) == 59, (labels + 1) % 3, labels)


SWITCHES = {
    "a label at the end": one_label,
    "fewer batches": lambda x, labels: (x[:50], labels[:50]),
    "more batches": lambda x, labels: (np.r_[x, x[:10]], np.r_[labels, labels[:10]]),
}
PASSES = {
    **{
        name: ANSWERS[name]
        for name in ("objective", "gradient", "influence", "self", "hessian", "gauss_newton")
    },
    "refit": lambda m, x, y: m.refit([3, 50]),
    "input": lambda m, x, y: m.influence_input_gradient([5, 50], x, y),
    "fit": lambda m, x, y: m.fit(),
    "product": lambda m, x, y: m.inverse_hvp(np.arange(15.0), ConjugateGradient(1e-3)),
    "some": lambda m, x, y: m.influence_on_loss(x, y, train_indices=[59]),
}


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("asked", PASSES)
def test_every_pass_is_held_against_the_first(asked, switch):
    stream = Switched(SWITCHES[switch])
    model = KerasModel(softmax_keras(), stream.rows())
    points = X[:3], LABELS[:3]
    if asked != "fit":
        PASSES[asked](model, *points)
    model.parameters = np.linspace(-1, 1, 15)  # what was computed before is not taken again
    stream.on = True
    with pytest.raises(ValueError, match=MESSAGE) as caught:
        PASSES[asked](model, *points)
    assert "\n" not in str(caught.value)
    stream.on = False
    PASSES[asked](model, *points)


def slices(first, last):
    return tf.data.Dataset.from_tensor_slices((X[first:last], LABELS[first:last]))


def chance(shape):
    """Uniform numbers that no seed of TensorFlow makes the same at every pass."""
    return tf.ensure_shape(tf.numpy_function(RANDOM.random, [shape], tf.float64), [None])


def half_shuffled():
    return slices(0, 30).concatenate(slices(30, 60).shuffle(30)).batch(10)


def noisy():
    return slices(0, 60).batch(10).map(lambda x, y: (x + 1e-12 * chance([1]), y))


def relabelled():
    return slices(0, 60).batch(10).map(lambda x, y: (x, tf.where(chance([10]) < 0.5, y, 2 - y)))


def batches_shuffled():
    return slices(0, 60).batch(10).shuffle(6)


@pytest.mark.parametrize("make", [half_shuffled, noisy, relabelled, batches_shuffled])
def test_streams_of_chance_are_refused(make):
    tf.random.set_seed(5)
    with pytest.raises(ValueError, match=MESSAGE):
        KerasModel(softmax_keras(), make()).fit()


def test_integer_inputs_of_chance_are_refused():
    network = keras.Sequential(
        [keras.layers.Input((1,), dtype="int32"), keras.layers.Embedding(9, 2),
         keras.layers.Flatten(), keras.layers.Dense(1)]
    )  # fmt: skip
    network.compile(loss="mse")
    words = tf.data.Dataset.from_tensor_slices((np.arange(8)[:, np.newaxis], np.arange(8.0)))
    other = words.batch(4).map(lambda x, y: (tf.where(chance([4])[:, None] < 0.5, x, 8 - x), y))
    with pytest.raises(ValueError, match=MESSAGE):
        KerasModel(network, other).fit()


@pytest.mark.slow
def test_a_stream_with_fixed_shuffles_and_maps_is_taken():
    tf.random.set_seed(5)
    fixed = slices(0, 60).shuffle(60, reshuffle_each_iteration=False).batch(7)
    noisy = fixed.map(
        lambda x, y: (x + tf.random.stateless_normal(tf.shape(x), [1, 2], dtype=x.dtype), y),
        num_parallel_calls=2,
    )
    model = KerasModel(softmax_keras(), noisy.prefetch(2)).fit()
    assert model.influence_on_loss(X[:3], LABELS[:3]).shape == (3, 60)
    assert len(model.refit(5).train) == 59
