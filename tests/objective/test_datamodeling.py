"""Datamodeling scores: near 1 where the answer is known, near 0 of noise, and what is refused."""

import numpy as np
import pytest
import scipy.stats

from influence import Retrainings, from_sklearn, retrain_on_subsets
from influence.objective.retraining import Refits
from tests.conftest import Problem

RANDOM = np.random.default_rng(0)
X, X_TEST = RANDOM.standard_normal((60, 3)), RANDOM.standard_normal((9, 3))
WEIGHTS = np.array([1.0, -2.0, 0.5])
Y, Y_TEST = X @ WEIGHTS + RANDOM.standard_normal(60), X_TEST @ WEIGHTS + 3


def least_squares(kept, seed):
    """The losses of test points after least squares."""
    theta = np.linalg.lstsq(X[kept], Y[kept])[0]
    return (X_TEST @ theta - Y_TEST) ** 2 / 2


def exact_scores():
    """The change of each test loss without each point, [m, n]."""
    everything = np.arange(60)
    before = least_squares(everything, 0)
    return np.stack(
        [least_squares(np.delete(everything, i), 0) - before for i in everything], axis=1
    )


def noisy(kept, seed):
    """A number that depends on the points and, as much again, on the seed."""
    return Y[kept].sum() * np.array([1.0, -2.0]) + 4 * np.random.default_rng(seed).standard_normal(
        2
    )


def test_exact_scores_of_least_squares_rank_small_removals():
    result = retrain_on_subsets(least_squares, 60, subsets=60, fraction=0.9).score(exact_scores())
    assert result.score > 0.97
    assert result.interval[0] < result.score < result.interval[1]
    assert result.per_test.shape == (9,)
    assert np.isnan(result.ceiling)


def test_random_scores_say_nothing():
    scores = np.random.default_rng(1).standard_normal((9, 60))
    result = retrain_on_subsets(least_squares, 60, subsets=60).score(scores)
    assert abs(result.score) < 0.15


def test_the_score_is_spearmans_of_the_sums_over_what_is_removed():
    retrainings = retrain_on_subsets(least_squares, 60, subsets=12, seed=3)
    scores = exact_scores()
    result = retrainings.score(scores)
    for j in range(12):
        removed = np.setdiff1d(np.arange(60), retrainings.kept[j])
        np.testing.assert_array_equal(retrainings.removed[j], removed)
        np.testing.assert_allclose(result.predicted[:, j], scores[:, removed].sum(axis=1))
        np.testing.assert_array_equal(result.actual[:, j], least_squares(retrainings.kept[j], 0))
    truth = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(result.predicted, result.actual)]
    np.testing.assert_allclose(result.per_test, truth)
    interval = scipy.stats.ttest_1samp(truth, 0).confidence_interval(0.95)
    np.testing.assert_allclose(result.interval, interval)
    assert repr(result).startswith(f"DatamodelingScore(score={np.mean(truth):.3f}, interval=(")


def test_subsets_are_what_their_numbers_say():
    few = retrain_on_subsets(noisy, 60, subsets=3, trainings=1, seed=5)
    many = retrain_on_subsets(noisy, 60, subsets=7, trainings=3, seed=5)
    np.testing.assert_array_equal(many.kept[:3], few.kept)
    np.testing.assert_array_equal(many.values[:3, :1], few.values)
    assert many.kept.shape == (7, 30)
    assert len(np.unique(many.values[0, :, 0])) == 3


def test_the_ceiling_is_what_the_truth_would_score():
    # Signal and noise known: 60 standard normals, of which 30 are in, and their noise.
    for trainings in (2, 4):
        retrainings = retrain_on_subsets(noisy, 60, subsets=400, trainings=trainings)
        truth = np.array([Y[kept].sum() * np.array([1.0, -2.0]) for kept in retrainings.kept])
        best = retrainings.score_of(truth.T)
        assert best.ceiling == pytest.approx(best.score, abs=0.03)
        single = Retrainings(60, retrainings.kept, retrainings.values[:, :1])
        assert retrainings.ceiling(1) == pytest.approx(single.score_of(truth.T).score, abs=0.04)


def test_test_points_without_a_correlation_are_left_out():
    retrainings = retrain_on_subsets(least_squares, 60, subsets=10)
    scores = exact_scores()
    scores[2] = 0
    with pytest.warns(UserWarning, match="1 of 9 test points are left out"):
        result = retrainings.score(scores)
    assert np.flatnonzero(np.isnan(result.per_test)).tolist() == [2]
    assert result.score == pytest.approx(np.nanmean(result.per_test))
    with pytest.raises(ValueError, match="nothing to correlate"):
        retrainings.score(0 * scores)


def test_what_does_not_fit_is_refused():
    retrainings = retrain_on_subsets(least_squares, 60, subsets=3)
    with pytest.raises(ValueError, match=r"scores must be finite and \[9, 60\]"):
        retrainings.score(np.zeros((60, 9)))
    with pytest.raises(ValueError, match=r"predicted must be finite and \[9, 3\]"):
        retrainings.score_of(np.full((9, 3), np.nan))
    for wrong in ({"subsets": 0}, {"trainings": 0}, {"fraction": 1.0}, {"fraction": 0.001}):
        with pytest.raises(ValueError, match="must be at least 1, and a fraction of the 60"):
            retrain_on_subsets(least_squares, 60, **wrong)


@pytest.mark.parametrize("order", ["first", "newton"])
def test_validate_measures_the_refits_to_halves(order):
    problem = Problem(n=200)
    model = problem.softmax_model(weight_decay=0.1).fit()
    test = problem.x_test, problem.y_test
    result = model.validate(*test, measure="datamodeling", subsets=8, order=order)
    retrainings = retrain_on_subsets(Refits(model, *test), 200, subsets=8)
    np.testing.assert_array_equal(result.actual, retrainings.values[:, 0].T)
    truth = model.refit(without=retrainings.removed[5]).losses(*test)
    np.testing.assert_allclose(result.actual[:, 5], truth)
    if order == "newton":
        # A step without half of the points is nearly the refit, in size, too.
        before = model.losses(*test)[:, np.newaxis]
        np.testing.assert_allclose(result.predicted, result.actual - before, atol=0.05)
    assert result.score > (0.98 if order == "newton" else 0.9)


def test_validate_refuses_other_measures_and_orders():
    model = Problem().softmax_model().fit()
    with pytest.raises(ValueError, match='measure must be "leave-one-out" or "datamodeling"'):
        model.validate([[0.0] * 5], [0], measure="lds")
    with pytest.raises(ValueError, match='order must be "first" or "newton"'):
        model.validate([[0.0] * 5], [0], measure="datamodeling", order="refit")


def test_weighted_estimators_are_refitted_with_their_weights():
    from sklearn.linear_model import Ridge

    weights = np.where(np.arange(60) < 30, 1.0, 3.0)
    estimator = Ridge(alpha=0.5).fit(X, Y, weights)
    model = from_sklearn(estimator, X, Y, weights)
    result = model.validate(X_TEST, Y_TEST, measure="datamodeling", subsets=5, order="newton")
    kept = retrain_on_subsets(Refits(model, X_TEST, Y_TEST), 60, subsets=5).kept[0]
    again = Ridge(alpha=0.5).fit(X[kept], Y[kept], weights[kept]).predict(X_TEST)
    np.testing.assert_allclose(result.actual[:, 0], (again - Y_TEST) ** 2, rtol=1e-6)
    assert result.score > 0.99
