"""The scores of many test points and all training points, a tile at a time."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.batches import take_rows
from influence.data.dataset import check_chosen
from influence.data.files import fingerprint
from influence.data.types import Inputs, Loss
from influence.objective.sets import Sets
from influence.solvers.solution import product

# Bytes of a tile: a scan of all data for a tile is worth it, and memory stays at a few of them.
_BYTES = 2**27
# Training points that a tile of Newton steps has at least.
_COLUMNS = 512


class Tiles:
    """``influence_on_loss`` [m, n] in tiles that are the same whenever they are computed.

    To first order a tile is all training points for some test points: one block solve and one scan.
    With ``order="newton"`` it is all test points for some training points, which are removed once.

    Args:
        model: a ``GenericNeuralNet``, fitted.
        x_test, y_test, order, loss, train_indices: as for ``influence_on_loss``.
        how: its ``solver``, ``curvature`` and ``strict``.

    Attributes:
        columns: [n] the training points.
        shape: (m, n).
        slices: of each tile: its rows and its columns.
    """

    def __init__(
        self,
        model: Any,
        x_test: Inputs,
        y_test: ArrayLike,
        order: Literal["first", "newton"],
        loss: Loss,
        train_indices: ArrayLike | None,
        how: dict[str, Any],
    ) -> None:
        self._model, self._order, self._loss, self._how = model, order, loss, how
        self._indices, size = train_indices, len(model.train)
        self.columns = np.arange(size)
        if train_indices is not None:
            self.columns = check_chosen(train_indices, size)
        self._points = model.points.checked(x_test, y_test, "x_test", "y_test")
        m, n = tf.nest.flatten(self._points[1])[0].shape[0], len(self.columns)
        self.shape, room = (m, n), _BYTES // model.dtype.itemsize
        every = slice(None)
        if order == "first":
            rows = max(1, room // max(n, model.num_parameters))
            self.slices = [(slice(i, min(i + rows, m)), every) for i in range(0, m, rows)]
        else:
            width = max(_COLUMNS, room // m)
            self.slices = [(every, slice(j, min(j + width, n))) for j in range(0, n, width)]

    @functools.cached_property
    def key(self) -> str:
        """Of all that the scores depend on: two scans, one of the training points along a direction
        and one of the curvature, which tell of data and settings that the first tile need not
        show."""
        model, curvature = self._model, self._how["curvature"]
        settings = repr((type(model).__name__, self._order, self._loss, self.shape, self.slices[0]))
        leaves = tf.nest.flatten(self._points)
        arrays = [leaf if scipy.sparse.issparse(leaf) else np.asarray(leaf) for leaf in leaves]
        direction = np.random.default_rng(0).standard_normal((model.num_parameters, 1))
        direction = direction.astype(model.dtype)
        points = model.points.scanned(self._indices)
        along = model.scans.directional_derivatives(points, tf.constant(direction))
        operator = model._default_curvature() if curvature is None else curvature
        content = [model.parameters, self.columns, along, product(operator, direction)]
        return fingerprint(settings, *content, *arrays)

    def __getitem__(self, number: int) -> np.ndarray:
        """A tile, as large as its slices say."""
        model, (rows, columns) = self._model, self.slices[number]
        if self._order == "newton":
            sets = Sets.of_points(self.columns[columns], len(model.train))
            removal = model._make_removal(**self._how)
            changes = removal.loss_changes(sets, self._order, self._points, self._loss)
            return np.concatenate(list(changes), axis=1).astype(model.dtype)
        gradients = model.scans.gradients(self._loss, take_rows(self._points, rows)).T
        s_test = model.inverse_hvp(gradients, **self._how).x
        curvature = self._how["curvature"]
        scores = model._removal(model.points.scanned(self._indices), s_test, curvature)
        model._warn_unless_at_minimum(curvature)
        return scores
