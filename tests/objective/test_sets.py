"""Sets of training points, as lists and as labels; their influences, against refits."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from influence import SolverError, from_sklearn
from influence.objective.sets import Sets

X, Y = load_breast_cancer(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(Y))
X, Y = StandardScaler().fit_transform(X)[ORDER], Y[ORDER]
TRAIN, TEST = (X[56:], Y[56:]), (X[:56], Y[:56])


@pytest.fixture(scope="module")
def model():
    estimator = LogisticRegression(C=0.1, tol=1e-10, solver="newton-cholesky")
    return from_sklearn(estimator.fit(*TRAIN), *TRAIN)


def agreement(predicted, actual):
    """(Pearson R, slope), predicted over actual."""
    predicted, actual = predicted.ravel(), actual.ravel()
    return np.corrcoef(predicted, actual)[0, 1], np.polyfit(actual, predicted, 1)[0]


def random_sets(share, number=50):
    random, n = np.random.default_rng(1), len(TRAIN[1])
    return [random.choice(n, int(share * n), replace=False) for _ in range(number)]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_sets_are_refitted(model, share):
    # At a fifth of the points a step with the curvature of the start goes some 5% too far: samples
    # of 50 sets had slopes of 1.03 to 1.06.
    sets = random_sets(share)
    first, newton, actual = (
        model.influence_of_sets(sets, *TEST, order=order) for order in ("first", "newton", "refit")
    )
    correlation, slope = agreement(newton, actual)
    assert correlation >= 0.99
    assert slope == pytest.approx(1, abs=0.05)
    # The first order beside it.
    less, small = agreement(first, actual)
    assert less < 0.99 < correlation
    assert small < 0.88


@pytest.mark.parametrize(("groups", "off"), [(5, 0.08), (20, 0.05), (100, 0.05)])
def test_groups_are_refitted(model, groups, off):
    labels = np.random.default_rng(2).permutation(np.arange(len(TRAIN[1])) % groups)
    actual = model.influence_of_sets(labels, *TEST, order="refit")
    assert actual.shape == (56, groups)
    correlation, slope = agreement(model.influence_of_sets(labels, *TEST), actual)
    assert correlation >= 0.99
    assert slope == pytest.approx(1, abs=off)


def test_least_squares_is_the_refit():
    y = TRAIN[0][:, 0] + TRAIN[1]
    ridge = from_sklearn(Ridge(alpha=0.5).fit(TRAIN[0][:, 1:], y), TRAIN[0][:, 1:], y)
    for sets in (random_sets(0.01), random_sets(0.2)):
        step, refit = (ridge.parameter_changes(sets, order) for order in ("newton", "refit"))
        np.testing.assert_allclose(step, refit, rtol=0, atol=1e-8 * np.abs(refit).max())


def test_labels_are_sets_in_the_order_of_unique(model):
    names = np.random.default_rng(3).choice(["north", "east", "west"], len(TRAIN[1]))
    by_hand = [np.flatnonzero(names == name) for name in np.unique(names)]
    for order in ("first", "newton"):
        expected = model.influence_of_sets(by_hand, *TEST, order=order)
        for labels in (names, names.tolist()):
            scores = model.influence_of_sets(labels, *TEST, order=order)
            np.testing.assert_allclose(scores, expected)
    mean = model.influence_of_sets(names, *TEST, reduction="mean")
    np.testing.assert_allclose(mean, expected.mean(axis=0))


def test_first_order_is_the_sum_of_the_points(model):
    sets = [[3, 1], [7], [1, 8]]
    scores = model.influence_on_loss(*TEST)
    expected = np.stack([scores[:, members].sum(axis=1) for members in sets], axis=1)
    np.testing.assert_allclose(model.influence_of_sets(sets, *TEST, order="first"), expected)
    mean = model.influence_of_sets(sets, *TEST, order="first", reduction="mean")
    np.testing.assert_allclose(mean, expected.mean(axis=0))
    # It is also what the parameters, to first order, make of it.
    changes = model.parameter_changes(sets, "first")
    np.testing.assert_allclose(model.test_gradient(*TEST).T @ changes, expected, atol=1e-12)


def test_single_points_are_sets_of_one():
    assert Sets.of([[4], [2]], 5).single
    assert Sets.of(np.array([[4], [2]]), 5).members.tolist() == [[4], [2]]
    points = Sets.of_points([4, 2], 5)
    assert (points.name(1), len(points)) == ("training point 2", 2)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "sets is empty"),
        ([[0, 9]], r"set 0 must lie in 0..4; 9 at position 1"),
        ([[0], [1, 1]], "set 1 must not repeat; 1 occurs"),
        ([[0], []], "set 1"),
        ([[0], np.array([], int)], "set 1 is empty"),
        ([[1], range(5)], "set 1 is all 5 training points"),
        ([0.5, 1.0], "sets must be a list of index arrays, or 5 group labels"),
        (np.arange(3), "sets must be a list of index arrays, or 5 group labels"),
        (["a"] * 5, r"set 0 \('a'\) is all 5 training points"),
        ([1.0, np.nan, 1, 2, 2], "a group label that is missing"),
        (np.array(["a", None, "b", "b", "a"], object), "a group label that is missing"),
        (np.array([[0], [5]]), "set 1 must lie in 0..4"),
    ],
)
def test_sets_that_are_none(sets, message):
    with pytest.raises(ValueError, match=message):
        Sets.of(sets, 5)


def test_a_set_that_is_refused_has_its_label(model):
    labels = np.where(TRAIN[1] == 1, "b", np.where(np.arange(len(TRAIN[1])) % 2, "a", "c"))
    with pytest.raises(SolverError, match=r"Without set 1 \('b'\) a class has no training points"):
        model.influence_of_sets(labels, *TEST)
    with pytest.raises(ValueError, match=r"cannot be refitted without set 1 \('b'\)"):
        model.influence_of_sets(labels, *TEST, order="refit")
