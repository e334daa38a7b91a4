"""The training points of a Keras model: arrays in any structure, or a stream of batches."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.batches import spec_of, take_rows
from influence.data.dataset import Dataset, check_indices, check_inputs
from influence.data.types import DType, Inputs, Tensors

_ACCEPTED = (
    "an influence.Dataset, a pair (x, labels) of arrays (x may be a dict, tuple or list of "
    "arrays), or a tf.data.Dataset of batches (x, labels)"
)


def training_points(train: object) -> Examples | Stream:
    """What a Keras model is trained on, checked.

    Raises:
        ValueError: names what is not ``train``, or what is wrong with its arrays or batches.
    """
    if isinstance(train, (Examples, Stream)):
        return train
    if isinstance(train, tf.data.Dataset):
        return Stream(train)
    if isinstance(train, Dataset):
        return Examples(train.x, train.labels, train.scale)
    if isinstance(train, tuple) and len(train) == 2:
        return Examples(*train)
    raise ValueError(f"train must be {_ACCEPTED}; it is {type(train).__name__}.")


class Examples:
    """Training points in memory.

    Args:
        x: [n, ...], or a dict, tuple or list of such arrays.
        labels: [n, ...].
        scale: what a model multiplies floating-point numbers by as it converts a batch.
        features: [n, f], what a frozen body of the model makes of ``x``, where it is known.

    Attributes:
        smallest, largest: of all labels.
    """

    def __init__(
        self, x: Inputs, labels: ArrayLike, scale: float = 1.0, features: np.ndarray | None = None
    ) -> None:
        self.x = checked_leaves(x, "train.x")
        self.labels = checked_leaves(labels, "train.labels")
        self.scale, self.features = scale, features
        if keras.tree.is_nested(self.labels):
            raise ValueError("train.labels must be one array [n, ...], not several.")
        for name, leaf in named_leaves(self.x, "train.x"):
            if leaf.shape[0] != len(self.labels):
                raise ValueError(
                    f"{name} has {leaf.shape[0]} rows and train.labels has {len(self.labels)}: "
                    f"give one label a row."
                )

    @property
    def smallest(self) -> float:
        return float(self.labels.min())

    @property
    def largest(self) -> float:
        return float(self.labels.max())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def spec(self) -> tuple[Any, Any]:
        """(of x, of labels): ``tf.TensorSpec``s with an open first axis."""
        return spec_of((self.x, self.labels))

    def without(self, indices: ArrayLike) -> Examples:
        """The same points without those at ``indices`` (one index or several)."""
        keep = np.ones(len(self), bool)
        keep[check_indices(indices, len(self))] = False
        if not keep.any():
            raise ValueError("Nothing is left when every point is removed.")
        features = None if self.features is None else self.features[keep]
        x, labels = take(self.x, keep), self.labels[keep]
        return Examples(x, labels, self.scale, features)

    def first(self, number: int) -> tuple[Inputs, np.ndarray]:
        """(x, labels) of the first points, at most ``number``."""
        return self.rows(slice(number))[:2]

    def rows(self, indices: np.ndarray | slice) -> tuple[Inputs, np.ndarray, np.ndarray | None]:
        """(x, labels, features or None) of the points at ``indices``, arrays."""
        features = None if self.features is None else self.features[indices]
        return take(self.x, indices), self.labels[indices], features


class Stream:
    """Training points that need not fit into memory: batches of a ``tf.data.Dataset``.

    Every scan is one pass over it inside the graph, in its order, which must be the same each time.

    Args:
        dataset: gives (x, labels), a batch at a time; finite.

    Attributes:
        dataset: the same, with a known number of batches.
        smallest, largest: of all labels.
    """

    scale = 1.0

    def __init__(self, dataset: tf.data.Dataset) -> None:
        self.spec = _checked_spec(dataset.element_spec)
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("train never ends: remove repeat() from the tf.data.Dataset.")
        options = tf.data.Options()
        options.deterministic = True
        dataset = dataset.with_options(options)
        rows, batches, finite, self.smallest, self.largest = _counted(dataset)
        if rows == 0:
            raise ValueError("The training set is empty: the tf.data.Dataset gives no rows.")
        if not finite:
            raise ValueError("train must be finite: some batch of the tf.data.Dataset is not.")
        self.dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
        self._rows = rows
        _check_same_every_time(self.dataset)

    def __len__(self) -> int:
        return self._rows

    def without(self, indices: ArrayLike) -> Stream:
        """The same rows without those at ``indices``."""
        indices = check_indices(indices, len(self))
        if len(indices) == len(self):
            raise ValueError("Nothing is left when every point is removed.")
        return Stream(self._where(indices, chosen=False))

    def first(self, number: int) -> tuple[Inputs, np.ndarray]:
        """(x, labels) of the first points, at most ``number`` and at most a batch."""
        return take(_arrays(next(iter(self.dataset))), slice(number))

    def rows(self, indices: np.ndarray) -> tuple[Inputs, np.ndarray, None]:
        """(x, labels, None) of the rows at ``indices``, by one pass."""
        parts = [_arrays(batch) for batch in self._where(indices, chosen=True)]
        x, labels = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)
        # They came in the order of the stream.
        order = np.argsort(np.argsort(indices))
        return take(x, order), labels[order], None

    def _where(self, indices, chosen: bool) -> tf.data.Dataset:
        """The rows at ``indices``, or the others, in the same batches without the empty ones."""
        indices = tf.constant(indices, tf.int64)

        def select(first, batch):
            size = tf.shape(batch[1], tf.int64)[0]
            rows = tf.range(first, first + size)[:, tf.newaxis]
            there = tf.reduce_any(rows == indices, axis=1)
            keep = tf.where(there if chosen else ~there)[:, 0]
            return first + size, take_rows(batch, keep)

        dataset = self.dataset.scan(tf.constant(0, tf.int64), select)
        return dataset.filter(lambda x, labels: tf.shape(labels)[0] > 0)


def _arrays(batch):
    return keras.tree.map_structure(lambda tensor: tensor.numpy(), batch)


def as_tensors(x: Inputs, dtype: DType) -> Tensors:
    """Arrays as tensors: floating-point ones in ``dtype``, integers in their own type."""

    def of_leaf(leaf):
        return tf.identity(tf.cast(leaf, dtype) if leaf.dtype.kind == "f" else leaf)

    return keras.tree.map_structure(of_leaf, x)


def take(x: Inputs, rows: np.ndarray | slice) -> Inputs:
    """The ``rows`` of every array of ``x``."""
    return keras.tree.map_structure(lambda leaf: leaf[rows], x)


def named_leaves(x: Inputs, name: str) -> list[tuple[str, Any]]:
    """(name of the leaf, leaf) of a structure, such as ("x['image']", array)."""
    return [
        (name + "".join(f"[{key!r}]" for key in path), leaf)
        for path, leaf in keras.tree.flatten_with_path(x)
    ]


def checked_leaves(x: Inputs, name: str) -> Inputs:
    """The structure ``x`` with arrays [n, ...] of finite numbers as leaves."""
    leaves = []
    for leaf_name, leaf in named_leaves(x, name):
        if scipy.sparse.issparse(leaf):
            raise ValueError(f"{leaf_name} is sparse, which Keras models do not take: x.toarray().")
        if np.ndim(leaf) == 0:
            raise ValueError(f"{leaf_name} must be an array with a row for each point.")
        leaves.append(check_inputs(leaf, np.shape(leaf)[1:], leaf_name))
    return keras.tree.pack_sequence_as(x, leaves)


def checked_like(x: Inputs, spec: Any, name: str) -> Inputs:
    """Test points as arrays [m, ...] in the structure of ``spec``; one may come without ``m``.

    Raises:
        ValueError: another structure or shape, or entries that are not finite numbers.
    """
    try:
        keras.tree.assert_same_structure(x, spec)
    except (ValueError, TypeError):
        raise ValueError(
            f"{name} must be {_described(spec)}, like the training points; it is {_described(x)}."
        ) from None
    leaves = [
        check_inputs(leaf, leaf_spec.shape[1:], leaf_name)
        for (leaf_name, leaf), leaf_spec in zip(named_leaves(x, name), keras.tree.flatten(spec))
    ]
    sizes = {len(leaf) for leaf in leaves}
    if len(sizes) > 1:
        raise ValueError(f"The arrays of {name} must have as many rows; they have {sorted(sizes)}.")
    return keras.tree.pack_sequence_as(x, leaves)


def _described(x) -> str:
    if isinstance(x, dict):
        return f"a dict of {sorted(x)}"
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__} of {len(x)} arrays"
    return "one array"


def _checked_spec(spec):
    """The element_spec of batches (x, labels), or a ValueError that says what they are instead."""
    if isinstance(spec, tuple) and len(spec) == 3:
        raise ValueError(
            "train gives (x, labels, sample_weight): weights are not supported here; put them into "
            "`loss`, or map the tf.data.Dataset to (x, labels)."
        )
    if not isinstance(spec, tuple) or len(spec) != 2 or keras.tree.is_nested(spec[1]):
        raise ValueError(f"train must be {_ACCEPTED}; its elements are {spec}.")
    for name, leaf in named_leaves(spec, "an element of train"):
        if not isinstance(leaf, tf.TensorSpec) or leaf.shape.rank is None:
            raise ValueError(f"{name} must be a dense tensor of known rank; it is {leaf}.")
        if leaf.shape.rank == 0:
            raise ValueError(f"{name} is one number: batch() the tf.data.Dataset.")
        if None in leaf.shape[1:]:
            raise ValueError(f"{name} must have a fixed shape after the first axis; it is {leaf}.")
    return keras.tree.map_structure(
        lambda leaf: tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype), spec
    )


def _counted(dataset):
    """(rows, batches, whether all is finite, smallest label, largest label), in one pass."""

    def finite(tensor):
        if not tensor.dtype.is_floating:
            return True
        return tf.reduce_all(tf.math.is_finite(tensor))

    def add(state, x, labels):
        rows, batches, fine, smallest, largest = state
        for leaf in keras.tree.flatten((x, labels)):
            fine = tf.logical_and(fine, finite(leaf))
        numbers = tf.cast(labels, tf.float64)
        return (
            rows + tf.shape(labels, tf.int64)[0],
            batches + 1,
            fine,
            tf.minimum(smallest, tf.reduce_min(numbers)),
            tf.maximum(largest, tf.reduce_max(numbers)),
        )

    zero, infinity = tf.constant(0, tf.int64), tf.constant(np.inf, tf.float64)
    start = (zero, zero, tf.constant(True), infinity, -infinity)
    state = dataset.reduce(start, lambda state, batch: add(state, *batch))
    rows, batches, fine, smallest, largest = (value.numpy() for value in state)
    return int(rows), int(batches), bool(fine), float(smallest), float(largest)


def _check_same_every_time(dataset) -> None:
    passes = [keras.tree.flatten(next(iter(dataset))) for _ in range(2)]
    if not all(np.array_equal(one, other) for one, other in zip(*passes)):
        raise ValueError(
            "train gives other rows at every pass: indices would mean nothing. Use "
            "shuffle(..., reshuffle_each_iteration=False), and no random map()."
        )
