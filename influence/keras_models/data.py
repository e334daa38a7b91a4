"""The training points of a Keras model: arrays in any structure, or a stream of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.batches import number_of_rows, spec_of, take_rows
from influence.data.dataset import Dataset, check_indices, check_inputs
from influence.data.streams import checksums, held, read
from influence.data.types import DType, Inputs, Tensors
from influence.keras_models.weights import (
    ClassWeights,
    WeightedLabels,
    check_weight_range,
    checked_weights,
)

_ACCEPTED = (
    "an influence.Dataset, arrays (x, labels) or (x, labels, sample_weight), where x and labels "
    "may be dicts, tuples or lists of arrays, or a tf.data.Dataset of batches of such tuples"
)


def training_points(
    train: object,
    sample_weight: ArrayLike | None = None,
    class_weight: Mapping[int, float] | None = None,
) -> Examples | Stream:
    """What a Keras model is trained on, checked.

    Raises:
        ValueError: names what is not ``train``, or what is wrong with its arrays or batches.
    """
    if isinstance(train, (Examples, Stream)):  # checked already
        return train
    of_class = None if class_weight is None else ClassWeights(class_weight)
    if isinstance(train, tf.data.Dataset):
        if sample_weight is not None:
            raise ValueError(
                "sample_weight is for arrays: let the tf.data.Dataset give (x, labels, "
                "sample_weight)."
            )
        return Stream(train, of_class)
    scale = 1.0
    if isinstance(train, Dataset):
        x, labels, scale, weights = train.x, train.labels, train.scale, sample_weight
    elif isinstance(train, tuple) and len(train) == 2:
        x, labels, weights = *train, sample_weight
    elif isinstance(train, tuple) and len(train) == 3:
        x, labels, weights = train
        if sample_weight is not None:
            raise ValueError("sample_weight is given twice: in train, and by its name.")
    else:
        raise ValueError(f"train must be {_ACCEPTED}; it is {type(train).__name__}.")
    if weights is not None and of_class is not None:
        raise ValueError(_BOTH)
    examples = Examples(x, labels, scale, weights)
    if of_class is not None:
        examples.weights = of_class.of(examples.labels).numpy()
    return examples


_BOTH = "Give class_weight or sample_weight, not both, as keras.Model.fit takes them."


class Examples:
    """Training points in memory.

    Args:
        x: [n, ...], or a dict, tuple or list of such arrays.
        labels: the same.
        scale: what a model multiplies floating-point numbers by as it converts a batch.
        weights: [n] or [n, ...], or None.
        features: [n, f], what a frozen body of the model makes of ``x``, where it is known.
    """

    def __init__(
        self,
        x: Inputs,
        labels: Inputs,
        scale: float = 1.0,
        weights: ArrayLike | None = None,
        features: np.ndarray | None = None,
    ) -> None:
        self.x = checked_leaves(x, "train.x")
        self.labels = checked_leaves(labels, "train.labels")
        self.scale, self.features = scale, features
        (_, first), *others = named_leaves(self.labels, "train.labels")
        for name, leaf in [*named_leaves(self.x, "train.x"), *others]:
            if leaf.shape[0] != len(first):
                raise ValueError(
                    f"{name} has {leaf.shape[0]} rows and train.labels has {len(first)}: "
                    f"give one label a row."
                )
        self._rows = len(first)
        self.weights = None if weights is None else checked_weights(weights, len(self), "weights")

    def __len__(self) -> int:
        return self._rows

    @property
    def spec(self) -> tuple[Any, Any]:
        """(of x, of labels): ``tf.TensorSpec``s with an open first axis."""
        return spec_of((self.x, self.labels))

    @property
    def weights_shape(self) -> tuple[int, ...] | None:
        """Of a point's weights: () for one number; None where there are none."""
        return None if self.weights is None else self.weights.shape[1:]

    def label_range(self, place: int, ignored: int | None = None) -> tuple[float, float]:
        """The smallest and the largest of labels number ``place`` but for those ``ignored``."""
        return range_of(keras.tree.flatten(self.labels)[place], ignored)

    def without(self, indices: ArrayLike) -> Examples:
        """The same points without those at ``indices`` (one index or several)."""
        keep = np.ones(len(self), bool)
        keep[check_indices(indices, len(self))] = False
        if not keep.any():
            raise ValueError("Nothing is left when every point is removed.")
        features, weights = (
            None if array is None else array[keep] for array in (self.features, self.weights)
        )
        return Examples(take(self.x, keep), take(self.labels, keep), self.scale, weights, features)

    def first(self, number: int) -> tuple[Inputs, Inputs]:
        """(x, labels) of the first points, at most ``number``."""
        return self.rows(slice(number))[:2]

    def rows(self, indices: np.ndarray | slice) -> tuple[Inputs, Inputs, np.ndarray | None]:
        """(x, labels with weights if there are, features or None) of the points at ``indices``."""
        features = None if self.features is None else self.features[indices]
        labels = take(self.labels, indices)
        if self.weights is not None:
            labels = WeightedLabels(labels, self.weights[indices])
        return take(self.x, indices), labels, features


def range_of(labels: np.ndarray, ignored: int | None = None) -> tuple[float, float]:
    """The smallest and the largest of ``labels`` but for those that are ``ignored``."""
    kept = labels if ignored is None else labels[labels != ignored]
    # Where all are ignored, 0 says nothing wrong.
    return (float(kept.min()), float(kept.max())) if kept.size else (0.0, 0.0)


class Stream:
    """Training points that need not fit into memory: batches of a ``tf.data.Dataset``.

    Every scan is one pass over it inside the graph, in its order, which must be the same each time:
    every pass is held against the first, made here, and fails at the first batch that differs.

    Args:
        dataset: gives (x, labels) or (x, labels, sample_weight), a batch at a time; finite.
        of_class: the weights of classes, or None.

    Attributes:
        dataset: of (x, labels), where weighted labels are ``WeightedLabels``; ``held``, with a
            known number of batches.
        checksum: of all rows.
    """

    scale = 1.0

    def __init__(self, dataset: tf.data.Dataset, of_class: ClassWeights | None = None) -> None:
        dataset = _in_pairs(dataset, of_class)
        spec = _checked_spec(dataset.element_spec)
        self.weights_shape: tuple[int, ...] | None = None
        if isinstance(spec[1], WeightedLabels):
            self.weights_shape = tuple(spec[1].weights.shape[1:])
            spec = spec[0], spec[1].labels
        self.spec = spec
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("train never ends: remove repeat() from the tf.data.Dataset.")
        options = tf.data.Options()
        options.deterministic = True
        dataset = dataset.with_options(options)
        sums, rows, finite, self._ranges = _counted(dataset)
        if rows == 0:
            raise ValueError("The training set is empty: the tf.data.Dataset gives no rows.")
        if not finite:
            raise ValueError("train must be finite: some batch of the tf.data.Dataset is not.")
        if self.weights_shape is not None:
            smallest, largest = self._ranges[-1]
            check_weight_range(smallest, largest, "sample_weight")
        self.dataset, self.checksum = held(dataset, sums), int(sums[-1])
        self._rows = rows
        # A stream that is shuffled anew shows at its first batch already.
        self.first(1)

    def __len__(self) -> int:
        return self._rows

    def __reduce__(self) -> str:
        raise TypeError("a tf.data.Dataset stays in its process; arrays do not")

    def label_range(self, place: int, ignored: int | None = None) -> tuple[float, float]:
        """The smallest and the largest of labels number ``place``; without those ``ignored``, by a
        pass of their own."""
        if ignored is None:
            return self._ranges[place]
        dataset = self.dataset.map(lambda x, labels: tf.nest.flatten(labels)[place])
        ranges = np.array([range_of(labels.numpy(), ignored) for labels in read(dataset)])
        return float(ranges.min()), float(ranges.max())

    def without(self, indices: ArrayLike) -> Stream:
        """The same rows without those at ``indices``."""
        indices = check_indices(indices, len(self))
        if len(indices) == len(self):
            raise ValueError("Nothing is left when every point is removed.")
        return Stream(self._where(indices, chosen=False))

    def first(self, number: int) -> tuple[Inputs, Inputs]:
        """(x, labels) of the first points, at most ``number`` and at most a batch."""
        return take(_arrays(next(read(self.dataset))), slice(number))

    def rows(self, indices: np.ndarray) -> tuple[Inputs, Inputs, None]:
        """(x, labels, None) of the rows at ``indices``, by one pass."""
        parts = [_arrays(batch) for batch in read(self._where(indices, chosen=True))]
        x, labels = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)
        # They came in the order of the stream.
        order = np.argsort(np.argsort(indices))
        return take(x, order), take(labels, order), None

    def _where(self, indices, chosen: bool) -> tf.data.Dataset:
        """The rows at ``indices``, or the others, in the same batches without the empty ones."""
        indices = tf.constant(indices, tf.int64)

        def select(first, batch):
            size = tf.cast(number_of_rows(batch[1]), tf.int64)
            rows = tf.range(first, first + size)[:, tf.newaxis]
            there = tf.reduce_any(rows == indices, axis=1)
            keep = tf.where(there if chosen else ~there)[:, 0]
            return first + size, take_rows(batch, keep)

        dataset = self.dataset.scan(tf.constant(0, tf.int64), select)
        return dataset.filter(lambda x, labels: number_of_rows(labels) > 0)


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


def _in_pairs(dataset, of_class):
    """A dataset of (x, labels), with its weights in ``WeightedLabels``."""
    spec = dataset.element_spec
    if isinstance(spec, tuple) and len(spec) == 3:
        if of_class is not None:
            raise ValueError(_BOTH)
        return dataset.map(lambda x, labels, weights: (x, WeightedLabels(labels, weights)))
    if of_class is None or not isinstance(spec, tuple) or len(spec) != 2:
        return dataset
    return dataset.map(lambda x, labels: (x, WeightedLabels(labels, of_class.of(labels))))


def _checked_spec(spec):
    """The element_spec of batches (x, labels), or a ValueError that says what they are instead."""
    if not isinstance(spec, tuple) or len(spec) != 2:
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
    """(running checksums, rows, whether all is finite, (smallest, largest) of every array of the
    labels), in one pass."""

    def finite(tensor):
        if not tensor.dtype.is_floating:
            return True
        return tf.reduce_all(tf.math.is_finite(tensor))

    def of_batch(checksum, batch):
        numbers = [tf.cast(leaf, tf.float64) for leaf in keras.tree.flatten(batch[1])]
        return (
            checksum,
            number_of_rows(batch[1]),
            tf.reduce_all([finite(leaf) for leaf in keras.tree.flatten(batch)]),
            tf.stack([tf.reduce_min(array) for array in numbers]),
            tf.stack([tf.reduce_max(array) for array in numbers]),
        )

    # Many at a time, as each is a few numbers.
    parts = list(read(checksums(dataset).map(of_batch).batch(1000)))
    if not parts:
        return np.empty(0, np.int64), 0, True, []
    sums, rows, fine, smallest, largest = (np.concatenate(part) for part in zip(*parts))
    ranges = list(zip(smallest.min(axis=0).tolist(), largest.max(axis=0).tolist()))
    return sums, int(rows.sum()), bool(fine.all()), ranges
