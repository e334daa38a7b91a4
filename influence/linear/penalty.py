"""The regularisers of linear models: quadratic in W and zero between its rows, and linear."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from influence.data.types import Block


class Penalty(abc.ABC):
    """½ vec(W)ᵀ B vec(W) + bᵀ vec(W) with a B that does not join the rows of W [d, c].

    Where nothing else is said b is 0.
    """

    @property
    @abc.abstractmethod
    def level(self) -> float:
        """The mean of B's diagonal: what an approximate inverse takes for all of it."""

    @property
    @abc.abstractmethod
    def smallest(self) -> float:
        """The smallest eigenvalue of B."""

    @abc.abstractmethod
    def free(self, d: int) -> np.ndarray:
        """Which of the d rows of W have no penalty: [d]."""

    @abc.abstractmethod
    def value(self, weights: tf.Tensor) -> tf.Tensor:
        """Of W [d, c]: a scalar."""

    @abc.abstractmethod
    def product(self, block: Block) -> Block:
        """B times the columns of ``block`` [..., p, k]."""

    def gradient(self, thetas: np.ndarray) -> np.ndarray:
        """At every column of ``thetas`` [p, k]: [p, k]."""
        return np.asarray(self.product(thetas))

    @abc.abstractmethod
    def diagonal(self) -> np.ndarray | float:
        """Of B, [p], or one number for all."""

    @abc.abstractmethod
    def add_to(self, matrix: np.ndarray) -> None:
        """Add B to ``matrix`` [p, p], in place."""


@dataclass(frozen=True)
class Ridge(Penalty):
    """(λ/2)‖W‖².

    Args:
        strength: λ.

    Raises:
        ValueError: λ is negative or not finite.
    """

    strength: float

    def __post_init__(self) -> None:
        if not 0 <= self.strength < np.inf:
            raise ValueError(f"weight_decay must be at least 0, not {self.strength!r}.")

    @property
    def level(self) -> float:
        return self.strength

    def free(self, d: int) -> np.ndarray:
        return np.full(d, self.strength == 0)

    @property
    def smallest(self) -> float:
        return self.strength

    def value(self, weights: tf.Tensor) -> tf.Tensor:
        return self.strength / 2 * tf.reduce_sum(tf.square(weights))

    def product(self, block: Block) -> Block:
        return self.strength * block

    def diagonal(self) -> float:
        return self.strength

    def add_to(self, matrix: np.ndarray) -> None:
        matrix[np.diag_indices(len(matrix))] += self.strength


class RowPenalty(Penalty):
    """½ Σ_jk a_jk W_jk² + Σ_jk b_jk W_jk, every weight with a strength of its own.

    Args:
        strengths: a [d, c], or [d] for all c alike.
        outputs: c.
        shared: whether the loss, like the softmax, does not see what all c logits have in common.
            Rows without penalty then have ½(Σ_k W_jk)²/c: it moves neither the optimum nor an
            influence, and without it the Hessian would be singular.
        slopes: b [d, c]: of the absolute values of weights that keep their signs.
        pinned: [d, c] booleans; those weights are held where they are, by a strength so far above
            the curvature of the loss that they do not move.
        pin: that strength.
    """

    def __init__(
        self,
        strengths: np.ndarray,
        outputs: int,
        shared: bool = False,
        slopes: np.ndarray | None = None,
        pinned: np.ndarray | None = None,
        pin: float = 0.0,
    ) -> None:
        d = len(strengths)
        strengths = np.broadcast_to(strengths.reshape(d, -1), (d, outputs))
        self._slopes = np.zeros((d, outputs)) if slopes is None else slopes
        held = np.zeros((d, outputs), bool) if pinned is None else pinned
        self._free = ((strengths == 0) & (self._slopes == 0) & ~held).all(axis=1)
        # Of the weights that move: what an approximate inverse takes for all of them.
        self._level = float(strengths[~held].mean()) if not held.all() else 0.0
        self._blocks = np.where(held, pin, strengths)[:, :, np.newaxis] * np.eye(outputs)
        if shared:
            self._blocks[self._free] += 1 / outputs

    def __repr__(self) -> str:
        # Every number, as it stands for what is computed with it.
        return f"RowPenalty({self._blocks.tolist()}, {self._slopes.tolist()})"

    @property
    def level(self) -> float:
        return self._level

    def free(self, d: int) -> np.ndarray:
        return self._free

    @property
    def smallest(self) -> float:
        return float(np.linalg.eigvalsh(self._blocks).min())

    def value(self, weights: tf.Tensor) -> tf.Tensor:
        blocks = tf.constant(self._blocks, weights.dtype)
        quadratic = tf.einsum("ja,jab,jb->", weights, blocks, weights) / 2
        return quadratic + tf.reduce_sum(tf.constant(self._slopes, weights.dtype) * weights)

    def product(self, block: Block) -> tf.Tensor:
        block = tf.convert_to_tensor(block)
        d, c, _ = self._blocks.shape
        shape = tf.shape(block)
        rows = tf.reshape(block, tf.concat([shape[:-2], [d, c], shape[-1:]], axis=0))
        return tf.reshape(tf.constant(self._blocks, block.dtype) @ rows, shape)

    def gradient(self, thetas: np.ndarray) -> np.ndarray:
        return super().gradient(thetas) + self._slopes.reshape(-1, 1)

    def diagonal(self) -> np.ndarray:
        return np.diagonal(self._blocks, axis1=1, axis2=2).ravel()

    def add_to(self, matrix: np.ndarray) -> None:
        d, c, _ = self._blocks.shape
        rows = np.arange(d)
        matrix.reshape(d, c, d, c)[rows, :, rows, :] += self._blocks
