"""Types that signatures share.

TensorFlow has none of its own: to a checker ``tf.Tensor`` is ``Any``, and here it says what is
meant.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

# Points as a model takes them: an array [m, ...] for most, SciPy's sparse matrix [m, d] for linear
# ones, a structure of arrays (a dict, tuple or list) for some of Keras.
Inputs = Any
# A tensor, or a structure of tensors: a batch of points on its way through a model.
Tensors = Any
# A tensor [m, d], or SciPy's sparse matrix: points of a linear model.
Rows = Any
# Columns [p, k], or [r, p, k]: an array or a tensor, and so is what is computed of them.
Block = Any
# Points as scans take them: (x, labels), or the (dataset,) of a stream; see ``data.batches``.
PointTensors = tuple[Any, ...]

DType = str | type | np.dtype
File = str | os.PathLike[str]
Loss = Literal["normal", "adversarial"]
Reduction = Literal["mean"]
# How exactly a removal is computed; see ``objective.removal.Removal``.
Order = Literal["first", "newton", "refit"]


class Model(Protocol):
    """What curvature, scans and validation ask of a model, as every ``GenericNeuralNet`` has it."""

    @property
    def train(self) -> Any:
        """The training points."""

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """Those that hold θ."""

    @property
    def parameters(self) -> np.ndarray:
        """θ [p]."""

    @property
    def num_parameters(self) -> int:
        """p."""

    @property
    def num_outputs(self) -> int:
        """c, the numbers that the model puts out for a point."""

    @property
    def dtype(self) -> np.dtype:
        """Of the parameters."""

    @property
    def mode(self) -> Any:
        """How derivatives along a vector are computed, a ``curvature.modes.Mode``."""

    @property
    def batch_size(self) -> int:
        """Points that are held as floating-point numbers at a time."""

    @property
    def tensors(self) -> PointTensors:
        """The training points, as scans take them."""

    @property
    def points(self) -> Any:
        """How points come in."""

    @property
    def scans(self) -> Any:
        """What is computed point by point."""

    def convert(self, x: Tensors) -> Tensors:
        """A batch of points as the model sees them."""

    def logits(self, x: Tensors) -> tf.Tensor:
        """The outputs for converted points."""

    def input_logits(self, x: Tensors) -> tf.Tensor:
        """The outputs for converted points as they came."""

    def output_jacobians(self, x: Tensors) -> tf.Tensor:
        """∂logits/∂θ of converted points, [m, c, p]."""

    def example_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """L of each point, [m]."""

    def adversarial_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """log of the probability of a wrong answer, [m]."""

    def sum_gradient(self, x: Tensors, labels: tf.Tensor) -> tf.Tensor:
        """Σ ∇L of a batch, [p]."""

    def regularization(self) -> tf.Tensor:
        """The part of the objective that does not depend on the data."""

    def gradient(self) -> np.ndarray:
        """∇R(θ) [p]."""

    def losses(self, x: Inputs, labels: ArrayLike) -> np.ndarray:
        """The loss of each point, [m]."""

    def refit(self, without: ArrayLike) -> Self:
        """A model fitted without these training points."""

    @property
    def influence_on_loss(self) -> Any:
        """The method."""
