"""What a Keras model must be like, so that it has a loss of each point, and derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from influence.data.batches import take_rows
from influence.data.types import Tensors
from influence.keras_models.network import KerasNetwork


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
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"The model {name!r} does not take points like those of train: {error}"
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
