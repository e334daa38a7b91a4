"""The scans of a model with logits xW, by closed forms, for dense and for sparse points."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.data.types import DType, Loss, Model, PointTensors, Rows
from influence.linear.functions import compiled
from influence.linear.sparse_functions import SparseFunctions
from influence.objective.scans import Scans


class LinearScans(Scans):
    """What ``Scans`` computes, with ∇L = x ⊗ ℓ'(z); the generic versions compute the same.

    Args:
        model: a ``LinearModel``.
    """

    _model: Any  # a LinearModel

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._sparse: dict[str, SparseFunctions] = {}

    @functools.cached_property
    def matrix(self) -> tuple[Rows, tf.Tensor]:
        """The training points (x [n, d], labels), as W multiplies them."""
        x, labels = self._model.tensors
        return self.rows(x), labels

    def rows(self, x: Rows) -> Rows:
        """Points [m, ...] as W multiplies them, [m, d], but for the data set's scale: with the
        model's constant feature, if it has one, in the last column."""
        model = self._model
        constant = model.bias / model.train.scale
        if scipy.sparse.issparse(x):
            if not model.bias:
                return x
            column = np.full((x.shape[0], 1), constant)
            return scipy.sparse.hstack([x, column], format="csr")
        rows = tf.reshape(x, [-1, x.shape[1:].num_elements()])
        if not model.bias:
            return rows
        if not rows.dtype.is_floating:
            rows = tf.cast(rows, model.dtype)
        column = tf.fill([tf.shape(rows)[0], 1], tf.constant(constant, rows.dtype))
        return tf.concat([rows, column], axis=1)

    def functions(
        self, dtype: DType, x_dtype: tf.DType | None = None
    ) -> SimpleNamespace | SparseFunctions:
        """The compiled scans in ``dtype``, shared by all models of a kind; x in ``x_dtype``, or
        in that of the training points."""
        model = self._model
        if scipy.sparse.issparse(model.train.x):
            if str(dtype) not in self._sparse:
                self._sparse[str(dtype)] = SparseFunctions(model.loss, dtype, model.train.scale)
            return self._sparse[str(dtype)]
        x_dtype = self.matrix[0].dtype if x_dtype is None else x_dtype
        return compiled(model.loss, x_dtype, str(dtype), model.train.scale, model.batch_size)

    def outputs(self, x: Rows) -> tf.Tensor:
        if not scipy.sparse.issparse(x):
            return super().outputs(x)
        return self.functions(self._model.dtype).logits(self.rows(x), self._model.weights)

    def losses(self, loss: Loss, points: PointTensors) -> tf.Tensor:
        if loss == "normal":
            functions, rows, labels = self._closed_forms(points)
            return functions.losses(rows, labels, self._model.weights)
        if not scipy.sparse.issparse(points[0]):
            return super().losses(loss, points)
        return self.losses_of(loss)(self.outputs(points[0]), points[1])

    def gradients(self, loss: Loss, points: PointTensors) -> np.ndarray:
        if loss == "normal":
            functions, rows, labels = self._closed_forms(points)
            return functions.gradients(rows, labels, self._model.weights).numpy()
        if not scipy.sparse.issparse(points[0]):
            return super().gradients(loss, points)
        rows, slopes = self._rows_and_slopes(loss, points)
        return (rows.toarray()[:, :, np.newaxis] * slopes[:, np.newaxis]).reshape(len(slopes), -1)

    def gradient_norms(self, points: PointTensors) -> np.ndarray:
        x, labels = points
        rows = self.rows(x)
        rows = rows.toarray() if scipy.sparse.issparse(rows) else rows.numpy()
        sizes = np.linalg.norm(rows.astype(np.float64), axis=1) * self._model.train.scale
        slopes = self._model.loss.slopes(self.outputs(x), labels).numpy()
        return sizes * np.linalg.norm(slopes, axis=1)

    def mean_gradient(self, loss: Loss, points: PointTensors) -> np.ndarray:
        if loss == "normal":
            functions, rows, labels = self._closed_forms(points)
            _, total = functions.value_and_gradient(rows, labels, self._model.weights)
            return total.numpy().ravel() / len(labels)
        if not scipy.sparse.issparse(points[0]):
            return super().mean_gradient(loss, points)
        rows, slopes = self._rows_and_slopes(loss, points)
        return (rows.T @ slopes).ravel() / len(slopes)

    def directional_derivatives(self, points: PointTensors, block: tf.Tensor) -> tf.Tensor:
        functions, rows, labels = self._closed_forms(points)
        return functions.directional_derivatives(rows, labels, self._model.weights, block)

    def output_gradients(self, x: Rows, slopes: tf.Tensor) -> np.ndarray:
        model, rows = self._model, self.rows(x)
        rows = rows.toarray() if scipy.sparse.issparse(rows) else rows.numpy()
        rows = rows.astype(model.dtype) * model.dtype.type(model.train.scale)
        return (rows[:, :, np.newaxis] * slopes.numpy()[:, np.newaxis]).reshape(len(rows), -1)

    def input_gradients(self, points: PointTensors, direction: tf.Tensor) -> np.ndarray:
        x = points[0]
        if scipy.sparse.issparse(x):
            raise ValueError("Sparse points have no input gradient: use x.toarray().")
        functions, rows, labels = self._closed_forms(points)
        gradients = functions.input_gradients(rows, labels, self._model.weights, direction).numpy()
        # Without the constant feature.
        return gradients[:, : x.shape[1:].num_elements()].reshape(x.shape)

    def _closed_forms(self, points):
        x, labels = points
        rows = self.rows(x)
        return self.functions(self._model.dtype, rows.dtype), rows, labels

    def _rows_and_slopes(self, loss, points):
        """Sparse x̃ [m, d] and ∂ℓ/∂z [m, c] of any loss, by differentiation at the logits."""
        x, labels = points
        logits = self.outputs(x)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = self.losses_of(loss)(logits, labels)
        model = self._model
        rows = self.rows(x).astype(model.dtype) * model.dtype.type(model.train.scale)
        return rows, tape.gradient(losses, logits).numpy()
