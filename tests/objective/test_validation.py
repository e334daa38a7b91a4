"""Predicted against actual: in value, scale, sign and order, and what the door refuses."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from influence import Dataset, KerasModel, SmoothHinge, SolverError, from_sklearn, leave_one_out
from influence.objective.minimum import ConvergenceWarning
from tests.conftest import Problem
from tests.keras_models.test_model import softmax_keras
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
    with pytest.warns(UserWarning, match="pearson_r is nan, because all 3 actual changes of the"):
        result = model.validate(problem.x_test, problem.y_test, points=3)
    np.testing.assert_array_equal(result.actual, 0)
    assert np.isnan([result.pearson_r, result.slope]).all()


MODELS = {
    "logistic": lambda problem: problem.softmax_model().fit(),
    "keras": lambda problem: KerasModel(softmax_keras(), problem.train).fit(),
    "sklearn": lambda problem: from_sklearn(
        SklearnLogisticRegression(C=0.1, tol=1e-10, solver="newton-cholesky").fit(
            problem.x, problem.labels
        ),
        problem.x,
        problem.labels,
    ),
}


@pytest.fixture(params=MODELS)
def fitted(request, problem):
    """A model of each family, and test points."""
    return MODELS[request.param](problem), problem.x_test, problem.y_test


def refitted_without(monkeypatch, model, instead):
    """``refit``, but what ``instead`` does or gives for an index that it has; and the calls."""
    calls, refit = [], model.refit

    def counted(index):
        calls.append(index)
        return instead[index]() if index in instead else refit(index)

    monkeypatch.setattr(model, "refit", counted)
    return calls


def fails(error):
    def refit():
        raise error

    return refit


@pytest.mark.parametrize("error", [ValueError("No class 2."), SolverError("No class 2.")])
def test_a_refit_that_cannot_be_done_is_skipped_and_said(fitted, monkeypatch, error):
    model, *points = fitted
    expected = model.validate(*points, points=8)
    first, third = expected.indices[[0, 2]].tolist()
    refitted_without(monkeypatch, model, {first: fails(error), third: fails(error)})
    message = rf"without training point {first}, {third} \(No class 2\); the next most influential"
    with pytest.warns(UserWarning, match=message) as caught:
        result = model.validate(*points, points=6)
    assert len(caught) == 1
    assert result.skipped == {first: "No class 2.", third: "No class 2."}
    assert f"skipped=[{min(first, third)}, {max(first, third)}]" in repr(result)
    kept = [1, 3, 4, 5, 6, 7]
    for name in ("indices", "predicted", "actual", "gradient_norms"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name)[kept])
    assert result.pearson_r == pytest.approx(np.corrcoef(result.predicted, result.actual)[0, 1])
    assert expected.skipped == {}
    assert "skipped" not in repr(expected)


def test_the_only_point_of_a_class_cannot_be_left_out():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 2)), np.r_[np.zeros(20), np.ones(19), 2]
    model = from_sklearn(SklearnLogisticRegression(tol=1e-9).fit(x, y), x, y)
    with pytest.warns(UserWarning, match=r"without training point 39 \(.*\); 39 of 40 refits are"):
        result = model.validate(random.normal(size=(5, 2)), y[15:20], points=40)
    assert list(result.skipped) == [39]
    assert sorted(result.indices) == list(range(39))
    assert result.pearson_r > 0.9


def test_a_loss_that_is_not_finite_is_no_refit(fitted, monkeypatch):
    model, *points = fitted
    first = int(model.validate(*points, points=2).indices[0])

    class Burst:
        def losses(self, x, labels):
            return np.full(len(x), np.nan)

    refitted_without(monkeypatch, model, {first: Burst})
    with pytest.warns(UserWarning, match=r"\(The test loss after the refit is not finite\)"):
        result = model.validate(*points, points=3)
    assert first not in result.indices
    assert np.isfinite([result.pearson_r, result.slope, *result.actual]).all()


def test_with_less_than_two_refits_there_is_nothing_to_compare(fitted, monkeypatch):
    model, *points = fitted
    indices = model.validate(*points, points=8).indices.tolist()
    failing = {index: fails(ValueError("Not this one.")) for index in indices[:7]}
    calls = refitted_without(monkeypatch, model, failing)
    with pytest.raises(ValueError, match=r"nothing to compare: .*\(Not this one\)"):
        model.validate(*points, points=4)
    assert calls == indices[:8]
    with pytest.warns(UserWarning, match="without training point .*; 3 of 5 refits are compared"):
        assert len(model.validate(*points, points=5).indices) == 3


def same(one, other):
    for name in ("indices", "predicted", "actual", "gradient_norms"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.pearson_r, one.slope, one.skipped) == (other.pearson_r, other.slope, other.skipped)


@pytest.mark.filterwarnings("ignore:validate skips")
def test_it_goes_on_where_it_was_killed(fitted, monkeypatch, tmp_path):
    model, *points = fitted
    file = tmp_path / "validation.npz"
    indices = model.validate(*points, points=7).indices.tolist()
    failing = {indices[1]: fails(ValueError("Not this one."))}
    with monkeypatch.context() as patch:
        refitted_without(patch, model, failing)
        undisturbed = model.validate(*points, points=5)
    with monkeypatch.context() as patch:
        refitted_without(patch, model, {**failing, indices[4]: fails(KeyboardInterrupt)})
        with pytest.raises(KeyboardInterrupt):
            model.validate(*points, points=5, checkpoint=file)
    calls = refitted_without(monkeypatch, model, failing)
    same(model.validate(*points, points=5, checkpoint=file), undisturbed)
    assert calls == indices[4:6]
    # Neither fewer points nor all of them again take a refit; one more takes one.
    same(model.validate(*points, points=5, checkpoint=file), undisturbed)
    assert len(model.validate(*points, points=3, checkpoint=file).indices) == 3
    model.validate(*points, points=6, checkpoint=file)
    assert calls == indices[4:7]
    assert [path.name for path in tmp_path.iterdir()] == ["validation.npz"]


def test_a_checkpoint_of_something_else_is_not_taken(problem, monkeypatch, tmp_path):
    file, points = tmp_path / "validation.npz", (problem.x_test, problem.y_test)
    model = problem.softmax_model().fit()
    model.validate(*points, points=4, checkpoint=file)
    others = [
        (model, (problem.x_test[1:], problem.y_test[1:]), {}),
        (model, points, {"curvature": model.hessian() + 1.0}),
        (model.with_parameters(model.parameters * 1.01), points, {}),
        (problem.softmax_model(weight_decay=0.1).fit(), points, {}),
        (problem.softmax_model()._clone(problem.train.without(7)).fit(), points, {}),
    ]
    for other, tests, settings in others:
        calls = refitted_without(monkeypatch, other, {})
        same(
            other.validate(*tests, points=4, checkpoint=file, **settings),
            other.validate(*tests, points=4, **settings),
        )
        assert len(calls) == 8


def test_a_damaged_checkpoint_is_said_and_replaced(problem, tmp_path):
    model, points = problem.softmax_model().fit(), (problem.x_test, problem.y_test)
    file = tmp_path / "validation.npz"
    file.write_bytes(b"PK half a file")
    with pytest.warns(UserWarning, match="not a readable checkpoint"):
        result = model.validate(*points, points=3, checkpoint=file)
    same(model.validate(*points, points=3, checkpoint=file), result)


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
