"""Worker processes of the experiments, as quiet on the terminal as the experiments are."""

from __future__ import annotations

import contextlib

import joblib


def processes(jobs: int) -> contextlib.AbstractContextManager:
    """Sweeps inside run in ``jobs`` processes, with a thread each; -1 is one for every core, and
    with 0 they run in this one."""
    if jobs == 0:
        return contextlib.nullcontext()
    return joblib.parallel_config("loky", n_jobs=jobs, initializer=_started)


def _started() -> None:
    """Nothing. It is what a process imports first, and with it ``scripts``, which holds back
    TensorFlow's notices."""
