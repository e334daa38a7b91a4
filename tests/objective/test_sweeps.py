"""Sweeps: the same bits for any number of workers, and nothing lost on the way back."""

import warnings

import joblib
import keras
import numpy as np
import pytest
import tensorflow as tf
from joblib.parallel import BACKENDS
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from influence import KerasModel, from_sklearn, leave_one_out
from influence.objective.minimum import ConvergenceWarning
from influence.objective.sweeps import in_order, sweep


class Listed(BACKENDS["loky"]):
    """A backend that gives its results at its end, as Ray's does."""

    supports_return_generator = False


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    monkeypatch.setitem(BACKENDS, "listed", Listed)


def models(problem):
    """A model of each family."""
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    estimator = SklearnLogisticRegression(tol=1e-8).fit(problem.x, problem.labels)
    points = problem.x.astype(np.float32), problem.labels
    return {
        "softmax": problem.softmax_model(dtype="float32").fit(),
        "sklearn": from_sklearn(estimator, problem.x, problem.labels),
        "keras": KerasModel(network, points, damping=0.1).fit(),
    }


def everything(problem, fitted):
    """All that refits many times, of all models."""
    points, sets = (problem.x_test, problem.y_test), [[0, 5], [7], [1, 2, 3]]
    found = {}
    for name, model in fitted.items():
        found[f"{name} validate"] = model.validate(*points, points=3).actual
        found[f"{name} sets"] = model.influence_of_sets(sets, *points, order="refit")
        halves = model.validate(*points, measure="datamodeling", subsets=3)
        found[f"{name} halves"] = halves.actual
    left_out = leave_one_out(fitted["softmax"], range(10), *points, block_size=3)
    return found | {"leave one out": left_out.changes}


@pytest.mark.slow
def test_the_same_bits_for_any_number_of_workers(problem):
    fitted = models(problem)
    here = everything(problem, fitted)
    found = []
    for backend, workers in (("loky", 1), ("loky", 2), ("listed", 2)):
        with joblib.parallel_config(backend, n_jobs=workers):
            found.append(everything(problem, fitted))
    for name, values in found[0].items():
        np.testing.assert_array_equal(found[1][name], values, err_msg=name)
        np.testing.assert_array_equal(found[2][name], values, err_msg=name)
        # Here TensorFlow may have more threads, and fits in float32 stop elsewhere.
        np.testing.assert_allclose(values, here[name], rtol=1e-2, atol=2e-3, err_msg=name)


def test_without_a_backend_units_are_computed_here_in_their_order():
    seen = []
    assert list(sweep(seen.append, [3, 1, 2])) == [(0, None), (1, None), (2, None)]
    assert seen == [3, 1, 2]


@pytest.mark.slow
def test_a_named_backend_is_enough():
    threads = tf.config.threading.get_intra_op_parallelism_threads
    with joblib.parallel_config("loky"):
        assert list(in_order(sweep(lambda unit: (unit, threads()), [3, 1]))) == [(3, 1), (1, 1)]


def test_a_unit_that_sweeps_does_so_in_its_worker():
    def outer(unit):
        return list(in_order(sweep(lambda inner: inner + unit, [1, 2])))

    with joblib.parallel_config("loky", n_jobs=2):
        assert list(in_order(sweep(outer, [10, 20]))) == [[11, 12], [21, 22]]


def test_what_units_warn_of_and_fail_of_comes_back():
    def warn(unit):
        warnings.warn(f"unit {unit}", ConvergenceWarning, stacklevel=1)

    def fail(unit):
        raise ValueError(f"unit {unit} has none")

    with joblib.parallel_config("loky", n_jobs=2):
        with pytest.warns(ConvergenceWarning, match="unit 1"):
            list(sweep(warn, [1]))
        with pytest.raises(ValueError, match="unit 2 has none"):
            list(sweep(fail, [2]))


@pytest.mark.slow
def test_a_set_that_cannot_be_refitted_is_named(problem):
    model = problem.softmax_model().fit()
    lonely = np.flatnonzero(problem.labels != 0)
    with (
        joblib.parallel_config("loky", n_jobs=2),
        pytest.raises(ValueError, match="cannot be refitted without set 1: "),
    ):
        model.influence_of_sets([[3], lonely], problem.x_test, problem.y_test, order="refit")


@pytest.mark.parametrize(
    ("backend", "match"),
    [("threading", "in processes, not in threads"), ("multiprocessing", "backend forks this")],
)
def test_threads_and_forks_are_refused(backend, match):
    with joblib.parallel_config(backend, n_jobs=2), pytest.raises(ValueError, match=match):
        list(sweep(abs, [1]))


def test_in_a_thread_of_other_work_it_computes_there():
    with joblib.parallel_config("threading", n_jobs=1):
        assert list(sweep(abs, [-1])) == [(0, 1)]


@pytest.mark.slow
def test_a_stream_stays_where_it_is(problem):
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    points = tf.data.Dataset.from_tensor_slices((problem.x.astype(np.float32), problem.labels))
    model = KerasModel(network, points.batch(50), damping=0.1).fit()
    with (
        joblib.parallel_config("loky", n_jobs=2),
        pytest.raises(ValueError, match=r"a tf\.data\.Dataset stays in its process"),
    ):
        model.influence_of_sets([[3]], problem.x_test, problem.y_test, order="refit")
