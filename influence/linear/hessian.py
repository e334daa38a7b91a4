"""The Hessian of a linear model in closed form, and an approximation of its inverse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.curvature.operator import MAX_DENSE_SIZE, HessianOperator
from influence.data.types import Rows
from influence.linear.array_functions import ArrayFunctions
from influence.linear.functions import LinearLoss
from influence.linear.penalty import Penalty
from influence.linear.wide import is_wide, wide_inverse
from influence.solvers.preconditioners import InverseMatrix, UpdatedInverse

# Parameters up to which the matrix is computed once: 32 MB.
_KEPT_SIZE = 2000


class LinearHessian(HessianOperator):
    """∇²R of a linear model at ``weights`` [d, c], in closed form.

    Args:
        functions: from ``compiled``, in the dtype wanted.
        x, labels: the training points, [n, d] and [n].
        weights: W [d, c].
        penalty: the regulariser.
        loss: the loss on the logits.
        scale: what x is multiplied by.
    """

    jit_compile = True

    def __init__(
        self,
        functions: SimpleNamespace | ArrayFunctions,
        x: Rows,
        labels: tf.Tensor,
        weights: tf.Tensor,
        penalty: Penalty,
        loss: LinearLoss,
        scale: float,
    ) -> None:
        weights = tf.convert_to_tensor(weights)
        super().__init__(int(tf.size(weights)), weights.dtype.as_numpy_dtype, len(labels))
        self._functions: Any = functions
        self._x, self._loss, self._scale = x, loss, scale
        self._penalty = penalty
        self._matrix: np.ndarray | None = None
        self._curvature = functions.curvature(x, labels, weights)

    def _product(self, block):
        total = self._functions.product(self._x, self._curvature, block)
        return total / self.num_examples + self._penalty.product(block)

    def _matmat(self, block):
        if tf.is_tensor(self._x):
            return super()._matmat(block)
        block = np.asarray(block, self.dtype)
        # Once the matrix is there, no look at the points is needed.
        kept = self._matrix
        result = np.asarray(self._product(block)) if kept is None else kept @ block
        return result + self.damping * block if self.damping else result

    def _product_on(self, rows, block):
        mean = self._functions.product_on(self._x, self._curvature, rows, block)
        return mean + self._penalty.product(block)

    def _dense(self):
        if self._matrix is not None:
            return self._matrix.copy()
        d, c = self._x.shape[1], self._loss.outputs
        if isinstance(self._functions, ArrayFunctions):
            total = self._functions.dense(self._x, self._curvature)
        else:
            total = np.empty((d, c, d, c), self.dtype)
            for a in range(c):
                for b in range(a, c):
                    block = self._functions.dense_block(self._x, self._curvature, a, b).numpy()
                    total[:, a, :, b] = total[:, b, :, a] = block
        matrix = (total / self.num_examples).reshape(self.shape).astype(self.dtype, copy=False)
        self._penalty.add_to(matrix)
        if len(matrix) <= _KEPT_SIZE:
            self._matrix = matrix.copy()
        return matrix

    def _eigenvalue_bound(self):
        return self._penalty.smallest if self._loss.convex else -np.inf

    def _diagonal(self):
        diagonal = self._functions.diagonal(self._x, self._curvature).numpy().ravel()
        return diagonal / self.num_examples + np.asarray(self._penalty.diagonal(), self.dtype)

    def approximate_inverse(self) -> ClassInverse | InverseMatrix | UpdatedInverse | None:
        """An approximation of H⁻¹ to precondition with, from some of the points.

        With one logit it is the inverse of the matrix of every s-th point, with more
        ``ClassInverse`` of its blocks: two points a feature are enough. Of no more points than
        features it is ``wide_inverse`` of all. None for sparse points, as products with them are
        cheaper than a dense matrix, and where the numbers would take more than a gigabyte.
        """
        (n, d), c = self._x.shape, self._loss.outputs
        if scipy.sparse.issparse(self._x):
            return None
        if is_wide((n, d), self._loss, self._penalty) and d * n * c**2 <= MAX_DENSE_SIZE**2:
            return self._wide_inverse()
        if c * d**2 > MAX_DENSE_SIZE**2:
            return None
        every = slice(None, None, max(1, self.num_examples // (2 * d)))
        x, curvature = self._x[every], self._curvature[every]
        # Without a ridge the null space must stay finite; any positive number serves there.
        largest = float(tf.reduce_max(self._functions.diagonal(x, curvature))) / x.shape[0]
        ridge = max(self._penalty.level + self.damping, 1e-10 * largest or 1.0)
        if c > 1:
            inverses = self._functions.class_inverses(x, curvature, tf.constant(ridge, tf.float64))
            return ClassInverse(inverses, ridge)
        block = self._functions.dense_block(x, curvature, 0, 0).numpy().astype(np.float64)
        return InverseMatrix(block / x.shape[0] + ridge * np.eye(d))

    def _wide_inverse(self):
        rows = self._x.numpy().astype(np.float64) * self._scale
        curvatures = np.asarray(self._loss.curvature_matrix(tf.constant(self._curvature)))
        diagonal = self._functions.diagonal(self._x, self._curvature)
        largest = float(tf.reduce_max(diagonal)) / self.num_examples
        return wide_inverse(rows, curvatures, self._penalty, self.damping, largest)


class ClassInverse:
    """P B⁻¹ P + (1 − P)/ridge, an approximation of the inverse of a softmax regression's Hessian.

    B are the Hessian's blocks on the diagonal, one a class. The softmax does not notice when all
    logits move together: the Hessian maps what is the same for all classes, the part 1 − P of a
    vector, to ridge times itself, and leaves the rest, P, without such a part. There B is near.

    Args:
        inverses: B⁻¹ [c, d, d] in float32, whose rounding costs no digits of a solve.
        ridge: above 0.
    """

    def __init__(self, inverses: tf.Tensor, ridge: float) -> None:
        self._inverse, self._ridge = inverses, ridge

    def __matmul__(self, block: np.ndarray) -> np.ndarray:
        c, d, _ = self._inverse.shape
        w = tf.reshape(tf.constant(block, tf.float32), [d, c, -1])
        same = tf.reduce_mean(w, axis=1, keepdims=True)
        solved = self._inverse @ tf.transpose(w - same, [1, 0, 2])
        solved = tf.transpose(solved - tf.reduce_mean(solved, axis=0), [1, 0, 2])
        return tf.reshape(solved + same / self._ridge, [d * c, -1]).numpy().reshape(block.shape)
