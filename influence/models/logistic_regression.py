"""Logistic regression, of two classes and of many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from influence.data.dataset import Dataset, check_classes, check_dataset, check_two_classes
from influence.data.types import DType, Inputs
from influence.linear.functions import LinearLoss, OneLogitLoss
from influence.linear.model import LinearModel
from influence.linear.penalty import Ridge


@dataclass(frozen=True)
class Softmax(LinearLoss):
    """Cross-entropy of the softmax of ``outputs`` logits, labels 0..outputs − 1."""

    outputs: int

    likelihood = "full"

    def class_probabilities(self, z: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(z)

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z)

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(z) - tf.one_hot(labels, self.outputs, dtype=z.dtype)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(z)

    def curvature_product(self, curvature: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        weighted = curvature[:, :, tf.newaxis] * u
        total = tf.reduce_sum(weighted, axis=1, keepdims=True)
        return weighted - self.probabilities(curvature)[:, :, tf.newaxis] * total

    def curvature_matrix(self, curvature: tf.Tensor) -> tf.Tensor:
        # p(1 − p) as the sum of p times the others: where p is nearly 1, 1 − p has no digits.
        outer = curvature[:, :, tf.newaxis] * self.probabilities(curvature)[:, tf.newaxis, :]
        others = tf.linalg.set_diag(outer, tf.zeros_like(curvature))
        return tf.linalg.diag(tf.reduce_sum(others, axis=2)) - others

    def probabilities(self, curvature: tf.Tensor) -> tf.Tensor:
        """softmax(z) from what ``curvature`` gives, [b, c]."""
        return curvature


@dataclass(frozen=True)
class Logistic(OneLogitLoss):
    """Cross-entropy of the sigmoid of one logit, labels 0 and 1."""

    likelihood = "full"

    def class_probabilities(self, z: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.sigmoid(-z), tf.sigmoid(z)], axis=-1)

    def losses(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        labels = tf.cast(labels, z.dtype)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, z[:, 0])

    def slopes(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        # −y σ(−yz) for y = ±1, which keeps its digits where σ(z) − label would cancel.
        sign = 2 * tf.cast(labels, z.dtype)[:, tf.newaxis] - 1
        return -sign * tf.sigmoid(-sign * z)

    def curvature(self, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(z) * tf.sigmoid(-z)


class LogisticRegression(LinearModel):
    """Multinomial logistic regression without bias: softmax(xW), W [d, c].

    Args:
        train: labels are the classes 0..c − 1.
        weight_decay: λ of (λ/2)‖W‖²; scikit-learn's C is 1/(nλ).
        num_classes: c; None takes the largest label + 1.
        dtype: "float32" or "float64".
        batch_size: points converted at a time.

    Examples:
        >>> import numpy as np
        >>> from influence import Dataset, LogisticRegression
        >>> train = Dataset(np.eye(3), [0, 1, 2])
        >>> model = LogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> model.predict([[0.2, 0.7, 0.1]]).tolist(), model.probabilities(train.x).shape
        ([1], (3, 3))
        >>> model.influence_on_loss([[0.2, 0.7, 0.1]], [1]).argmax(axis=1).tolist()
        [1]
    """

    def __init__(
        self,
        train: Dataset,
        weight_decay: float,
        num_classes: int | None = None,
        dtype: DType = "float32",
        batch_size: int | None = None,
    ) -> None:
        check_dataset(train)
        if num_classes is None:
            num_classes = int(train.labels.max()) + 1
        loss = Softmax(max(num_classes, 1))
        super().__init__(train, loss, Ridge(weight_decay), dtype, batch_size)
        check_two_classes(train.labels)

    def adversarial_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """log(1 − p_y) = log Σ_{k≠y} exp z_k − log Σ_k exp z_k."""
        wrong = tf.one_hot(labels, self.loss.outputs, on_value=-np.inf, off_value=0.0)
        return tf.reduce_logsumexp(logits + tf.cast(wrong, logits.dtype), 1) - (
            tf.reduce_logsumexp(logits, 1)
        )

    def probabilities(self, x: Inputs) -> np.ndarray:
        """p(class | x): [m, c]."""
        return tf.nn.softmax(self.outputs(x)).numpy()

    def predict(self, x: Inputs) -> np.ndarray:
        """The most probable class of each point: [m]."""
        return self.outputs(x).argmax(axis=1)

    def _clone(self, train):
        return LogisticRegression(
            train, self.weight_decay, self.loss.outputs, self.dtype, self.batch_size
        )

    def _check_labels(self, labels, name):
        check_classes(labels, self.loss.outputs, name)


class BinaryLogisticRegression(LinearModel):
    """Logistic regression of two classes without bias: p(1 | x) = σ(wᵀx).

    Args:
        train: labels are 0 and 1.
        weight_decay: λ of (λ/2)‖w‖²; scikit-learn's C is 1/(nλ).
        dtype: "float32" or "float64".
        batch_size: points converted at a time.

    Examples:
        Two points, alike but for their sign. At the optimum 1 − p = λw:

        >>> from influence import BinaryLogisticRegression, Dataset
        >>> train = Dataset([[1], [-1]], [1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> (1 - model.probabilities([[1]])).round(3).tolist()
        [0.163]
        >>> (0.1 * model.parameters).round(3).tolist()
        [0.163]
        >>> model.predict([[3], [-3]]).tolist()
        [1, 0]
    """

    def __init__(
        self,
        train: Dataset,
        weight_decay: float,
        dtype: DType = "float32",
        batch_size: int | None = None,
    ) -> None:
        check_dataset(train)
        super().__init__(train, Logistic(), Ridge(weight_decay), dtype, batch_size)
        check_two_classes(train.labels)

    def adversarial_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """log(1 − p_y) = −log(1 + exp(y z)) for y = ±1."""
        return -self.loss.losses(logits, 1 - labels)

    def probabilities(self, x: Inputs) -> np.ndarray:
        """p(1 | x): [m]."""
        return tf.sigmoid(self.outputs(x)[:, 0]).numpy()

    def predict(self, x: Inputs) -> np.ndarray:
        """The more probable class of each point, 0 or 1: [m]."""
        return (self.outputs(x)[:, 0] > 0).astype(np.int64)

    def _clone(self, train):
        return BinaryLogisticRegression(train, self.weight_decay, self.dtype, self.batch_size)

    def _check_labels(self, labels, name):
        check_classes(labels, 2, name)
