"""TracIn: what a training did with each point, traced by its gradients at checkpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.dataset import check_chosen
from influence.data.types import File, Inputs, Loss
from influence.keras_models.model import KerasModel
from influence.objective.generic_neural_net import GenericNeuralNet


def tracin(
    model: GenericNeuralNet,
    checkpoints: Sequence[File | ArrayLike],
    rates: ArrayLike,
    x_test: Inputs,
    y_test: ArrayLike,
    *,
    train_indices: ArrayLike | None = None,
    loss: Loss = "normal",
) -> np.ndarray:
    """Σ_t η_t ∇L(z_i, θ_t)ᵀ ∇L(z_test, θ_t) over checkpoints θ_t: [m, n], > 0 is helpful.

    Pruthi et al. 2020 (arXiv 2002.08484): what the steps of gradient descent on a point took off a
    test loss, to first order, which is what the loss would have more without them. No curvature and
    no solve: a scan of the training points at every checkpoint. It says nothing of what other
    points would have done instead.

    With one checkpoint a pass of stochastic gradient descent at learning rate η in batches of b,
    ``rates`` of η/b give it the scale of a change of the loss, without momentum; its order needs
    but their proportions.

    Args:
        model: whose data, loss and architecture it is; its own parameters stay.
        checkpoints: of each, a file of Keras (``keras.callbacks.ModelCheckpoint``: ``.keras``, or
            ``.weights.h5`` for a model that ``keras.models.clone_model`` can clone), parameters
            θ [p], or a model of the library with the same training points.
        rates: η_t of each checkpoint.
        x_test, y_test, train_indices, loss: as for ``influence_on_loss``.

    Raises:
        ValueError: not one rate a checkpoint; a file of another network, or one whose frozen
            variables or moving statistics are not those of ``model``.

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset, tracin
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64")
        >>> tracin(model, [[0.0], [0.5]], [0.1, 0.1], [[1.5]], [1]).round(3).tolist()
        [[0.101, 0.056, 0.056, 0.101, -0.231]]
    """
    sizes = np.asarray(rates, np.float64)
    if sizes.shape != (len(checkpoints),) or not len(sizes) or not np.isfinite(sizes).all():
        raise ValueError(
            f"rates must be finite, one for each of the {len(checkpoints)} checkpoints, of which "
            f"there must be one; their shape is {list(sizes.shape)}."
        )
    if train_indices is not None:
        check_chosen(train_indices, len(model.train))
    total: Any = 0.0
    for checkpoint, rate in zip(checkpoints, sizes):
        at = _at(model, checkpoint)
        gradients = tf.constant(at.test_gradient(x_test, y_test, loss))
        points = at.points.scanned(train_indices)
        total = total + rate * at.scans.directional_derivatives(points, gradients).T
    return total.astype(model.dtype)


def _at(model, checkpoint) -> GenericNeuralNet:
    """A model with the parameters of a checkpoint."""
    if isinstance(checkpoint, GenericNeuralNet):
        if len(checkpoint.train) != len(model.train):
            raise ValueError(
                f"A checkpoint has {len(checkpoint.train)} training points, and the model "
                f"{len(model.train)}."
            )
        return checkpoint
    if not isinstance(checkpoint, (str, os.PathLike)):
        return model.with_parameters(checkpoint)
    if not isinstance(model, KerasModel):
        raise ValueError(
            f"Files are of Keras models: give the parameters of a {type(model).__name__} instead "
            f"of {os.fspath(checkpoint)!r}."
        )
    return model.with_parameters(model.parameters_in(checkpoint))
