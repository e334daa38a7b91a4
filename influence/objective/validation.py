"""Whether to trust the influences of a model: predicted against actual changes of a loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike
from tqdm import tqdm

from influence.curvature.operator import HessianOperator
from influence.data.types import Inputs, Model
from influence.solvers.solution import Solver


@dataclass(frozen=True, repr=False)
class Validation:
    """Refits without the most influential training points, one at a time.

    How to read it:

    - ``pearson_r`` near 1: the scores rank points as refitting does. From 0.95 on the order can be
      relied on; below about 0.7 the scores say little about this model.
    - ``slope`` near 1: they have its scale, too. Below 1 they promise less change than there is,
      which happens where points have much leverage (leaving one out takes its own curvature away,
      too) or where the curvature is too large (take damping away); above 1 more, where it is too
      small (add damping). It is ``pearson_r`` times the spread of ``predicted`` over that of
      ``actual``: where the first is not near 1, scatter alone makes it smaller.
    - ``gradient_norms`` and ``gradient_norm`` say whether the comparison is fair. Where the first
      are not small, the refits stopped early and it is they that are off. Where the second is not,
      the model was not at an optimum: every refit then also makes up for that, and all of
      ``actual`` is shifted by about the same.

    Attributes:
        indices: [k] training points, most influential first.
        predicted: [k] change of the mean test loss on removal, by ``influence_on_loss``.
        actual: [k] the same by refitting: after minus before, so > 0 is helpful.
        pearson_r: correlation of the two; NaN where ``actual`` is the same for all points.
        slope: predicted over actual, by least squares with an intercept (see
            docs/reading-the-scores.md); NaN where ``pearson_r`` is.
        gradient_norms: [k] of the n − 1 objective at each refit.
        gradient_norm: of the objective at the model itself.

    Examples:
        >>> import numpy as np
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> x = np.linspace(-2, 2, 100)
        >>> train = Dataset(x[:, np.newaxis], x + np.sin(9 * x) > 0)
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> validation = model.validate([[0.5], [1.0]], [1, 1], points=5)
        >>> round(validation.pearson_r, 2), round(validation.slope, 1)
        (1.0, 1.0)
        >>> bool(validation.gradient_norms.max() < 1e-8), validation.gradient_norm < 1e-8
        (True, True)
    """

    indices: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray
    pearson_r: float
    slope: float
    gradient_norms: np.ndarray
    gradient_norm: float

    def __repr__(self) -> str:
        return (
            f"Validation(pearson_r={self.pearson_r:.4f}, slope={self.slope:.3f}, "
            f"points={len(self.indices)}, largest of gradient_norms="
            f"{self.gradient_norms.max():.1e}, gradient_norm={self.gradient_norm:.1e})"
        )


def validate(
    model: Model,
    x_test: Inputs,
    y_test: ArrayLike,
    points: int = 20,
    *,
    solver: Solver | None = None,
    curvature: HessianOperator | None = None,
    progress: bool = False,
) -> Validation:
    """Refit ``model`` without each of its ``points`` most influential training points.

    Args:
        model: gives ``influence_on_loss``, ``losses``, ``gradient`` and ``refit``; fitted.
        x_test, y_test: [m] test points; what is predicted is the change of their mean loss.
        points: k, those with the largest |influence|.
        solver, curvature: as in ``influence_on_loss``.
        progress: show a progress bar.

    Raises:
        ValueError: ``points`` is not in 2..n, or all predicted changes are the same.
    """
    scores = model.influence_on_loss(
        x_test, y_test, reduction="mean", solver=solver, curvature=curvature
    )
    if not 2 <= points <= len(scores):
        raise ValueError(
            f"points must be between 2 and the {len(scores)} training points, not {points!r}."
        )
    indices = np.argsort(-np.abs(scores), kind="stable")[:points]
    predicted = scores[indices].astype(np.float64)
    if np.ptp(predicted) <= 10 * np.finfo(scores.dtype).eps * np.abs(predicted).max():
        raise ValueError(
            f"The {points} largest predicted changes are all {predicted[0]:.3g}: there is nothing "
            f"to correlate. Validate on other test points, or on more training points."
        )
    before = _mean_loss(model, x_test, y_test)
    actual, norms = np.empty(points), np.empty(points)
    for i, index in enumerate(tqdm(indices, desc="validate", disable=None if progress else True)):
        refitted = model.refit(int(index))
        actual[i] = _mean_loss(refitted, x_test, y_test) - before
        norms[i] = np.linalg.norm(refitted.gradient())
    pearson_r, slope = _agreement(actual, predicted)
    return Validation(
        indices=indices,
        predicted=predicted,
        actual=actual,
        pearson_r=pearson_r,
        slope=slope,
        gradient_norms=norms,
        gradient_norm=float(np.linalg.norm(model.gradient())),
    )


def _agreement(actual: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    if not np.ptp(actual):
        return np.nan, np.nan
    line = scipy.stats.linregress(actual, predicted)
    return float(line.rvalue), float(line.slope)


def _mean_loss(model, x, labels) -> float:
    return float(model.losses(x, labels).mean(dtype=np.float64))
