"""What a worker does: it loads a shard, makes a model of its rows, and computes."""

from __future__ import annotations

import contextlib
import functools
import gc
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import scipy.sparse
import tensorflow as tf
import threadpoolctl

from influence.sharding.shards import LoadedShard, Shard, content

# Bytes of rows that a worker keeps; one shard, however large it is.
KEPT_BYTES = 2**29
# Models that it keeps the recipes of.
_KEPT_RECIPES = 4


class Recipe(Protocol):
    """How a model is made of the rows of a shard. It travels; models do not."""

    def part(self, rows: Any) -> Any:
        """The model of these rows, without its regulariser, which the caller adds."""

    def label_values(self, part: Any) -> np.ndarray:
        """The labels that occur in it, for the caller to look at; none where ``part`` has."""


# One task at a time in a process: models share buffers and variables.
_LOCK = threading.Lock()
_shards: OrderedDict[str, _Loaded] = OrderedDict()
_recipes: OrderedDict[str, Recipe] = OrderedDict()
# Bytes of the shards that have gone since the last look for what has to be collected.
_gone: list[int] = []


class _Loaded:
    """The rows of a shard, and the models that were made of them, by their recipes' keys."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.parts = rows, OrderedDict[str, Any]()
        self.bytes = sum(_bytes(leaf) for leaf in tf.nest.flatten(rows))


def run(
    shard: Shard,
    recipe: tuple[str, bytes],
    theta: np.ndarray | None,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Any:
    """``function(model, *arguments)`` of the model of a shard's rows, at ``theta`` [p].

    Args:
        shard: the rows.
        recipe: its key, and the ``Recipe``, pickled.
        theta: None where it does not matter.
        function: of a module, so that it can travel.

    Raises:
        ValueError: the rows are gone or have changed.
    """
    with _LOCK, _one_thread():
        shard.check()
        part = _part(shard, *recipe)
        if theta is not None and not np.array_equal(part.parameters, theta):
            part.parameters = theta
        return function(part, *arguments)


def look(shard: Shard, recipe: tuple[str, bytes]) -> tuple[int, np.ndarray, str | None]:
    """(rows, values of the labels, fingerprint where there is no file to look after) of a shard
    that nobody has seen."""
    with _LOCK, _one_thread():
        shard.check()
        part = _part(shard, *recipe)
        values = _recipes[recipe[0]].label_values(part)
        loaded = isinstance(shard, LoadedShard)
        return len(part.train), values, content(_loaded(shard).rows) if loaded else None


def _part(shard, key, pickled):
    if key not in _recipes:
        _recipes[key] = pickle.loads(pickled)
    _use(_recipes, key, len(_recipes) > _KEPT_RECIPES)
    loaded = _loaded(shard)
    if key not in loaded.parts:
        loaded.parts[key] = _recipes[key].part(loaded.rows)
    _use(loaded.parts, key, len(loaded.parts) > _KEPT_RECIPES)
    return loaded.parts[key]


def _loaded(shard):
    key = shard.key
    if key not in _shards:
        # What was used longest ago goes before more is read, as much as the largest has.
        sizes = [loaded.bytes for loaded in _shards.values()]
        while sizes and sum(sizes) + max(sizes) > KEPT_BYTES:
            _shards.popitem(last=False)
            _gone.append(sizes.pop(0))
        if sum(_gone) > KEPT_BYTES // 2:
            gc.collect()  # models may stand in circles
            _gone.clear()
        _shards[key] = _Loaded(shard.load())
    _use(_shards, key)
    return _shards[key]


def _use(kept, key, full=False):
    kept.move_to_end(key)
    if full:
        kept.popitem(last=False)


def _bytes(leaf):
    if scipy.sparse.issparse(leaf):
        return leaf.data.nbytes + leaf.indices.nbytes + leaf.indptr.nbytes
    return getattr(leaf, "nbytes", 0)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The bits of a product of matrices depend on its threads, and there are other workers."""
    with _pools().limit(limits=1):
        yield


@functools.cache
def _pools():
    # In the caller's own process TensorFlow runs already, and keeps its threads.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return threadpoolctl.ThreadpoolController()
