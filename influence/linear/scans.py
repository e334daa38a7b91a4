"""The scans of a model with logits xW, by closed forms, for points of every kind."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.types import DType, Loss, Model, PointTensors, Rows
from influence.linear.array_functions import ArrayFunctions
from influence.linear.block_functions import BlockFunctions
from influence.linear.forms import OutputForms, own_terms
from influence.linear.functions import compiled
from influence.linear.hessian import LinearHessian
from influence.linear.rows import RowBlocks
from influence.linear.sparse_functions import SparseFunctions
from influence.linear.terms import point_terms
from influence.objective.scans import Scans


class LinearScans(Scans):
    """What ``Scans`` computes, with ∇L = x ⊗ ℓ'(z); the generic versions compute the same.

    Args:
        model: a ``LinearModel``.
    """

    _model: Any  # a LinearModel

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._arrays: dict[tuple[bool, str], ArrayFunctions] = {}

    @functools.cached_property
    def matrix(self) -> tuple[Rows, tf.Tensor]:
        """The training points (x [n, d], labels), as W multiplies them."""
        x, labels = self._model.tensors
        return self.rows(x), labels

    def rows(self, x: Rows) -> Rows:
        """Points [m, ...] as W multiplies them, [m, d], but for the data set's scale: with the
        model's constant feature, if it has one, in the last column."""
        model = self._model
        if "matrix" in vars(self) and x is model.tensors[0]:
            return self.matrix[0]
        constant = model.bias / model.train.scale
        if scipy.sparse.issparse(x):
            if not model.bias:
                return x
            column = np.full((x.shape[0], 1), constant)
            return scipy.sparse.hstack([x, column], format="csr")
        if isinstance(x, np.ndarray):
            return RowBlocks(x, constant if model.bias else 0.0)
        rows = tf.reshape(x, [-1, x.shape[1:].num_elements()])
        if not model.bias:
            return rows
        if not rows.dtype.is_floating:
            rows = tf.cast(rows, model.dtype)
        column = tf.fill([tf.shape(rows)[0], 1], tf.constant(constant, rows.dtype))
        return tf.concat([rows, column], axis=1)

    def functions(self, dtype: DType, rows: Rows = None) -> SimpleNamespace | ArrayFunctions:
        """The scans in ``dtype`` for ``rows``, or for the training points: compiled ones of a
        tensor are shared by all models of a kind."""
        model = self._model
        rows = self.matrix[0] if rows is None else rows
        if tf.is_tensor(rows):
            scale, size = model.train.scale, model.batch_size
            return compiled(model.loss, rows.dtype, str(dtype), scale, size)
        sparse = scipy.sparse.issparse(rows)
        key = sparse, str(dtype)
        if key not in self._arrays:
            settings = model.loss, dtype, model.train.scale
            self._arrays[key] = (
                SparseFunctions(*settings)
                if sparse
                else BlockFunctions(*settings, model.batch_size)
            )
        return self._arrays[key]

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Σ L and its gradient [p] over the training points, at ``theta`` [p] in float64."""
        functions, (x, labels) = self.functions("float64"), self.matrix
        weights = tf.reshape(tf.constant(theta), self._model.weights.shape)
        value, gradient = functions.value_and_gradient(x, labels, weights)
        return float(value), gradient.numpy().ravel()

    def hessian(self, theta: np.ndarray, dtype: DType) -> LinearHessian:
        """The Hessian of the model's objective at ``theta`` [p]."""
        model = self._model
        weights = tf.reshape(tf.constant(theta, dtype), model.weights.shape)
        about = model.penalty, model.loss, model.train.scale
        return LinearHessian(self.functions(dtype), *self.matrix, weights, *about)

    def own_terms(
        self, inverse: np.ndarray, indices: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Self-influences [m] and leverages [m] of the training points at ``indices``, or of all,
        with that ``inverse`` [p, p] of the Hessian."""
        model = self._model
        forms = OutputForms(inverse, model.loss.outputs)
        return own_terms(point_terms(model, indices), forms, len(model.train))

    def array_rows(self, x: Rows) -> Rows:
        """The same as ``rows``, but those of a tensor as ``RowBlocks``."""
        rows = self.rows(x)
        return RowBlocks(rows.numpy()) if tf.is_tensor(rows) else rows

    def dense_blocks(self, rows: Rows, size: int) -> Iterator[tuple[slice, np.ndarray]]:
        """(where, rows as W multiplies them [b, d]) of ``array_rows`` in float64, scaled, ``size``
        at a time."""
        scale = self._model.train.scale
        if isinstance(rows, RowBlocks):
            yield from rows.blocks("float64", scale, size)
            return
        for first in range(0, rows.shape[0], size):
            where = slice(first, first + size)
            yield where, rows[where].toarray().astype(np.float64) * scale

    def outputs(self, x: Rows) -> tf.Tensor:
        if tf.is_tensor(x):
            return super().outputs(x)
        rows = self.rows(x)
        return self.functions(self._model.dtype, rows).logits(rows, self._model.weights)

    def losses(self, loss: Loss, points: PointTensors) -> tf.Tensor:
        if loss == "normal":
            functions, rows, labels = self._closed_forms(points)
            return functions.losses(rows, labels, self._model.weights)
        if tf.is_tensor(points[0]):
            return super().losses(loss, points)
        return self.losses_of(loss)(self.outputs(points[0]), points[1])

    def gradients(self, loss: Loss, points: PointTensors) -> np.ndarray:
        if loss == "normal":
            functions, rows, labels = self._closed_forms(points)
            return functions.gradients(rows, labels, self._model.weights).numpy()
        if tf.is_tensor(points[0]):
            return super().gradients(loss, points)
        return self.output_gradients(points[0], self._slopes(loss, points))

    def gradient_norms(self, points: PointTensors) -> np.ndarray:
        x, labels = points
        rows = as_array(self.rows(x))
        sizes = np.linalg.norm(rows.astype(np.float64), axis=1) * self._model.train.scale
        slopes = self._model.loss.slopes(self.outputs(x), labels).numpy()
        return sizes * np.linalg.norm(slopes, axis=1)

    def mean_gradient(self, loss: Loss, points: PointTensors) -> np.ndarray:
        if loss == "normal":
            functions, rows, labels = self._closed_forms(points)
            _, total = functions.value_and_gradient(rows, labels, self._model.weights)
            return total.numpy().ravel() / len(labels)
        if tf.is_tensor(points[0]):
            return super().mean_gradient(loss, points)
        rows, slopes = self.rows(points[0]), self._slopes(loss, points).numpy()
        rows = rows if scipy.sparse.issparse(rows) else rows.numpy()
        scale = self._model.dtype.type(self._model.train.scale)
        return scale * (rows.T @ slopes).ravel() / len(slopes)

    def directional_derivatives(self, points: PointTensors, block: tf.Tensor) -> np.ndarray:
        functions, rows, labels = self._closed_forms(points)
        weights = self._model.weights
        return np.asarray(functions.directional_derivatives(rows, labels, weights, block))

    def output_gradients(self, x: Rows, slopes: tf.Tensor) -> np.ndarray:
        model, rows = self._model, as_array(self.rows(x))
        rows = rows.astype(model.dtype) * model.dtype.type(model.train.scale)
        return (rows[:, :, np.newaxis] * slopes.numpy()[:, np.newaxis]).reshape(len(rows), -1)

    def input_gradients(self, points: PointTensors, direction: tf.Tensor) -> np.ndarray:
        x = points[0]
        if scipy.sparse.issparse(x):
            raise ValueError("Sparse points have no input gradient: use x.toarray().")
        functions, rows, labels = self._closed_forms((tf.convert_to_tensor(x), points[1]))
        gradients = functions.input_gradients(rows, labels, self._model.weights, direction).numpy()
        # Without the constant feature.
        return gradients[:, : math.prod(x.shape[1:])].reshape(x.shape)

    def _closed_forms(self, points):
        x, labels = points
        rows = self.rows(x)
        return self.functions(self._model.dtype, rows), rows, labels

    def _slopes(self, loss, points):
        """∂ℓ/∂z [m, c] of any loss, by differentiation at the logits."""
        x, labels = points
        logits = self.outputs(x)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = self.losses_of(loss)(logits, labels)
        return tape.gradient(losses, logits)


def as_array(rows: Rows) -> np.ndarray:
    """Rows of any kind as one array [m, d], in their own dtype and not scaled."""
    return rows.toarray() if scipy.sparse.issparse(rows) else rows.numpy()
