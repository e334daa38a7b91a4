"""Features, the regression on them, and influences down to the pixels, on a small network."""

import numpy as np
import pytest
import tensorflow as tf

from influence import BinaryInceptionModel, Dataset
from tests.networks import DECAY, FEATURES, SIDE, make, network, phi, photographs
from tests.oracles import BinaryRegression, removal


@pytest.fixture(scope="module")
def fitted():
    return make().fit()


@pytest.fixture(scope="module")
def probes():
    return photographs(5, seed=1)


def test_the_top_is_a_logistic_regression_on_the_features(fitted, probes):
    truth = BinaryRegression(phi(fitted, fitted.train.x), fitted.train.labels, DECAY)
    assert np.linalg.norm(truth.gradient(fitted.top.parameters)) < 1e-10
    x, labels = probes
    z = phi(fitted, x) @ fitted.top.parameters
    np.testing.assert_allclose(fitted.outputs(x), z[:, np.newaxis], rtol=1e-10)
    np.testing.assert_array_equal(fitted.predict(x), z > 0)


def test_influence_is_the_dense_truth(fitted, probes):
    x, labels = probes
    theta = fitted.top.parameters
    truth = BinaryRegression(phi(fitted, fitted.train.x), fitted.train.labels, DECAY)
    s_test = np.linalg.solve(truth.hessian(theta), truth.gradients(theta, phi(fitted, x), labels).T)
    gradients = truth.gradients(theta, truth.x, truth.labels)
    expected = removal(gradients, s_test, theta, DECAY, truth.n)
    np.testing.assert_allclose(fitted.influence_on_loss(x, labels), expected, rtol=1e-6, atol=1e-10)
    mean = fitted.influence_on_loss(x, labels, reduction="mean", train_indices=[3, 1])
    np.testing.assert_allclose(mean, expected.mean(0)[[3, 1]], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("index", [0, 17])
def test_pixel_gradient_of_the_influence_by_finite_differences(fitted, probes, index):
    x, labels = probes
    theta, label = fitted.top.parameters, fitted.train.labels[index : index + 1]
    truth = BinaryRegression(phi(fitted, fitted.train.x), fitted.train.labels, DECAY)
    mean_gradient = truth.gradients(theta, phi(fitted, x), labels).mean(0)
    s_test = np.linalg.solve(truth.hessian(theta), mean_gradient)

    def influences(images):
        """Of this training point with other pixels, at the same parameters and s_test."""
        gradients = truth.gradients(theta, phi(fitted, images), np.repeat(label, len(images)))
        return gradients @ s_test / truth.n

    image, step = fitted.train.x[index] / 127.5 - 1, 1e-5
    shifts = step * np.eye(image.size).reshape(-1, *image.shape)
    differences = (influences(image + shifts) - influences(image - shifts)) / (2 * step)
    ours = fitted.influence_input_gradient([index], x, labels)
    assert ours.shape == (1, SIDE, SIDE, 3)
    assert ours.dtype == np.float64
    scale = np.abs(differences).max()
    np.testing.assert_allclose(ours.ravel(), differences, rtol=1e-6, atol=1e-7 * scale)


def test_pixel_gradients_follow_the_order_of_the_indices(fitted, probes):
    chosen = [4, 29, 0]
    together = fitted.influence_input_gradient(chosen, *probes, loss="adversarial")
    for index, gradient in zip(chosen, together):
        alone = fitted.influence_input_gradient(index, *probes, loss="adversarial")
        np.testing.assert_allclose(alone[0], gradient, rtol=1e-9, atol=1e-14)


def test_images_in_the_unit_range_mean_the_same_as_eight_bits(fitted, probes):
    x, labels = probes
    scaled = x / 127.5 - 1
    np.testing.assert_allclose(fitted.features(scaled), fitted.features(x), rtol=1e-12)
    np.testing.assert_allclose(
        fitted.influence_on_loss(scaled, labels), fitted.influence_on_loss(x, labels), rtol=1e-9
    )
    white, black = (
        np.full((1, SIDE, SIDE, 3), 255, np.uint8),
        np.zeros((1, SIDE, SIDE, 3), np.uint8),
    )
    for image, value in ((white, 1.0), (black, -1.0)):
        extreme = np.full(image.shape, value)
        np.testing.assert_array_equal(fitted.features(image), fitted.features(extreme))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_batch_size_changes_nothing(fitted, probes, batch_size):
    other = make(batch_size=batch_size)
    images = fitted.train.x
    np.testing.assert_allclose(other.features(images), fitted.features(images), rtol=1e-12)
    gradients = np.random.default_rng(0).standard_normal((30, FEATURES))
    np.testing.assert_allclose(
        other.pixel_gradient(images, gradients),
        fitted.pixel_gradient(images, gradients),
        rtol=1e-9,
        atol=1e-12,
    )


def test_batch_normalisation_uses_its_saved_statistics(fitted):
    before = fitted.backbone.get_weights()
    alone = fitted.features(fitted.train.x[:1])
    np.testing.assert_allclose(alone, fitted.features(fitted.train.x)[:1], rtol=1e-12)
    for weight, now in zip(before, fitted.backbone.get_weights()):
        np.testing.assert_array_equal(weight, now)


def test_nothing_is_traced_twice():
    model = make(batch_size=4)
    for number in (1, 3, 4, 9, 30):
        images = model.train.x[:number]
        model.features(images)
        model.features((images / 127.5 - 1).astype(np.float32))
        model.pixel_gradient(images, np.ones((number, FEATURES), np.float32))
    assert model._forward.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_features_with_their_pullback(dtype):
    model = make(backbone=network(dtype), batch_size=4)
    images = model.train.x[:9]
    features, pullback = model.features_and_pullback(images)
    np.testing.assert_allclose(features, model.features(images), rtol=1e-5)
    pixels, directions = tf.constant(images / 127.5 - 1, dtype), np.ones((9, FEATURES))
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        total = tf.reduce_sum(model.backbone(pixels, training=False))
    expected = tape.gradient(total, pixels).numpy()
    found = pullback(directions)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_backward_pass_is_of_the_pixels_alone():
    # One for the weights would take as long again.
    model = make()
    with tf.GradientTape() as tape:
        features = model._forward(tf.zeros([1, SIDE, SIDE, 3], tf.float64))
    gradients = tape.gradient(features, model.backbone.trainable_variables)
    assert gradients
    assert all(gradient is None for gradient in gradients)


def test_the_top_may_have_more_digits_than_the_network(probes):
    model = make(backbone=network("float32")).fit()
    assert model.features(probes[0]).dtype == np.float32
    assert model.top.dtype == np.float64
    assert model.influence_input_gradient([0], *probes).dtype == np.float32


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, SIDE, SIDE, 1), np.uint8),
            r"images \[m, 9, 9, 3\]; the shape is \(2, 9, 9, 1",
        ),
        (np.zeros((2, SIDE, SIDE + 1, 3), np.uint8), r"images \[m, 9, 9, 3\]"),
        (np.zeros((2, SIDE * SIDE * 3), np.uint8), r"images \[m, 9, 9, 3\]"),
        (np.zeros((1, 2, SIDE, SIDE, 3), np.uint8), r"\[m, 9, 9, 3\]"),
        (np.zeros((0, SIDE, SIDE, 3), np.uint8), "empty"),
        (np.zeros((2, SIDE, SIDE, 3), np.int64), "eight-bit .* its dtype is int64"),
        (np.full((2, SIDE, SIDE, 3), 200.0), "goes from 200 to 200. Give 0..255 as uint8"),
        (np.full((2, SIDE, SIDE, 3), -1.01), "must lie in"),
        (np.full((2, SIDE, SIDE, 3), np.nan), "must be finite"),
    ],
)
def test_images_that_do_not_fit(fitted, images, message):
    with pytest.raises(ValueError, match=message):
        fitted.features(images)
    with pytest.raises(ValueError, match=message):
        fitted.pixel_gradient(images, np.zeros((2, FEATURES)))
    if 0 not in images.shape:
        with pytest.raises(ValueError, match=message):
            make(images, np.arange(len(images)))


@pytest.mark.parametrize("shape", [(5, FEATURES + 1), (4, FEATURES), (FEATURES,)])
def test_feature_gradients_that_do_not_fit(fitted, probes, shape):
    with pytest.raises(ValueError, match=r"feature_gradients must be \[5, 6\]"):
        fitted.pixel_gradient(probes[0], np.zeros(shape))


def test_settings_that_do_not_fit(monkeypatch):
    # Said before the features, which take minutes, are computed.
    monkeypatch.setattr(BinaryInceptionModel, "_computed", lambda *_: pytest.fail("computed"))
    x, labels = photographs(30)
    with pytest.raises(ValueError, match="not both"):
        make(weights="weights.h5")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="dtype must be"):
        make(dtype="float16")
    with pytest.raises(ValueError, match="weight_decay"):
        BinaryInceptionModel(Dataset(x, labels), SIDE, -1.0, backbone=network())
    with pytest.raises(ValueError, match="single class"):
        make(x, np.zeros(30, int))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        make(x, np.arange(30))
    with pytest.raises(ValueError, match="must come with scale 1"):
        BinaryInceptionModel(Dataset(x, labels, 1 / 255), SIDE, backbone=network())
    with pytest.raises(ValueError, match=r"influence\.Dataset"):
        BinaryInceptionModel(x, SIDE, backbone=network())
    with pytest.raises(ValueError, match="train_indices"):
        make().influence_input_gradient([30], x, labels)
