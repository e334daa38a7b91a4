"""Exact distances of images, and kernel features against the dense stacked kernel."""

import numpy as np
import pytest

from influence import Dataset, SmoothHinge
from scripts.steps.rbf import rbf_features, squared_distances
from tests.oracles import removal

GAMMA = 0.3


def dense_distances(images, others):
    """In whole numbers of 64 bits."""
    a, b = (x.reshape(len(x), -1).astype(np.int64) for x in (images, others))
    return np.square(a[:, np.newaxis] - b).sum(axis=2)


@pytest.mark.parametrize("shape", [(3,), (32, 32, 1), (41, 40, 3)])
def test_distances_are_exact(shape):
    random = np.random.default_rng(0)
    images, others = (random.integers(0, 256, (k, *shape), np.uint8) for k in (5, 4))
    # The largest products that there can be, and the largest distance.
    images[0], images[1], others[0] = 0, 255, 0
    found = squared_distances(images, others)
    np.testing.assert_array_equal(found, dense_distances(images, others))
    np.testing.assert_array_equal(squared_distances(others, images), found.T)
    itself = squared_distances(images, images)
    np.testing.assert_array_equal(itself, dense_distances(images, images))
    assert found[0, 0] == 0


@pytest.mark.parametrize(
    ("images", "others", "message"),
    [
        (np.zeros((2, 4)), np.zeros((2, 4), np.uint8), "eight-bit .* not float64 and uint8"),
        (np.zeros((2, 4), np.uint8), np.zeros((2, 5), np.uint8), r"not \(4,\) and \(5,\)"),
    ],
)
def test_images_that_do_not_fit(images, others, message):
    with pytest.raises(ValueError, match=message):
        squared_distances(images, others)


@pytest.fixture
def points():
    """40 training and 7 test points in the plane, labels ±1, and their distances."""
    random = np.random.default_rng(0)
    x = random.standard_normal((47, 2))
    labels = np.where(x[:, 0] * x[:, 1] + 0.3 * random.standard_normal(47) > 0, 1, -1)
    squared = np.square(x[:, np.newaxis] - x).sum(axis=2)
    return labels[:40], labels[40:], squared


def test_features_have_the_kernel_as_inner_products(points):
    _, _, squared = points
    train, test = rbf_features(squared[:40, :40], squared[40:, :40], GAMMA)
    kernel = np.exp(-GAMMA * squared)
    assert test.shape == (7, 40)
    np.testing.assert_allclose(train @ train.T, kernel[:40, :40], rtol=1e-12)
    np.testing.assert_allclose(test @ train.T, kernel[40:, :40], rtol=1e-10)


def test_predictions_and_influences_are_those_of_the_stacked_kernel(points):
    labels, y_test, squared = points
    # As the paper has it: all points, and as many features. This small kernel needs the jitter.
    kernel = np.exp(-GAMMA * squared) + 1e-9 * np.eye(47)
    stacked = np.linalg.cholesky(kernel)
    large = SmoothHinge(Dataset(stacked[:40], labels), 0.01, 0.1, dtype="float64").fit()
    train, test = rbf_features(squared[:40, :40], squared[40:, :40], GAMMA)
    ours = SmoothHinge(Dataset(train, labels), 0.01, 0.1, dtype="float64").fit()
    np.testing.assert_allclose(ours.outputs(test), large.outputs(stacked[40:]), rtol=1e-5)
    np.testing.assert_allclose(
        ours.influence_on_loss(test, y_test),
        large.influence_on_loss(stacked[40:], y_test),
        rtol=1e-4,
        atol=1e-9,
    )


def test_influence_is_the_dense_truth_in_the_kernel(points):
    """By the representer theorem, with the kernel alone: H⁻¹ on the span of the features."""
    labels, y_test, squared = points
    train, test = rbf_features(squared[:40, :40], squared[40:, :40], GAMMA)
    decay, t = 0.01, 0.1
    model = SmoothHinge(Dataset(train, labels), decay, t, dtype="float64").fit()
    theta = model.parameters
    margins, test_margins = labels * (train @ theta), y_test * (test @ theta)
    slope, test_slope = (1 / (1 + np.exp((s - 1) / t)) for s in (margins, test_margins))
    hessian = (train.T * (slope * (1 - slope) / t)) @ train / 40 + decay * np.eye(40)
    s_test = np.linalg.solve(hessian, -test.T * (y_test * test_slope))
    expected = removal(-train * (labels * slope)[:, np.newaxis], s_test, theta, decay, 40)
    found = model.influence_on_loss(test, y_test)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10)


def test_equal_points_are_an_error():
    with pytest.raises(ValueError, match="not positive definite: two training points are equal"):
        rbf_features(np.zeros((2, 2)), np.zeros((1, 2)), GAMMA)
