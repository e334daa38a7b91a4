"""What every training point of a linear model says, a few points at a time, in float64."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from influence.data.dataset import check_chosen
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


def point_terms(model: Any, indices: ArrayLike | None = None) -> Iterator[PointTerms]:
    """Those of the training points of a ``LinearModel`` at ``indices``, or of all (None), a few at
    a time."""
    if indices is None:
        for points in model.points.parts(model.tensors):
            yield from _terms(model, points)
        return
    indices = check_chosen(indices, len(model.train))
    for first in range(0, len(indices), model.batch_size):
        yield from _terms(model, model.points.chosen(indices[first : first + model.batch_size]))


def _terms(model, points):
    x, labels = points
    rows, loss = model.scans.array_rows(x), model.loss
    z = model.scans.functions("float64", rows).logits(rows, model.weights.numpy().astype(float))
    outputs, slopes, state = z.numpy(), loss.slopes(z, labels).numpy(), loss.curvature(z, labels)
    size = max(1, min(_NUMBERS // model.num_parameters, model.batch_size))
    for where, block in model.scans.dense_blocks(rows, size):
        curvatures = loss.curvature_matrix(state[where]).numpy()
        yield PointTerms(block, outputs[where], slopes[where], curvatures)
