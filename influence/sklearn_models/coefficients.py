"""An estimator's coefficients as θ, and the penalty that holds them there."""

from __future__ import annotations

from typing import Any

import numpy as np

from influence.linear.penalty import RowPenalty
from influence.models.logistic_regression import Softmax
from influence.sklearn_models.terms import Terms

# How far above the largest curvature a weight that may not move is held.
PIN = 1e10


def coefficients(estimator: Any, terms: Terms) -> np.ndarray:
    """W [d, c], the intercept's row last, in units of the constant feature."""
    rows = np.atleast_2d(estimator.coef_).T.astype(np.float64)
    if terms.bias:
        intercept = np.ravel(estimator.intercept_)[np.newaxis]
        rows = np.concatenate([rows, np.broadcast_to(intercept, (1, rows.shape[1])) / terms.bias])
    if terms.has_scale:
        scale = np.zeros_like(rows)
        scale[-1] = estimator.scale_
        rows = np.concatenate([rows, scale], axis=1)
    if isinstance(terms.loss, Softmax):
        # What all logits share is free in these rows: the regulariser is 0 at its absence.
        free = ~_penalised(terms, rows).any(axis=1)
        rows[free] -= rows[free].mean(axis=1, keepdims=True)
    return rows


def held_weights(terms: Terms, rows: np.ndarray) -> np.ndarray:
    """Which of W [d, c] do not move: those that ‖w‖₁ holds at 0, and what is no parameter."""
    held = _penalised(terms, rows) & (rows == 0) & (terms.lasso > 0)
    if terms.has_scale:
        held[:-1, 1] = True
        held[-1, 0] = rows[-1, 0] == 0
    return held


def penalty_at(
    terms: Terms,
    rows: np.ndarray,
    n: int,
    held: np.ndarray | None = None,
    pull: np.ndarray | None = None,
    pin: float = 0.0,
) -> RowPenalty:
    """The penalty beside the mean loss of n points, where W [d, c] keep their signs.

    Args:
        terms, rows, n: see above.
        held: ``held_weights``, held by ``pin``.
        pull: the gradient of the rest, [d, c], which the penalty takes up where they are held: all
            of it of a weight that is no parameter, and of one that ‖w‖₁ holds at 0 what is within
            its subgradient.
    """
    penalised, share = _penalised(terms, rows), 1.0 if terms.mean else 1 / n
    strengths = np.where(penalised, share * np.asarray(terms.strength), 0.0)
    limit = share * terms.lasso
    slopes = np.where(penalised, limit * np.sign(rows), 0.0)
    if held is not None and pull is not None:
        slopes[held] = -pull[held] if terms.has_scale else np.clip(-pull[held], -limit, limit)
    shared = isinstance(terms.loss, Softmax)
    return RowPenalty(strengths, rows.shape[1], shared, slopes, held, pin)


def parameter_names(estimator: Any, terms: Terms, features: int) -> list[str]:
    """A name for each of θ [p]."""
    known = getattr(estimator, "feature_names_in_", [f"x{i}" for i in range(features)])
    names = [str(name) for name in known] + ["intercept"] * bool(terms.bias)
    c = terms.loss.outputs
    if c == 1:
        return names
    if terms.has_scale:
        outputs = ["", " (scale)"]
    else:
        kinds = getattr(estimator, "classes_", range(c))
        outputs = [f" ({kind})" for kind in kinds]
    return [name + output for name in names for output in outputs]


def _penalised(terms, rows):
    """Whether each of W [d, c] has the penalty."""
    penalised = np.full(rows.shape, bool(terms.lasso) or bool(np.any(terms.strength)))
    if terms.bias and not terms.penalised_bias:
        penalised[-1] = False
    if terms.has_scale:
        penalised[:, 1] = False
    return penalised
