"""Linear models in which every example has a weight of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.dataset import Dataset, check_chosen
from influence.data.types import DType, PointTensors
from influence.linear.functions import LinearLoss
from influence.linear.points import LinearPoints


@dataclass(frozen=True)
class Weighted(LinearLoss):
    """w ℓ(z, y) with labels [b, 2] that are (y, w), or [b, c + 1] of c targets; see ``pack``.

    The curvature methods of ``loss`` must be homogeneous in what ``curvature`` gives: w times that
    stands for w times the matrix.
    """

    loss: LinearLoss

    labels_spec = tf.TensorSpec([None, None], tf.float64)

    @property
    def falls_with_margins(self) -> bool:  # type: ignore[override]
        return self.loss.falls_with_margins

    @property
    def separate(self) -> bool:  # type: ignore[override]
        return self.loss.separate

    @property
    def likelihood(self) -> str:  # type: ignore[override]
        return self.loss.likelihood

    def information(self, z: tf.Tensor) -> tf.Tensor:
        return self.loss.information(z)

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.loss.convex

    @property
    def outputs(self) -> int:  # type: ignore[override]  # where others have a field
        return self.loss.outputs

    def class_probabilities(self, z: tf.Tensor) -> tf.Tensor | None:
        return self.loss.class_probabilities(z)

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        y, weights = self._unpack(z, labels)
        return weights * self.loss.losses(z, y)

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        y, weights = self._unpack(z, labels)
        return weights[:, tf.newaxis] * self.loss.slopes(z, y)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        y, weights = self._unpack(z, labels)
        return weights[:, tf.newaxis] * self.loss.curvature(z, y)

    def curvature_product(self, curvature: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        return self.loss.curvature_product(curvature, u)

    def curvature_matrix(self, curvature: tf.Tensor) -> tf.Tensor:
        return self.loss.curvature_matrix(curvature)

    def _unpack(self, z, labels):
        spec = self.loss.labels_spec
        y = labels[:, 0] if spec.shape.rank == 1 else labels[:, :-1]
        return tf.cast(y, spec.dtype), tf.cast(labels[:, -1], z.dtype)


def pack(labels: np.ndarray, weights: np.ndarray) -> tf.Tensor:
    """Labels [b] or [b, c] and the weights of their examples [b] as ``Weighted`` takes them."""
    return tf.constant(np.column_stack([labels, weights]), tf.float64)


class WeightedPoints(LinearPoints):
    """Points of a model with a ``Weighted`` loss: training points with their weights, others with
    weight 1.

    Args:
        train, dtype, label_dtype, check_labels: as for ``Points``.
        example_weights: [n].
    """

    def __init__(
        self,
        train: Dataset,
        dtype: DType,
        label_dtype: Any,
        check_labels: Callable[[np.ndarray, str], None],
        example_weights: np.ndarray,
    ) -> None:
        super().__init__(train, dtype, label_dtype, check_labels)
        self.example_weights = example_weights

    @functools.cached_property
    def tensors(self) -> PointTensors:
        return self._weighted(slice(None))

    def chosen(self, indices: ArrayLike | None = None) -> PointTensors:
        if indices is None:
            return self.tensors
        return self._weighted(check_chosen(indices, len(self.train)))

    @functools.cached_property
    def labels(self) -> tf.Tensor:
        return pack(self.train.labels, self.example_weights)

    def weights_of(self, points: PointTensors) -> np.ndarray:
        """The weights of points for scans, [m]."""
        return points[1][:, -1].numpy()

    def label_tensor(self, labels: np.ndarray) -> tf.Tensor:
        return pack(labels, np.ones(len(labels)))

    def _weighted(self, rows):
        # Outside any function that is being traced.
        with tf.init_scope():
            labels = pack(self.train.labels[rows], self.example_weights[rows])
            return self.input_tensor(self.train.x[rows]), labels
