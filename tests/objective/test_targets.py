"""Targets: their gradients against finite differences, their influences against refits."""

from functools import partial

import keras
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from influence import KerasModel, from_sklearn
from influence.targets import Coefficient, Logit, Loss, Margin, Metric, Probability
from tests.oracles import central_difference


def models(problem):
    """(model, test labels as it is given them), one of each kind."""
    names = np.array(["a", "b", "c"])
    many = LogisticRegression(tol=1e-10).fit(problem.x, names[problem.labels])
    return {
        "softmax": (problem.softmax_model().fit(), problem.y_test),
        "binary": (problem.binary_model().fit(), (problem.y_test == 0).astype(int)),
        "sklearn": (from_sklearn(many, problem.x, names[problem.labels]), names[problem.y_test]),
    }


@pytest.mark.parametrize("kind", ["softmax", "binary", "sklearn"])
@pytest.mark.parametrize("reduction", [None, "mean"])
def test_gradients_are_those_of_finite_differences(problem, kind, reduction):
    model, y = models(problem)[kind]
    x, class_ = problem.x_test, y[0]
    feature = {"sklearn": ("b", 2)}.get(kind, 2)
    for target in (
        Loss(x, y, reduction),
        Logit(x, class_, reduction),
        Probability(x, class_, reduction),
        Margin(x, y, reduction),
        Coefficient(feature),
    ):
        truth = central_difference(partial(target.values, model), model.parameters)
        np.testing.assert_allclose(target.gradient(model), truth.T, atol=1e-7)


@pytest.mark.parametrize("kind", ["softmax", "binary", "sklearn"])
def test_newton_is_nearer_to_the_refits_than_first_order(problem, kind):
    model, y = models(problem)[kind]
    for target in (Probability(problem.x_test, y[0]), Margin(problem.x_test, y)):
        chosen = np.arange(0, 120, 8)
        first, newton, refit = (
            model.influence_on(target, order, train_indices=chosen)
            for order in ("first", "newton", "refit")
        )
        assert first.shape == newton.shape == (7, 15)
        assert np.corrcoef(newton.ravel(), refit.ravel())[0, 1] > 0.995
        assert np.abs(newton - refit).sum() < np.abs(first - refit).sum()


def test_values_are_those_of_the_estimator(problem):
    model, y = models(problem)["sklearn"]
    theta, estimator = model.parameters, model.estimator
    for column, name in enumerate("abc"):
        expected = estimator.predict_proba(problem.x_test)[:, column]
        np.testing.assert_allclose(Probability(problem.x_test, name).values(model, theta), expected)
        got = Coefficient((name, 1)).values(model, theta)
        np.testing.assert_allclose(got, estimator.coef_[column, 1])
    right = Margin(problem.x_test, y).values(model, theta) > 0
    np.testing.assert_array_equal(right, estimator.predict(problem.x_test) == y)


def test_a_coefficient_of_ridge(problem):
    y = problem.x @ np.arange(5.0) + np.random.default_rng(0).standard_normal(120)
    model = from_sklearn(Ridge(alpha=2.0).fit(problem.x, y), problem.x, y)
    for index in (3, "intercept"):
        newton, refit = (model.influence_on(Coefficient(index), how) for how in ("newton", "refit"))
        np.testing.assert_allclose(newton, refit, atol=1e-9)


def test_a_coefficient_by_its_name_in_a_data_frame():
    frame, y = load_diabetes(return_X_y=True, as_frame=True)
    model = from_sklearn(Ridge(alpha=0.1).fit(frame, y), frame, y)
    refitted = model.refit(0).refit(1)
    for each in (model, refitted):
        theta = each.parameters
        assert Coefficient("bmi").values(each, theta) == Coefficient(2).values(each, theta)
    with pytest.raises(ValueError, match="Ridge knows no feature 'size': only"):
        model.influence_on(Coefficient("size"))


@pytest.mark.slow
def test_changes_of_the_area_under_the_curve_on_breast_cancer():
    # R at C = 1 over three halves: .89, .998, .997; the first has 12 values, of which most are 0.
    x, y = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.5, random_state=2, stratify=y)
    estimator = LogisticRegression(C=1.0, tol=1e-10, solver="newton-cholesky").fit(x, y)
    model = from_sklearn(estimator, x, y)
    area = Metric(lambda labels, outputs: roc_auc_score(labels, outputs[:, 0]), x_test, y_test)
    newton, refit = model.influence_on(area, "newton"), model.influence_on(area, "refit")
    assert np.count_nonzero(refit) > 100
    assert np.corrcoef(newton, refit)[0, 1] > 0.99


def test_probabilities_of_a_keras_model(problem):
    dense = keras.layers.Dense(3, "softmax", kernel_regularizer=keras.regularizers.L2(0.02))
    network = keras.Sequential([keras.Input((5,)), dense])
    network.compile(loss="sparse_categorical_crossentropy")
    model = KerasModel(network, (problem.x, problem.labels)).fit()
    target = Probability(problem.x_test, 2)
    theta = model.parameters
    expected = model.predict(problem.x_test)[:, 2]
    np.testing.assert_allclose(target.values(model, theta), expected, rtol=1e-5)
    truth = central_difference(partial(target.values, model), theta.astype(float), step=1e-2)
    np.testing.assert_allclose(target.gradient(model), truth.T, atol=1e-3)


@pytest.mark.parametrize("units", [1, 3])
def test_probabilities_of_a_cross_entropy_that_takes_logits(problem, units):
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(units)])
    labels = problem.labels if units == 3 else (problem.labels[:, np.newaxis] == 0).astype(float)
    name = "SparseCategoricalCrossentropy" if units == 3 else "BinaryCrossentropy"
    loss = getattr(keras.losses, name)(from_logits=True)
    model = KerasModel(network, (problem.x, labels), loss, damping=0.1)
    z = model.outputs(problem.x_test).astype(float)
    z = np.column_stack([np.zeros(len(z)), z]) if units == 1 else z
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    for class_ in range(max(2, units)):
        found = Probability(problem.x_test, class_).values(model, model.parameters)
        np.testing.assert_allclose(found, expected[:, class_], rtol=1e-5)


def test_a_keras_regression_has_no_classes(problem):
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    model = KerasModel(network, (problem.x, problem.x[:, :1]), "mse", damping=0.1)
    predictions = Logit(problem.x_test).values(model, model.parameters)
    np.testing.assert_allclose(predictions, model.outputs(problem.x_test)[:, 0], rtol=1e-6)
    for target in (Logit(problem.x_test, 0), Margin(problem.x_test, np.ones(7, int))):
        with pytest.raises(ValueError, match="no classes: leave class_ out, and take Logit"):
            target.values(model, model.parameters)


def test_refusals(problem):
    model, y = models(problem)["sklearn"]
    with pytest.raises(ValueError, match="no class 'd': only"):
        model.influence_on(Logit(problem.x_test, "d"))
    with pytest.raises(ValueError, match="3 outputs: say which"):
        model.influence_on(Logit(problem.x_test))
    with pytest.raises(ValueError, match="index must be .class, feature."):
        model.influence_on(Coefficient(2))
    with pytest.raises(ValueError, match="order must be"):
        model.influence_on(Loss(problem.x_test, y), "second")
    with pytest.raises(ValueError, match="one finite number"):
        model.influence_on(Metric(lambda labels, outputs: outputs, problem.x_test, y), "newton")
    with pytest.raises(ValueError, match="no gradient"):
        Metric(lambda labels, outputs: 0.0, problem.x_test, y).gradient(model)
