"""The gradient written by hand, against automatic differentiation of the same network."""

import numpy as np
import pytest
import tensorflow as tf

from influence import Adam, AllCNNC, Dataset
from influence.models import cnn_gradient
from influence.objective.generic_neural_net import GenericNeuralNet
from tests.models.test_all_cnn_c import images
from tests.models.test_cnn_hessian import at_random
from tests.oracles import central_difference

# The layouts: (strides, side, rows).
NETWORKS = [
    # Two pairs by squares of pixels, then one matrix; and one pair; and none.
    ((1, 2, 1, 2, 1), 28, False),
    ((1, 2), 10, True),
    ((1, 2), 11, True),
    # A pair whose images are not pixels, and one that an odd side forbids.
    ((2, 1, 2), 17, False),
    ((1, 1, 2), 12, False),
    # Pixels that a stride leaves out, at the images and further on.
    ((2, 1), 12, False),
    ((1, 3), 12, False),
    # Nothing but matrices: one that leaves pixels out, too.
    ((), 4, False),
    ((1,), 4, False),
    ((2,), 4, False),
]


def automatic(model, x, labels):
    """Σ ∇L by the generic function."""
    return GenericNeuralNet.sum_gradient(model, x, labels).numpy()


@pytest.fixture(params=NETWORKS, ids=str)
def network(request):
    strides, side, rows = request.param
    return at_random(strides, side, rows=rows)


def test_it_is_that_of_automatic_differentiation(network):
    truth = automatic(network, *network.tensors)
    ours = network.sum_gradient(*network.tensors).numpy()
    np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-12 * np.abs(truth).max())
    # Every variable has a part in it that the comparison would miss.
    parts = np.split(truth, np.cumsum([v.shape.num_elements() for v in network.variables]))[:-1]
    assert min(np.abs(part).max() for part in parts) > 1e-4 * np.abs(truth).max()


def test_two_halves_are_the_whole(monkeypatch):
    monkeypatch.setattr(cnn_gradient, "_HALVED", 2)
    model = at_random((1, 2), 10)
    x, labels = model.tensors
    slopes = tf.constant(np.random.default_rng(0).standard_normal((7, 3)))
    for shift in (None, slopes):
        ours = model.sum_gradient(x, labels, shift).numpy()
        truth = GenericNeuralNet.sum_gradient(model, x, labels, shift).numpy()
        np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-12 * np.abs(truth).max())
    one = model.sum_gradient(x[:1], labels[:1]).numpy()
    np.testing.assert_allclose(one, automatic(model, x[:1], labels[:1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("few", [0, 20])
def test_matrices_and_convolutions_are_the_same(monkeypatch, few):
    # Sides that no other test has: what was compiled keeps the limit of its time.
    monkeypatch.setattr(cnn_gradient, "_FEW_PIXELS", few)
    model = at_random((2, 2), 13 if few else 15)
    ours, truth = model.sum_gradient(*model.tensors).numpy(), automatic(model, *model.tensors)
    np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-12 * np.abs(truth).max())


@pytest.mark.parametrize(("strides", "side", "rows"), NETWORKS, ids=str)
def test_in_single_precision(strides, side, rows):
    model, double = (at_random(strides, side, dtype, rows) for dtype in ("float32", "float64"))
    double.parameters = model.parameters
    ours = model.sum_gradient(*model.tensors).numpy()
    truth = automatic(double, *double.tensors)
    assert ours.dtype == np.float32
    # Automatic differentiation itself is off by up to 1.3e-6.
    np.testing.assert_allclose(ours, truth, rtol=0, atol=2e-6 * np.abs(truth).max())


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (2, 3), (5, 4)])
def test_of_any_width(channels, classes):
    x, labels = images(7, 14, classes)
    model = AllCNNC(
        Dataset(x, labels), 0.05, classes, channels=channels, strides=(1, 2), dtype="float64"
    )
    ours, truth = model.sum_gradient(*model.tensors).numpy(), automatic(model, *model.tensors)
    np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-12 * np.abs(truth).max())


def test_of_bytes_and_their_scale():
    x = np.random.default_rng(0).integers(0, 256, (7, 196)).astype(np.uint8)
    train = Dataset(x, images(7)[1], 1 / 255)
    model = AllCNNC(train, 0.05, 3, channels=3, strides=(1, 2), dtype="float64")
    ours, truth = model.sum_gradient(*model.tensors).numpy(), automatic(model, *model.tensors)
    np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-12 * np.abs(truth).max())


def test_against_differences():
    model = at_random((1, 2), 10)
    other = model.with_parameters(model.parameters)

    def losses(theta):
        other.parameters = theta
        return np.array(other.losses(model.train.x, model.train.labels).sum())

    truth = central_difference(losses, model.parameters)
    ours = model.sum_gradient(*model.tensors).numpy()
    np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-8)


def test_a_batch_is_the_sum_of_its_parts():
    model = at_random((1, 2), 14)
    x, labels = model.tensors
    whole = model.sum_gradient(x, labels)
    parts = sum(model.sum_gradient(x[i : i + 1], labels[i : i + 1]) for i in range(7))
    np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-12)
    # And the objective's gradient is its mean, in batches of 3, 3 and 1.
    batches = at_random((1, 2), 14, batch_size=3)
    expected = whole.numpy() / 7 + model.regularization_gradient()
    np.testing.assert_allclose(batches.gradient(), expected, rtol=0, atol=1e-12)


def test_where_every_unit_is_saturated():
    model = at_random((1, 2), 14)
    model.parameters = 50 * model.parameters
    ours, truth = model.sum_gradient(*model.tensors), automatic(model, *model.tensors)
    np.testing.assert_allclose(ours, truth, rtol=1e-9, atol=1e-10)


def test_the_same_bits_again():
    model = at_random((1, 2, 1, 2, 1), 28, "float32")
    compiled = tf.function(model.sum_gradient)
    first = compiled(*model.tensors).numpy()
    for _ in range(3):
        np.testing.assert_array_equal(compiled(*model.tensors), first)


@pytest.mark.parametrize(("strides", "side"), [((1, 2), 14), ((1, 2, 1), 11)])
def test_a_training_is_that_of_automatic_differentiation(strides, side):
    class Automatic(AllCNNC):
        sum_gradient = GenericNeuralNet.sum_gradient

    settings = {"channels": 2, "strides": strides, "dtype": "float64"}
    train = Dataset(*images(30, side))
    adam = Adam(learning_rate=0.01, decays=((40, 0.1),), batch_size=8)
    ours = adam.run(AllCNNC(train, 0.05, 3, **settings), 50)
    theirs = adam.run(Automatic(train, 0.05, 3, **settings), 50)
    assert np.abs(ours.parameters - AllCNNC(train, 0.05, 3, **settings).parameters).max() > 0.1
    for name in ("parameters", "first", "second"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-6)


def test_one_trace():
    class Counted(AllCNNC):
        traced = 0

        def sum_gradient(self, x, labels):
            self.traced += 1
            return super().sum_gradient(x, labels)

    model = Counted(Dataset(*images()), 0.05, 3, channels=2, strides=(1, 2))
    # Three calls of the compiled loop, of two lengths.
    Adam(batch_size=4).run(model, 1100)
    assert model.traced == 1
    model.gradient()
    model.parameters = 2 * model.parameters
    model.gradient()
    assert model.traced == 2
