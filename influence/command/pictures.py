"""Pictures of a report, as SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from influence.drawing.scores import (
    DOTS,
    GUIDE,
    HARMFUL,
    HELPFUL,
    leverage_against_influence,
    predicted_against_actual,
    scores_by_rank,
)

# Colours that are drawn in, and what they are on the page, which is light or dark.
_INK, _QUIET = "#010203", "#040506"
_HARM, _HELP = to_hex(HARMFUL), to_hex(HELPFUL)
_ON_PAGE = {
    _INK: "var(--text)",
    _QUIET: "var(--quiet)",
    to_hex(DOTS): "var(--text)",
    to_hex(GUIDE): "var(--quiet)",
    _HARM: "var(--bad)",
    _HELP: "var(--good)",
}
_STYLE: Any = {
    "svg.fonttype": "none",  # texts that can be read aloud, in the page's font
    "svg.hashsalt": "influence",  # the same picture twice is the same file
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_SIZE = 4.2, 3.0


def of_scores(scores: np.ndarray, harmful: list[int], helpful: list[int]) -> Markup:
    """How often which score occurs, with marks at the rows that are shown."""

    def draw(axes: Axes) -> None:
        axes.hist(scores, bins=60, color=_QUIET, log=True)
        for rows, colour in ((harmful, _HARM), (helpful, _HELP)):
            axes.plot(scores[rows], np.full(len(rows), 0.6), "|", color=colour, ms=14, mew=2)
        axes.set(xlabel="score", ylabel="how many")

    shown = f"{len(harmful)} harmful and {len(helpful)} helpful rows are marked at its ends"
    return _svg(
        draw,
        f"Histogram of the {len(scores)} scores, from {scores.min():.3g} to {scores.max():.3g}, "
        f"half of them within {np.quantile(np.abs(scores), 0.5):.2g} of 0; the {shown}.",
    )


def of_ranks(scores: np.ndarray) -> Markup:
    """Scores that are sorted, the largest first, against their rank."""
    return _svg(
        lambda axes: scores_by_rank(scores, axes),
        f"Scores of {len(scores)} training points, the largest first: {scores[0]:.3g}, "
        f"{scores[len(scores) // 10]:.3g} after a tenth of them, {scores[-1]:.3g} at the end.",
    )


def of_leverage(
    leverage: np.ndarray, scores: np.ndarray, harmful: list[int], helpful: list[int]
) -> Markup:
    """Leverage against score, a dot for each training row (the strongest, of many)."""
    most, marked = int(leverage.argmax()), [*harmful, *helpful]
    return _svg(
        lambda axes: leverage_against_influence(leverage, scores, axes, marked=marked),
        f"Leverage of the training rows, on average {leverage.mean():.3g}, at most "
        f"{leverage[most]:.3g} for row {most}, against their scores.",
    )


def of_refits(predicted: np.ndarray, actual: np.ndarray) -> Markup:
    """Predicted against actual changes of the loss, with the line where they are the same."""

    def draw(axes: Axes) -> None:
        predicted_against_actual(predicted, actual, axes)
        axes.set(xlabel="change by the refit", ylabel="score")

    return _svg(
        draw,
        f"Scores of {len(actual)} rows against the change of the loss by refits; on the line they "
        f"are the same.",
    )


def _svg(draw: Callable[[Axes], object], words: str) -> Markup:
    """What ``draw`` draws, with ``words`` for those who do not see it."""
    # Whatever style is set outside, as by seaborn in a notebook.
    with style.context(_STYLE, after_reset=True):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for drawn, shown in _ON_PAGE.items():
        text = text.replace(drawn, shown)
    # Names that no other part refers to, and which a second picture has, too.
    text = re.sub(r' id="(?:[a-z][\w.]*|PathCollection)_\d+"', "", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1)
    words = Markup.escape(words)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1))
