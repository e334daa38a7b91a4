"""Eigenvalue-corrected Kronecker factors: a Gauss-Newton matrix whose inverse costs nothing."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import tensorflow as tf

from influence.curvature.operator import HessianOperator
from influence.solvers.solution import SolverError, remedy

# Where a block's parameters stand in θ: slices, one after the other.
Places = tuple[slice, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Block(abc.ABC):
    """A block of the diagonal, with orthonormal eigenvectors and its eigenvalues.

    Attributes:
        places: of its parameters.
        values: the eigenvalues, float64.
    """

    places: Places
    values: np.ndarray

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return self.values.size

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Self:
        """The same with a function of its eigenvalues in their place."""
        return dataclasses.replace(self, values=function(self.values))

    def plus(self, diagonal: np.ndarray) -> Self:
        """The same with, added to the eigenvalues, qᵀ diag q for each eigenvector q: the diagonal
        in their basis of the matrix with ``diagonal`` [size] added."""
        return self.mapped(lambda values: values + self._in_basis(diagonal))

    @abc.abstractmethod
    def product(self, columns: tf.Tensor) -> tf.Tensor:
        """What it makes of ``columns`` [k, size], in float64."""

    @abc.abstractmethod
    def diagonal(self) -> np.ndarray:
        """[size]"""

    @abc.abstractmethod
    def _in_basis(self, diagonal: np.ndarray) -> np.ndarray:
        """qᵀ diag q, shaped as the eigenvalues."""


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalBlock(Block):
    """Parameters each for itself: the eigenvalues [size] are the diagonal."""

    def product(self, columns: tf.Tensor) -> tf.Tensor:
        return columns * self.values

    def diagonal(self) -> np.ndarray:
        return self.values

    def _in_basis(self, diagonal):
        return diagonal


@dataclasses.dataclass(frozen=True, eq=False)
class KroneckerBlock(Block):
    """Parameters that make a matrix [a, b], row by row, with the eigenvectors l rᵀ of all pairs.

    Attributes:
        values: [a, b], of the pairs.
        left: the vectors l as columns, [a, a]; None for those of the identity.
        right: the vectors r as columns, [b, b].
    """

    left: np.ndarray | None
    right: np.ndarray

    def product(self, columns: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(columns)
        along = self._rotated(tf.reshape(columns, [-1, *self.values.shape]), back=False)
        return tf.reshape(self._rotated(along * self.values, back=True), shape)

    def _rotated(self, matrices, back):
        """From θ [k, a, b] into the basis, or back."""
        k, (a, b) = tf.shape(matrices)[0], self.values.shape
        rows = tf.matmul(tf.reshape(matrices, [-1, b]), self.right, transpose_b=back)
        matrices = tf.reshape(rows, [k, a, b])
        if self.left is None:
            return matrices
        left = self.left if back else self.left.T
        return tf.einsum("ij,kjb->kib", left, matrices)

    def diagonal(self) -> np.ndarray:
        squares = self.values @ np.square(self.right).T
        return (squares if self.left is None else np.square(self.left) @ squares).ravel()

    def _in_basis(self, diagonal):
        squares = diagonal.reshape(self.values.shape) @ np.square(self.right)
        return squares if self.left is None else np.square(self.left).T @ squares


class EKFAC(HessianOperator):
    """The Gauss-Newton matrix of a network, block by block, in a basis of Kronecker products, with
    the right diagonal there (George et al. 2018, arXiv 1806.03884; Grosse et al. 2023, arXiv
    2308.03296): what ``KerasModel.ekfac`` returns.

    In float64, whatever the model computes in. It is a matrix of known eigenvectors, so its inverse
    is one, too: influences with ``curvature=model.ekfac() + δ`` take no iterations.

    Args:
        blocks: whose places cover 0..p − 1.
        num_examples: n.

    Examples:
        One linear layer and the squared error, where it is the Gauss-Newton matrix:

        >>> import keras
        >>> import numpy as np
        >>> from influence import KerasModel
        >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> x, y = np.array([[2.0, 0.0], [0.0, 4.0]]), np.zeros((2, 1))
        >>> ekfac = KerasModel(network, (x, y), loss="mse").ekfac()
        >>> ekfac.dense().round(5).tolist()
        [[4.0, 0.0], [0.0, 16.0]]
        >>> ((ekfac + 1.0).inverse() @ np.array([5.0, 17.0])).round(6).tolist()
        [1.0, 1.0]
    """

    def __init__(self, blocks: Sequence[Block], num_examples: int) -> None:
        super().__init__(sum(block.size for block in blocks), np.float64, num_examples)
        self.blocks = tuple(blocks)
        # In which order the pieces of all blocks make θ again.
        starts = [place.start for block in self.blocks for place in block.places]
        self._order = np.argsort(starts)

    def inverse(self, damping: float = 0.0) -> EKFAC:
        """The inverse of the operator with ``damping``, beside its own, as an operator.

        Raises:
            SolverError: it is not positive definite; names the damping that would do.
        """
        total = self.damping + damping
        ends = self._ends()
        rounding = np.finfo(np.float64).eps * max(map(abs, ends)) * len(self.blocks)
        if ends[0] + total <= rounding:
            raise SolverError(
                f"EK-FAC is not positive definite{remedy(ends[0] + total, rounding)}".replace(
                    "`hessian", "`ekfac"
                )
            )
        return EKFAC(
            [block.mapped(lambda values: 1 / (values + total)) for block in self.blocks],
            self.num_examples,
        )

    def extreme_eigenvalues(self, *unused: object, **settings: object) -> tuple[float, float]:
        """The smallest and the largest eigenvalue, damping included: they are known."""
        smallest, largest = self._ends()
        return smallest + self.damping, largest + self.damping

    def _ends(self):
        values = [block.values for block in self.blocks]
        return min(float(v.min()) for v in values), max(float(v.max()) for v in values)

    def _product(self, block):
        rows = tf.transpose(block)
        pieces = []
        for each in self.blocks:
            columns = tf.concat([rows[:, place] for place in each.places], axis=1)
            sizes = [place.stop - place.start for place in each.places]
            pieces += tf.split(each.product(columns), sizes, axis=1)
        return tf.transpose(tf.concat([pieces[i] for i in self._order], axis=1))

    def _product_on(self, rows, block):
        raise ValueError("EK-FAC has no rows of data, and needs no Lissa: it knows its inverse.")

    def _eigenvalue_bound(self):
        return self._ends()[0]

    def _diagonal(self):
        diagonal = np.empty(self.shape[0])
        for block in self.blocks:
            positions = np.concatenate([np.arange(p.start, p.stop) for p in block.places])
            diagonal[positions] = block.diagonal()
        return diagonal
