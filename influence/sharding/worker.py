"""What a worker does: it loads a shard, makes a model of its rows, and computes."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.data.packing import Packed
from influence.data.threads import limited_to
from influence.sharding.shards import LoadedShard, Shard, content

# Bytes of rows that a worker keeps; one shard, however large it is.
KEPT_BYTES = 2**29
# Models that it keeps the recipes of.
_KEPT_RECIPES = 4


class Recipe(Protocol):
    """How a model is made of the rows of a shard. It travels; models do not."""

    def part(self, rows: Any) -> Any:
        """The model of these rows, without its regulariser, which the caller adds.

        Raises:
            ValueError: they are not like those of the whole model.
        """

    def label_values(self, part: Any) -> np.ndarray:
        """The labels that occur in it, for the caller to look at; none where ``part`` has."""


# One task at a time in a process: models share buffers and variables. Each in one thread: the bits
# of a product of matrices depend on its threads, and there are other workers.
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


@dataclass(frozen=True)
class Missing:
    """The answer of a worker that does not have the recipe, and was not sent it."""


def run(
    shard: Shard,
    recipe: tuple[str, Packed | None],
    theta: np.ndarray | None,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Any:
    """``function(model, *arguments)`` of the model of a shard's rows, at ``theta`` [p].

    Args:
        shard: the rows.
        recipe: its key, and the ``Recipe``, packed, or None: ``Missing`` where it is needed.
        theta: None where it does not matter.
        function: of a module, so that it can travel.

    Raises:
        ValueError: the rows are gone or have changed.
    """
    with _LOCK, limited_to(1):
        shard.check()
        if not _knows(*recipe):
            return Missing()
        part = _part(shard, recipe[0])
        if theta is not None and not np.array_equal(part.parameters, theta):
            part.parameters = theta
        return function(part, *arguments)


def look(
    shard: Shard, recipe: tuple[str, Packed | None]
) -> tuple[int, np.ndarray, str | None] | Missing:
    """(rows, values of the labels, fingerprint where there is no file to look after) of a shard
    that nobody has seen."""
    with _LOCK, limited_to(1):
        shard.check()
        if not _knows(*recipe):
            return Missing()
        seen = None
        if isinstance(shard, LoadedShard):
            # What is kept of the same function may be what it gave before.
            _make_room()
            rows = shard.load()
            seen = content(rows)
            shard = replace(shard, content=seen)
            _shards.setdefault(shard.key, _Loaded(rows))
        part = _part(shard, recipe[0])
        return len(part.train), _recipes[recipe[0]].label_values(part), seen


def _knows(key, packed):
    """Whether a recipe is here, or comes with the task."""
    if key not in _recipes:
        if packed is None:
            return False
        _recipes[key] = Packed.unpacked(packed.head, packed.buffers)
    _use(_recipes, key, len(_recipes) > _KEPT_RECIPES)
    return True


def _part(shard, key):
    loaded = _loaded(shard)
    if key not in loaded.parts:
        loaded.parts[key] = _recipes[key].part(loaded.rows)
    _use(loaded.parts, key, len(loaded.parts) > _KEPT_RECIPES)
    return loaded.parts[key]


def _loaded(shard):
    key = shard.key
    if key not in _shards:
        _make_room()
        _shards[key] = _Loaded(shard.load())
    _use(_shards, key)
    return _shards[key]


def _make_room():
    """What was used longest ago goes before more is read, as much as the largest has."""
    sizes = [loaded.bytes for loaded in _shards.values()]
    while sizes and sum(sizes) + max(sizes) > KEPT_BYTES:
        _shards.popitem(last=False)
        _gone.append(sizes.pop(0))
    if sum(_gone) > KEPT_BYTES // 2:
        gc.collect()  # models may stand in circles
        _gone.clear()


def _use(kept, key, full=False):
    kept.move_to_end(key)
    if full:
        kept.popitem(last=False)


def _bytes(leaf):
    if scipy.sparse.issparse(leaf):
        return leaf.data.nbytes + leaf.indices.nbytes + leaf.indptr.nbytes
    return getattr(leaf, "nbytes", 0)
