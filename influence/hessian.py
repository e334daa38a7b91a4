"""Curvature is a linear operator, ∇²R at one θ, regulariser included."""

from __future__ import annotations

import copy
import numbers

import numpy as np
import scipy.sparse.linalg
import tensorflow as tf

from influence.batches import sum_over_batches

# dense() refuses above this size: 10,000² float64 numbers are 0.8 GB.
MAX_DENSE_SIZE = 10_000
_COLUMNS_AT_ONCE = 64


class HessianOperator(scipy.sparse.linalg.LinearOperator):
    """∇²R(θ) = (1/n) Σ ∇²L(z_i, θ) + ∇²(regulariser), as a symmetric p×p linear operator.

    ``operator @ v`` for ``[p]`` and ``[p, k]``; ``operator + δ`` is the same operator with a ridge;
    it is a SciPy ``LinearOperator``, so ``scipy.sparse.linalg.eigsh`` takes it. It belongs to the
    parameters and the data it was made from: same θ, same data, same answer.

    A subclass writes ``_product`` and ``_product_on``, and may override ``_dense`` and
    ``_diagonal`` where it knows a closed form.

    Attributes:
        num_examples: n, the rows that ``on`` chooses from.
        damping: the ridge δ that has been added.
        jit_compile: whether a loop over ``on(rows) @ h`` gains from XLA.
    """

    jit_compile = False

    def __init__(self, size: int, dtype, num_examples: int):
        super().__init__(dtype=np.dtype(dtype), shape=(size, size))
        self.num_examples = num_examples
        self.damping = 0.0

    def _product(self, block: tf.Tensor) -> tf.Tensor:
        """H @ block, undamped, in one compiled call: [p, k] -> [p, k]."""
        raise NotImplementedError

    def _product_on(self, rows: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        """The undamped product of the rows' own curvature, traceable: [r, b], [r, p, k]."""
        raise NotImplementedError

    def __add__(self, other):
        if not isinstance(other, numbers.Real):
            return super().__add__(other)
        if not np.isfinite(other):
            raise ValueError(f"damping must be a finite number, not {other!r}.")
        damped = copy.copy(self)
        damped.damping = self.damping + float(other)
        return damped

    __radd__ = __add__

    def on(self, rows) -> RowsOperator:
        """The curvature of these rows alone, damping and regulariser included.

        ``rows`` [b] makes an operator on ``[p]`` and ``[p, k]``; ``rows`` [r, b] makes a stack of r
        operators on ``[r, p, k]``, each with rows of its own.
        """
        return RowsOperator(self, rows)

    def dense(self, max_size: int = MAX_DENSE_SIZE) -> np.ndarray:
        """The matrix [p, p].

        Raises:
            ValueError: p is above ``max_size``.
        """
        size = self.shape[0]
        if size > max_size:
            raise ValueError(
                f"The {size}×{size} matrix would take {size**2 * self.dtype.itemsize / 1e9:.1f} GB;"
                f" dense() stops at {max_size} parameters. Use ConjugateGradient() or Lissa(), or "
                f"pass a larger max_size."
            )
        matrix = self._dense()
        matrix[np.diag_indices(size)] += self.damping
        return matrix

    def diagonal(self) -> np.ndarray:
        """The diagonal [p], in memory O(p)."""
        return self._diagonal() + self.dtype.type(self.damping)

    def _matmat(self, block):
        block = np.asarray(block)
        result = self._product(tf.constant(block, self.dtype)).numpy()
        return result + self.damping * block if self.damping else result

    def _matvec(self, vector):
        return self._matmat(np.reshape(vector, (-1, 1)))

    def _adjoint(self):
        return self

    def _identity_products(self):
        """(first column, H @ those columns of the identity), a few columns at a time, undamped."""
        size = self.shape[0]
        for first in range(0, size, _COLUMNS_AT_ONCE):
            columns = np.arange(first, min(first + _COLUMNS_AT_ONCE, size))
            block = np.zeros((size, len(columns)), self.dtype)
            block[columns, np.arange(len(columns))] = 1.0
            yield first, self._product(tf.constant(block)).numpy()

    def _dense(self) -> np.ndarray:
        matrix = np.concatenate([product for _, product in self._identity_products()], axis=1)
        return (matrix + matrix.T) / 2

    def _diagonal(self) -> np.ndarray:
        return np.concatenate(
            [np.diagonal(product[first:]) for first, product in self._identity_products()]
        )


class RowsOperator:
    """What ``HessianOperator.on`` returns; ``@`` takes and gives tensors, so loops can trace it."""

    def __init__(self, operator: HessianOperator, rows):
        self._operator = operator
        self._rows = tf.convert_to_tensor(rows, tf.int32)

    def __matmul__(self, block):
        operator = self._operator
        block = tf.convert_to_tensor(block, operator.dtype)
        if self._rows.shape.rank == 2:
            return operator._product_on(self._rows, block) + operator.damping * block
        columns = block[:, tf.newaxis] if block.shape.rank == 1 else block
        product = operator._product_on(self._rows[tf.newaxis], columns[tf.newaxis])[0]
        return tf.reshape(product, tf.shape(block)) + operator.damping * block


class AutodiffHessian(HessianOperator):
    """The Hessian of any model's objective: forward-mode over reverse-mode differentiation.

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
        if not np.array_equal(self._parameters, self._model.parameters):
            raise RuntimeError(
                "The model's parameters have changed since this Hessian was made: call "
                "model.hessian() again."
            )
        return self._compiled(block)

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

    def _second_derivative(self, function, vector):
        variables = self._model.variables
        with tf.autodiff.ForwardAccumulator(variables, split(vector, variables)) as forward:
            with tf.GradientTape() as tape:
                value = function()
            gradients = tape.gradient(value, variables, unconnected_gradients="zero")
        zero = tf.UnconnectedGradients.ZERO
        return flatten(forward.jvp(gradients, unconnected_gradients=zero))


def flatten(tensors) -> tf.Tensor:
    """Tensors shaped as a model's variables, as one vector [p]."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def split(vector, variables) -> list[tf.Tensor]:
    """A vector [p] as tensors shaped as ``variables``."""
    parts = tf.split(vector, [variable.shape.num_elements() for variable in variables])
    return [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables)]
