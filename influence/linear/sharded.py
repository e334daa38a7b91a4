"""Linear models whose training points are in shards: closed forms where the rows are, sums here."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.curvature.modes import FORWARD
from influence.curvature.sharded import ShardedHessian
from influence.data.dataset import Dataset, check_dataset
from influence.data.types import DType, Model, PointTensors, Rows
from influence.linear.array_functions import ArrayFunctions
from influence.linear.forms import OutputForms, own_terms
from influence.linear.functions import LinearLoss
from influence.linear.hessian import ClassInverse, LinearHessian
from influence.linear.penalty import Penalty, Ridge
from influence.linear.points import LinearPoints
from influence.linear.scans import LinearScans
from influence.linear.terms import point_terms
from influence.objective.sharded import ShardedScans, check_like
from influence.sharding.sharding import Sharding
from influence.solvers.preconditioners import InverseMatrix, UpdatedInverse


@dataclass(frozen=True)
class LinearRecipe:
    """How a ``LinearPart`` is made of the rows of a shard.

    Args:
        loss, dtype, batch_size, bias: of the whole model.
        scale: of its data set.
        row: what a row looks like, in words.
    """

    loss: LinearLoss
    dtype: str
    batch_size: int
    bias: float
    scale: float
    row: str

    def part(self, rows: Any) -> LinearPart:
        """The model of ``rows``, (x, labels)."""
        if not isinstance(rows, tuple) or len(rows) != 2:
            raise ValueError("A linear model takes (x, labels), without weights, and no stream.")
        train = Dataset(*rows, self.scale)
        check_like(row_of(train.x, train.labels), self.row)
        return LinearPart(train, self)

    def label_values(self, part: LinearPart) -> np.ndarray:
        """The labels that occur."""
        return np.unique(part.train.labels)


class LinearPart:
    """The rows of one shard under the loss of a linear model: of its surface what scans ask for.

    It has no penalty, which the caller adds.

    Attributes:
        train, points, scans, weights, ...: as of a ``LinearModel``.
    """

    mode = FORWARD

    def __init__(self, train: Dataset, recipe: LinearRecipe) -> None:
        check_dataset(train, several=True)
        self.train, self.loss, self.penalty = train, recipe.loss, Ridge(0.0)
        self.dtype, self.batch_size = np.dtype(recipe.dtype), recipe.batch_size
        self.bias = recipe.bias
        features = int(np.prod(train.x.shape[1:])) + bool(self.bias)
        self.weights = tf.Variable(tf.zeros([features, self.loss.outputs], self.dtype))
        label_dtype = self.loss.labels_spec.dtype.as_numpy_dtype
        self.points = LinearPoints(train, self.dtype, label_dtype, lambda labels, name: None)
        # Arrays stay what they are, whose sums are in float64.
        self.points.large = 0
        # No circle: the rows of a part that is let go of are free at once.
        self.scans = LinearScans(weakref.proxy(self))
        self._hessian: LinearHessian | None = None

    @property
    def tensors(self) -> PointTensors:
        """The rows, as scans take them."""
        return self.points.tensors

    @property
    def num_parameters(self) -> int:
        """p."""
        return self.weights.shape.num_elements()

    @property
    def parameters(self) -> np.ndarray:
        """θ [p]."""
        return self.weights.numpy().ravel()

    @parameters.setter
    def parameters(self, theta: np.ndarray) -> None:
        self.weights.assign(theta.reshape(self.weights.shape))
        self._hessian = None

    def hessian(self) -> LinearHessian:
        """That of the mean of the losses."""
        if self._hessian is None:
            self._hessian = self.scans.hessian(self.parameters, self.dtype)
        return self._hessian


class ShardedLinearScans(ShardedScans):
    """``LinearScans`` that ask the workers about training points."""

    _model: Any  # a LinearModel

    def __init__(self, scans: Any, model: Model, sharding: Sharding) -> None:
        super().__init__(scans, model, sharding)
        # The same rows, for what is computed in float64 whatever the model's dtype.
        recipe: Any = sharding.recipe
        self._exact = sharding.with_recipe(replace(recipe, dtype="float64"))

    @functools.cached_property
    def matrix(self) -> tuple[Rows, tf.Tensor]:
        """All training points, fetched."""
        x, labels = self._model.points.chosen()
        return self._own.rows(x), labels

    def functions(self, dtype: DType, rows: Rows = None) -> SimpleNamespace | ArrayFunctions:
        """As ``LinearScans``, and so are the others."""
        return self._own.functions(dtype, self.matrix[0] if rows is None else rows)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        return self._exact.total(None, _value_and_gradient, theta)

    def hessian(self, theta: np.ndarray, dtype: DType) -> ShardedHessian:
        exact = np.dtype(dtype) == np.float64
        sharding = self._exact if exact else self._sharding
        return ShardedLinearHessian(sharding, theta.astype(dtype), self._model)

    def own_terms(
        self, inverse: np.ndarray, indices: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        model = self._model
        rows, n = model.points.scanned(indices), len(model.train)
        own, leverages = rows.joined(self._theta, _own_terms, inverse, n).T
        return own, leverages


class ShardedLinearHessian(ShardedHessian):
    """``LinearHessian`` of points in shards.

    Args:
        sharding: with models in the dtype of ``theta``.
        theta: [p].
        model: the whole one.
    """

    def __init__(self, sharding: Sharding, theta: np.ndarray, model: Any) -> None:
        regularizer = _Regularizer(model.penalty, model.loss.convex)
        # The points and the penalty stay, and θ goes with every product.
        super().__init__(sharding, "hessian", theta, theta.dtype, regularizer, lambda: True)
        self._model = model

    def approximate_inverse(self) -> ClassInverse | InverseMatrix | UpdatedInverse | None:
        """As of ``LinearHessian``: of the same points."""
        model = self._model
        every = max(1, self.num_examples // (2 * model.weights.shape[0]))
        x, labels = model.points.chosen(np.arange(0, self.num_examples, every))
        rows = model.scans.rows(x)
        weights = tf.constant(self._theta.reshape(model.weights.shape))
        functions = model.scans.functions(self.dtype, rows)
        about = model.penalty, model.loss, model.train.scale
        few = LinearHessian(functions, rows, labels, weights, *about)
        return (few + self.damping).approximate_inverse()


class _Regularizer:
    """The curvature of a penalty."""

    def __init__(self, penalty: Penalty, convex: bool) -> None:
        self._penalty = penalty
        self.smallest = penalty.smallest if convex else -np.inf
        self.add_to = penalty.add_to

    def product(self, block: np.ndarray) -> Any:
        return self._penalty.product(block)

    def diagonal(self) -> Any:
        return self._penalty.diagonal()


def recipe_of(model: Any) -> LinearRecipe:
    """The recipe of the parts of a ``LinearModel``."""
    settings = model.loss, model.dtype.name, model.batch_size, model.bias, model.train.scale
    return LinearRecipe(*settings, row_of(model.train.x, model.points.labels))


def row_of(x: Any, labels: Any) -> str:
    """What a row looks like, in words; numbers of any type will do."""
    kind = "sparse" if scipy.sparse.issparse(x) else "dense"
    return f"{kind} x {list(x.shape[1:])} and labels {list(labels.shape[1:])}"


# What the workers do.


def _value_and_gradient(part, theta):
    return part.scans.value_and_gradient(theta)


def _own_terms(part, rows, inverse, n):
    forms = OutputForms(inverse, part.loss.outputs)
    return np.stack(own_terms(point_terms(part, rows), forms, n), axis=1)
