"""Weighted points: the objective of ``keras.Model.fit``, scores and refits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression as Estimator

from influence import KerasModel, from_sklearn
from tests.conftest import Problem
from tests.keras_models.test_model import ANSWERS, L2, layer, sequential, softmax_keras

WEIGHTS = np.random.default_rng(5).uniform(0, 3, 120)
CLASSES = {0: 5.0, 2: 0.5}


def problem():
    found = Problem()
    return found, found.x, found.labels


def keras_objective(network, x, y, weights=None):
    """What ``fit`` minimises with a batch of all points; Keras computes losses in float32."""
    loss = network._compile_loss(y, network(x), weights)
    return float(loss) + sum(float(penalty) for penalty in network.losses)


def repeated(x, y, times):
    return np.repeat(x, times, axis=0), np.repeat(y, times, axis=0)


@pytest.mark.slow
def test_a_weight_of_two_is_a_point_that_is_there_twice():
    # (1/n) Σ w L with w ∈ {1, 2}: all scales as if n were Σ w, but for λ.
    _, x, y = problem()
    times = 1 + (np.arange(len(y)) % 3 == 0)
    share = times.sum() / len(y)
    weighted = KerasModel(softmax_keras(0.1), (x, y), sample_weight=times).fit()
    twice = KerasModel(softmax_keras(0.1 / share), repeated(x, y, times)).fit()
    np.testing.assert_allclose(weighted.parameters, twice.parameters, atol=1e-7)
    np.testing.assert_allclose(weighted.objective(), share * twice.objective(), rtol=1e-7)
    np.testing.assert_allclose(
        weighted.hessian().dense(), share * twice.hessian().dense(), atol=1e-8
    )


def test_it_is_the_objective_that_keras_minimises():
    found, x, y = problem()
    network = softmax_keras(0.1)
    model = KerasModel(network, (x, y, WEIGHTS))
    np.testing.assert_allclose(
        model.objective(), keras_objective(network, x, y, WEIGHTS), rtol=1e-5
    )
    # Test points weigh 1.
    alone = KerasModel(network, (x, y))
    np.testing.assert_allclose(
        model.losses(found.x_test, found.y_test), alone.losses(found.x_test, found.y_test)
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample", "class", "class of one-hot"])
def test_scores_are_those_of_the_weighted_estimator(kind):
    """scikit-learn's C Σ w ℓ + ½‖W‖² with C = 1/(λ n), whose scores lack the term of λ."""
    found, x, y = problem()
    estimator = Estimator(C=1 / (0.1 * len(y)), fit_intercept=False, tol=1e-10, max_iter=10_000)
    if kind == "sample":
        estimator.fit(x, y, WEIGHTS)
        theirs = from_sklearn(estimator, x, y, WEIGHTS)
        ours = KerasModel(softmax_keras(0.1), (x, y), sample_weight=WEIGHTS)
        w, labels = WEIGHTS, y
    else:
        estimator.set_params(class_weight=CLASSES).fit(x, y)
        theirs = from_sklearn(estimator, x, y)
        one_hot = kind != "class"
        labels = np.eye(3)[y] if one_hot else y
        loss = {"loss": "categorical_crossentropy"} if one_hot else {}
        ours = KerasModel(softmax_keras(0.1, **loss), (x, labels), class_weight=CLASSES)
        w = np.select([y == 0, y == 2], [5.0, 0.5], 1.0)
    ours.fit()
    np.testing.assert_allclose(ours.parameters, estimator.coef_.T.ravel(), atol=1e-5)
    test = found.x_test, found.y_test
    test_labels = np.eye(3)[found.y_test] if labels.ndim == 2 else found.y_test
    mine = ours.influence_on_loss(found.x_test, test_labels)
    removed = (
        ours.regularization_gradient()
        @ ours.inverse_hvp(ours.test_gradient(found.x_test, test_labels)).x
    )
    np.testing.assert_allclose(
        mine - removed[:, np.newaxis] / len(y), theirs.influence_on_loss(*test), atol=1e-6
    )
    refitted = ours.refit(7)
    left = np.delete(np.arange(len(y)), 7)
    other = KerasModel(ours._network.model, (x[left], labels[left]), sample_weight=w[left]).fit()
    np.testing.assert_allclose(refitted.parameters, other.parameters, atol=1e-6)


@pytest.mark.slow
def test_scores_against_refits():
    found, x, y = problem()
    model = KerasModel(softmax_keras(0.1), (x, y, WEIGHTS)).fit()
    validation = model.validate(found.x_test, found.y_test, points=15)
    assert validation.pearson_r > 0.995
    assert validation.slope == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample", "class"])
def test_a_stream_is_the_same(kind):
    found, x, y = problem()
    if kind == "sample":
        arrays = KerasModel(softmax_keras(), (x, y, WEIGHTS)).fit()
        slices = tf.data.Dataset.from_tensor_slices((x, y, WEIGHTS))
        stream = KerasModel(softmax_keras(), slices.batch(32)).fit()
    else:
        arrays = KerasModel(softmax_keras(), (x, y), class_weight=CLASSES).fit()
        slices = tf.data.Dataset.from_tensor_slices((x, y))
        stream = KerasModel(softmax_keras(), slices.batch(32), class_weight=CLASSES).fit()
    np.testing.assert_allclose(stream.parameters, arrays.parameters, atol=1e-7)
    for name, answer in ANSWERS.items():
        one, other = (answer(model, found.x_test, found.y_test) for model in (stream, arrays))
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_point_that_weighs_nothing_has_but_the_regularisers_share():
    found, x, y = problem()
    weights = WEIGHTS.copy()
    weights[3] = 0
    model = KerasModel(softmax_keras(0.1), (x, y, weights)).fit()
    scores = model.influence_on_loss(found.x_test, found.y_test)
    solved = model.inverse_hvp(model.test_gradient(found.x_test, found.y_test)).x
    share = solved.T @ model.regularization_gradient() / len(y)
    np.testing.assert_allclose(scores[:, 3], share, atol=1e-7)
    assert model.self_influence()[3] == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_a_weight_for_each_entry_of_a_point():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((30, 4, 3)), random.integers(0, 2, (30, 4))
    weights = random.uniform(0, 2, (30, 4))
    network = sequential((4, 3), layer("Dense", 2, kernel_regularizer=L2(0.1)))
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model = KerasModel(network, (x, y), sample_weight=weights)
    expected = keras_objective(network, x, y, weights)
    np.testing.assert_allclose(model.objective(), expected, rtol=1e-5)
    assert model.fit().losses(x, y).shape == (30,)
    assert model.validate(x[:5], y[:5], points=8).pearson_r > 0.99


@pytest.mark.slow
def test_a_sum_of_losses_keeps_its_regulariser():
    """Σ L + λ‖W‖² is scikit-learn's objective: a removal takes nothing but the point's loss."""
    found, x, y = problem()
    estimator = Estimator(C=0.5, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(x, y)
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="sum")
    ours = KerasModel(softmax_keras(2.0, loss=loss), (x, y)).fit()
    np.testing.assert_allclose(ours.parameters, estimator.coef_.T.ravel(), atol=1e-6)
    np.testing.assert_allclose(
        ours.influence_on_loss(found.x_test, found.y_test),
        from_sklearn(estimator, x, y).influence_on_loss(found.x_test, found.y_test),
        atol=1e-6,
    )
    refitted = Estimator(C=0.5, fit_intercept=False, tol=1e-10, max_iter=10_000)
    refitted.fit(np.delete(x, 3, axis=0), np.delete(y, 3))
    np.testing.assert_allclose(ours.refit(3).parameters, refitted.coef_.T.ravel(), atol=1e-6)
    # The refit has left the model's own share of the regulariser as it was.
    assert np.linalg.norm(ours.gradient()) < 1e-7


BAD = [
    ({"sample_weight": WEIGHTS[:5]}, "5 rows and there are 120 points"),
    ({"sample_weight": -WEIGHTS}, "at least 0, and not 0 everywhere"),
    ({"sample_weight": 0 * WEIGHTS}, "at least 0, and not 0 everywhere"),
    ({"sample_weight": WEIGHTS * np.nan}, "must be finite"),
    ({"sample_weight": np.ones((120, 4))}, "must be one number a point"),
    ({"class_weight": {0.5: 1.0}}, "class_weight must map classes"),
    ({"class_weight": {0: -1.0}}, "class_weight must map classes"),
    ({"class_weight": CLASSES, "sample_weight": WEIGHTS}, "not both"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_the_door(settings, message):
    _, x, y = problem()
    with pytest.raises(ValueError, match=message):
        KerasModel(softmax_keras(), (x, y), **settings)


def test_weights_that_depend_on_one_another_are_refused():
    _, x, y = problem()
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    KerasModel(softmax_keras(loss=loss), (x, y))
    with pytest.raises(ValueError, match="'sum_over_batch_size'"):
        KerasModel(softmax_keras(loss=loss), (x, y, WEIGHTS))
    with pytest.raises(ValueError, match="given twice"):
        KerasModel(softmax_keras(), (x, y, WEIGHTS), sample_weight=WEIGHTS)
