"""Predicted against actual: in value, scale, sign and order, and what the door refuses."""

import numpy as np
import pytest

from influence import Dataset, SmoothHinge, leave_one_out
from influence.objective.minimum import ConvergenceWarning
from tests.conftest import Problem
from tests.networks import make, photographs


def hinge(problem, temperature=0.1):
    signs = np.where(problem.labels == 0, 1, -1)
    return SmoothHinge(Dataset(problem.x, signs), 0.05, temperature, dtype="float64").fit()


@pytest.mark.parametrize("kind", ["softmax", "binary", "hinge"])
def test_linear_models_predict_their_refits(kind):
    problem = Problem(n=600)
    zero = problem.y_test == 0
    model, y_test = {
        "softmax": lambda: (problem.softmax_model().fit(), problem.y_test),
        "binary": lambda: (problem.binary_model().fit(), zero.astype(int)),
        "hinge": lambda: (hinge(problem), np.where(zero, 1, -1)),
    }[kind]()
    result = model.validate(problem.x_test, y_test, points=12)
    assert result.pearson_r >= 0.99
    assert result.slope == pytest.approx(1, abs=0.05)
    assert result.gradient_norms.max() < 1e-8
    assert result.gradient_norm < 1e-8
    truth = leave_one_out(model, result.indices, problem.x_test, y_test)
    # Both stop at a gradient of 1e-8, and the regulariser's curvature is 0.1 or less.
    np.testing.assert_allclose(result.actual, truth.changes.mean(axis=1), rtol=0, atol=1e-7)


def test_points_are_the_most_influential_in_order(problem):
    model = problem.softmax_model().fit()
    scores = model.influence_on_loss(problem.x_test, problem.y_test, reduction="mean")
    result = model.validate(problem.x_test, problem.y_test, points=5)
    np.testing.assert_array_equal(result.indices, np.argsort(-np.abs(scores))[:5])
    np.testing.assert_array_equal(result.predicted, scores[result.indices])
    assert repr(result).startswith(f"Validation(pearson_r={result.pearson_r:.4f}, slope=")
    assert "points=5" in repr(result)
    assert result.pearson_r == pytest.approx(np.corrcoef(result.predicted, result.actual)[0, 1])
    assert result.slope == pytest.approx(np.polyfit(result.actual, result.predicted, 1)[0])


def test_a_wrong_curvature_shows_in_the_slope(problem):
    # Twice the curvature, half the prediction: the slope halves, the order stays.
    model = problem.softmax_model().fit()
    right = model.validate(problem.x_test, problem.y_test, points=6)
    twice = model.hessian().materialize()
    twice._matrix *= 2
    wrong = model.validate(problem.x_test, problem.y_test, points=6, curvature=twice)
    assert wrong.slope == pytest.approx(right.slope / 2, rel=1e-6)
    assert wrong.pearson_r == pytest.approx(right.pearson_r, rel=1e-6)


def test_refits_that_change_nothing_have_no_slope(problem, monkeypatch):
    model = problem.softmax_model().fit()
    monkeypatch.setattr(model, "refit", lambda index: model)
    result = model.validate(problem.x_test, problem.y_test, points=3)
    np.testing.assert_array_equal(result.actual, 0)
    assert np.isnan([result.pearson_r, result.slope]).all()


def test_a_model_off_its_optimum_shows_in_its_gradient_and_as_a_shift(problem):
    model, points = problem.softmax_model().fit(), (problem.x_test, problem.y_test)
    moved = model.with_parameters(model.parameters * 1.05)
    with pytest.warns(ConvergenceWarning, match="not at a minimum"):
        off = moved.validate(*points, points=5)
    assert off.gradient_norm == pytest.approx(np.linalg.norm(moved.gradient()))
    assert off.gradient_norm > 1e-3
    # The refits end at the same parameters; only where they are compared with has moved.
    shift = (model.losses(*points) - moved.losses(*points)).mean()
    fitted = leave_one_out(model, off.indices, *points).changes.mean(axis=1)
    np.testing.assert_allclose(off.actual, fitted + shift, atol=1e-8)


def test_the_inception_model_validates_its_top():
    model = make().fit()
    x, labels = photographs(6, seed=1)
    result = model.validate(x, labels, points=4)
    top = model.top.validate(model.features(x), labels, points=4)
    np.testing.assert_array_equal(result.actual, top.actual)


def test_float32_agrees(problem):
    points = problem.x_test, problem.y_test
    double = problem.softmax_model().fit().validate(*points, points=6)
    single = problem.softmax_model(dtype="float32").fit().validate(*points, points=6)
    np.testing.assert_array_equal(single.indices, double.indices)
    np.testing.assert_allclose(single.actual, double.actual, atol=2e-6)


@pytest.mark.parametrize("points", [1, 0, 121])
def test_the_number_of_points_is_checked(problem, points):
    model = problem.softmax_model().fit()
    with pytest.raises(ValueError, match="between 2 and the 120 training points"):
        model.validate(problem.x_test, problem.y_test, points=points)


def test_equal_scores_have_no_correlation():
    x, labels = np.ones((6, 1)), np.array([0, 0, 1, 1, 1, 1])
    model = Problem().softmax_model()._clone(Dataset(x, labels)).fit()
    with pytest.raises(ValueError, match="nothing to correlate"):
        model.validate(x[:1], [1], points=2)
