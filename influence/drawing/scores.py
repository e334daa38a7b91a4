"""Scores, and what they are held against."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from influence.studies.datamodeling import RANDOM, RemovalCurve

# Of dots, of lines that are no data, of points whose score is below 0, and above.
DOTS, GUIDE, HARMFUL, HELPFUL = "tab:blue", "0.6", "tab:red", "tab:green"
# Of many points those with the largest scores are drawn: others say nothing more.
_MOST_DOTS = 1000


def predicted_against_actual(
    predicted: ArrayLike, actual: ArrayLike, axes: Axes | None = None, *, limit: float | None = None
) -> Axes:
    """Predicted changes above what happened, with the line where they are the same.

    Args:
        predicted, actual: [k], as in ``Validation``.
        axes: to draw on; None makes a figure.
        limit: both axes end there; None is a little beyond the farthest dot.

    Examples:
        >>> from influence.plots import predicted_against_actual
        >>> axes = predicted_against_actual([0.1, -0.2], [0.1, -0.3])
        >>> axes.get_ylabel(), axes.get_xlim()[1].round(2)
        ('predicted change', np.float64(0.33))
    """
    x, y, axes = np.asarray(actual), np.asarray(predicted), _axes(axes)
    if limit is None:
        limit = 1.1 * max(np.abs(x).max(), np.abs(y).max())
    axes.plot([-limit, limit], [-limit, limit], color=GUIDE, linewidth=1, zorder=0)
    axes.scatter(x, y, s=9, linewidths=0, color=DOTS)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set(xlabel="actual change", ylabel="predicted change")
    axes.locator_params(nbins=3)
    return axes


def scores_by_rank(scores: ArrayLike, axes: Axes | None = None) -> Axes:
    """Scores from the largest to the smallest: how few points most of them belong to.

    Args:
        scores: [n], in any order.
        axes: to draw on; None makes a figure.

    Examples:
        >>> from influence.plots import scores_by_rank
        >>> scores_by_rank([0.1, 0.7, -0.2]).lines[0].get_ydata().tolist()
        [0.7, 0.1, -0.2]
    """
    ordered, axes = np.sort(np.asarray(scores))[::-1], _axes(axes)
    # All of the first, and of the others as many on every stretch that looks the same.
    ranks = np.unique(np.geomspace(1, len(ordered), _MOST_DOTS).round().astype(int))
    axes.plot(ranks, ordered[ranks - 1], color=DOTS, linewidth=1.5)
    if ordered[-1] < 0:
        axes.axhline(0, color=GUIDE, linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlabel="rank", ylabel="score")
    return axes


def leverage_against_influence(
    leverage: ArrayLike,
    scores: ArrayLike,
    axes: Axes | None = None,
    *,
    marked: Iterable[int] = (),
) -> Axes:
    """Scores above leverages: a point with much of both decides, one with leverage alone could.

    Args:
        leverage: [n], as of ``model.leverage()``.
        scores: [n], for one test point, or the mean of several.
        axes: to draw on; None makes a figure.
        marked: points that are named: red where they harm, green where they help.

    Examples:
        >>> from influence.plots import leverage_against_influence
        >>> axes = leverage_against_influence([0.1, 0.9], [0.01, -0.4], marked=[1])
        >>> [text.get_text() for text in axes.texts]
        ['1']
    """
    x, y, axes = np.asarray(leverage), np.asarray(scores), _axes(axes)
    shown = np.argsort(-np.abs(y), kind="stable")[:_MOST_DOTS]
    axes.axhline(0, color=GUIDE, linewidth=0.8, zorder=0)
    axes.scatter(x[shown], y[shown], s=9, linewidths=0, color=GUIDE)
    for point in marked:
        axes.scatter(x[point], y[point], s=25, color=HARMFUL if y[point] < 0 else HELPFUL)
        at = x[point], y[point]
        axes.annotate(str(point), at, (4, 3), textcoords="offset points", fontsize="small")
    axes.set(xlabel="leverage", ylabel="score")
    return axes


def removal_curve(curve: RemovalCurve, axes: Axes | None = None) -> Axes:
    """The mean test loss as points are removed, a line for each ranking; the band of random
    removals goes from the least to the largest mean of a training.

    Args:
        curve: what ``influence.removal_curve`` returns.
        axes: to draw on; None makes a figure.

    Examples:
        >>> import numpy as np
        >>> from influence import plots, removal_curve
        >>> y = np.array([0.0, 1.0, 2.0, 9.0])
        >>> loss = lambda kept, seed: [abs(y[kept].mean() - 1)]
        >>> axes = plots.removal_curve(removal_curve(loss, {"small": y}, [1, 2]))
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['small', 'random']
    """
    axes = _axes(axes)
    for name, losses in sorted(curve.losses.items(), key=lambda each: each[0] == RANDOM):
        trainings = losses.mean(axis=2)
        color = GUIDE if name == RANDOM else None
        axes.plot(curve.sizes, trainings.mean(axis=1), marker="o", label=name, color=color)
        if name == RANDOM:
            low, high = trainings.min(axis=1), trainings.max(axis=1)
            axes.fill_between(curve.sizes, low, high, color=GUIDE, alpha=0.3, linewidth=0)
    axes.set(xlabel="points removed", ylabel="mean test loss")
    axes.legend(frameon=False)
    return axes


def _axes(axes):
    return plt.subplots(layout="constrained")[1] if axes is None else axes
