"""A leave-one-out sweep whose worker is killed, or whose caller, ends with the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest

from influence.studies import leave_one_out as study
from tests.conftest import Problem

BLOCKS = 200


def left_out(checkpoint=None):
    """The changes by a sweep of as many units, on whatever backend there is."""
    problem = Problem(n=1000, d=20)
    model = problem.softmax_model().fit()
    points = problem.x_test, problem.y_test
    return study.leave_one_out(
        model, range(BLOCKS), *points, block_size=1, checkpoint=checkpoint
    ).changes


@pytest.fixture(scope="module")
def undisturbed():
    """The changes by two workers of this machine."""
    with joblib.parallel_config("loky", n_jobs=2):
        return left_out()


@pytest.fixture
def saved(monkeypatch):
    """The number of finished blocks at every saving."""
    numbers, original = [], study._save

    def save(path, key, done):
        original(path, key, done)
        numbers.append(len(done))

    monkeypatch.setattr(study, "_save", save)
    return numbers


@pytest.mark.slow
def test_a_worker_of_dask_is_killed_and_the_sweep_goes_on(undisturbed, saved, monkeypatch):
    distributed = pytest.importorskip("distributed")
    counting = study._save

    def kill_first(path, key, done):
        counting(path, key, done)
        if len(done) == 1:
            os.kill(workers[0], signal.SIGKILL)

    monkeypatch.setattr(study, "_save", kill_first)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config("dask"),
    ):
        workers = list(client.run(os.getpid).values())
        changes = left_out()
        with pytest.raises(ProcessLookupError):
            os.kill(workers[0], 0)
    assert len(saved) == BLOCKS
    np.testing.assert_array_equal(changes, undisturbed)


@pytest.mark.slow
def test_the_caller_is_killed_and_started_again(undisturbed, saved, tmp_path):
    checkpoint = tmp_path / "left_out.npz"
    call = (
        "import joblib; from tests.studies.test_sweep_faults import left_out\n"
        "with joblib.parallel_config('loky', n_jobs=2):\n"
        f"    left_out({str(checkpoint)!r})"
    )
    # A session of its own, so that its workers are killed with it.
    running = subprocess.Popen(
        [sys.executable, "-c", call],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    with joblib.parallel_config("loky", n_jobs=2):
        changes = left_out(checkpoint)
    # Some were there, and some were missing.
    assert 0 < len(saved) < BLOCKS
    assert saved[-1] == BLOCKS
    np.testing.assert_array_equal(changes, undisturbed)
