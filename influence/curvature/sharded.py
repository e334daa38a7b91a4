"""The curvature of an objective whose points are in shards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from influence.curvature.operator import HessianOperator
from influence.data.types import DType
from influence.sharding.sharding import Sharding

# Parameters up to which the matrix is computed once: 32 MB.
_KEPT_SIZE = 2000


class Regularizer(Protocol):
    """The curvature that the caller adds."""

    smallest: float

    def product(self, block: np.ndarray) -> Any:
        """With ``block`` [p, k]."""

    def diagonal(self) -> Any:
        """[p], or one number for all."""

    def add_to(self, matrix: np.ndarray) -> None:
        """Add its matrix to one [p, p], in place."""


class ShardedHessian(HessianOperator):
    """(1/n) Σ over shards of what the models of their rows have for it, and the regulariser's.

    Args:
        sharding: of the training points, whose models' parameters are ``theta``.
        kind: the operator, by the name of the models' method: "hessian" or "gauss_newton".
        theta: [p].
        dtype: of products; sums are in float64.
        regularizer: its curvature; ``smallest`` is the smallest eigenvalue, or −inf where the
            losses can have negative ones.
        unchanged: () -> whether the parameters are still ``theta``.
    """

    def __init__(
        self,
        sharding: Sharding,
        kind: str,
        theta: np.ndarray,
        dtype: DType,
        regularizer: Regularizer,
        unchanged: Callable[[], bool],
    ) -> None:
        super().__init__(len(theta), dtype, len(sharding))
        self._sharding, self._kind, self._theta = sharding, kind, theta
        self._regularizer, self._unchanged = regularizer, unchanged

    def _matmat(self, block):
        block = np.asarray(block, self.dtype)
        if "matrix" in self.kept:
            product = self.kept["matrix"] @ block.astype(np.float64)
        else:
            product = self._mean(_product, block)
            product = product + np.asarray(self._regularizer.product(block), np.float64)
        result = product.astype(self.dtype, copy=False)
        return result + self.damping * block if self.damping else result

    def _product(self, block):
        return tf.constant((self + -self.damping)._matmat(block.numpy()))

    def _product_on(self, rows, block):
        raise ValueError(
            "Lissa draws single training points, and these are in shards: use "
            "ConjugateGradient(), or Exact() for few parameters."
        )

    def _dense(self):
        if "matrix" not in self.kept:
            matrix = self._mean(_dense)
            self._regularizer.add_to(matrix)
            if len(matrix) > _KEPT_SIZE:
                return matrix.astype(self.dtype)
            self.kept["matrix"] = matrix
        return self.kept["matrix"].astype(self.dtype)

    def _diagonal(self):
        return (self._mean(_diagonal) + self._regularizer.diagonal()).astype(self.dtype)

    def _eigenvalue_bound(self):
        return self._regularizer.smallest

    def _mean(self, function, *arguments):
        if not self._unchanged():
            raise RuntimeError(
                "The model's parameters have changed since this operator was made: make it again "
                "(model.hessian(), model.gauss_newton())."
            )
        total = self._sharding.total(self._theta, function, self._kind, *arguments)
        return total / self.num_examples


# What the workers do: Σ over their rows.


def _operator(part, kind):
    return len(part.train), getattr(part, kind)()


def _product(part, kind, block):
    n, operator = _operator(part, kind)
    return n * (operator @ block).astype(np.float64)


def _dense(part, kind):
    n, operator = _operator(part, kind)
    return n * operator.dense().astype(np.float64)


def _diagonal(part, kind):
    n, operator = _operator(part, kind)
    return n * operator.diagonal().astype(np.float64)
