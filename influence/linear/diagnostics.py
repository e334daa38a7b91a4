"""Case deletion diagnostics of generalised linear models, from one Newton step without each point.

Cook (*Technometrics* 19, 1977); Belsley, Kuh & Welsch (*Regression Diagnostics*, 1980); Pregibon
(*Annals of Statistics* 9, 1981). With a penalty the number of parameters is the sum of the
leverages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from influence.solvers.solution import SolverError

# 1 − h below this is rounding.
_FULL_LEVERAGE = 1e-10
# Points whose parameters without them are held at a time.
_AT_ONCE = 512


def leave_one_out_outputs(model: Any) -> np.ndarray:
    """See ``LinearModel.leave_one_out_outputs``."""
    outputs, slopes, curvatures = model.training_outputs()
    if not model.keeps_sum:
        # What goes of the regulariser moves the outputs, too.
        c = outputs.shape[1]
        steps = [
            np.einsum("bd,dcb->bc", rows, change.reshape(rows.shape[1], c, -1))
            for rows, change in _removals(model)
        ]
        return outputs + np.concatenate(steps)
    forms, n = model.output_forms(), len(model.train)
    left = np.eye(outputs.shape[1]) - curvatures @ forms / n
    full = np.flatnonzero(np.linalg.det(left) < _FULL_LEVERAGE)
    if len(full):
        raise SolverError(
            f"The leverage of training point {full[0]} is 1: the others do not determine its "
            f"output. Leave it out, or add a penalty."
        )
    corrected = np.linalg.solve(left, slopes[:, :, np.newaxis])
    return outputs + (forms @ corrected)[:, :, 0] / n


def cooks_distance(model: Any) -> np.ndarray:
    """See ``LinearModel.cooks_distance``."""
    dispersion, dof = _dispersion(model)
    hessian = len(model.train) * model.hessian("float64").dense()
    parts = [np.sum(change * (hessian @ change), axis=0) for _, change in _removals(model)]
    return np.concatenate(parts) / (dispersion * dof)


def dfbetas(model: Any) -> np.ndarray:
    """See ``LinearModel.dfbetas``."""
    dispersion, dof = _dispersion(model)
    n = len(model.train)
    dispersions = np.full(n, dispersion)
    if model.loss.likelihood == "normal":
        leverage = model.leverage()
        squares = dispersion * (n - dof) - _squared_pearson(model) / (1 - leverage)
        dispersions = squares / (n - 1 - dof)
    changes = np.concatenate([change.T for _, change in _removals(model)])
    inverse = np.diagonal(model._exact.inverse(model.hessian("float64"))) / n
    return -changes / np.sqrt(dispersions[:, np.newaxis] * inverse)


def _removals(model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(x̃ [b, d], Δθ without each of these points [p, b]), a few points at a time."""
    for first in range(0, len(model.train), _AT_ONCE):
        indices = np.arange(first, min(first + _AT_ONCE, len(model.train)))
        changes = model.parameter_changes(indices[:, np.newaxis], order="newton")
        yield model.training_rows(indices), changes


def _dispersion(model) -> tuple[float, float]:
    """(the dispersion, the effective number of parameters)."""
    likelihood = model.loss.likelihood
    if likelihood == "none":
        name = type(getattr(model.loss, "loss", model.loss)).__name__
        raise ValueError(
            f"{name} is no likelihood, so it has no dispersion to measure changes by: use "
            f"parameter_changes() and leave_one_out_outputs()."
        )
    dof = float(model.leverage().sum())
    if likelihood == "full":
        return 1 / getattr(model, "weight_unit", 1.0), dof
    return float(_squared_pearson(model).sum() / (len(model.train) - dof)), dof


def _squared_pearson(model) -> np.ndarray:
    """The squared Pearson residuals w (y − μ)²/V(μ), in units of the loss: [n]."""
    outputs, slopes, _ = model.training_outputs()
    weights = getattr(model, "example_weights", np.ones(len(slopes)))
    information = model.loss.information(tf.constant(outputs)).numpy()[:, 0]
    # A point's weight is in its slope once.
    return slopes[:, 0] ** 2 / np.where(weights > 0, weights * information, 1.0)
