"""The Hessian of any model's objective, by automatic differentiation."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from influence.batches import sum_over_batches
from influence.hessian import HessianOperator


class AutodiffHessian(HessianOperator):
    """The Hessian of any model's objective: reverse-mode over forward-mode differentiation, the
    gradient of the derivative along the vector.

    Args:
        model: gives ``variables``, ``convert``, ``logits``, ``example_losses``,
            ``regularization``, ``parameters``, ``batch_size`` and its training ``tensors``.
    """

    def __init__(self, model):
        super().__init__(model.num_parameters, model.dtype, len(model.train))
        self._model = model
        self._parameters = model.parameters
        dtype = tf.as_dtype(model.dtype)
        self._compiled = tf.function(
            self._traced_product, input_signature=[tf.TensorSpec([self.shape[0], None], dtype)]
        )

    def _product(self, block):
        self._check_parameters()
        return self._compiled(block)

    def _check_parameters(self):
        if not np.array_equal(self._parameters, self._model.parameters):
            raise RuntimeError(
                "The model's parameters have changed since this operator was made: make it again "
                "(model.hessian(), model.gauss_newton())."
            )

    def _traced_product(self, block):
        model = self._model

        def of_column(vector):
            total = sum_over_batches(
                lambda x, labels: self._loss_product(x, labels, vector),
                model.tensors,
                model.batch_size,
                tf.zeros_like(vector),
            )
            return total / self.num_examples + self._regularizer_product(vector)

        return tf.transpose(tf.map_fn(of_column, tf.transpose(block), parallel_iterations=1))

    def _product_on(self, rows, block):
        self._check_parameters()

        def of_rows(arguments):
            chosen, columns = arguments
            x, labels = (tf.gather(array, chosen) for array in self._model.tensors)
            size = tf.cast(tf.shape(chosen)[0], block.dtype)

            def of_column(vector):
                loss = self._loss_product(x, labels, vector) / size
                return loss + self._regularizer_product(vector)

            return tf.transpose(tf.map_fn(of_column, tf.transpose(columns)))

        return tf.map_fn(of_rows, (rows, block), fn_output_signature=block.dtype)

    def _loss_product(self, x, labels, vector):
        """Σ ∇²L(z_i) v over a batch, [p]."""
        model = self._model

        def loss():
            logits = model.logits(model.convert(x))
            return tf.reduce_sum(model.example_losses(logits, labels))

        return self._second_derivative(loss, vector)

    def _regularizer_product(self, vector):
        return self._second_derivative(
            lambda: tf.convert_to_tensor(self._model.regularization(), vector.dtype), vector
        )

    def _regularizer_matrix(self):
        """∇²(regulariser) [p, p]."""
        size = self.shape[0]

        @tf.function
        def products():
            return tf.map_fn(self._regularizer_product, tf.eye(size, dtype=self.dtype))

        return products.get_concrete_function()().numpy()

    def _second_derivative(self, function, vector, rows=None, columns=None):
        """∂² function/∂rows ∂columns times ``vector``; rows and columns are variables of the
        model, all of them by default."""
        rows = self._model.variables if rows is None else rows
        columns = self._model.variables if columns is None else columns
        zero = tf.UnconnectedGradients.ZERO
        with tf.GradientTape() as tape:
            with tf.autodiff.ForwardAccumulator(columns, split(vector, columns)) as forward:
                value = function()
            along = forward.jvp(value, unconnected_gradients=zero)
        return flatten(tape.gradient(along, rows, unconnected_gradients=zero))


def flatten(tensors) -> tf.Tensor:
    """Tensors shaped as a model's variables, as one vector [p]."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def split(vector, variables) -> list[tf.Tensor]:
    """A vector [p] as tensors shaped as ``variables``."""
    parts = tf.split(vector, [variable.shape.num_elements() for variable in variables])
    return [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables)]
