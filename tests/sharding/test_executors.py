"""Executors that are late, fail, or close: the right numbers, or one sentence."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import joblib
import numpy as np
import pytest

from influence.data.packing import Packed
from tests.sharding.engines import (
    BINARY,
    MODELS,
    PROBLEM,
    X_TEST,
    Here,
    answers,
    fitted,
    logistic,
    network_model,
)

TEST = X_TEST, BINARY[:3]


class Late(Here):
    """Gives its results in another order than it was asked, a little later."""

    def __init__(self):
        super().__init__()
        self._threads, self._number = ThreadPoolExecutor(4), 0

    def submit(self, function, *arguments):
        self._number += 1
        future = super().submit(function, *arguments)

        def wait(seconds):
            time.sleep(seconds)
            return future.result()

        return self._threads.submit(wait, 0.002 * (3 - self._number % 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_four_threads_have_the_numbers_of_one_place(name):
    make, y_test = MODELS[name]
    here = answers(fitted(make().sharded(Here(), 7)), y_test)
    with ThreadPoolExecutor(4) as executor:
        there = answers(fitted(make().sharded(executor, 7)), y_test)
    for question, answer in here.items():
        np.testing.assert_allclose(there[question], answer, 1e-12, 1e-13, err_msg=question)


def test_models_side_by_side_in_threads_of_one_executor():
    models = {"one": logistic(), "other": logistic(x=PROBLEM.x**2)}
    with ThreadPoolExecutor(4) as executor, ThreadPoolExecutor(2) as callers:
        asked = {
            name: callers.submit(lambda m: m.sharded(executor, 5).fit().self_influence(), model)
            for name, model in models.items()
        }
        for name, future in asked.items():
            expected = models[name].fit().self_influence()
            np.testing.assert_allclose(future.result(), expected, rtol=1e-9)


def test_late_results_are_added_in_the_order_of_the_shards():
    scores = [
        logistic().sharded(executor, 9).fit().influence_on_loss(*TEST)
        for executor in (Here(), Late())
    ]
    np.testing.assert_array_equal(*scores)


class Failing(Here):
    """Fails at a task that is told."""

    error: BaseException | None = None

    def submit(self, function, *arguments):
        if self.error is None:
            return super().submit(function, *arguments)
        future = Future()
        future.set_exception(self.error)
        return future


def test_what_a_task_raises_arrives_and_the_model_is_asked_again():
    executor = Failing()
    model = logistic().sharded(executor, 3).fit()
    expected = model.gradient()
    executor.error = OSError("the disk is on fire")
    with pytest.raises(OSError, match="on fire"):
        model.gradient()
    executor.error = None
    np.testing.assert_array_equal(model.gradient(), expected)


class Cancelling(Here):
    """Cancels whatever it is asked."""

    cancels = False

    def submit(self, function, *arguments):
        future = super().submit(function, *arguments)
        if self.cancels:
            future = Future()
            future.cancel()
        return future


def test_a_cancelled_task_is_one_error():
    executor = Cancelling()
    model = logistic().sharded(executor, 3)
    executor.cancels = True
    with pytest.raises(RuntimeError, match="A task of the executor was cancelled"):
        model.gradient()


def test_a_closed_executor_is_one_error():
    with ThreadPoolExecutor(1) as executor:
        model = logistic().sharded(executor, 3)
    with pytest.raises(RuntimeError, match="The executor takes no work .*: shard the model again"):
        model.gradient()


class Client:
    """As Dask's: submit means something else."""

    def submit(self, function, *arguments):
        raise AssertionError

    def get_executor(self):
        raise AssertionError


@pytest.mark.parametrize("executor", [Client(), ThreadPoolExecutor, None, map])
def test_what_is_no_executor(executor):
    with pytest.raises(ValueError, match=r"must be a concurrent\.futures\.Executor, not"):
        logistic().sharded(executor, 3)


@pytest.mark.parametrize("make", [logistic, network_model])
def test_a_sharded_model_stays_where_it_is(make):
    model = make().sharded(Here(), 3)
    with pytest.raises(ValueError, match="in shards stays beside its executor"):
        Packed.of(model)


def test_its_refits_do_not_go_to_other_processes():
    model = logistic().sharded(Here(), 3).fit()
    with (
        joblib.parallel_config("loky", n_jobs=2),
        pytest.raises(ValueError, match="in shards stays beside its executor.*Compute here"),
    ):
        model.influence_of_sets([[3]], *TEST, order="refit")
