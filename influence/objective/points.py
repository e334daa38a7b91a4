"""How points come into a model: checked, and as the tensors that its scans take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.batches import take_rows
from influence.data.dataset import check_chosen, check_inputs, check_points
from influence.data.types import DType, Inputs, PointTensors, Tensors

# Points that ``blocks`` gives at a time.
_BLOCK = 512


class Points:
    """The training points of a model as tensors, and other points made like them.

    A model *has* its points: what is special to sparse, weighted or nested ones is said in a
    subclass of this class, and the model does not change.

    Args:
        train: the training points.
        dtype: the model's; test points come in it, training points stay in their own.
        label_dtype: of the labels.
        check_labels: (labels, name) -> None, raises a ValueError for labels that are none.
    """

    # A Dataset, or what a subclass has in its place.
    train: Any

    def __init__(
        self,
        train: Any,
        dtype: DType,
        label_dtype: Any,
        check_labels: Callable[[np.ndarray, str], None],
    ) -> None:
        self.train, self.dtype = train, np.dtype(dtype)
        self._label_dtype, self._check_labels = label_dtype, check_labels

    @functools.cached_property
    def tensors(self) -> PointTensors:
        """The training points (x, labels) as tensors in the data's own dtype."""
        # Outside any function that is being traced.
        with tf.init_scope():
            return self.input_tensor(self.train.x), self.label_tensor(self.train.labels)

    @functools.cached_property
    def labels(self) -> Tensors:
        """Those of all training points, as ``tensors`` has them."""
        with tf.init_scope():
            return self.label_tensor(self.train.labels)

    def scanned(self, indices: ArrayLike | None = None) -> Any:
        """What scans take for the training points at ``indices``, or for all of them (None)."""
        return self.chosen(indices)

    def parts(self, points: Any) -> Iterator[PointTensors]:
        """What scans take for training points as tensors, a part of them at a time."""
        yield points

    def chosen(self, indices: ArrayLike | None = None) -> PointTensors:
        """The training points at ``indices``, or all of them (None)."""
        if indices is None:
            return self.tensors
        indices = check_chosen(indices, len(self.train))
        x = self.input_tensor(self.train.x[indices])
        return x, self.label_tensor(self.train.labels[indices])

    def sample(self, number: int) -> PointTensors:
        """At most ``number`` training points that stand for all: evenly spaced, as data are often
        in the order of their labels."""
        n = len(self.train)
        return self.chosen(np.linspace(0, n - 1, min(n, number)).astype(int))

    def raw(self, indices: np.ndarray) -> PointTensors:
        """Those points as they came, where ``chosen`` gives something made of them."""
        return self.chosen(indices)

    def checked(self, x: Inputs, labels: ArrayLike, x_name: str, labels_name: str) -> PointTensors:
        """Test points (x [m, ...], labels [m]) as tensors.

        Raises:
            ValueError: says which of the two is wrong, and how.
        """
        shape, targets = self.train.x.shape[1:], self.train.labels.shape[1:]
        x, labels = check_points(x, labels, shape, x_name, labels_name, targets)
        self._check_labels(labels, labels_name)
        return self.input_tensor(x.astype(self.dtype)), self.label_tensor(labels)

    def inputs(self, x: Inputs, name: str) -> Tensors:
        """Test points ``x`` [m, ...] without labels, checked, as a tensor."""
        return self.input_tensor(check_inputs(x, self.train.x.shape[1:], name))

    def embedded(self, x: Tensors) -> Tensors:
        """What the scans take for test points ``x``: the points, or something made of them."""
        return x

    def convert(self, x: Tensors) -> Tensors:
        """A batch of points as the model sees them: its dtype, times the data set's scale."""
        x = tf.cast(x, self.dtype)
        return x if self.train.scale == 1 else x * tf.constant(self.train.scale, self.dtype)

    def blocks(self, points: PointTensors) -> Iterator[PointTensors]:
        """A few of these points at a time."""
        x, labels = points
        for first in range(0, tf.nest.flatten(labels)[0].shape[0], _BLOCK):
            yield take_rows((x, labels), slice(first, first + _BLOCK))

    def input_tensor(self, x: Inputs) -> Tensors:
        """Points as the compiled functions take them, in the points' own dtype."""
        if scipy.sparse.issparse(x):
            raise ValueError("This model takes no sparse points: use x.toarray().")
        # identity lets go of the second copy that the conversion makes
        return tf.identity(x)

    def label_tensor(self, labels: np.ndarray) -> tf.Tensor:
        """Labels as the compiled functions take them."""
        return tf.constant(labels.astype(self._label_dtype))
