"""The points of a Keras model: structures of arrays, and what its frozen layers make of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.batches import is_stream, take_rows
from influence.data.dataset import check_chosen
from influence.data.streams import read
from influence.data.types import DType, Inputs, PointTensors, Tensors
from influence.keras_models.data import Examples, Stream, as_tensors, checked_like, named_leaves
from influence.keras_models.weights import WeightedLabels
from influence.objective.points import Points


class KerasPoints(Points):
    """Points that are dicts, tuples or single arrays, in memory or in a stream.

    Integer inputs stay so. Training points have their weights in ``WeightedLabels``, and others
    weigh 1. Where the network has a ``body``, what it makes of the points in memory
    is computed once and stands for them; only gradients with respect to the inputs go through it.

    Args:
        train: ``Examples`` or a ``Stream``.
        dtype: the network's.
        check_labels: as for ``Points``.
        embed: points x -> what the body makes of them; None where there is no body.
    """

    train: Examples | Stream

    def __init__(
        self,
        train: Examples | Stream,
        dtype: DType,
        check_labels: Callable[[Any, str], None],
        embed: Callable[[Tensors], tf.Tensor] | None,
    ) -> None:
        super().__init__(train, dtype, None, check_labels)
        self._embed = embed

    @functools.cached_property
    def tensors(self) -> PointTensors:
        with tf.init_scope():
            if isinstance(self.train, Stream):
                return (self.train.dataset,)
            if self._embed is not None and self.train.features is None:
                self.train.features = self._embed(self.input_tensor(self.train.x)).numpy()
            return self._rows(slice(None))

    def chosen(self, indices: ArrayLike | None = None) -> PointTensors:
        tensors = self.tensors  # computes the features
        if indices is None:
            return tensors
        return self._rows(check_chosen(indices, len(self.train)))

    def sample(self, number: int) -> PointTensors:
        """As for every model; of a stream, points of the first batch."""
        if not isinstance(self.train, Stream):
            return super().sample(number)
        return take_rows(next(iter(self.blocks(self.tensors))), slice(number))

    def raw(self, indices: np.ndarray) -> PointTensors:
        x, labels, _ = self.train.rows(indices)
        return self.input_tensor(x), self.label_tensor(labels)

    def checked(self, x: Inputs, labels: ArrayLike, x_name: str, labels_name: str) -> PointTensors:
        x, spec = self.inputs(x, x_name), self.train.spec[1]
        array = checked_like(labels, spec, labels_name)
        self._check_labels(array, labels_name)
        rows, given = (keras.tree.flatten(part)[0].shape[0] for part in (x, array))
        if given != rows:
            raise ValueError(f"{x_name} has {rows} rows and {labels_name} has {given}.")
        tensors = self._like(array, spec)
        if self.train.weights_shape is not None:
            ones = tf.ones([rows, *self.train.weights_shape], self.dtype)
            tensors = WeightedLabels(tensors, ones)
        return self.embedded(x), tensors

    def inputs(self, x: Inputs, name: str) -> Tensors:
        return self._like(checked_like(x, self.train.spec[0], name), self.train.spec[0])

    def convert(self, x: Tensors) -> Tensors:
        """A batch as the network takes it: floating-point numbers in its type, integers as such."""

        def of_leaf(leaf):
            if leaf.dtype.is_floating or self.train.scale != 1:
                return Points.convert(self, leaf)
            return leaf

        return tf.nest.map_structure(of_leaf, x)

    def blocks(self, points: PointTensors) -> Iterator[PointTensors]:
        yield from read(points[0]) if is_stream(points) else super().blocks(points)

    def embedded(self, x: Tensors) -> Tensors:
        """What the frozen layers make of points, where there are any."""
        return x if self._embed is None else self._embed(x)

    def check_floating(self) -> None:
        """Raise a ValueError where an input is an integer: it has no gradient."""
        for name, leaf in named_leaves(self.train.spec[0], "train.x"):
            if not leaf.dtype.is_floating and self.train.scale == 1:
                raise ValueError(
                    f"{name} is {leaf.dtype.name}: only floating-point inputs have a gradient."
                )

    def input_tensor(self, x: Inputs) -> Tensors:
        return as_tensors(x, self.dtype)

    def label_tensor(self, labels: Inputs) -> Tensors:
        return as_tensors(labels, self.dtype)

    def _like(self, arrays, spec):
        """Test points as tensors that need no other trace than training points."""

        def of_leaf(leaf, leaf_spec):
            whole = leaf.dtype.kind != "f" and not leaf_spec.dtype.is_floating
            return leaf.astype(leaf_spec.dtype.as_numpy_dtype if whole else self.dtype)

        return self.input_tensor(keras.tree.map_structure(of_leaf, arrays, spec))

    def _rows(self, indices):
        x, labels, features = self.train.rows(indices)
        x = self.input_tensor(x) if features is None else tf.constant(features)
        return x, self.label_tensor(labels)
