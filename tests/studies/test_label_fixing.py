"""Label fixing: the three scores, the fix, and planted flips that are found."""

import numpy as np
import pytest

from influence import BinaryLogisticRegression, Dataset
from influence.studies.label_fixing import fix_and_refit, most_suspicious, suspicion
from tests.conftest import Problem


@pytest.fixture
def flipped():
    """(model fitted to flipped labels, the true labels, which were flipped)."""
    problem = Problem(n=400, d=8, classes=2)
    clean = problem.binary_model().train
    truth = (problem.x @ np.arange(-4, 4) > 0).astype(int)
    planted = np.random.default_rng(0).choice(400, 40, replace=False)
    wrong = Dataset(clean.x, truth).relabelled(planted, 1 - truth[planted])
    return BinaryLogisticRegression(wrong, 0.01, "float64").fit(), truth, planted


def test_scores_are_the_formulas(flipped):
    model, _, _ = flipped
    x, y = model.train.x, 2.0 * model.train.labels - 1
    sigma = 1 / (1 + np.exp(y * (x @ model.parameters)))
    forms = np.einsum("ni,ij,nj->n", x, np.linalg.inv(model.hessian().dense()), x)
    scores = suspicion(model)
    np.testing.assert_allclose(scores["influence"], sigma**2 * forms, rtol=1e-8)
    np.testing.assert_allclose(scores["influence_2017"], sigma * forms, rtol=1e-8)
    np.testing.assert_allclose(scores["loss"], -np.log(1 - sigma), rtol=1e-8)


def test_any_model_has_scores(problem):
    model = problem.softmax_model().fit()
    scores = suspicion(model)
    np.testing.assert_allclose(scores["influence"], model.self_influence(), rtol=1e-6)
    right = model.probabilities(problem.x)[np.arange(120), problem.labels]
    expected = scores["influence"] / (1 - right)
    np.testing.assert_allclose(scores["influence_2017"], expected, rtol=1e-8)


@pytest.mark.parametrize("method", ["influence", "influence_2017", "loss"])
def test_planted_flips_are_found(flipped, method):
    model, _, planted = flipped
    checked = most_suspicious(suspicion(model)[method], 60)
    assert np.isin(planted, checked).mean() > 0.6  # 0.15 at random


def test_fixing_brings_the_clean_model_back(flipped):
    model, truth, planted = flipped
    fixed, number = fix_and_refit(model, planted, truth)
    clean = model._clone(Dataset(model.train.x, truth)).fit()
    assert number == len(planted)
    np.testing.assert_allclose(fixed.parameters, clean.parameters, atol=1e-7)
    assert np.abs(model.parameters - clean.parameters).max() > 0.1


def test_checking_right_labels_fixes_nothing(flipped):
    model, truth, planted = flipped
    healthy = np.setdiff1d(np.arange(400), planted)[:50]
    same, number = fix_and_refit(model, healthy, truth)
    assert number == 0
    np.testing.assert_array_equal(same.parameters, model.parameters)


def test_ties_go_to_the_first_point():
    np.testing.assert_array_equal(most_suspicious(np.array([1.0, 3, 3, 0, 3]), 3), [1, 2, 4])


def test_bad_input_is_named(flipped):
    model, truth, _ = flipped
    with pytest.raises(ValueError, match="true_labels must be 400 labels"):
        fix_and_refit(model, [1], truth[:-1])
    with pytest.raises(ValueError, match="checked must lie in"):
        fix_and_refit(model, [400], truth)
