"""The points and the scans of a model whose training points are in shards."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.dataset import check_chosen
from influence.data.types import Inputs, Loss, Model, PointTensors, Tensors
from influence.sharding.sharding import Sharding, summed
from influence.sharding.shards import local_rows

# Points whose gradients are computed together.
_BLOCK = 512


class ShardedTrain:
    """What the caller knows of training points that are in shards.

    Args:
        like: points of the same kind; only what they look like counts.
        number: n.
    """

    def __init__(self, like: Any, number: int) -> None:
        self._like, self._number = like, number

    def __len__(self) -> int:
        return self._number

    def __getattr__(self, name: str) -> Any:
        if name in ("scale", "spec", "weights_shape"):
            return getattr(self._like, name)
        if name in ("x", "labels"):
            return _Elsewhere(name, self._number, getattr(self._like, name))
        raise AttributeError(name)


def check_like(row: str, own: str) -> None:
    """Raise a ValueError unless a shard's ``row`` looks like the model's ``own``."""
    if row != own:
        raise ValueError(f"Its rows are {row}, and those of the model are {own}: give it such.")


class _Elsewhere:
    """The shape and the dtype of an array that is not here."""

    def __init__(self, name: str, number: int, like: np.ndarray) -> None:
        self._name, self.dtype = name, like.dtype
        self.shape = number, *like.shape[1:]
        self.ndim = len(self.shape)

    def __array__(self, *settings: Any, **options: Any) -> np.ndarray:
        raise ValueError(
            f"train.{self._name} is in shards, which is not here: this is for models with their "
            f"rows in memory."
        )

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.__array__()


class ShardedRows:
    """Training points that stay where they are: what scans take for them.

    Args:
        points: whose they are.
        indices: in this order; None for all.
    """

    def __init__(self, points: ShardedPoints, indices: np.ndarray | None = None) -> None:
        self._points, self._indices = points, indices

    def __len__(self) -> int:
        return len(self._points.sharding) if self._indices is None else len(self._indices)

    def joined(self, theta: np.ndarray | None, function: Any, *arguments: Any) -> np.ndarray:
        """``function(model, rows, *arguments)`` of all, [m, ...]."""
        result: np.ndarray | None = None
        calls = self._calls()
        for places, part in zip(
            (places for _, _, places in calls), self._each(calls, theta, function, *arguments)
        ):
            if result is None:
                result = np.empty((len(self), *part.shape[1:]), part.dtype)
            result[places] = part
        assert result is not None
        return result

    def total(self, theta: np.ndarray | None, function: Any, *arguments: Any) -> Any:
        """Σ of what it gives, in float64."""
        return summed(self._each(self._calls(), theta, function, *arguments))

    def blocks(
        self, theta: np.ndarray | None, function: Any, *arguments: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(places, what it gives), a few points of one shard at a time."""
        indices = np.arange(len(self)) if self._indices is None else self._indices
        calls = [
            (shard, rows[first : first + _BLOCK], places[first : first + _BLOCK])
            for shard, rows, places in local_rows(self._points.sharding.ends, indices)
            for first in range(0, len(rows), _BLOCK)
        ]
        parts = self._each(calls, theta, function, *arguments)
        yield from zip((places for _, _, places in calls), parts)

    def parts(self) -> Iterator[PointTensors]:
        """The points themselves, fetched a shard at a time."""
        every = np.arange(len(self)) if self._indices is None else self._indices
        for _, _, places in self._calls():
            yield self._points.chosen(every[places])

    def _calls(self) -> list[tuple[int, Any, Any]]:
        """(shard, rows in it or None for all, places)."""
        ends = self._points.sharding.ends
        starts = [0, *ends[:-1].tolist()]
        if self._indices is None:
            return [(i, None, slice(a, b)) for i, (a, b) in enumerate(zip(starts, ends.tolist()))]
        sizes = ends - starts
        return [
            (shard, None if _all(rows, sizes[shard]) else rows, places)
            for shard, rows, places in local_rows(ends, self._indices)
        ]

    def _each(self, calls, theta, function, *arguments):
        tasks = ((number, (rows, *arguments)) for number, rows, _ in calls)
        return self._points.sharding.calls(theta, function, tasks)


def _all(rows, size):
    """Whether these are all rows of a shard, in their order."""
    return len(rows) == size and np.array_equal(rows, np.arange(size))


class ShardedPoints:
    """``Points`` whose training points are in shards, and stay there where scans go over them.

    Args:
        points: the model's own, which do all but that.
        sharding: of the training points.
    """

    def __init__(self, points: Any, sharding: Sharding) -> None:
        self._own, self.sharding = points, sharding

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._own, name)

    @property
    def tensors(self) -> Any:
        """The training points, as the sharded scans take them."""
        return ShardedRows(self)

    @functools.cached_property
    def labels(self) -> tf.Tensor:
        """Those of all training points."""
        return tf.constant(self.tensors.joined(None, _labels))

    def scanned(self, indices: ArrayLike | None = None) -> Any:
        """The training points at ``indices``, or all of them (None), for scans."""
        if indices is None:
            return self.tensors
        return ShardedRows(self, check_chosen(indices, len(self.sharding)))

    def chosen(self, indices: ArrayLike | None = None) -> PointTensors:
        """The same, fetched."""
        return self._fetched(_chosen, indices)

    def raw(self, indices: np.ndarray) -> PointTensors:
        """Those points as they came."""
        return self._fetched(_raw, indices)

    def sample(self, number: int) -> PointTensors:
        """At most ``number`` training points, evenly spaced."""
        n = len(self.sharding)
        return self.chosen(np.linspace(0, n - 1, min(n, number)).astype(int))

    def parts(self, points: Any) -> Iterator[PointTensors]:
        """Points for scans, as tensors, a part of them at a time."""
        return points.parts() if isinstance(points, ShardedRows) else iter([points])

    def weights_of(self, points: Any) -> np.ndarray:
        """The weights of points for scans, [m]."""
        if isinstance(points, ShardedRows):
            return points.joined(None, _labels)[:, -1]
        return self._own.weights_of(points)

    def _fetched(self, function, indices):
        indices = np.arange(len(self.sharding)) if indices is None else indices
        calls = local_rows(self.sharding.ends, indices)
        tasks = ((number, (rows,)) for number, rows, _ in calls)
        parts = list(self.sharding.calls(None, function, tasks))
        order = np.argsort(np.concatenate([places for _, _, places in calls]))

        def joined(*arrays):
            if scipy.sparse.issparse(arrays[0]):
                return scipy.sparse.csr_array(scipy.sparse.vstack(arrays))[order]
            return np.concatenate(arrays)[order]

        x, labels = tf.nest.map_structure(joined, *parts)
        return self._own.input_tensor(x), tf.nest.map_structure(tf.constant, labels)


class ShardedScans:
    """``Scans`` that ask the workers about training points, at the model's present parameters.

    Args:
        scans: the model's own, for all other points.
        model: whose parameters they are taken at.
        sharding: of its training points.
    """

    def __init__(self, scans: Any, model: Model, sharding: Sharding) -> None:
        self._own, self._model, self._sharding = scans, model, sharding

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._own, name)

    def losses(self, loss: Loss, points: Any) -> tf.Tensor:
        """As ``Scans``, and so are the others."""
        if not isinstance(points, ShardedRows):
            return self._own.losses(loss, points)
        return tf.constant(points.joined(self._theta, _losses, loss))

    def gradients(self, loss: Loss, points: Any) -> np.ndarray:
        if not isinstance(points, ShardedRows):
            return self._own.gradients(loss, points)
        return points.joined(self._theta, _gradients, loss)

    def gradient_blocks(self, points: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if not isinstance(points, ShardedRows):
            return self._own.gradient_blocks(points)
        return points.blocks(self._theta, _gradients, "normal")

    def gradient_norms(self, points: Any) -> np.ndarray:
        if not isinstance(points, ShardedRows):
            return self._own.gradient_norms(points)
        return points.joined(self._theta, _gradient_norms)

    def mean_gradient(self, loss: Loss, points: Any) -> np.ndarray:
        if not isinstance(points, ShardedRows):
            return self._own.mean_gradient(loss, points)
        mean = points.total(self._theta, _sum_gradient, loss) / len(points)
        return mean.astype(self._model.dtype)

    def directional_derivatives(self, points: Any, block: tf.Tensor) -> np.ndarray:
        if not isinstance(points, ShardedRows):
            return self._own.directional_derivatives(points, block)
        return points.joined(self._theta, _directional_derivatives, np.asarray(block))

    @property
    def _theta(self):
        return self._model.parameters


# What the workers do, for ``rows`` of theirs, or all (None).


def _labels(part, rows):
    return part.points.chosen(rows)[1].numpy()


def _chosen(part, rows):
    return _arrays(part.points.chosen(rows))


def _raw(part, rows):
    return _arrays(part.points.raw(rows))


def _arrays(points: Tensors) -> Inputs:
    x, labels = points
    x = x if scipy.sparse.issparse(x) else tf.nest.map_structure(np.asarray, x)
    return x, tf.nest.map_structure(np.asarray, labels)


def _losses(part, rows, loss):
    return part.scans.losses(loss, part.points.chosen(rows)).numpy()


def _gradients(part, rows, loss):
    return part.scans.gradients(loss, part.points.chosen(rows))


def _gradient_norms(part, rows):
    return part.scans.gradient_norms(part.points.chosen(rows))


def _sum_gradient(part, rows, loss):
    points = part.points.chosen(rows)
    number = len(part.train) if rows is None else len(rows)
    return number * part.scans.mean_gradient(loss, points).astype(np.float64)


def _directional_derivatives(part, rows, block):
    return part.scans.directional_derivatives(part.points.chosen(rows), tf.constant(block))
