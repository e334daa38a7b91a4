"""Keras models whose training points are in shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from influence.curvature.autodiff import AutodiffHessian
from influence.curvature.ekfac import EKFAC
from influence.data.types import Inputs, PointTensors
from influence.keras_models.checks import check_made_again
from influence.keras_models.data import training_points
from influence.keras_models.network import KerasNetwork
from influence.objective.sharded import ShardedRows, ShardedScans, check_like
from influence.sharding.sharding import summed


class KerasRecipe:
    """How the models of shards are made, from what can travel of a ``KerasModel``: its network, its
    settings, and what it puts out for a few points, to see that it is the same there.

    Args:
        model: the whole one.
        settings: of ``KerasModel``, by their names, but for those of this model's own making.
        class_weight: of rows that a function loads; those of the model's own have weights.
        probe: a few points, and the model's outputs for them.
    """

    def __init__(
        self, model: Any, settings: dict[str, Any], class_weight: Any, probe: tuple[Inputs, Inputs]
    ) -> None:
        self._kind, self._settings, self._probe = type(model), settings, probe
        self._class_weight, self._scale = class_weight, model.train.scale
        self._row = _row(model.train)
        self._network: KerasNetwork = model._network
        # Which does not come with it.
        self._compiled = self._network.model.loss, _loss_weights(self._network.model)
        self._first: Any = None

    def part(self, rows: Any) -> Any:
        """The model of ``rows``, which are as ``KerasModel`` takes its training points."""
        train = training_points(rows, None, self._class_weight)
        check_like(_row(train), self._row)
        train.scale = self._scale
        if self._first is None:
            # The others share its network and its compiled functions.
            self._first = self._made(train)
            return self._first
        part = self._first._clone(train)
        part._check_train(train)
        return part

    def label_values(self, part: Any) -> np.ndarray:
        """None: a part looks at its own."""
        return np.empty(0)

    def _made(self, train):
        network = self._network.with_values()
        loss, weights = self._compiled
        if loss is not None:
            network.compile(loss=loss, loss_weights=weights)
        made = self._kind(
            network,
            train,
            variables=self._network.chosen,
            regularization=_nothing,
            **self._settings,
        )
        x, outputs = self._probe
        check_made_again(self._network, made.predict(x), outputs)
        return made


def _row(train: Any) -> str:
    """What a row looks like."""

    def of_leaf(leaf):
        return f"{'' if leaf.dtype.is_floating else 'whole '}numbers {list(leaf.shape[1:])}"

    x, labels = keras.tree.map_structure(of_leaf, train.spec)
    weights = "no weights"
    if train.weights_shape is not None:
        weights = f"weights {list(train.weights_shape)}"
    return f"x {x}, labels {labels} and {weights}"


def _nothing(variables):
    """What stands for the regulariser, which the caller adds."""
    return tf.zeros([], variables[0].dtype)


def _loss_weights(model):
    return getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None)


class ShardedKerasScans(ShardedScans):
    """``KerasScans`` that ask the workers about training points."""

    _model: Any

    def value_and_gradient(self, points: Any) -> tuple[float, np.ndarray]:
        """R and ∇R, in float64."""
        if not isinstance(points, ShardedRows):
            return self._own.value_and_gradient(points)
        model, n = self._model, len(points)
        value, gradient = self._sharding.total(self._theta, _value_and_gradient)
        slope = model.regularization_gradient().astype(np.float64)
        return float(value) / n + float(model.regularization()), gradient / n + slope


class KerasRegularizer:
    """The curvature of a Keras model's regulariser.

    Args:
        model: a ``KerasModel``.
    """

    smallest = -np.inf

    def __init__(self, model: Any) -> None:
        self._operator = _Penalty(model)

    def product(self, block: np.ndarray) -> np.ndarray:
        """With ``block`` [p, k]."""
        return self._operator.along(block)

    def diagonal(self) -> np.ndarray:
        """[p]."""
        return self._operator.diagonal()

    def add_to(self, matrix: np.ndarray) -> None:
        """Add it to ``matrix`` [p, p], in place."""
        matrix += self._operator._regularizer_matrix()


class _Penalty(AutodiffHessian):
    """∇²(regulariser) alone."""

    def along(self, block):
        products = self._compile("_traced_along", (), blocks=1)
        return products((), tf.constant(block, self.dtype)).numpy()

    def _traced_along(self, _, block):
        return tf.transpose(tf.map_fn(self._regularizer_product, tf.transpose(block)))

    def _product(self, block):
        return tf.constant(self.along(block.numpy()))


class ShardedLayerScans:
    """``LayerScans`` of points in shards.

    Args:
        scans: the model's own.
        model: a ``KerasModel``.
    """

    def __init__(self, scans: Any, model: Any) -> None:
        self._own, self._model = scans, model

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._own, name)

    def factors(self, points: PointTensors, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """As ``LayerScans``, and so are the others; sums in float64."""
        return self._total(_factors, seed)

    def squares(
        self, points: PointTensors, seed: int, bases: Sequence[Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        return self._total(_squares, seed, bases)

    def quadratic(self, points: Any, operator: EKFAC) -> np.ndarray:
        if not isinstance(points, ShardedRows):
            return self._own.quadratic(points, operator)
        return points.joined(self._model.parameters, _quadratic, operator)

    def directional_derivatives(self, points: Any, block: tf.Tensor) -> np.ndarray:
        if not isinstance(points, ShardedRows):
            return self._own.directional_derivatives(points, block)
        return points.joined(self._model.parameters, _along_layers, np.asarray(block))

    def _total(self, function, *arguments):
        sharding = self._model.sharding
        # Draws are told apart by the numbers of the points.
        firsts = [0, *sharding.ends[:-1].tolist()]
        calls = ((shard, (*arguments, first)) for shard, first in enumerate(firsts))
        return summed(sharding.calls(self._model.parameters, function, calls))


# What the workers do.


def _value_and_gradient(part):
    n = len(part.train)
    value, gradient = part.scans.value_and_gradient(part.tensors)
    return n * value, n * gradient


def _factors(part, seed, first):
    return part.layer_scans.factors(part.tensors, seed, first)


def _squares(part, seed, bases, first):
    return part.layer_scans.squares(part.tensors, seed, bases, first)


def _quadratic(part, rows, operator):
    return part.layer_scans.quadratic(part.points.chosen(rows), operator)


def _along_layers(part, rows, block):
    return part.layer_scans.directional_derivatives(part.points.chosen(rows), tf.constant(block))
