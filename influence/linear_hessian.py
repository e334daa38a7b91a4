"""The Hessian of a linear model in closed form, and its Kronecker approximation."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.hessian import HessianOperator
from influence.linear_functions import LinearLoss
from influence.solvers import InverseMatrix


class LinearHessian(HessianOperator):
    """∇²R of a linear model at ``weights`` [d, c], in closed form.

    Args:
        functions: from ``compiled``, in the dtype wanted.
        x, labels: the training points as tensors, [n, d] and [n].
        weights: W [d, c].
        weight_decay: λ.
        loss: the loss on the logits.
    """

    jit_compile = True

    def __init__(self, functions, x, labels, weights, weight_decay: float, loss: LinearLoss):
        weights = tf.convert_to_tensor(weights)
        super().__init__(int(tf.size(weights)), weights.dtype.as_numpy_dtype, len(labels))
        self._functions, self._x, self._loss = functions, x, loss
        self._weight_decay = weight_decay
        self._curvature = functions.curvature(x, labels, weights)

    def _product(self, block):
        total = self._functions.product(self._x, self._curvature, block)
        return total / self.num_examples + self._weight_decay * block

    def _product_on(self, rows, block):
        mean = self._functions.product_on(self._x, self._curvature, rows, block)
        return mean + self._weight_decay * block

    def _dense(self):
        d, c = self._x.shape[1], self._loss.outputs
        matrix = np.empty((d, c, d, c), self.dtype)
        for a in range(c):
            for b in range(a, c):
                block = self._functions.dense_block(self._x, self._curvature, a, b).numpy()
                matrix[:, a, :, b] = block / self.num_examples
                matrix[:, b, :, a] = matrix[:, a, :, b]
        matrix = matrix.reshape(self.shape)
        matrix[np.diag_indices(len(matrix))] += self._weight_decay
        return matrix

    def _diagonal(self):
        diagonal = self._functions.diagonal(self._x, self._curvature).numpy().ravel()
        return diagonal / self.num_examples + self.dtype.type(self._weight_decay)

    def kronecker_inverse(self) -> KroneckerInverse | InverseMatrix | None:
        """(A ⊗ B + λ + δ)⁻¹ with A the mean of xxᵀ weighted by tr ℓ'', B the mean of ℓ''.

        With one logit and a ridge it is the inverse of a matrix, which takes a tenth of the time.
        Every s-th point is enough to estimate the two: at least four points a feature. None for
        sparse points: A is dense, and products with the points are cheaper.
        """
        if scipy.sparse.issparse(self._x):
            return None
        d = self._x.shape[1]
        every = slice(None, None, max(1, self.num_examples // (4 * d)))
        x, curvature = self._x[every], self._curvature[every]
        factors = self._functions.kronecker_factors(x, curvature)
        a, b = (factor.numpy().astype(np.float64) for factor in factors)
        ridge = self._weight_decay + self.damping
        if self._loss.outputs == 1 and ridge > 0:
            return InverseMatrix(a / x.shape[0] + ridge * np.eye(d))
        trace = max(np.trace(b), np.finfo(np.float64).tiny)
        return KroneckerInverse(a / trace, b / x.shape[0], ridge)


class KroneckerInverse:
    """(A ⊗ B + ridge·I)⁻¹ for A [d, d] and B [c, c], as an operator to precondition with."""

    def __init__(self, a: np.ndarray, b: np.ndarray, ridge: float):
        values_a, vectors_a = np.linalg.eigh(a)
        values_b, vectors_b = np.linalg.eigh(b)
        values = np.maximum(np.multiply.outer(values_a, values_b), 0) + ridge
        # Without a ridge the null space must stay finite; any positive number serves there.
        smallest = max(values.max(), np.finfo(np.float64).tiny) * 1e-12
        # Tensors, because BLAS threads that wait for NumPy's next call slow down TensorFlow's.
        self._a, self._b = tf.constant(vectors_a), tf.constant(vectors_b)
        self._inverse = tf.constant(1 / np.maximum(values, smallest)[:, :, np.newaxis])

    def __matmul__(self, block):
        d, c, _ = self._inverse.shape
        w = tf.reshape(tf.constant(block, tf.float64), [d, -1])
        w = tf.reshape(tf.matmul(self._a, w, transpose_a=True), [d, c, -1])
        w = self._b @ (tf.matmul(self._b, w, transpose_a=True) * self._inverse)
        return (self._a @ tf.reshape(w, [d, -1])).numpy().reshape(np.shape(block))
