"""The Hessian of any model's objective, by automatic differentiation."""

from __future__ import annotations

import copy
import functools

import numpy as np
import tensorflow as tf

from influence.curvature.operator import HessianOperator
from influence.data.batches import is_stream, number_of_rows, sum_over_batches, take_rows
from influence.data.types import Model, PointTensors
from influence.data.vectors import flatten, split


class AutodiffHessian(HessianOperator):
    """The Hessian of any model's objective, by automatic differentiation in the model's ``mode``.

    Args:
        model: gives ``variables``, ``convert``, ``logits``, ``example_losses``,
            ``regularization``, ``parameters``, ``mode``, ``batch_size`` and its training
            ``tensors``.

    Examples:
        By automatic differentiation, and a linear model's closed form of the same matrix:

        >>> from influence import AutodiffHessian, BinaryLogisticRegression, Dataset
        >>> train = Dataset([[2, 0], [0, 4]], [1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.5)
        >>> AutodiffHessian(model).dense().tolist(), model.hessian().dense().tolist()
        ([[1.0, 0.0], [0.0, 2.5]], [[1.0, 0.0], [0.0, 2.5]])
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model.num_parameters, model.dtype, len(model.train))
        self._model = model
        self._parameters = model.parameters

    def product_of(self, points: PointTensors, block: tf.Tensor) -> tf.Tensor:
        """The product with ``block`` [p, k] of the Hessian that the objective would have of these
        ``points``, as the model's scans take them."""
        self._check_parameters()
        return self._compile("_traced_product", points, blocks=1)(points, block)

    def _product(self, block):
        return self.product_of(self._model.tensors, block)

    def _compile(self, function: str, points, blocks: int = 0):
        """The compiled method, traced once a model: its operators at all parameters share it."""
        # Of a copy, so that the trace does not keep this operator, and its factor, alive.
        traced = copy.copy(self)
        traced.kept = {}
        name = (type(self), function)
        return self._model.scans.compiled(name, getattr(traced, function), points, blocks)

    def _check_parameters(self):
        # Lissa traces what calls this.
        with tf.init_scope():
            same = np.array_equal(self._parameters, self._model.parameters)
        if not same:
            raise RuntimeError(
                "The model's parameters have changed since this operator was made: make it again "
                "(model.hessian(), model.gauss_newton())."
            )

    def _traced_product(self, points, block):
        columns = tf.transpose(block)
        one_by_one = functools.partial(tf.map_fn, elems=columns, parallel_iterations=1)
        if is_stream(points) or self._model.mode.shares:
            # One pass for all columns, as reading, or what they share, may be what takes long.
            mean = self._mean(points, tf.zeros_like(columns), one_by_one)
            return tf.transpose(mean + one_by_one(self._regularizer_product))

        def of_column(vector):
            mean = self._mean(points, tf.zeros_like(vector), lambda function: function(vector))
            return mean + self._regularizer_product(vector)

        return tf.transpose(one_by_one(of_column))

    def _mean(self, points, zero, apply):
        """(1/n) Σ ∇²L(z_i) v, for what ``apply`` (a function of v) applies it to."""

        def of_batch(x, labels):
            return apply(self._loss_product(x, labels)), number_of_rows(labels)

        total, number = sum_over_batches(of_batch, points, self._model.batch_size, (zero, 0))
        return total / tf.cast(number, zero.dtype)

    def _product_on(self, rows, block):
        self._check_parameters()
        points = self._model.tensors
        if is_stream(points):
            raise ValueError(
                "Lissa draws single training points, and a stream has no single ones: use "
                "ConjugateGradient(), or Exact() for few parameters."
            )

        def of_rows(arguments):
            chosen, columns = arguments
            x, labels = take_rows(points, chosen)
            size = tf.cast(tf.shape(chosen)[0], block.dtype)

            loss_product = self._loss_product(x, labels)

            def of_column(vector):
                return loss_product(vector) / size + self._regularizer_product(vector)

            return tf.transpose(tf.map_fn(of_column, tf.transpose(columns)))

        return tf.map_fn(of_rows, (rows, block), fn_output_signature=block.dtype)

    def _loss_product(self, x, labels):
        """v -> Σ ∇²L(z_i) v over a batch, [p]."""
        model = self._model

        def loss():
            logits = model.logits(model.convert(x))
            return tf.reduce_sum(model.example_losses(logits, labels))

        return self._second_derivative(loss)

    def _regularizer_product(self, vector):
        def regularization():
            return tf.convert_to_tensor(self._model.regularization(), vector.dtype)

        return self._second_derivative(regularization)(vector)

    def _regularizer_matrix(self):
        """∇²(regulariser) [p, p]."""
        products = self._compile("_traced_regularizer", (), blocks=1)
        return products((), tf.eye(self.shape[0], dtype=self.dtype)).numpy()

    def _traced_regularizer(self, _, columns):
        return tf.map_fn(self._regularizer_product, columns)

    def _second_derivative(self, function, rows=None, columns=None):
        """v -> ∂² function/∂rows ∂columns times v; rows and columns are variables of the model,
        all of them by default."""
        rows = self._model.variables if rows is None else rows
        columns = self._model.variables if columns is None else columns
        product = self._model.mode.second(function, rows, columns)
        return lambda vector: flatten(product(split(vector, columns)))
