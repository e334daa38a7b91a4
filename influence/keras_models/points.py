"""The points of a Keras model: structures of arrays, and what its frozen layers make of them."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from influence.data.batches import map_over_batches
from influence.data.dataset import check_indices
from influence.keras_models.data import Stream, as_tensors, checked_like, named_leaves
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.objective.objective import Objective


class KerasPoints(GenericNeuralNet):
    """A model whose points are dicts, tuples or single arrays, in memory or in a stream.

    Integer inputs stay so. Where the network has a ``body``, what it makes of the points in memory
    is computed once and stands for them; only gradients with respect to the inputs go through it.

    A subclass sets ``_network`` (a ``KerasNetwork``) and ``train`` (``Examples`` or a ``Stream``).
    """

    def influence_input_gradient(self, train_indices, x_test, y_test, **settings):
        """As for every model; in the structure of x, for floating-point inputs only.

        Raises:
            ValueError: an input is an integer.
        """
        for name, leaf in named_leaves(self.train.spec[0], "train.x"):
            if not leaf.dtype.is_floating and self.train.scale == 1:
                raise ValueError(
                    f"{name} is {leaf.dtype.name}: only floating-point inputs have a gradient."
                )
        return super().influence_input_gradient(train_indices, x_test, y_test, **settings)

    # How it is done.

    @functools.cached_property
    def tensors(self):
        """The training points, as ``batches`` scans them."""
        with tf.init_scope():
            if isinstance(self.train, Stream):
                return (self.train.dataset,)
            if self._network.body is not None and self.train.features is None:
                self.train.features = self._embedded(self._tensors(self.train.x)).numpy()
            return self._rows(slice(None))

    def convert(self, x):
        """A batch as the network takes it: floating-point numbers in its type, integers as such."""

        def of_leaf(leaf):
            if leaf.dtype.is_floating or self.train.scale != 1:
                return Objective.convert(self, leaf)
            return leaf

        return tf.nest.map_structure(of_leaf, x)

    def _tensors(self, x):
        return as_tensors(x, self.dtype)

    def _label_tensor(self, labels):
        return self._tensors(labels)

    def _inputs(self, x, name):
        """Test points ``x``, checked, as tensors that need no other trace than training points."""
        return self._like(checked_like(x, self.train.spec[0], name), self.train.spec[0])

    def _like(self, arrays, spec):
        def of_leaf(leaf, leaf_spec):
            whole = leaf.dtype.kind != "f" and not leaf_spec.dtype.is_floating
            return leaf.astype(leaf_spec.dtype.as_numpy_dtype if whole else self.dtype)

        return self._tensors(keras.tree.map_structure(of_leaf, arrays, spec))

    def _points(self, x, labels, x_name, labels_name):
        x, spec = self._inputs(x, x_name), self.train.spec[1]
        labels = checked_like(labels, spec, labels_name)
        self._check_labels(labels, labels_name)
        rows = keras.tree.flatten(x)[0].shape[0]
        if len(labels) != rows:
            raise ValueError(f"{x_name} has {rows} rows and {labels_name} has {len(labels)}.")
        return self._embedded(x), self._like(labels, spec)

    def _embedded(self, x):
        """What the frozen layers make of points, where there are any."""
        return x if self._network.body is None else self._call("_traced_features", "normal", x)

    def _train_points(self, indices):
        if indices is None:
            return self.tensors
        self.tensors  # noqa: B018 - computes the features
        return self._rows(check_indices(indices, len(self.train), "train_indices"))

    def _rows(self, indices):
        x, labels, features = self.train.rows(indices)
        x = self._tensors(x) if features is None else tf.constant(features)
        return x, self._label_tensor(labels)

    def _raw_points(self, indices):
        x, labels, _ = self.train.rows(indices)
        return self._tensors(x), self._label_tensor(labels)

    def _traced_features(self, _, points):
        body = self._network.body
        like = tf.TensorSpec([None, *body.outputs[0].shape[1:]], self.dtype)
        return map_over_batches(
            lambda x: self._network.features(self.convert(x)), points, self.batch_size, like
        )
