"""What a Keras model must be like, so that it has a loss of each point, and derivatives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from influence.data.batches import take_rows
from influence.data.types import Tensors
from influence.keras_models.errors import said
from influence.keras_models.network import KerasNetwork
from influence.objective.minimum import ConvergenceWarning

# Parts of the objective at θ = 0: an objective below the first is on its way to 0, and a curvature
# along θ below the second will not stop it.
_VANISHED, _FLAT = 1e-4, 1e-2


def checked_outputs(network: KerasNetwork, x: Tensors) -> Tensors:
    """The outputs for a few points, once they are known to be one function of each point.

    Raises:
        ValueError: the model does not take the points, computes in another type than float32 or
            float64, or its outputs change from call to call or with the other points of a batch.
    """
    name = network.model.name
    try:
        outputs, again = network.twice(x)
        alone = network.whole(take_rows(x, slice(1)))
    except Exception as error:
        raise ValueError(
            f"The model {name!r} does not take points like those of train: {said(error)}."
        ) from error
    flat, again, alone = (keras.tree.flatten(part) for part in (outputs, again, alone))
    types = {array.dtype.name for array in [*flat, *network.variables]}
    if types not in ({"float32"}, {"float64"}):
        raise ValueError(
            f"The model {name!r} computes in {' and '.join(sorted(types))}: influences need "
            f"float32 or float64 throughout (keras.config.set_dtype_policy)."
        )
    for first, second, single in zip(flat, again, alone):
        _check_one_function(name, first, second, single)
    return outputs


def _check_one_function(name, outputs, again, alone):
    tolerance = 1e3 * np.finfo(outputs.dtype.as_numpy_dtype).eps * np.abs(outputs).max()
    if not np.allclose(outputs, again, rtol=0, atol=tolerance):
        raise ValueError(
            f"The outputs of the model {name!r} differ from call to call even with "
            f"training=False: remove the noise, or fix its seed."
        )
    if not np.allclose(outputs[:1], alone, rtol=0, atol=tolerance):
        raise ValueError(
            f"The outputs of the model {name!r} for a point depend on the other points of its "
            f"batch: there is no loss of a single point."
        )


def check_penalties(network: KerasNetwork, x: Tensors) -> None:
    """Raise a ValueError where the model adds losses that depend on its inputs."""
    if network.losses_of_data(x):
        raise ValueError(
            "The model has penalties that depend on the data (activity_regularizer or "
            "add_loss): they are no sum over points. Leave them out, and say with "
            "regularization= what the objective has instead."
        )


def check_connected(network: KerasNetwork, gradients: Sequence[tf.Tensor | None]) -> None:
    """Raise a ValueError where no gradient has reached a chosen variable."""
    broken = [v.path for v, gradient in zip(network.chosen, gradients) if gradient is None]
    if broken:
        raise ValueError(
            f"No gradient reaches {', '.join(broken)}: the loss does not depend on it, or goes "
            f"through an operation without derivative (round, argmax, a cast to integers). "
            f"Change the model, or choose others with variables=."
        )


def warn_if_endless(model: Any) -> None:
    """Look at a fitted model for a loss that falls for ever, because its points can all be fitted
    and nothing holds the parameters.

    Args:
        model: a ``KerasModel``. Where its objective is next to nothing, one product with its
            Gauss-Newton matrix is made.

    Warns:
        ConvergenceWarning: the objective is on its way to 0, and θᵀGθ, what growing parameters
            would cost, with it.
    """
    theta = model.parameters
    at_zero = model.with_parameters(np.zeros_like(theta)).objective()
    # Last, because it puts the model's own θ back into the variables.
    value = model.objective()
    if value > _VANISHED * at_zero:
        return
    if theta @ (model.gauss_newton() @ theta) < _FLAT * at_zero:
        warnings.warn(
            f"The model has no minimum: its loss has fallen to {value:.1g} and goes on falling as "
            f"the parameters grow, because it can fit all its points. Its scores depend on where "
            f"the fit stopped: regularise the layers whose variables are asked for "
            f"(kernel_regularizer and bias_regularizer).",
            ConvergenceWarning,
            stacklevel=3,
        )


def check_made_again(network: KerasNetwork, outputs: Tensors, before: Tensors) -> None:
    """Raise a ValueError where a network that was made again in another process has other
    ``outputs`` than ``before``."""
    close = keras.tree.map_structure(_close, outputs, before)
    if not all(keras.tree.flatten(close)):
        raise ValueError(
            f"The model {network.model.name!r} cannot be sent to other processes: made again of "
            f"its configuration and its variables it has other outputs."
        )


def _close(array, other):
    """Whether they differ by no more than the rounding of another number of threads."""
    size = np.abs(other).max(initial=0.0)
    return bool((np.abs(array - other) <= 1e3 * np.finfo(other.dtype).eps * size).all())
