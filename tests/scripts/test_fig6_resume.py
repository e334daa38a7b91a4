"""Figure 6 killed and started again, and with any number of processes, gives the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest


def command(folder, jobs):
    """The quick stand-in run, with its output in ``folder``."""
    options = ["--data", "stand-in", "--scale", "quick", "--repeats", "3", "--jobs", str(jobs)]
    options += ["--output-dir", str(folder), "--figures-dir", str(folder)]
    return [sys.executable, "-m", "scripts.fig6_label_fixing", *options]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run with one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(folder, jobs=1), check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_killed_and_started_again_with_two_processes(undisturbed, tmp_path):
    # The lemmas are kept from run to run, and not what is tested here.
    shutil.copytree(undisturbed / "documents", tmp_path / "documents")
    # A session of its own, so that all it started is killed with it.
    running = subprocess.Popen(
        command(tmp_path, jobs=1),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    repeats = tmp_path / "fig6_label_fixing.repeats"
    deadline = time.monotonic() + 120
    while not (repeats.is_dir() and any(repeats.glob("[!.]*.npz"))):
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(np.random.default_rng().uniform(0, 0.5))
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "fig6_label_fixing.npz").exists()
    assert any(repeats.glob("[!.]*.npz"))  # there is something to take up

    subprocess.run(command(tmp_path, jobs=2), check=True, capture_output=True)
    arrays = "fig6_label_fixing.npz"
    assert (tmp_path / arrays).read_bytes() == (undisturbed / arrays).read_bytes()
    assert not repeats.exists()
