"""Approximate inverses, for conjugate gradients to start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.solvers.exact import cholesky
from influence.solvers.semidefinite import not_positive_definite
from influence.solvers.solution import Operator, SolverError


class InverseMatrix:
    """The inverse of a positive definite matrix [p, p], entry by entry, to precondition with.

    A product reads it once and on all cores; the triangular solves of a factor run on one.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        factor = cholesky(matrix)
        if factor is None:
            raise SolverError(not_positive_definite(matrix))
        inverse = factor @ np.eye(len(matrix), dtype=matrix.dtype)
        # A tensor, because BLAS threads that wait for NumPy's next call slow down TensorFlow's.
        self._inverse = tf.constant(inverse)

    def __matmul__(self, block: ArrayLike) -> np.ndarray:
        columns = tf.reshape(tf.constant(block, self._inverse.dtype), [len(self._inverse), -1])
        return (self._inverse @ columns).numpy().reshape(np.shape(block))


class UpdatedInverse:
    """(A + U diag(w) Uᵀ)⁻¹ from A⁻¹, by Woodbury's formula, for U of a few columns.

    What it takes beside A⁻¹ is thin: a product with U's k columns now, and 4pk additions and
    multiplications a product later.

    Args:
        inverse: A⁻¹ [p, p], of a symmetric matrix.
        columns: U [p, k].
        weights: w [k], of either sign or 0.

    Examples:
        >>> import numpy as np
        >>> from influence.solvers.preconditioners import InverseMatrix, UpdatedInverse
        >>> inverse = InverseMatrix(np.eye(2))
        >>> UpdatedInverse(inverse, np.array([[1.0], [0.0]]), [3.0]) @ np.array([1.0, 1.0])
        array([0.25, 1.  ])
    """

    def __init__(self, inverse: Operator, columns: np.ndarray, weights: ArrayLike) -> None:
        self._inverse = inverse
        u, w = tf.constant(columns), tf.constant(weights, columns.dtype)
        solved = tf.constant(inverse @ columns)
        inner = tf.eye(len(w), dtype=u.dtype) + w[:, tf.newaxis] * tf.matmul(u, solved, True)
        # A⁻¹U, and (1 + W UᵀA⁻¹U)⁻¹ W UᵀA⁻¹. As tensors, as above.
        self._solved = solved
        self._inner = tf.linalg.solve(inner, w[:, tf.newaxis] * tf.transpose(solved))

    def __matmul__(self, block: ArrayLike) -> np.ndarray:
        columns = tf.reshape(tf.constant(block, self._solved.dtype), [len(self._solved), -1])
        change = (self._solved @ (self._inner @ columns)).numpy()
        return self._inverse @ np.asarray(block) - change.reshape(np.shape(block))


class KeptInverse:
    """The inverse of an operator that changes a little from solve to solve, as a preconditioner:
    ``ConjugateGradient(preconditioner=kept(operator))``.

    It is made from the first operator, serves the next ones, and is made again from the operator
    of the solve after one that took more than ``patience`` products. An old inverse costs
    products, never digits: conjugate gradients solve with the operator itself.

    Args:
        make: operator -> (approximate) inverse, or None where there is none; by default the
            inverse of its matrix.
        patience: products of a solve above which a new inverse is cheaper.

    Attributes:
        made: inverses made so far.
    """

    def __init__(
        self, make: Callable[[Any], Operator | None] | None = None, patience: int = 15
    ) -> None:
        self._make = make or (lambda operator: InverseMatrix(operator.dense()))
        self._patience, self.made = patience, 0
        self._inverse: Operator | None = None
        self._products = 0

    def __call__(self, operator: Any) -> KeptInverse | None:
        """The preconditioner for a solve with ``operator``."""
        if self._inverse is None or self._products > self._patience:
            self._inverse = None  # its memory is for the new one
            self._inverse = self._make(operator)
            self.made += 1
        self._products = 0
        return None if self._inverse is None else self

    def __matmul__(self, block: np.ndarray) -> np.ndarray:
        self._products += 1
        assert self._inverse is not None
        return self._inverse @ block
