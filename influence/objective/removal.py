"""How the parameters change when training points are removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike


def parameter_changes(
    model: Any, sets: Sequence[ArrayLike], order: str, solver: Any, curvature: Any, strict: bool
) -> np.ndarray:
    """Δθ of a ``LinearModel`` when the points of each set are removed: [p, k]."""
    theta = model.parameters.astype(np.float64)
    if order == "refit":
        return np.stack([model.refit(one).parameters - theta for one in sets], axis=1)
    n, p = len(model.train), model.num_parameters
    operator = model.hessian() if curvature is None else curvature
    penalty, slope = np.zeros((p, p)), np.zeros(p)
    if not model.keeps_sum:
        model.penalty.add_to(penalty)
        slope = model.regularization_gradient().astype(np.float64)
    whole = n * operator.dense().astype(np.float64)
    columns = []
    same, inverse = np.unique([np.size(one) for one in sets]), None
    for one in sets:
        one = np.atleast_1d(one)
        x, labels = model.points.chosen(one)
        rows = model.scans.rows(x)
        rows = rows.toarray() if scipy.sparse.issparse(rows) else rows.numpy()
        rows = rows.astype(np.float64) * model.train.scale
        logits = tf.constant(rows @ model.weights.numpy().astype(np.float64))
        slopes = model.loss.slopes(logits, labels).numpy()
        curvatures = model.loss.curvature_matrix(model.loss.curvature(logits, labels)).numpy()
        c = slopes.shape[1]
        gradient = np.einsum("kd,kc->dc", rows, slopes).ravel() + len(one) * slope
        if order == "first":
            columns.append(gradient)
            continue
        jacobian = np.einsum("kd,ab->kadb", rows, np.eye(c)).reshape(len(one) * c, p)
        block = scipy.linalg.block_diag(*curvatures)
        if inverse is None or len(same) > 1:
            inverse = np.linalg.inv(whole - len(one) * penalty)
        through = inverse @ jacobian.T
        step = inverse @ gradient
        small = np.eye(len(block)) - block @ (jacobian @ through)
        columns.append(step + through @ np.linalg.solve(small, block @ (jacobian @ step)))
    changes = np.stack(columns, axis=1)
    return np.linalg.solve(whole, changes) if order == "first" else changes
