"""The losses of scikit-learn's estimators: derivatives, and scikit-learn's own values."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import mean_gamma_deviance, mean_poisson_deviance, mean_tweedie_deviance

from influence.linear.weighted import Weighted, pack
from influence.models.logistic_regression import Logistic
from influence.models.smooth_hinge import SmoothHingeLoss, SquaredHingeLoss
from influence.sklearn_models.glm_losses import HalfDeviance
from influence.sklearn_models.losses import ModifiedHuber, SquaredError
from influence.sklearn_models.robust_losses import (
    ConcomitantHuber,
    Huber,
    SmoothEpsilonInsensitive,
    SquaredEpsilonInsensitive,
)
from influence.sklearn_models.separate_losses import OneVsRest, SeveralTargets

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=40)
COUNTS = RNG.poisson(1.5, size=40).astype(float)
SIGNS = RNG.choice([-1, 1], size=40)
CLASSES = RNG.integers(0, 3, size=40)
Z = RNG.normal(size=(40, 1)) * 1.5
WIDE = RNG.normal(size=(40, 3))
POSITIVE = np.exp(Z)
SCALED = np.column_stack([RNG.normal(size=40), RNG.uniform(0.3, 2, size=40)])

LOSSES = {
    "squared error": (SquaredError(), Z, REAL),
    "normal, log link": (HalfDeviance(0.0, True), Z, REAL),
    "normal": (HalfDeviance(0.0, False), Z, REAL),
    "negative power": (HalfDeviance(-1.5, False), POSITIVE, REAL),
    "poisson": (HalfDeviance(1.0, True), Z, COUNTS),
    "poisson, identity link": (HalfDeviance(1.0, False), POSITIVE, COUNTS),
    "compound poisson": (HalfDeviance(1.5, True), Z, COUNTS),
    "compound poisson, identity link": (HalfDeviance(1.5, False), POSITIVE, COUNTS),
    "gamma": (HalfDeviance(2.0, True), Z, COUNTS + 0.3),
    "gamma, identity link": (HalfDeviance(2.0, False), POSITIVE, COUNTS + 0.3),
    "inverse gaussian": (HalfDeviance(3.0, True), Z, COUNTS + 0.3),
    "huber": (Huber(0.8), Z, REAL),
    "tube": (SmoothEpsilonInsensitive(0.3, 0.5), Z, REAL),
    "squared tube": (SquaredEpsilonInsensitive(0.5), Z, REAL),
    "no tube": (SquaredEpsilonInsensitive(0.0), Z, REAL),
    "concomitant huber": (ConcomitantHuber(1.2), SCALED, REAL),
    "modified huber": (ModifiedHuber(), Z, SIGNS),
    "one against the rest": (OneVsRest(Logistic(), (0, 1), (1.0, 2.0, 0.5)), WIDE, CLASSES),
    "hinges against the rest": (
        OneVsRest(SmoothHingeLoss(0.2), (-1, 1), (1.0, 1.0, 1.0)), WIDE, CLASSES,
    ),
    "squared hinges": (OneVsRest(SquaredHingeLoss(), (-1, 1), (3.0, 1.0, 1.0)), WIDE, CLASSES),
    "several targets": (SeveralTargets(HalfDeviance(0.0, False), 3), WIDE, WIDE[::-1]),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives(name, weighted):
    loss, z, labels = LOSSES[name]
    labels, z = tf.cast(labels, loss.labels_spec.dtype), tf.constant(z)
    if weighted:
        labels = pack(labels.numpy(), RNG.uniform(0, 2, size=40))
        loss = Weighted(loss)
    with tf.GradientTape() as outer:
        outer.watch(z)
        with tf.GradientTape() as inner:
            inner.watch(z)
            losses = loss.losses(z, labels)
        slopes = inner.gradient(losses, z)
    jacobian = outer.batch_jacobian(slopes, z)
    np.testing.assert_allclose(loss.slopes(z, labels), slopes, atol=1e-10)
    curvature = loss.curvature(z, labels)
    np.testing.assert_allclose(loss.curvature_matrix(curvature), jacobian, atol=1e-10)
    block = tf.constant(RNG.normal(size=(40, z.shape[1], 2)))
    product = loss.curvature_product(curvature, block)
    np.testing.assert_allclose(product, jacobian @ block, atol=1e-10)
    if loss.convex:
        assert np.linalg.eigvalsh(jacobian).min() > -1e-12
    else:
        assert name in ("normal, log link", "negative power", "compound poisson, identity link",
                        "gamma, identity link", "inverse gaussian")  # fmt: skip


def deviance(power):
    named = {1.0: mean_poisson_deviance, 2.0: mean_gamma_deviance}
    return named.get(power, lambda y, mean: mean_tweedie_deviance(y, mean, power=power))


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if isinstance(LOSSES[name][0], HalfDeviance)]
)
def test_half_deviances_are_half_of_scikit_learns(name):
    loss, z, labels = LOSSES[name]
    mean = loss.prediction(z[:, 0])
    truth = [deviance(loss.power)([y], [m]) / 2 for y, m in zip(labels, mean)]
    labels = tf.constant(labels)
    np.testing.assert_allclose(loss.losses(tf.constant(z), labels), truth, rtol=1e-9, atol=1e-12)
    # E ℓ'² = E ℓ'' of the family itself: V(μ) = μ^p.
    variance = mean**loss.power
    slope = mean / variance if loss.log_link else 1 / variance
    np.testing.assert_allclose(loss.information(tf.constant(z))[:, 0], slope**2 * variance)


def test_at_the_edge():
    loss = HalfDeviance(1.0, log_link=False)
    assert loss.losses(tf.constant([[-1.0], [0.0]]), tf.constant([1.0, 1.0])).numpy().tolist() == [
        np.inf,
        np.inf,
    ]
    HalfDeviance(1.5, True).check_labels(np.array([0.0]), "y")
    for power, label, limit in [(1.0, -1.0, "at least 0"), (2.0, 0.0, "above 0")]:
        with pytest.raises(ValueError, match=f"y must be {limit} .* {label} at position 1 is not"):
            HalfDeviance(power, True).check_labels(np.array([1.0, label]), "y")
    # A scale of 0, as at θ = 0.
    at_zero = ConcomitantHuber(1.2).losses(tf.zeros([2, 2], tf.float64), tf.constant([1.0, -2.0]))
    np.testing.assert_allclose(at_zero, [2.4, 4.8])


def test_one_against_the_rest_is_each_class_by_itself():
    loss, z, labels = LOSSES["one against the rest"]
    truth = 0.0
    for k, weight in enumerate(loss.positives):
        own = labels == k
        cross_entropy = np.logaddexp(0, np.where(own, -1, 1) * z[:, k])
        truth = truth + np.where(own, weight, 1.0) * cross_entropy
    np.testing.assert_allclose(loss.losses(tf.constant(z), tf.constant(labels)), truth)
