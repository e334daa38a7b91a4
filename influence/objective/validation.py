"""Whether to trust the influences of a model: predicted against actual changes of a loss."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike
from tqdm import tqdm

from influence.curvature.operator import HessianOperator
from influence.data.files import fingerprint, load_checkpoint, save_checkpoint
from influence.data.frames import Framed
from influence.data.types import File, Inputs, Model
from influence.objective.sweeps import sweep
from influence.solvers.solution import Solver, SolverError


@dataclass(frozen=True, repr=False)
class Validation(Framed):
    """Refits without the most influential training points, one at a time.

    How to read it:

    - ``pearson_r`` near 1: the scores rank points as refitting does. From 0.95 on the order can be
      relied on; below about 0.7 the scores say little about this model.
    - ``slope`` near 1: they have its scale, too. Below 1 they promise less change than there is,
      which happens where points have much leverage (leaving one out takes its own curvature away,
      too: ``order="newton"``) or where the curvature is too large (take damping away); above 1
      more, where it is too small (add damping). It is ``pearson_r`` times the spread of
      ``predicted`` over that of ``actual``: where the first is not near 1, scatter alone makes it
      smaller.
    - ``gradient_norms`` and ``gradient_norm`` say whether the comparison is fair. Where the first
      are not small, the refits stopped early and it is they that are off. Where the second is not,
      the model was not at an optimum: every refit then also makes up for that, and all of
      ``actual`` is shifted by about the same.

    Attributes:
        indices: [k] training points, most influential first.
        predicted: [k] change of the mean test loss on removal, by ``influence_on_loss``.
        actual: [k] the same by refitting: after minus before, so > 0 is helpful.
        pearson_r: correlation of the two; NaN, with a warning, where one of the two is the same for
            all points.
        slope: predicted over actual, by least squares with an intercept (see
            docs/reading-the-scores.md); NaN where ``pearson_r`` is.
        gradient_norms: [k] of the n − 1 objective at each refit.
        gradient_norm: of the objective at the model itself.
        skipped: training points that the model could not be refitted without, and why; such as the
            only one of its class.

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
    skipped: dict[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        skipped = f", skipped={sorted(self.skipped)}" if self.skipped else ""
        return (
            f"Validation(pearson_r={self.pearson_r:.4f}, slope={self.slope:.3f}, "
            f"points={len(self.indices)}, largest of gradient_norms="
            f"{self.gradient_norms.max():.1e}, gradient_norm={self.gradient_norm:.1e}{skipped})"
        )

    def to_frame(self) -> pd.DataFrame:
        """``predicted``, ``actual`` and ``gradient_norms`` by training point."""
        columns = {
            "predicted": self.predicted,
            "actual": self.actual,
            "gradient_norm": self.gradient_norms,
        }
        return pd.DataFrame(columns, pd.Index(self.indices, name="training point"))

    @property
    def heading(self) -> str:
        """As it is printed."""
        return repr(self)


def validate(
    model: Model,
    x_test: Inputs,
    y_test: ArrayLike,
    points: int = 20,
    *,
    order: Literal["first", "newton"] = "first",
    solver: Solver | None = None,
    curvature: HessianOperator | None = None,
    checkpoint: File | None = None,
    progress: bool = False,
) -> Validation:
    """Refit ``model`` without each of its ``points`` most influential training points.

    Where the model cannot be refitted without one, the next most influential takes its place, up to
    ``points`` times. The refits are a sweep: see ``objective.sweeps``.

    Args:
        model: gives ``influence_on_loss``, ``losses``, ``gradient`` and ``refit``; fitted.
        x_test, y_test: [m] test points; what is predicted is the change of their mean loss.
        points: k, those with the largest |influence|.
        order, solver, curvature: as in ``influence_on_loss``.
        checkpoint: a file that every finished refit is saved to, and read from after a kill or for
            more ``points``.
        progress: show a progress bar.

    Raises:
        ValueError: ``points`` is not in 2..n, all predicted changes are the same, or fewer than two
            refits can be done.

    Warns:
        UserWarning: refits that cannot be done, and why; no correlation, and why.
    """
    scores = model.influence_on_loss(
        x_test, y_test, order=order, reduction="mean", solver=solver, curvature=curvature
    )
    if not 2 <= points <= len(scores):
        raise ValueError(
            f"points must be between 2 and the {len(scores)} training points, not {points!r}."
        )
    ranked = np.argsort(-np.abs(scores), kind="stable")
    predicted = scores[ranked[:points]].astype(np.float64)
    if np.ptp(predicted) <= 10 * np.finfo(scores.dtype).eps * np.abs(predicted).max():
        raise ValueError(
            f"The {points} largest predicted changes are all {predicted[0]:.3g}: there is nothing "
            f"to correlate. Validate on other test points, or on more training points."
        )
    refits = _Refits(model, x_test, y_test, scores, checkpoint)
    found: dict[int, tuple[float, float]] = {}
    skipped: dict[int, str] = {}
    candidates, tried = ranked[: 2 * points].tolist(), 0
    with tqdm(total=points, desc="validate", disable=None if progress else True) as bar:
        while len(found) < points and tried < len(candidates):
            chosen = candidates[tried : tried + points - len(found)]
            tried += len(chosen)
            for index, (change, norm, reason) in refits.without(chosen):
                if reason:
                    skipped[index] = reason
                else:
                    found[index] = change, norm
                    bar.update()
    # They came as they were finished.
    skipped = {index: skipped[index] for index in candidates if index in skipped}
    _report(skipped, len(found), points)
    indices = np.array([index for index in candidates if index in found])
    actual, norms = np.array([found[index] for index in indices.tolist()]).T
    predicted = scores[indices].astype(np.float64)
    pearson_r, slope = agreement(actual, predicted)
    return Validation(
        indices=indices,
        predicted=predicted,
        actual=actual,
        pearson_r=pearson_r,
        slope=slope,
        gradient_norms=norms,
        gradient_norm=float(np.linalg.norm(model.gradient())),
        skipped=skipped,
    )


class _Refits:
    """Refits of a model without one point each; those of an earlier run come from its file."""

    def __init__(self, model, x_test, y_test, scores, checkpoint) -> None:
        self._path = checkpoint
        before = _mean_loss(model, x_test, y_test)
        self._refit = functools.partial(_refit, model, (x_test, y_test), before)
        # The scores depend on all data, on the objective, the solver and the curvature.
        name = type(model).__name__
        self._key = fingerprint(name, model.parameters, scores, before)
        saved = load_checkpoint(checkpoint, self._key)
        self._done: dict[int, tuple[float, float, str]] = {}
        if saved is not None:
            columns = (saved[name].tolist() for name in ("changes", "norms", "reasons"))
            self._done = dict(zip(saved["indices"].tolist(), zip(*columns)))

    def without(self, indices: list[int]) -> Iterator[tuple[int, tuple[float, float, str]]]:
        """(index, what ``_refit`` says of it) of each, as they finish."""
        todo = [index for index in indices if index not in self._done]
        yield from ((index, self._done[index]) for index in indices if index in self._done)
        for number, result in sweep(self._refit, todo):
            self._done[todo[number]] = result
            changes, norms, reasons = zip(*self._done.values())
            save_checkpoint(
                self._path,
                self._key,
                indices=list(self._done),
                changes=changes,
                norms=norms,
                reasons=reasons,
            )
            yield todo[number], result


def _refit(model, test, before, index):
    """(change of the mean test loss, gradient norm, "") of the refit without a point, or (NaN, NaN,
    why there is none)."""
    try:
        refitted = model.refit(index)
        change = _mean_loss(refitted, *test) - before
    except (ValueError, SolverError) as error:
        return np.nan, np.nan, str(error)
    if not np.isfinite(change):
        return np.nan, np.nan, "The test loss after the refit is not finite."
    return change, float(np.linalg.norm(refitted.gradient())), ""


def _report(skipped: dict[int, str], done: int, points: int) -> None:
    """Say, once, which refits cannot be done."""
    if not skipped:
        return
    names, reason = ", ".join(map(str, skipped)), next(iter(skipped.values()))
    why = f"the model cannot be refitted without training point {names} ({reason.rstrip('.')})"
    if done < 2:
        raise ValueError(f"There is nothing to compare: {why}")
    instead = f"{done} of {points} refits are" if done < points else "the next most influential are"
    warnings.warn(f"validate skips what cannot be done: {why}; {instead} compared.", stacklevel=4)


def agreement(actual: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """``pearson_r`` and ``slope`` of a ``Validation``, of changes [k] each.

    Warns:
        UserWarning: one of the two is the same for all points, so that both are NaN.
    """
    for name, changes in (("actual", actual), ("predicted", predicted)):
        if not np.ptp(changes):
            warnings.warn(
                f"pearson_r is nan, because all {len(changes)} {name} changes of the mean test "
                f"loss are {changes[0]:.3g}: validate on other test points or on more training "
                f"points; in float32, where a refit can end where it started, make the model with "
                f'dtype="float64".',
                stacklevel=4,
            )
            return np.nan, np.nan
    line = scipy.stats.linregress(actual, predicted)
    return float(line.rvalue), float(line.slope)


def _mean_loss(model, x, labels) -> float:
    return float(model.losses(x, labels).mean(dtype=np.float64))
