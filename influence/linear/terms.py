"""What every training point of a linear model says, a few points at a time, in float64."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.dataset import check_indices
from influence.solvers.downdate import roots

# Numbers that a block of points' parameters may have: 32 MB.
_NUMBERS = 2**22


@dataclass(frozen=True)
class PointTerms:
    """∇ℓ_i = X_i s_i and ∇²ℓ_i = X_i A_i X_iᵀ of b points, with X_i = x_i ⊗ I.

    Weights of examples are in s and A.

    Attributes:
        rows: x [b, d], with the constant feature and the data set's scale.
        outputs: z [b, c].
        slopes: s [b, c].
        curvatures: A [b, c, c].
    """

    rows: np.ndarray
    outputs: np.ndarray
    slopes: np.ndarray
    curvatures: np.ndarray

    @functools.cached_property
    def roots(self) -> np.ndarray:
        """R [b, c, c] with R Rᵀ = A."""
        return roots(self.curvatures)

    @property
    def gradients(self) -> np.ndarray:
        """X_i s_i of each: [b, d·c]."""
        return self.along(self.slopes)

    def along(self, outputs: np.ndarray) -> np.ndarray:
        """X_i u_i for u [b, c]: [b, d·c]."""
        block = self.rows[:, :, np.newaxis] * outputs[:, np.newaxis]
        return block.reshape(len(block), -1)

    def forms(self, inverse: np.ndarray) -> np.ndarray:
        """X_iᵀ M⁻¹ X_i, from M⁻¹ [d·c, d·c]: [b, c, c]."""
        (b, d), c = self.rows.shape, self.slopes.shape[1]
        forms, blocks = np.empty((b, c, c)), inverse.reshape(d, c, d, c)
        for i in range(c):
            for j in range(i, c):
                form = np.einsum("bd,bd->b", self.rows @ blocks[:, i, :, j], self.rows)
                forms[:, i, j] = forms[:, j, i] = form
        return forms


def point_terms(model: Any, indices: ArrayLike | None = None) -> Iterator[PointTerms]:
    """Those of the training points of a ``LinearModel`` at ``indices``, or of all (None), a few at
    a time."""
    n = len(model.train)
    if indices is not None:
        indices = check_indices(indices, n, "train_indices")
        n = len(indices)
    weights = tf.cast(model.weights, tf.float64)
    size = max(1, min(_NUMBERS // model.num_parameters, model.batch_size))
    x, labels = model.scans.matrix
    for first in range(0, n, size):
        block = slice(first, first + size)
        if indices is None:
            rows, own = x[block], labels[block]
        else:
            chosen, own = model.points.chosen(indices[block])
            rows = model.scans.rows(chosen)
        rows = rows.toarray() if scipy.sparse.issparse(rows) else rows.numpy()
        rows = rows.astype(np.float64, copy=False)
        rows = rows if model.train.scale == 1 else rows * model.train.scale
        outputs = tf.constant(rows) @ weights
        slopes = model.loss.slopes(outputs, own)
        curvatures = model.loss.curvature_matrix(model.loss.curvature(outputs, own))
        yield PointTerms(rows, outputs.numpy(), slopes.numpy(), curvatures.numpy())
