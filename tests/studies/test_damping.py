"""The damping that foresees best is found, where it is known."""

import numpy as np
import pytest

from influence import Retrainings, choose_damping
from tests.conftest import Problem


def made_by(model, test, damping, subsets=12):
    """Retrainings whose losses are just what the scores with a damping say."""
    random = np.random.default_rng(0)
    n = len(model.train)
    kept = np.stack([np.sort(random.permutation(n)[: n // 2]) for _ in range(subsets)])
    scores = model.influence_on_loss(*test, curvature=model.gauss_newton() + damping)
    losses = [scores.sum(axis=1) - scores[:, each].sum(axis=1) for each in kept]
    return Retrainings(n, kept, np.stack(losses)[:, np.newaxis])


@pytest.mark.parametrize("damping", [0.01, 0.1, 1.0])
def test_it_finds_the_damping_that_made_the_losses(damping):
    problem = Problem(n=80)
    model = problem.softmax_model(weight_decay=0.01).fit()
    test = problem.x_test, problem.y_test
    dampings = [10.0, 1.0, 0.1, 0.01, 0.001]
    choice = choose_damping(model, made_by(model, test, damping), *test, dampings)
    assert choice.damping == damping
    assert choice.dampings == (0.001, 0.01, 0.1, 1.0, 10.0)
    best = choice.results[choice.dampings.index(damping)]
    assert best.score == pytest.approx(1)
    assert all(result.score < 1 for result in choice.results if result is not best)
    assert f"damping={damping:g}, scores={{0.001: " in repr(choice)


def test_a_best_at_the_end_of_the_grid_is_said():
    problem = Problem(n=80)
    model = problem.softmax_model(weight_decay=0.01).fit()
    test = problem.x_test, problem.y_test
    with pytest.warns(UserWarning, match=r"The best damping, 0\.01, is the smallest that was"):
        choose_damping(model, made_by(model, test, 0.001), *test, [0.01, 0.1])


@pytest.mark.parametrize("dampings", [[], [0.0, 1.0], [np.nan]])
def test_dampings_that_are_none_are_refused(dampings):
    problem = Problem(n=20)
    model = problem.softmax_model().fit()
    test = problem.x_test, problem.y_test
    with pytest.raises(ValueError, match="dampings must be finite and above 0"):
        choose_damping(model, made_by(model, test, 0.1, 2), *test, dampings)
