"""Leaving points out: against full refits, and against the prediction in value, scale and sign."""

import numpy as np
import pytest

from influence import Dataset, LogisticRegression, leave_one_out
from influence.objective.minimum import ConvergenceWarning
from tests.conftest import Problem
from tests.oracles import SoftmaxRegression


def small(n=400, seed=0, weight_decay=0.1):
    problem = Problem(n=n, seed=seed)
    return problem, problem.softmax_model(weight_decay=weight_decay).fit()


def slope(predicted, actual):
    """Predicted over actual, by least squares."""
    return np.polyfit(actual.ravel(), predicted.ravel(), 1)[0]


def test_it_is_the_oracles_refit():
    problem = Problem(n=60)
    model = problem.softmax_model().fit()
    oracle = SoftmaxRegression(problem.x, problem.labels, 0.05, 3)
    before = oracle.losses(oracle.fit(), problem.x_test, problem.y_test)
    result = leave_one_out(
        model, [4, 0, 59], problem.x_test, problem.y_test, gradient_tolerance=1e-11
    )
    for row, index in enumerate([4, 0, 59]):
        theta = oracle.without(index).fit()
        truth = oracle.losses(theta, problem.x_test, problem.y_test) - before
        np.testing.assert_allclose(result.changes[row], truth, atol=1e-9)


def test_gradient_norms_are_those_of_the_objective_on_the_others():
    problem, model = small()
    thetas = np.stack([model.parameters, 0.5 * model.parameters], axis=1)
    gradients = model.gradients_without(thetas, np.array([3, 7]))
    for column, index in enumerate([3, 7]):
        oracle = SoftmaxRegression(problem.x, problem.labels, 0.1, 3).without(index)
        np.testing.assert_allclose(
            gradients[:, column], oracle.gradient(thetas[:, column]), atol=1e-13
        )


@pytest.mark.parametrize("kind", ["softmax_model", "binary_model"])
def test_prediction_matches_in_correlation_and_slope(kind):
    problem = Problem(n=2000)
    model = getattr(problem, kind)(weight_decay=0.1).fit()
    y_test = (problem.y_test == 0).astype(int) if kind == "binary_model" else problem.y_test
    predicted = model.influence_on_loss(problem.x_test, y_test)
    chosen = np.argsort(-np.abs(predicted).max(axis=0))[:60]
    result = leave_one_out(model, chosen, problem.x_test, y_test)
    assert result.gradient_norms.max() <= 1e-8
    assert np.corrcoef(predicted[:, chosen].ravel(), result.changes.T.ravel())[0, 1] >= 0.999
    assert slope(predicted[:, chosen], result.changes.T) == pytest.approx(1, abs=0.02)


def test_removing_a_helpful_point_raises_the_loss():
    problem, model = small()
    predicted = model.influence_on_loss(problem.x_test, problem.y_test, reduction="mean")
    helpful, harmful = predicted.argmax(), predicted.argmin()
    result = leave_one_out(model, [helpful, harmful], problem.x_test, problem.y_test)
    changes = result.changes.mean(axis=1)
    assert changes[0] > 0 > changes[1]


@pytest.mark.slow
def test_the_error_decays_like_one_over_n_squared():
    sizes, errors = np.array([100, 200, 400, 800, 1600]), []
    for n in sizes:
        problem, model = small(n=n)
        predicted = model.influence_on_loss(problem.x_test, problem.y_test)[:, :100]
        result = leave_one_out(
            model, range(100), problem.x_test, problem.y_test, gradient_tolerance=1e-12
        )
        errors.append(np.abs(predicted - result.changes.T).mean())
    power = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert power == pytest.approx(-2, abs=0.3)


def test_blocks_order_and_dtype_do_not_matter():
    problem, model = small()
    points = problem.x_test, problem.y_test
    whole = leave_one_out(model, range(20), *points)
    pieces = leave_one_out(model, range(19, -1, -1), *points, block_size=3)
    np.testing.assert_allclose(pieces.changes[::-1], whole.changes, atol=1e-8)
    single = problem.softmax_model(weight_decay=0.1, dtype="float32").fit()
    single = leave_one_out(single, range(20), *points)
    assert single.gradient_norms.max() <= 1e-8
    np.testing.assert_allclose(single.changes, whole.changes, atol=1e-6)


def test_a_point_with_all_the_leverage_is_refitted_alone():
    # Only point 0 has the last feature, so its weight is held by that point and the regulariser:
    # four fifths of the curvature there leave with it.
    random = np.random.default_rng(0)
    x = random.standard_normal((30, 3))
    x[:, 2] = 10.0 * (np.arange(30) == 0)
    labels = random.integers(0, 2, 30)
    model = LogisticRegression(Dataset(x, labels), 3e-3, dtype="float64").fit()
    x_test, y_test = random.standard_normal((4, 3)), random.integers(0, 2, 4)
    result = leave_one_out(model, [0, 1], x_test, y_test)
    assert result.steps[0] == 0 < result.steps[1]
    assert result.gradient_norms.max() <= 1e-8
    oracle = SoftmaxRegression(x, labels, 3e-3, 2)
    truth = oracle.losses(oracle.without(0).fit(), x_test, y_test)
    actual = model.losses(x_test, y_test) + result.changes[0]
    np.testing.assert_allclose(actual, truth, atol=1e-6)


def test_a_tolerance_that_cannot_be_met_is_said():
    problem, model = small(n=60)
    with pytest.warns(ConvergenceWarning, match="2 of 2 refits stopped above"):
        leave_one_out(model, [0, 1], problem.x_test, problem.y_test, gradient_tolerance=1e-30)


def test_it_resumes_where_it_was_killed(tmp_path, monkeypatch):
    problem, model = small()
    points, file = (problem.x_test, problem.y_test), tmp_path / "points.npz"
    undisturbed = leave_one_out(model, range(12), *points, block_size=4)
    refits, original = [], type(model).losses_at

    def killed(self, thetas, *arguments):
        refits.append(thetas.shape[1])
        if len(refits) == 4:  # before the third block is saved
            raise KeyboardInterrupt
        return original(self, thetas, *arguments)

    monkeypatch.setattr(type(model), "losses_at", killed)
    with pytest.raises(KeyboardInterrupt):
        leave_one_out(model, range(12), *points, block_size=4, checkpoint=file)
    refits.clear()
    resumed = leave_one_out(model, range(12), *points, block_size=4, checkpoint=file)
    assert sorted(refits) == [1, 4]  # the loss before, and only the last block
    np.testing.assert_array_equal(resumed.changes, undisturbed.changes)
    assert [path.name for path in tmp_path.iterdir()] == ["points.npz"]


def test_a_checkpoint_of_something_else_is_not_taken(tmp_path):
    problem, model = small()
    points, file = (problem.x_test, problem.y_test), tmp_path / "points.npz"
    leave_one_out(model, [1, 2], *points, checkpoint=file)
    other = small(weight_decay=0.2)[1]
    expected = leave_one_out(other, [1, 2], *points)
    actual = leave_one_out(other, [1, 2], *points, checkpoint=file)
    np.testing.assert_array_equal(actual.changes, expected.changes)


def test_a_damaged_checkpoint_is_said_and_replaced(tmp_path):
    problem, model = small()
    points, file = (problem.x_test, problem.y_test), tmp_path / "points.npz"
    file.write_bytes(b"PK\x03\x04 half a file")
    with pytest.warns(UserWarning, match="not a readable checkpoint"):
        leave_one_out(model, [1, 2], *points, checkpoint=file)
    with np.load(file) as saved:
        assert saved["numbers"].tolist() == [0]


def test_the_generic_refit_is_the_same():
    problem, model = small(n=80)
    result = leave_one_out(model, [5], problem.x_test, problem.y_test)
    refitted = model.refit(5).losses(problem.x_test, problem.y_test)
    change = refitted - model.losses(problem.x_test, problem.y_test)
    np.testing.assert_allclose(result.changes[0], change, atol=1e-7)
