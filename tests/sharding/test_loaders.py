"""Rows that functions load: what they are held to, and what is said where they are not that."""

import functools
import threading

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.linear_model import LogisticRegression as Estimator

from influence import BinaryLogisticRegression, Dataset, KerasModel, from_sklearn
from influence.sharding import worker
from influence.sharding.shards import npy_shards
from tests.sharding.engines import BINARY, PROBLEM, X_TEST, Here, logistic, network

N = len(BINARY)
TEST = X_TEST + 0.1, BINARY[:3]


def few(x=PROBLEM.x, **settings):
    """A model that only says what a row looks like."""
    return BinaryLogisticRegression(Dataset(x[:9], BINARY[:9]), 0.05, "float64", **settings)


def rows(first, last):
    return PROBLEM.x[first:last], BINARY[first:last]


def of_three(first, last):
    return PROBLEM.x[first:last], PROBLEM.labels[first:last]


def pipeline(first, last):
    return tf.data.Dataset.from_tensor_slices(of_three(first, last)).batch(7)


# What is right.


@pytest.mark.slow
@pytest.mark.parametrize("load", [of_three, pipeline])
def test_class_weights_are_those_of_the_loaded_labels(load):
    weights = {"class_weight": {0: 3.0, 2: 0.5}}
    shards = [functools.partial(load, *ends) for ends in ((0, 40), (40, N))]
    sharded = KerasModel(network(), load(0, 9), **weights).sharded(Here(), shards)
    whole = KerasModel(network(), of_three(0, N), **weights)
    np.testing.assert_allclose(sharded.gradient(), whole.gradient(), rtol=1e-10)
    test = X_TEST, PROBLEM.labels[:3]
    scores = [m.influence_on_loss(*test, curvature=m.gauss_newton() + 1) for m in (sharded, whole)]
    np.testing.assert_allclose(*scores, rtol=1e-9)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 2: 0.5}])
def test_class_weights_of_scikit_learn_are_those_of_all_labels(class_weight):
    estimator = Estimator(class_weight=class_weight, tol=1e-10, max_iter=1000)
    estimator.fit(PROBLEM.x, PROBLEM.labels)
    whole = from_sklearn(estimator, PROBLEM.x, PROBLEM.labels)
    test = X_TEST, PROBLEM.labels[:3]
    scores = [m.influence_on_loss(*test) for m in (whole.sharded(Here(), 3), whole)]
    np.testing.assert_allclose(*scores, rtol=1e-9)


def test_numbers_of_several_types():
    integers = np.round(PROBLEM.x).astype(np.int8)
    shards = [
        lambda: (integers[:20], BINARY[:20].astype(float)),
        lambda: (integers[20:50].astype(np.float32), BINARY[20:50].tolist()),
        lambda: (integers[50:].astype(float).tolist(), tf.constant(BINARY[50:])),
    ]
    sharded, whole = few(integers).sharded(Here(), shards).fit(), logistic(x=integers).fit()
    np.testing.assert_allclose(sharded.parameters, whole.parameters, rtol=1e-10)
    for order in ("first", "newton"):
        scores = [m.influence_on_loss(*TEST, order=order) for m in (sharded, whole)]
        np.testing.assert_allclose(*scores, rtol=1e-8)


def test_rows_that_their_owner_changes_later_stay_as_they_were():
    worker._shards.clear()
    x = PROBLEM.x.copy()
    model = few().sharded(Here(), [lambda: (x, BINARY)])
    [shard] = worker._shards.values()
    assert not np.shares_memory(shard.rows[0], x)
    assert not shard.rows[0].flags.writeable
    assert len(model.train) == N


def test_the_same_functions_with_new_rows_make_a_new_model(tmp_path):
    def load():
        return np.load(tmp_path / "x.npy"), BINARY

    gradients = []
    for x in (PROBLEM.x, PROBLEM.x + 1):
        np.save(tmp_path / "x.npy", x)
        gradients.append(few().sharded(Here(), [load]).gradient())
    np.testing.assert_allclose(gradients[0], logistic().gradient(), rtol=1e-12)
    np.testing.assert_allclose(gradients[1], logistic(x=PROBLEM.x + 1).gradient(), rtol=1e-12)


def test_newton_steps_of_points_that_are_not_here_and_after_a_refit():
    shards = [functools.partial(rows, *ends) for ends in ((0, 50), (50, N))]
    sharded, whole = few().sharded(Here(), shards).fit(), logistic().fit()
    for m in (0, 1):
        scores = [m.influence_on_loss(*TEST, order="newton") for m in (sharded, whole)]
        np.testing.assert_allclose(*scores, rtol=1e-8)
        sharded, whole = sharded.refit([3, 80]), whole.refit([3, 80])


# What is refused.


@pytest.mark.parametrize("make", [logistic, lambda: logistic().sharded(Here(), 3)])
@pytest.mark.parametrize("order", ["first", "newton"])
def test_scores_of_no_points(make, order):
    model, none = make().fit(), np.flatnonzero(BINARY > 1)
    with pytest.raises(ValueError, match="train_indices is empty: name at least one"):
        model.influence_on_loss(*TEST, order=order, train_indices=none)
    with pytest.raises(ValueError, match="train_indices is empty: name at least one"):
        model.self_influence(train_indices=none)


FINE = functools.partial(rows, 0, 50)
lock = threading.Lock()


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (
            lambda: (PROBLEM.x[:, :4], BINARY),
            r"Shard 1: Its rows are dense x \[4\] and labels \[\]",
        ),
        (
            lambda: (PROBLEM.x, np.eye(2)[BINARY]),
            r"Shard 1: Its rows are dense x \[5\] and .*\[2\]",
        ),
        (lambda: (scipy.sparse.csr_array(PROBLEM.x), BINARY), "Shard 1: Its rows are sparse"),
        (lambda: (PROBLEM.x, BINARY, BINARY), "Shard 1: A linear model takes .* without weights"),
        (functools.partial(pipeline, 0, 9), "Shard 1: A linear model takes .* no stream"),
        (lambda: (PROBLEM.x, BINARY[1:]), "Shard 1: x has 90 rows and labels has 89"),
        (functools.partial(rows, 3, 3), "Shard 1: The data set is empty"),
        (lambda: (PROBLEM.x, 2 * BINARY), r"Shard 1: its different labels must be .*; 2 at"),
        (lambda: (np.full((3, 5), np.nan), [0, 1, 0]), "Shard 1: x must be finite"),
        (lambda: Dataset(PROBLEM.x, BINARY), r"Shard 1 cannot be loaded: .* give arrays \(x"),
        (lambda: None, r"Shard 1 cannot be loaded: .* give arrays \(x"),
        ((PROBLEM.x, BINARY), "Shard 1 is a tuple: give a function"),
        (functools.partial(rows, lock), "The function of shard 1 cannot be sent to workers"),
    ],
)
def test_a_shard_that_is_not_like_the_others_is_named(load, said):
    with pytest.raises(ValueError, match=said) as caught:
        few().sharded(Here(), [FINE, load])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda: (PROBLEM.x[:, :4], PROBLEM.labels), r"x numbers \[4\], .* are x numbers \[5\]"),
        (lambda: ({"a": PROBLEM.x}, PROBLEM.labels), r"x \{'a': 'numbers \[5\]'\}"),
        (lambda: (PROBLEM.x.astype(int), PROBLEM.labels), r"x whole numbers \[5\]"),
        (lambda: (*of_three(0, N), np.ones(N)), r"and weights \[\], .* and no weights"),
        (lambda: (PROBLEM.x, PROBLEM.labels + 1), r"Shard 1: train.labels .*3"),
        (lambda: (PROBLEM.x, PROBLEM.labels[1:]), "Shard 1: train.x has 90 rows"),
        (functools.partial(of_three, 3, 3), "Shard 1: .* is empty"),
    ],
)
def test_so_is_one_of_a_keras_model(load, said):
    shards = [functools.partial(of_three, 0, 50), load]
    with pytest.raises(ValueError, match=said) as caught:
        KerasModel(network(), of_three(0, 9)).sharded(Here(), shards)
    assert str(caught.value).startswith("Shard 1: ")
    assert len(str(caught.value).splitlines()) == 1


def test_files_of_several_widths(tmp_path):
    for name, x in (("a", PROBLEM.x), ("b", PROBLEM.x[:, :3])):
        np.save(tmp_path / f"{name}.npy", x)
    np.save(tmp_path / "y.npy", BINARY)
    a, b = (npy_shards(tmp_path / f"{name}.npy", tmp_path / "y.npy", 2) for name in "ab")
    with pytest.raises(ValueError, match=r"Shard 2: Its rows are dense x \[3\]"):
        few().sharded(Here(), [*a, *b])


@pytest.mark.parametrize("shards", [0, -1, 91, True, 2.0, np.float64(3), float("nan")])
def test_numbers_of_shards_that_are_none(shards):
    with pytest.raises(ValueError, match="shards must be between 1 and the 90 rows, not"):
        logistic().sharded(Here(), shards)


@pytest.mark.parametrize("shards", ["8", [], None, FINE, {}, np.ones(3)])
def test_lists_of_shards_that_are_none(shards):
    with pytest.raises(ValueError, match="shards must be how many, or a list of functions"):
        logistic().sharded(Here(), shards)


def test_a_number_of_numpy_is_one():
    assert len(logistic().sharded(Here(), np.int64(3)).sharding.shards) == 3


def test_an_estimator_has_its_own_points():
    whole = from_sklearn(Estimator().fit(PROBLEM.x, BINARY), PROBLEM.x, BINARY)
    with pytest.raises(ValueError, match="are those of the points that it was fitted on: give sha"):
        whole.sharded(Here(), [FINE])
