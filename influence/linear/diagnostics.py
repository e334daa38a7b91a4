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

from influence.linear.forms import OutputForms
from influence.linear.terms import point_terms
from influence.objective.sets import Sets
from influence.solvers.solution import SolverError

# 1 − h below this is rounding.
_FULL_LEVERAGE = 1e-10


def leave_one_out_outputs(model: Any) -> np.ndarray:
    """See ``LinearModel.leave_one_out_outputs``."""
    if model.keeps_sum:
        return _without_own_part(model)
    # What goes of the regulariser moves the outputs, too.
    parts, first = [], 0
    for changes in _changes(model):
        last = first + changes.shape[1]
        for terms in point_terms(model, np.arange(first, last)):
            own, changes = np.split(changes, [len(terms.rows)], axis=1)
            step = np.einsum("bd,dcb->bc", terms.rows, own.reshape(*model.weights.shape, -1))
            parts.append(terms.outputs + step)
        first = last
    return np.concatenate(parts)


def _without_own_part(model):
    """Where only a point's own loss goes, its outputs are all that has to be known of it."""
    parts, first, n = [], 0, len(model.train)
    wide = model._wide_forms()
    if wide is None:
        inverse = model._exact.inverse(model.hessian("float64")) / n
        forms_of = OutputForms(inverse, model.loss.outputs)
    for terms in point_terms(model):
        last = first + len(terms.rows)
        forms = forms_of(terms.rows) if wide is None else wide[first:last]
        left = np.eye(forms.shape[1]) - terms.curvatures @ forms
        smallest = np.linalg.svd(left, compute_uv=False)[:, -1]
        full = np.flatnonzero(smallest < _FULL_LEVERAGE)
        if len(full):
            raise SolverError(
                f"The leverage of training point {first + full[0]} is 1: the others do not "
                f"determine its output. Leave it out, or add a penalty."
            )
        corrected = np.linalg.solve(left, terms.slopes[:, :, np.newaxis])
        parts.append(terms.outputs + (forms @ corrected)[:, :, 0])
        first = last
    return np.concatenate(parts)


def cooks_distance(model: Any) -> np.ndarray:
    """See ``LinearModel.cooks_distance``."""
    dispersion, dof = _dispersion(model)
    hessian = len(model.train) * model.hessian("float64").dense()
    parts = [np.sum(change * (hessian @ change), axis=0) for change in _changes(model)]
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
    changes = np.concatenate([change.T for change in _changes(model)])
    inverse = np.diagonal(model._exact.inverse(model.hessian("float64"))) / n
    return -changes / np.sqrt(dispersions[:, np.newaxis] * inverse)


def _changes(model) -> Iterator[np.ndarray]:
    """Δθ without each training point, a few columns at a time: [p, b]."""
    return model._make_removal().blocks(Sets.of_points(None, len(model.train)), "newton")


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
    parts = [
        (terms.slopes[:, 0], model.loss.information(tf.constant(terms.outputs)).numpy()[:, 0])
        for terms in point_terms(model)
    ]
    slopes, information = (np.concatenate(part) for part in zip(*parts))
    weights = getattr(model, "example_weights", np.ones(len(slopes)))
    # A point's weight is in its slope once.
    return slopes**2 / np.where(weights > 0, weights * information, 1.0)
