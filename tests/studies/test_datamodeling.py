"""Removal curves and brittleness where the answer is known; the score of models and of recipes."""

import numpy as np
import pytest

from influence import (
    counterfactual_brittleness,
    linear_datamodeling_score,
    removal_curve,
    retrain_on_subsets,
)
from influence.objective.retraining import Refits
from tests.conftest import Problem

VALUES = np.array([5.0, -1.0, 3.0, 0.5, 2.0, -4.0])


def sums(kept, seed):
    """Two losses that fall by what each point brings, and by chance."""
    return np.array([-1.0, -2.0]) * VALUES[kept].sum() + seed % 7


def margins(kept, seed):
    """Positive as long as the sum is above −2.5, or above 3."""
    total = VALUES[kept].sum()
    return [total + 2.5, total - 3, total - 100]


def test_the_score_of_a_model_and_of_its_recipe_are_the_same():
    problem = Problem(n=80)
    model = problem.softmax_model(weight_decay=0.1).fit()
    test = problem.x_test, problem.y_test
    scores = model.influence_on_loss(*test)
    of_model = linear_datamodeling_score(model, scores, *test, subsets=6, seed=1)
    of_recipe = linear_datamodeling_score(Refits(model, *test), scores, subsets=6, seed=1)
    apart = retrain_on_subsets(Refits(model, *test), 80, subsets=6, seed=1).score(scores)
    assert of_model.score == of_recipe.score == apart.score > 0.8
    with pytest.raises(ValueError, match="give x_test and y_test"):
        linear_datamodeling_score(model, scores)


def test_a_sum_is_foreseen_by_what_it_is_a_sum_of():
    scores = np.outer([1.0, 2.0], VALUES)
    # Seeds of one remainder: no chance.
    exact = linear_datamodeling_score(lambda kept, seed: sums(kept, 0), scores, subsets=15)
    assert exact.score == pytest.approx(1)
    assert linear_datamodeling_score(
        lambda kept, seed: sums(kept, 0), -scores, subsets=15
    ).score == pytest.approx(-1)


def test_the_curve_is_what_trainings_without_the_first_points_give():
    rankings = {"helpful": VALUES, "harmful": -VALUES}
    curve = removal_curve(sums, rankings, [3, 1], trainings=2, seed=4)
    assert curve.sizes.tolist() == [0, 1, 3]
    seeds = {name: part[0, :, 0] + VALUES.sum() for name, part in curve.losses.items()}
    for name, removed in (("helpful", [5.0, 5.0 + 3.0 + 2.0]), ("harmful", [-4.0, -4.5])):
        losses = curve.losses[name]
        assert losses.shape == (3, 2, 2)
        # With the seeds that all rankings share.
        np.testing.assert_array_equal(seeds[name], seeds["random"])
        rises = losses - losses[:1]
        np.testing.assert_allclose(rises[1:, 0, 0], removed)
        np.testing.assert_allclose(rises[1:, 1, 1], 2 * np.array(removed))
    assert (curve.losses["helpful"] >= curve.losses["random"]).all()
    assert (curve.losses["harmful"] <= curve.losses["random"]).all()


@pytest.mark.parametrize(
    ("rankings", "sizes", "message"),
    [
        ({"a": VALUES, "b": VALUES[1:]}, [1], "must be finite numbers of the same n points"),
        ({"a": np.where(VALUES > 0, VALUES, np.nan)}, [1], "must be finite"),
        ({"random": VALUES}, [1], "under other names than 'random'"),
        ({}, [1], "must be finite numbers"),
        ({"a": VALUES}, [0, 1], r"sizes must lie in 1\.\.5"),
        ({"a": VALUES}, [6], r"sizes must lie in 0\.\.5"),
        ({"a": VALUES}, [1, 1], "sizes must not repeat"),
    ],
)
def test_rankings_and_sizes_that_do_not_fit_are_refused(rankings, sizes, message):
    with pytest.raises(ValueError, match=message):
        removal_curve(sums, rankings, sizes)


def test_predictions_flip_when_what_holds_them_is_gone():
    scores = np.tile(VALUES, (3, 1))
    result = counterfactual_brittleness(margins, scores, [1, 2, 3])
    # 5.5 in all; without 5, 3 and 2 it is 0.5, −2.5 and −4.5. The third was wrong before.
    assert result.right.tolist() == [True, True, False]
    assert result.flipped.tolist() == [[False, True, True], [True, True, True], [False] * 3]
    assert result.share.tolist() == [0.5, 1.0, 1.0]
    harmful = counterfactual_brittleness(margins, -scores, [1, 2, 3])
    assert not harmful.flipped.any()


def test_nothing_is_trained_for_points_that_are_wrong():
    calls = []

    def recipe(kept, seed):
        calls.append(len(kept))
        return [-1.0]

    result = counterfactual_brittleness(recipe, [VALUES], [2])
    assert calls == [6]
    assert not result.flipped.any()


def test_brittleness_refuses_scores_that_do_not_fit():
    with pytest.raises(ValueError, match="must be finite and"):
        counterfactual_brittleness(margins, VALUES, [1])
    with pytest.raises(ValueError, match="has 3 test points, and scores 2 rows"):
        counterfactual_brittleness(margins, np.tile(VALUES, (2, 1)), [1])
