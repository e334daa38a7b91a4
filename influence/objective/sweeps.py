"""Sweeps: many units of work that do not depend on each other, here or in other processes.

Everything that refits many times goes through ``sweep``. Where the units are computed is joblib's
ambient backend, and nothing but that::

    with joblib.parallel_config("loky", n_jobs=4):  # or "dask", or "ray"
        model.validate(x_test, y_test)

A worker process is given the work once: arrays, settings and θ, of which it makes models of its
own. It computes with one thread (or ``inner_max_num_threads``), so the numbers are the same to the
last bit for any number of workers. Only the caller keeps results.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
from joblib.parallel import BACKENDS, ParallelBackendBase, get_active_backend

from influence.data.packing import Packed
from influence.data.threads import limited_to

# Units for each worker between two savings, where a backend gives no results before its end.
_WAVE = 4


def sweep(
    task: Callable[[Any], Any], units: Sequence[Any], *, jobs: int | None = None
) -> Iterator[tuple[int, Any]]:
    """(its number, ``task(unit)``) of each of ``units``, as they finish.

    Args:
        task: computes one unit. It travels, so that it holds data and settings, and models of the
            library, but nothing that stays in its process.
        units: small things, such as indices.
        jobs: worker processes of this machine, −1 for one a core; None asks joblib's ambient
            backend, and without one the units are computed here, in their order.

    Raises:
        ValueError: ``task`` does not travel, or the backend is one of threads or of forks.

    Warns:
        Of what units warn of; UserWarning: workers that had started TensorFlow before, with other
        threads.

    Examples:
        >>> from influence.objective.sweeps import sweep
        >>> list(sweep(lambda unit: unit**2, [1, 2, 3]))
        [(0, 1), (1, 4), (2, 9)]
    """
    backend, workers = _workers(jobs)
    if not workers:
        for number, unit in enumerate(units):
            yield number, task(unit)
    elif len(units):
        yield from _in_workers(task, units, backend, workers)


def in_order(results: Iterator[tuple[int, Any]]) -> Iterator[Any]:
    """What a ``sweep`` gives, in the order of its units.

    Examples:
        >>> from influence.objective.sweeps import in_order
        >>> list(in_order(iter([(1, "b"), (0, "a"), (2, "c")])))
        ['a', 'b', 'c']
    """
    early: dict[int, Any] = {}
    following = 0
    for number, result in results:
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _workers(jobs: int | None) -> tuple[ParallelBackendBase, int]:
    """The backend, and how many workers it is to have at once; 0 to compute here."""
    backend, asked = get_active_backend()
    # get_active_backend tells no backend that was named from the one there is without a name.
    config = getattr(joblib.parallel._backend, "config", {"backend": None})
    named = isinstance(config["backend"], ParallelBackendBase)
    if _WORKER.busy or (jobs is None and asked is None and not named):
        return backend, 0
    if type(backend) is BACKENDS["sequential"]:
        return backend, 0
    if type(backend) is BACKENDS["threading"]:
        # joblib's own choice inside the workers of other work.
        if (jobs or asked or 1) == 1:
            return backend, 0
        raise ValueError(
            "A sweep runs in processes, not in threads: models share what TensorFlow has compiled "
            'for them. Use joblib.parallel_config("loky", n_jobs=…).'
        )
    if type(backend) is BACKENDS.get("multiprocessing"):
        raise ValueError(
            "A sweep starts its processes anew, and joblib's multiprocessing backend forks this "
            "one, in which TensorFlow runs: the forks would wait for each other for ever. Use "
            'joblib.parallel_config("loky", n_jobs=…).'
        )
    chosen = next((each for each in (jobs, asked) if each is not None), -1)
    return backend, backend.effective_n_jobs(chosen)


def _in_workers(task, units, backend, workers):
    packed, threads = Packed.of(task), backend.inner_max_num_threads or 1
    given = joblib.delayed(_compute)
    with _everywhere(backend, [packed.head, *packed.buffers]):
        calls = [
            # In a tuple: what Dask moves to a worker of its own accord is lost with that worker.
            given((packed.key, threads, number, unit), packed.head, *packed.buffers)
            for number, unit in enumerate(units)
        ]
        there = set()
        for (number, result), had, warned in _results(calls, backend, workers):
            there.add(had)
            for message, category in warned:
                warnings.warn(message, category, stacklevel=4)
            yield number, result
    if there != {threads}:
        warnings.warn(
            f"Workers had started TensorFlow with other threads ({sorted(there)}, 0 is all) than "
            f"the {threads} of a sweep: the last digits can depend on it. Restart them before.",
            stacklevel=3,
        )


def _results(calls, backend, workers):
    # With one worker joblib would compute here, with all the threads there are here: so there are
    # two, and one of them gets nothing to do.
    # Units one by one, so that each comes back as soon as it is finished.
    settings: dict[str, Any] = {"n_jobs": max(workers, 2), "batch_size": 1}
    if workers == 1:
        settings["pre_dispatch"] = 1
    if backend.supports_return_generator:
        yield from joblib.Parallel(return_as="generator_unordered", **settings)(calls)
        return
    for first in range(0, len(calls), _WAVE * workers):
        yield from joblib.Parallel(**settings)(calls[first : first + _WAVE * workers])


@contextlib.contextmanager
def _everywhere(backend, arrays):
    """Dask's workers have ``arrays``, all of them, so that none dies with the only copy."""
    if not hasattr(backend, "data_futures"):
        yield
        return
    futures = backend.client.scatter(arrays, broadcast=True, hash=False)
    mine = {id(array): future for array, future in zip(arrays, futures)}
    backend.data_futures.update(mine)
    try:
        yield
    finally:
        for name in mine:
            del backend.data_futures[name]


# In the workers.


class _Worker(threading.local):
    """Whether this thread computes a unit: what it sweeps itself, it computes itself."""

    busy = False


_WORKER = _Worker()
# One unit at a time: a worker of Dask has several threads, and a model serves one.
_ONE = threading.Lock()
_TASKS: dict[str, Callable[[Any], Any]] = {}


def _compute(call, head, *buffers):
    """((its number, what the task gives of a unit), TensorFlow's threads, the warnings)."""
    key, threads, number, unit = call
    with _ONE, limited_to(threads) as had, _busy():
        if key not in _TASKS:
            _TASKS.clear()
            _TASKS[key] = Packed.unpacked(head, list(buffers))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = _TASKS[key](unit)
    return (number, result), had, [(str(one.message), one.category) for one in caught]


@contextlib.contextmanager
def _busy():
    _WORKER.busy = True
    try:
        yield
    finally:
        _WORKER.busy = False
