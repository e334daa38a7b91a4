"""The paper's numbers beside ours, as text for a terminal."""

from __future__ import annotations

import itertools
import textwrap

from scripts.report.claims import CLAIMS, Number, agrees

_WIDTH, _GAP = 100, "  "
# Characters of the columns but the first at most.
_LIMITS = (19, 19, 14)


def comparison(name: str, record: dict) -> str:
    """The table of an experiment, at most 100 columns wide, with a mark where ours is to meet a
    criterion: the numbers that its claim names, or all where it has none."""
    metrics = record["metrics"]
    ours = {metric: numbers["ours"] for metric, numbers in metrics.items()}
    claimed = (
        CLAIMS[name].numbers if name in CLAIMS else {metric: Number(metric) for metric in ours}
    )
    rows = [("quantity", "paper", "ours", "agrees")]
    for metric, number in claimed.items():
        if metric in metrics:
            paper = metrics[metric]["paper"]
            met = agrees(number, paper, ours[metric], ours, record["data"])
            mark = "" if met is None else f"{'✓' if met else '✗'} {number.criterion.words}"
            rows.append((number.label, _text(paper), _text(ours[metric]), mark))
    return _aligned(rows)


def show(value) -> str:
    """A number, or the first of a list of them, for a table."""
    if value is None:
        return "—"
    if isinstance(value, list):
        return "[" + ", ".join(shown_items(value)) + "]"
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)


def shown_items(values: list) -> list[str]:
    """The first of a list of numbers, each as ``show`` does, and a sign that there are more."""
    return [show(item) for item in values[:8]] + ["…"] * (len(values) > 8)


def _text(value):
    return " ".join(shown_items(value)) if isinstance(value, list) else show(value)


def _aligned(rows):
    """Columns as wide as their longest cell, or the limit: such cells take several lines."""
    columns = zip(*rows)
    first, *others = (max(map(len, cells)) for cells in columns)
    others = [min(limit, longest) for limit, longest in zip(_LIMITS, others)]
    rest = _WIDTH - sum(others) - len(_GAP) * len(others)
    widths = [min(first, rest), *others]
    lines = []
    for cells in rows:
        wrapped = [
            textwrap.wrap(cell, width, break_on_hyphens=False) for cell, width in zip(cells, widths)
        ]
        lines += [
            _GAP.join(part.ljust(width) for part, width in zip(parts, widths)).rstrip()
            for parts in itertools.zip_longest(*wrapped, fillvalue="")
        ]
    lines.insert(1, _GAP.join("─" * width for width in widths))
    return "\n".join(lines)
