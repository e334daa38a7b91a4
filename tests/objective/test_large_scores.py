"""Scores in a file, and their ends: those of one call, tile by tile, and resumed after a kill."""

import errno
import os

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from influence import Dataset, KerasModel, LogisticRegression, from_sklearn
from influence.objective import large_scores, tiles
from tests.conftest import Problem

BYTES = 2000


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Of a few rows of 120 scores, or of 20 columns."""
    monkeypatch.setattr(tiles, "_BYTES", BYTES)
    monkeypatch.setattr(tiles, "_COLUMNS", 20)


def keras_model(problem, stream):
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    points = problem.x.astype(np.float32), problem.labels
    if stream:
        points = tf.data.Dataset.from_tensor_slices(points).batch(50)
    return KerasModel(network, points, damping=0.1).fit()


def model_of(kind, problem):
    if kind == "sparse":
        train = Dataset(scipy.sparse.csr_array(problem.x), problem.labels)
        return LogisticRegression(train, 0.05, 3, "float64").fit()
    if kind == "sklearn":
        estimator = SklearnLogisticRegression(tol=1e-8).fit(problem.x, problem.labels)
        return from_sklearn(estimator, problem.x, problem.labels)
    if kind in ("keras", "stream"):
        return keras_model(problem, kind == "stream")
    return problem.softmax_model().fit()


@pytest.mark.parametrize("kind", ["softmax", "sparse", "sklearn", "keras", "stream"])
def test_the_file_has_the_scores_and_top_their_ends(kind, problem, tmp_path):
    model, points = model_of(kind, problem), (problem.x_test, problem.y_test)
    path = tmp_path / "new" / "scores.npy"
    scores = model.influence_on_loss(*points, out=path)
    assert isinstance(scores, np.memmap)
    assert not scores.flags.writeable
    np.testing.assert_array_equal(np.load(path), scores)
    assert [file.name for file in path.parent.iterdir()] == ["scores.npy"]
    expected = model.influence_on_loss(*points)
    assert scores.dtype == expected.dtype
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    top = model.influence_on_loss(*points, top=4)
    order = np.argsort(-scores, axis=1, kind="stable")[:, [0, 1, 2, 3, -4, -3, -2, -1]]
    np.testing.assert_array_equal(top["index"], order)
    np.testing.assert_array_equal(top["score"], np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize("order", ["first", "newton"])
def test_chosen_training_points_in_both_orders(order, problem, tmp_path):
    model, points = problem.softmax_model().fit(), (problem.x_test, problem.y_test)
    chosen = {"order": order, "train_indices": np.arange(110, 20, -1)}
    scores = model.influence_on_loss(*points, **chosen, out=tmp_path / "scores.npy")
    expected = model.influence_on_loss(*points, **chosen)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    top = model.influence_on_loss(*points, **chosen, top=3)
    places = np.argsort(-scores, axis=1, kind="stable")[:, [0, 1, 2, -3, -2, -1]]
    np.testing.assert_array_equal(top["index"], chosen["train_indices"][places])
    np.testing.assert_array_equal(top["score"], np.take_along_axis(scores, places, axis=1))


@pytest.mark.parametrize("order", ["first", "newton"])
def test_a_tile_is_never_larger_than_its_room(order, problem, monkeypatch):
    sizes, original = [], tiles.Tiles.__getitem__

    def seen(self, number):
        block = original(self, number)
        assert block.shape == np.empty(self.shape)[self.slices[number]].shape
        sizes.append(block.nbytes)
        return block

    monkeypatch.setattr(tiles.Tiles, "__getitem__", seen)
    model = problem.softmax_model().fit()
    model.influence_on_loss(problem.x_test, problem.y_test, order=order, top=1)
    assert len(sizes) > 1
    assert max(sizes) <= BYTES


class Given:
    """Tiles of scores that are given."""

    def __init__(self, scores, slices):
        self.scores, self.slices, self.shape = scores, slices, scores.shape
        self.columns = np.arange(scores.shape[1])

    def __getitem__(self, number):
        return self.scores[self.slices[number]]


@pytest.mark.parametrize("by", ["rows", "columns"])
@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_of_equal_scores_the_first_points_come_first(by, count):
    scores = np.random.default_rng(0).integers(-2, 3, (5, 13)).astype(float)
    scores[2] = 0
    cuts = [slice(0, 4), slice(4, 8), slice(8, 13)]
    slices = [(slice(i, i + 1), slice(None)) for i in range(5)]
    if by == "columns":
        slices = [(slice(None), cut) for cut in cuts]
    top = large_scores.top_scores(Given(scores, slices), count)
    order = np.argsort(-scores, axis=1, kind="stable")
    if 2 * count < 13:
        order = np.concatenate([order[:, :count], order[:, -count:]], axis=1)
    np.testing.assert_array_equal(top["index"], order)
    np.testing.assert_array_equal(top["score"], np.take_along_axis(scores, order, axis=1))


@pytest.fixture
def killed(monkeypatch):
    """How many tiles are computed before the process is killed, and those that were."""
    state, original = {"after": np.inf, "computed": []}, tiles.Tiles.__getitem__

    def compute(self, number):
        if len(state["computed"]) >= state["after"]:
            raise KeyboardInterrupt
        state["computed"].append(number)
        return original(self, number)

    monkeypatch.setattr(tiles.Tiles, "__getitem__", compute)
    return state


@pytest.mark.parametrize("order", ["first", "newton"])
def test_it_goes_on_where_it_was_killed(order, problem, tmp_path, killed):
    model, points = problem.softmax_model().fit(), (problem.x_test, problem.y_test)
    whole, path = tmp_path / "whole.npy", tmp_path / "scores.npy"
    model.influence_on_loss(*points, order=order, out=whole)
    every = killed["computed"].copy()
    killed["computed"].clear()
    killed["after"] = 2
    with pytest.raises(KeyboardInterrupt):
        model.influence_on_loss(*points, order=order, out=path)
    assert not path.exists()
    killed["computed"].clear()
    killed["after"] = np.inf
    model.influence_on_loss(*points, order=order, out=path)
    # The first once more, to see that it is the same work.
    assert killed["computed"] == [0, *every[2:]]
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scores.npy", "whole.npy"]


@pytest.mark.parametrize("changed", ["data", "test points", "damping"])
def test_other_work_starts_again(changed, problem, tmp_path, killed):
    model, points = problem.softmax_model().fit(), (problem.x_test, problem.y_test)
    path, how = tmp_path / "scores.npy", {}
    killed["after"] = 2
    with pytest.raises(KeyboardInterrupt):
        model.influence_on_loss(*points, out=path)
    killed["after"] = np.inf
    if changed == "data":
        theta, other = model.parameters, Problem(seed=1)
        model = other.softmax_model().with_parameters(theta)
        how = {"curvature": model.hessian() + 1.0}
    elif changed == "damping":
        how = {"curvature": model.hessian() + 1.0}
    else:
        points = problem.x_test[::-1], problem.y_test[::-1]
    scores = model.influence_on_loss(*points, **how, out=path)
    np.testing.assert_allclose(scores, model.influence_on_loss(*points, **how), rtol=1e-9)


def interrupted(model, points, path, killed, **how):
    """Leave a file after two tiles; gives its numbers."""
    killed["after"] = 2
    with pytest.raises(KeyboardInterrupt):
        model.influence_on_loss(*points, **how, out=path)
    killed["computed"].clear()
    killed["after"] = np.inf
    return np.load(path.with_name("scores.npy.partial"))


def cut_off(path):
    os.truncate(path, path.stat().st_size - 8)


def of_another_shape(path):
    np.save(path.with_suffix(".npy"), np.load(path)[:, :-1])
    os.replace(path.with_suffix(".npy"), path)


@pytest.mark.parametrize(
    "harm", [cut_off, of_another_shape, lambda path: path.write_bytes(b""), os.remove]
)
def test_a_file_that_is_not_whole_starts_again(harm, problem, tmp_path, killed):
    model, points = problem.softmax_model().fit(), (problem.x_test, problem.y_test)
    path = tmp_path / "scores.npy"
    interrupted(model, points, path, killed)
    harm(tmp_path / "scores.npy.partial")
    scores = model.influence_on_loss(*points, out=path)
    assert killed["computed"][:3] == [0, 1, 2]
    np.testing.assert_allclose(scores, model.influence_on_loss(*points), rtol=1e-9)


@pytest.mark.parametrize("order", ["first", "newton"])
def test_a_change_that_the_first_tile_does_not_show_starts_again(order, tmp_path, killed):
    # Two problems beside each other: features, points and test points of one or of the other.
    one, other = Problem(n=60), Problem(n=60, seed=1)
    x = np.zeros((120, 10))
    x[:60, :5], x[60:, 5:] = one.x, other.x
    x_test = np.zeros((14, 10))
    x_test[:7, :5], x_test[7:, 5:] = one.x_test, other.x_test
    points = x_test, np.concatenate([one.y_test, other.y_test])
    labels = np.concatenate([one.labels, other.labels])
    model = LogisticRegression(Dataset(x, labels), 0.05, 3, "float64").fit()
    how = {"order": order, "curvature": model.hessian().materialize() + 0.1}
    path = tmp_path / "scores.npy"
    interrupted(model, points, path, killed, **how)
    x[60:, 5:] *= 2
    changed = LogisticRegression(Dataset(x, labels), 0.05, 3, "float64")
    changed.parameters = model.parameters
    scores = changed.influence_on_loss(*points, **how, out=path)
    assert killed["computed"][:3] == [0, 1, 2]
    expected = changed.influence_on_loss(*points, **how)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)


def test_damping_that_the_first_tile_does_not_show_starts_again(problem, tmp_path, killed):
    # A label that is sure has a gradient of 0, and scores of 0 whatever the curvature.
    model = problem.softmax_model().fit()
    x_test = np.concatenate([1e4 * problem.x_test[:3], problem.x_test])
    points = x_test, model.predict(x_test)
    path = tmp_path / "scores.npy"
    written = interrupted(model, points, path, killed)
    assert (written[:2] == 0).all()
    damped = {"curvature": model.hessian() + 1.0}
    scores = model.influence_on_loss(*points, **damped, out=path)
    assert killed["computed"][:3] == [0, 1, 2]
    np.testing.assert_allclose(scores, model.influence_on_loss(*points, **damped), rtol=1e-9)


def test_a_folder_is_refused_at_once(problem, tmp_path, killed):
    model = problem.softmax_model().fit()
    with pytest.raises(ValueError, match="out must be a file, and .* is a folder"):
        model.influence_on_loss(problem.x_test, problem.y_test, out=tmp_path)
    assert not killed["computed"]
    assert not list(tmp_path.iterdir())


def test_a_file_that_has_no_room_is_refused_at_once(problem, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    model = problem.softmax_model().fit()
    with pytest.raises(OSError, match="GB of scores have no room: No space left on device"):
        model.influence_on_loss(problem.x_test, problem.y_test, out=tmp_path / "scores.npy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"top": 0}, "top must be at least 1"),
        ({"top": 2.5}, "top must be at least 1"),
        ({"top": 1, "out": "x.npy"}, "not both"),
        ({"top": 1, "reduction": "mean"}, "no reduction"),
        ({"out": "x.npy", "reduction": "mean"}, "no reduction"),
    ],
)
def test_what_does_not_go_together_is_refused(options, match, problem):
    model = problem.softmax_model().fit()
    with pytest.raises(ValueError, match=match):
        model.influence_on_loss(problem.x_test, problem.y_test, **options)
