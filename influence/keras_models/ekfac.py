"""EK-FAC of a Keras model: two passes over its points, kept in a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import scipy.linalg
import tensorflow as tf

from influence.curvature.ekfac import EKFAC, DiagonalBlock
from influence.curvature.modes import REVERSE
from influence.data.files import fingerprint, write_atomically
from influence.data.types import File
from influence.data.vectors import flatten, split
from influence.keras_models.data import Stream
from influence.keras_models.layer_scans import LayerScans
from influence.objective.sharded import ShardedTrain

# Of rounding, in which the regulariser's Hessian may differ from a diagonal one.
_ROUNDING = {"float32": 1e-4, "float64": 1e-9}
# Points whose outputs say that a file is of the same network, within _SAME, relative.
_PROBED, _SAME = 32, 1e-2


def make_ekfac(model: Any, scans: Any, path: File | None, seed: int) -> EKFAC:
    """See ``KerasModel.ekfac``; ``scans`` are ``LayerScans``, or those of points in shards."""
    penalty = _penalty_diagonal(model)
    kept = _Kept(model, scans, path, seed)
    n, points = len(model.train), model.tensors
    if "factors" not in kept.parts:
        kept.add("factors", _flat(scans.factors(points, seed)))
    factors = kept.parts["factors"]
    bases = [_basis(left, right) for left, right in zip(factors[::2], factors[1::2])]
    if "squares" not in kept.parts:
        kept.add("squares", scans.squares(points, seed, [_sides(basis) for basis in bases]))
    squares = [each.astype(np.float64) / n for each in kept.parts["squares"]]
    blocks: list[Any] = []
    for layer, values in zip(scans.layers, squares):
        basis = bases.pop(0) if layer.kronecker else (None, None)
        blocks.append(layer.block(values, *basis))
    if scans.rest:
        blocks.append(DiagonalBlock(scans.rest, squares[-1]))
    positions = [np.concatenate([penalty[place] for place in b.places]) for b in blocks]
    return EKFAC([b.plus(diagonal) for b, diagonal in zip(blocks, positions)], n)


def _flat(pairs):
    return [each for pair in pairs for each in pair]


def _basis(left, right):
    """Eigenvectors of both factors; None for those of a diagonal one."""
    vectors = None if left.ndim == 1 else scipy.linalg.eigh(left.astype(np.float64))[1]
    return vectors, scipy.linalg.eigh(right.astype(np.float64))[1]


def _sides(basis):
    return [side for side in basis if side is not None]


def _penalty_diagonal(model):
    """The Hessian of the regulariser, [p], which must be diagonal."""
    product = REVERSE.second(model.regularization, model.variables, model.variables)

    def along(vector):
        return flatten(product(split(tf.constant(vector, model.dtype), model.variables))).numpy()

    size = model.num_parameters
    diagonal = along(np.ones(size)).astype(np.float64)
    direction = np.random.default_rng(0).standard_normal(size)
    error = np.linalg.norm(along(direction) - diagonal * direction)
    if error > _ROUNDING[model.dtype.name] * np.linalg.norm(diagonal * direction):
        raise ValueError(
            "EK-FAC takes regularisers whose parameters do not meet, such as L2: the Hessian of "
            "this one is not diagonal. Give curvature=model.gauss_newton() + δ instead."
        )
    return diagonal


class _Kept:
    """What the passes have come to, in an HDF5 file where there is one.

    Attributes:
        parts: "factors" and "squares", as far as they are known: lists of arrays.

    Raises:
        ValueError: the file is not of this model, at these parameters and data.
    """

    def __init__(self, model: Any, scans: LayerScans, path: File | None, seed: int) -> None:
        self.parts: dict[str, list[np.ndarray]] = {}
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        self._key = _content(model, scans, seed)
        x, _ = model.points.sample(_PROBED)
        # Layers have settings, too, which no content is of.
        self._outputs = model.scans.outputs(x).numpy()
        if self._path.exists():
            self.parts = self._read()

    def add(self, name: str, arrays: list[np.ndarray]) -> None:
        """Keep one more part."""
        self.parts[name] = arrays
        if self._path is not None:
            write_atomically(self._path, self._write)

    def _write(self, file):
        with h5py.File(file, "w") as saved:
            saved.attrs["key"] = self._key
            saved["outputs"] = self._outputs
            for name, arrays in self.parts.items():
                for i, array in enumerate(arrays):
                    saved[f"{name}/{i}"] = array

    def _read(self):
        with _refused(self._path), h5py.File(self._path) as saved:
            outputs = saved["outputs"][()]
            same = saved.attrs["key"] == self._key and outputs.shape == self._outputs.shape
            if not same or not np.allclose(outputs, self._outputs, _SAME, _SAME):
                raise KeyError("another model")
            return {
                name: [saved[name][str(i)][()] for i in range(len(saved[name]))]
                for name in ("factors", "squares")
                if name in saved
            }


@contextlib.contextmanager
def _refused(path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError) as error:
        raise ValueError(
            f"{path} holds no EK-FAC of this model at these parameters, data and seed: remove it, "
            f"or give another path=."
        ) from error


def _content(model, scans, seed):
    """SHA-256 of all variables, data and settings."""
    train = model.train
    model._load()
    data: list[Any]
    if isinstance(train, Stream):
        data = [np.array([train.checksum, len(train)])]
    elif isinstance(train, ShardedTrain):
        data = [model.sharding.key, np.array(train.scale), repr(model._class_weight)]
    else:
        data = [*keras.tree.flatten((train.x, train.labels)), np.array(train.scale)]
        data += [] if train.weights is None else [train.weights]
    # Not the counters and seeds of layers that draw: another process has others.
    state = [value.numpy() for _, value in model._network.state() if value.dtype.is_floating]
    layers = repr([(layer.places, layer.shape) for layer in scans.layers])
    settings = repr((layers, scans.rest, seed, model.dtype.name))
    return fingerprint(settings, *state, *data)
