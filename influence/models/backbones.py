"""Frozen networks that turn images into features: Inception v3, and what any other must be."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from influence.data.types import File


def inception(side: int, weights: File | None) -> Any:
    """Inception v3 without its top, pooled to 2,048 features, for images of ``side`` pixels.

    ``weights`` is a file, or None for random ones, the same every time, with a warning.

    Raises:
        ValueError: the file is missing or does not hold the weights.
    """
    # Not for those who import the library for another model.
    from keras.applications import InceptionV3
    from keras.layers import Conv2D

    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"There is no weight file at {weights}.")
    network = InceptionV3(
        include_top=False, weights=None, input_shape=(side, side, 3), pooling="avg"
    )
    if weights is None:
        warnings.warn(
            "Inception v3 has RANDOM WEIGHTS, as no file was given: its features mean nothing.",
            stacklevel=3,
        )
        random = np.random.default_rng(0)
        # Normal with variance 2/fan-in, which keeps the features' size through all layers.
        for layer in network.layers:
            if isinstance(layer, Conv2D):
                shape = tuple(layer.kernel.shape)
                scale = math.sqrt(2 / math.prod(shape[:-1]))
                layer.kernel.assign(scale * random.standard_normal(shape, np.float32))
        return network
    _load(network, weights)
    return network


def _load(network, weights) -> None:
    # Keras leaves a layer that the file lacks as it was, with a warning at most: NaN shows it.
    network.set_weights([np.full_like(array, np.nan) for array in network.get_weights()])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network.load_weights(str(weights))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        lacking = [
            layer.name
            for layer in network.layers
            if not all(np.isfinite(array).all() for array in layer.get_weights())
        ]
        if not lacking:
            return
        reason = f"those of {len(lacking)} layers are missing or not finite"
    raise ValueError(
        f"{weights} does not hold the weights of Inception v3 without its top ({reason})."
    )


def check(backbone: Any, side: int) -> None:
    """Raise a ValueError unless the network maps [m, side, side, 3] to [m, f]."""
    takes, gives = backbone.input_shape, backbone.output_shape
    fits = len(takes) == 4 and all(
        found in (None, wanted) for found, wanted in zip(takes[1:], (side, side, 3))
    )
    if not fits or len(gives) != 2 or gives[1] is None:
        raise ValueError(
            f"backbone must map [m, {side}, {side}, 3] to [m, f]; it maps {takes} to {gives}."
        )


def digest(backbone: Any) -> Any:
    """SHA-256 (a hash object) of a network's layers and weights, without the names of the layers,
    in which Keras counts the networks of a process."""
    found = hashlib.sha256()
    for layer in backbone.layers:
        settings = layer.get_config() | {"name": type(layer).__name__}
        found.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for array in backbone.get_weights():
        found.update(np.ascontiguousarray(array).data)
    return found
