"""Pictures of a report, as SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that are drawn in, and what they are on the page, which is light or dark.
_INK, _QUIET, _HARM, _HELP = "#010203", "#040506", "#070809", "#0a0b0c"
_ON_PAGE = {
    _INK: "var(--text)",
    _QUIET: "var(--quiet)",
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
# Dots of a picture; those of more rows say nothing more.
_MOST_DOTS = 1000


def of_scores(scores: np.ndarray, harmful: list[int], helpful: list[int]) -> Markup:
    """How often which score occurs, with marks at the rows that are shown."""

    def draw(axes: Axes) -> None:
        axes.hist(scores, bins=60, color=_QUIET, log=True)
        for rows, colour in ((harmful, _HARM), (helpful, _HELP)):
            axes.plot(scores[rows], np.full(len(rows), 0.6), "|", color=colour, ms=14, mew=2)
        axes.set(xlabel="score", ylabel="training rows")

    shown = f"{len(harmful)} harmful and {len(helpful)} helpful rows are marked at its ends"
    return _svg(
        draw,
        f"Histogram of the {len(scores)} scores, from {scores.min():.3g} to {scores.max():.3g}, "
        f"half of them within {np.quantile(np.abs(scores), 0.5):.2g} of 0; the {shown}.",
    )


def of_leverage(
    leverage: np.ndarray, scores: np.ndarray, harmful: list[int], helpful: list[int]
) -> Markup:
    """Leverage against score, a dot for each training row (the strongest, of many)."""
    dots = np.argsort(-np.abs(scores), kind="stable")[:_MOST_DOTS]

    def draw(axes: Axes) -> None:
        axes.plot(leverage[dots], scores[dots], "o", color=_QUIET, ms=3, alpha=0.6, mew=0)
        for rows, colour in ((harmful, _HARM), (helpful, _HELP)):
            axes.plot(leverage[rows], scores[rows], "o", color=colour, ms=5)
            for row in rows:
                at = leverage[row], scores[row]
                axes.annotate(str(row), at, (4, 3), textcoords="offset points", fontsize=8)
        axes.axhline(0, color=_QUIET, lw=0.7)
        axes.set(xlabel="leverage", ylabel="score")

    most = int(leverage.argmax())
    return _svg(
        draw,
        f"Leverage of the training rows, on average {leverage.mean():.3g}, at most "
        f"{leverage[most]:.3g} for row {most}, against their scores.",
    )


def of_refits(predicted: np.ndarray, actual: np.ndarray) -> Markup:
    """Predicted against actual changes of the loss, with the line where they are the same."""

    def draw(axes: Axes) -> None:
        ends = [min(predicted.min(), actual.min(), 0.0), max(predicted.max(), actual.max(), 0.0)]
        axes.plot(ends, ends, color=_QUIET, lw=0.8)
        axes.plot(actual, predicted, "o", color=_INK, ms=4, mew=0)
        axes.set(xlabel="change by the refit", ylabel="score")

    return _svg(
        draw,
        f"Scores of {len(actual)} rows against the change of the loss by refits; on the line they "
        f"are the same.",
    )


def _svg(draw: Callable[[Axes], None], words: str) -> Markup:
    """What ``draw`` draws, with ``words`` for those who do not see it."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for drawn, shown in _ON_PAGE.items():
        text = text.replace(drawn, shown)
    # Names that no other part refers to, and which a second picture has, too.
    text = re.sub(r' id="[a-z][\w.]*_\d+"', "", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1)
    words = Markup.escape(words)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1))
