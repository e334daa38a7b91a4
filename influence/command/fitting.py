"""The model that is fitted where nobody brings one: linear, its penalty chosen and said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline

from influence.command.columns import Columns
from influence.command.tables import Kind
from influence.sklearn_models.adapter import from_sklearn
from influence.solvers.solution import SolverError

# C of a logistic regression of standardised features, and alpha of a ridge regression.
_PENALTIES: dict[Kind, list[float]] = {
    "classes": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
    "numbers": [0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0],
}
# More rows than this do not choose another one.
_ROWS_TO_CHOOSE_BY = 20_000


def fit_pipeline(
    x: pd.DataFrame, y: np.ndarray, kind: Kind, columns: Columns
) -> tuple[Pipeline, str]:
    """A fitted pipeline, and what it is in a sentence.

    Its last step is a logistic regression of classes, a ridge regression of numbers, with the
    penalty that has the smallest mean loss by approximate leave-one-out.

    Args:
        x: [n, d] a tidy training table.
        y: [n] labels.
        kind: what they are.
        columns: of the table.

    Raises:
        ValueError: the features cannot be computed, or no penalty can be had.
    """
    encoder = columns.encoder()
    features = encoder.fit_transform(x, y)
    penalty, loss = _choose(features, y, kind)
    last = _estimator(kind, penalty, features).fit(features, y)
    pipeline = Pipeline([("columns", encoder), ("model", last)])
    return pipeline, _sentence(pipeline, features, y, kind, columns, penalty, loss)


def _choose(features, y, kind):
    """(the penalty with the smallest mean leave-one-out loss, that loss)."""
    rows = _spread(y)
    features, y, losses = features.iloc[rows], y[rows], {}
    for penalty in _PENALTIES[kind]:
        estimator = _estimator(kind, penalty, features).fit(features, y)
        try:
            left_out = from_sklearn(estimator, features, y).leave_one_out_losses()
        except SolverError:  # the others do not determine a point: too little penalty
            continue
        losses[penalty] = float(left_out.mean())
    losses = {penalty: loss for penalty, loss in losses.items() if np.isfinite(loss)}
    if not losses:
        raise ValueError(
            "No penalty gives a model that can do without each row: give more rows or fewer "
            "columns."
        )
    best = min(losses, key=lambda penalty: losses[penalty])
    return best, losses[best]


def _spread(y):
    """Rows to choose the penalty by: all, or as many of every label as its share."""
    if len(y) <= _ROWS_TO_CHOOSE_BY:
        return np.arange(len(y))
    # In the order of the labels, from the first to the last.
    places = np.linspace(0, len(y) - 1, _ROWS_TO_CHOOSE_BY).astype(int)
    return np.sort(np.argsort(y, kind="stable")[places])


def _estimator(kind, penalty, features) -> Any:
    if kind == "numbers":
        return Ridge(alpha=penalty, solver="cholesky")
    # A step of Newton's takes time by the cube of the features.
    solver = "newton-cholesky" if features.shape[1] <= len(features) else "lbfgs"
    return LogisticRegression(C=penalty, solver=solver, tol=1e-8, max_iter=1000)


def _sentence(pipeline, features, y, kind, columns, penalty, loss) -> str:
    last, tried = pipeline[-1], _PENALTIES[kind]
    score = last.score(features, y)
    if kind == "classes":
        name, symbol = f"logistic regression of {len(last.classes_)} classes", "C"
        fit = f"it predicts {score:.1%} of the training rows"
    else:
        name, symbol, fit = "ridge regression", "alpha", f"its training R² is {score:.3f}"
    text = (
        f"Fitted a {name} on {features.shape[1]} features of {len(y)} rows ({columns}; gaps filled "
        f"with the median); {symbol} = {penalty:g}, of {tried[0]:g} … {tried[-1]:g}, has the least "
        f"loss by approximate leave-one-out ({loss:.4g}); {fit}."
    )
    for column, why in columns.left_out.items():
        text += f" Column {column!r} is left out: {why}."
    return text
