"""Trainings again and again: resumed where they were stopped, the same in other processes."""

import numpy as np
import pytest

from influence import BinaryLogisticRegression, Dataset
from influence.objective.retraining import Refits, retrained

Y = np.random.default_rng(0).standard_normal(20)
UNITS = [(np.arange(j, 20), seed) for j in range(4) for seed in (0, 1)]


def mean(kept, seed):
    """Picklable by name: what worker processes are given."""
    return [Y[kept].mean(), np.random.default_rng(seed).random()]


class Counted:
    """``mean``, and how often it was asked; it is killed where it should be."""

    def __init__(self, killed_after=np.inf):
        self.calls, self.killed_after = [], killed_after

    def __call__(self, kept, seed):
        if len(self.calls) >= self.killed_after:
            raise KeyboardInterrupt
        self.calls.append((len(kept), seed))
        return mean(kept, seed)


def test_it_is_what_the_recipe_gives_in_order():
    expected = [mean(*unit) for unit in UNITS]
    np.testing.assert_array_equal(retrained(mean, UNITS), expected)


@pytest.mark.slow
def test_numbers_are_the_same_for_any_number_of_processes():
    here, two = retrained(mean, UNITS), retrained(mean, UNITS, jobs=2)
    np.testing.assert_array_equal(here, two)
    np.testing.assert_array_equal(here, retrained(mean, UNITS, jobs=1))


def test_it_goes_on_where_it_was_killed(tmp_path):
    path, first, second = tmp_path / "trained.npz", Counted(killed_after=3), Counted()
    with pytest.raises(KeyboardInterrupt):
        retrained(first, UNITS, checkpoint=path)
    result = retrained(second, UNITS, checkpoint=path)
    np.testing.assert_array_equal(result, retrained(mean, UNITS))
    # The first of those that are there once more, then those that are missing.
    assert second.calls == [first.calls[0], *[(len(kept), seed) for kept, seed in UNITS[3:]]]


def test_more_units_train_those_that_are_missing(tmp_path):
    path, counted = tmp_path / "trained.npz", Counted()
    retrained(mean, UNITS[2:5], checkpoint=path)
    retrained(counted, UNITS, checkpoint=path)
    assert len(counted.calls) == 1 + len(UNITS) - 3


def test_a_recipe_with_a_key_is_not_asked_again(tmp_path):
    path, counted = tmp_path / "trained.npz", Counted()
    counted.key = "mean"
    retrained(counted, UNITS, checkpoint=path)
    retrained(counted, UNITS, checkpoint=path)
    assert len(counted.calls) == len(UNITS)
    counted.key = "another"
    retrained(counted, UNITS, checkpoint=path)
    assert len(counted.calls) == 2 * len(UNITS)


def test_the_file_of_another_recipe_is_refused(tmp_path):
    path = tmp_path / "trained.npz"
    retrained(mean, UNITS, checkpoint=path)
    with pytest.raises(ValueError, match="is of another recipe or of other test points, or"):
        retrained(lambda kept, seed: [0.0, 1.0], UNITS, checkpoint=path)
    with pytest.raises(ValueError, match="is of another recipe"):
        retrained(lambda kept, seed: mean(kept, seed)[:1], UNITS, checkpoint=path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1.0]], r"an array of shape \(1, 1\)\."),
        ([np.nan], "with numbers that are not finite"),
        (1.0, r"an array of shape \(\)\."),
    ],
)
def test_what_is_no_vector_of_losses_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        retrained(lambda kept, seed: given, UNITS)


def test_vectors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="gave 19 numbers after one training, not 20"):
        retrained(lambda kept, seed: Y[kept], UNITS)


@pytest.mark.slow
def test_refits_are_those_of_the_model(tmp_path):
    train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
    model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
    refits = Refits(model, [[1.5], [0.5]], [1, 0])
    truth = model.refit(without=[3]).losses([[1.5], [0.5]], [1, 0])
    np.testing.assert_array_equal(refits([0, 1, 2, 4], 0), truth)
    with pytest.raises(ValueError, match="cannot be refitted to 0 of its points"):
        refits([], 0)
    # The model travels.
    np.testing.assert_array_equal(retrained(refits, [([0, 1, 2, 4], 0)], jobs=2), [truth])
    other = BinaryLogisticRegression(train, weight_decay=0.2, dtype="float64").fit()
    keys = {refits.key, Refits(other, [[1.5], [0.5]], [1, 0]).key}
    assert len(keys | {Refits(model, [[1.5], [0.4]], [1, 0]).key}) == 3
