"""The same bits by every executor and any number of workers, and the numbers of the whole model."""

import os
import signal
from concurrent.futures import BrokenExecutor

import numpy as np
import pytest

from influence import ConjugateGradient
from tests.sharding.engines import BINARY, MODELS, PROBLEM, Here, answers, fitted, logistic, spawned

distributed = pytest.importorskip("distributed")
SHARDS = 4


def two_workers():
    """Of Dask."""
    return distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
    )


@pytest.fixture(scope="module")
def client():
    with two_workers() as cluster, distributed.Client(cluster) as client:
        yield client


def by(executor, name):
    """The answers of a model in shards."""
    make, y_test = MODELS[name]
    return answers(fitted(make().sharded(executor, SHARDS)), y_test)


def by_all(name):
    """The answers by an executor of this process, by two spawned ones, and by Dask."""
    with spawned() as executor, two_workers() as cluster, distributed.Client(cluster) as client:
        return [by(each, name) for each in (Here(), executor, client.get_executor())]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_executors_have_the_bits_of_one_another_and_the_numbers_of_the_whole(name):
    make, y_test = MODELS[name]
    whole = answers(fitted(make()), y_test)
    # In a new process: what TensorFlow has computed before may round what it compiles otherwise.
    with spawned() as executor:
        here, there, of_dask = executor.submit(by_all, name).result()
    for question, answer in whole.items():
        np.testing.assert_allclose(here[question], answer, 1e-10, 1e-10, err_msg=question)
        np.testing.assert_array_equal(there[question], here[question], question)
        np.testing.assert_array_equal(of_dask[question], here[question], question)


class Killing:
    """An executor of Dask that kills one of its workers at a task."""

    def __init__(self, client, at):
        self._executor, self._client = client.get_executor(), client
        self._left, self.killed = at, None

    def submit(self, *task):
        self._left -= 1
        future = self._executor.submit(*task)
        if self._left == 0:
            [self.killed, *_] = self._client.run(os.getpid).values()
            os.kill(self.killed, signal.SIGKILL)
        return future


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_of_a_solve(client):
    v = np.linspace(-1, 1, 5)
    solver = ConjugateGradient(1e-10)
    expected = logistic().sharded(Here(), SHARDS).inverse_hvp(v, solver)
    assert expected.iterations >= 4
    # In the second product.
    executor = Killing(client, at=SHARDS + 2)
    solution = logistic().sharded(executor, SHARDS).inverse_hvp(v, solver)
    assert executor.killed not in client.run(os.getpid).values()
    np.testing.assert_array_equal(solution.x, expected.x)


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_processes_that_died_are_one_error():
    with spawned() as executor:
        model = logistic().sharded(executor, 2)
        with pytest.raises(BrokenExecutor):
            executor.submit(kill_this_process).result()
        with pytest.raises(RuntimeError, match="has died"):
            model.gradient()


@pytest.mark.slow
def test_one_shard_or_many_are_the_same_to_rounding():
    scores = [
        logistic().sharded(Here(), shards).fit().influence_on_loss(PROBLEM.x[:2], BINARY[:2])
        for shards in (1, 90)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-12)
