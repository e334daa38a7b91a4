"""Sums over shards, by the workers of any ``concurrent.futures.Executor``, in one order."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
)
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from influence.data.files import fingerprint
from influence.data.packing import Packed
from influence.sharding.shards import LoadedShard, Shard, Without, local_rows
from influence.sharding.worker import Missing, Recipe, look, run

# Results that may wait for those before them where they are as large as rows.
_AHEAD = 16


class Sharding:
    """Shards, the recipe of the models of their rows, and who computes.

    What the shards give is added in float64 in the order of the shards, so that the same shards
    have the same bits by any executor and any number of workers.

    Args:
        executor: of processes that are spawned, or of this one.
        shards: of the training rows, in their order.
        recipe: of the models, also an attribute.
        sizes: the shards' numbers of rows.
        resources: what has to live as long as the shards do.
    """

    def __init__(
        self,
        executor: Executor,
        shards: Sequence[Shard],
        recipe: Recipe,
        sizes: Sequence[int],
        resources: Any = None,
    ) -> None:
        self._executor, self.shards = executor, list(shards)
        self.ends = np.cumsum(sizes)
        self._resources = resources
        self.recipe, self._packed = recipe, Packed.of(recipe)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __copy__(self) -> Sharding:
        other = object.__new__(Sharding)
        vars(other).update(vars(self))
        return other

    def __reduce__(self) -> str:
        raise TypeError("a model with its rows in shards stays beside its executor")

    @property
    def key(self) -> str:
        """Of the content of all rows."""
        return fingerprint(*[shard.key for shard in self.shards])

    def with_recipe(self, recipe: Recipe) -> Sharding:
        """The same rows, for models of another kind."""
        other = copy.copy(self)
        other.recipe, other._packed = recipe, Packed.of(recipe)
        return other

    def without(self, indices: Any) -> Sharding:
        """The same without the rows at ``indices``; shards of which nothing is left go, too."""
        shards, sizes = list(self.shards), np.diff(self.ends, prepend=0)
        for number, rows, _ in local_rows(self.ends, indices):
            shards[number] = Without(shards[number], tuple(sorted(rows.tolist())))
            sizes[number] -= len(rows)
        left = [(shard, size) for shard, size in zip(shards, sizes.tolist()) if size]
        if not left:
            raise ValueError("Nothing is left when every point is removed.")
        other = copy.copy(self)
        other.shards, other.ends = [s for s, _ in left], np.cumsum([size for _, size in left])
        return other

    def total(self, theta: np.ndarray | None, function: Callable[..., Any], *arguments: Any) -> Any:
        """Σ ``function(model, *arguments)`` over the shards, of structures of arrays: float64."""
        return summed(self.each(theta, function, *arguments))

    def each(
        self, theta: np.ndarray | None, function: Callable[..., Any], *arguments: Any
    ) -> Iterator[Any]:
        """``function(model, *arguments)`` of every shard, in their order."""
        calls = ((number, arguments) for number in range(len(self.shards)))
        return self.calls(theta, function, calls)

    def calls(
        self,
        theta: np.ndarray | None,
        function: Callable[..., Any],
        calls: Iterable[tuple[int, tuple[Any, ...]]],
    ) -> Iterator[Any]:
        """``function(model, *arguments)`` for each (shard, arguments), in their order."""
        tasks = (
            (run, self.shards[number], theta, function, arguments) for number, arguments in calls
        )
        return self._results(tasks)

    def looks(self) -> Iterator[tuple[int, np.ndarray, str | None]]:
        """``look`` at every shard."""
        return self._results((look, shard) for shard in self.shards)

    def _results(self, tasks):
        waiting: deque[tuple[Future[Any], Any]] = deque()
        try:
            for task in tasks:
                waiting.append((self._submit(task, self._packed.key, None), task))
                if len(waiting) > max(_AHEAD, len(self.shards)):
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())
        finally:
            for future, _ in waiting:
                future.cancel()

    def _result(self, future, task):
        result = _finished(future)
        if isinstance(result, Missing):
            # A recipe can be a whole network, so it goes only to workers that do not have it.
            result = _finished(self._submit(task, self._packed.key, self._packed))
        return result

    def _submit(self, task, *recipe):
        function, shard, *others = task
        try:
            return self._executor.submit(function, shard, recipe, *others)
        except BrokenExecutor as error:
            raise _broken(error) from error
        except RuntimeError as error:
            raise RuntimeError(
                f"The executor takes no work ({error}): shard the model again, with one that is "
                f"open for as long as the model is asked."
            ) from error


def summed(results: Iterable[Any]) -> Any:
    """The sum of structures of arrays, in float64 and in their order."""
    total = None
    for result in results:
        result = tf.nest.map_structure(lambda array: np.asarray(array, np.float64), result)
        total = result if total is None else tf.nest.map_structure(np.add, total, result)
    return total


def described(
    executor: Executor,
    loaders: Any,
    recipe: Recipe,
    check_labels: Callable[[np.ndarray, str], None],
) -> Sharding:
    """The sharding of rows that nobody has seen, by a pass.

    Args:
        loaders: a list, each a ``Shard``, or a function that gives the rows of a ``LoadedShard``.
        check_labels: (labels, name) -> None, raises a ValueError for labels that are none.

    Raises:
        ValueError: what is no shard; or names the first whose rows cannot be loaded, or are none.
    """
    if not isinstance(loaders, (list, tuple)) or not loaders:
        raise ValueError(
            f"shards must be how many, or a list of functions that load one each (npy_shards and "
            f"parquet_shards give one), not {loaders!r:.60}."
        )
    shards = [_shard(loader, number) for number, loader in enumerate(loaders)]
    sharding = Sharding(executor, shards, recipe, [0] * len(shards))
    sizes: list[int] = []
    try:
        for size, labels, content in sharding.looks():
            if len(labels):
                check_labels(labels, "its different labels")
            shard = shards[len(sizes)]
            if isinstance(shard, LoadedShard):
                sharding.shards[len(sizes)] = replace(shard, content=content)
            sizes.append(size)
    except ValueError as error:
        name = f"Shard {len(sizes)}"
        said = str(error)
        raise ValueError(said if said.startswith(name) else f"{name}: {said}") from error
    sharding.ends = np.cumsum(sizes)
    return sharding


def _shard(loader: Any, number: int) -> Shard:
    if callable(loader):
        return LoadedShard.of(loader, number)
    if not hasattr(loader, "load"):
        raise ValueError(
            f"Shard {number} is a {type(loader).__name__}: give a function that loads its rows, "
            f"() -> (x, labels)."
        )
    return loader


def check_executor(executor: Any) -> None:
    """Raise a ValueError for what is no executor, or one whose processes are forked."""
    # A Client of Dask has submit, too, which is another one.
    other = isinstance(executor, type) or hasattr(executor, "get_executor")
    if other or not hasattr(executor, "submit"):
        raise ValueError(
            f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}: of a "
            f"Dask Client it is client.get_executor()."
        )
    context: Any = getattr(executor, "_mp_context", None)
    if isinstance(executor, ProcessPoolExecutor) and context.get_start_method() == "fork":
        raise ValueError(
            "The processes of executor are forked, in which TensorFlow hangs: make it with "
            'mp_context=multiprocessing.get_context("spawn").'
        )


def _finished(future):
    try:
        return future.result()
    except BrokenExecutor as error:
        raise _broken(error) from error
    except CancelledError as error:
        raise RuntimeError(
            "A task of the executor was cancelled: nothing is computed without its rows. Shard the "
            "model again, with an executor that is open for as long as the model is asked."
        ) from error


def _broken(error):
    return RuntimeError(
        f"A worker process of the executor has died ({error}): nothing is computed without its "
        f"rows. Make a new executor; where it ran out of memory, with more shards."
    )
