"""The gallery: one page with every figure, the paper's claim, and its numbers beside ours.

The page needs no other file, no script and no network, and shows nothing that is not in the
JSON of the experiments or in ``scripts/report/claims.py``.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from influence.command.page import rendered
from scripts.report.claims import CLAIMS, Claim, agrees
from scripts.report.commit import in_words
from scripts.report.comparison import show, shown_items

SCALES = {
    "laptop": "laptop: the paper's settings, its longest steps replaced or sampled",
    "paper": "paper: exactly as published",
    "quick": "quick: small settings, for tests",
}


def gallery(
    titles: dict[str, str], records: dict[str, dict], failed: list[str], figures: Path
) -> str:
    """The page as HTML.

    Args:
        titles: of all experiments, by name.
        records: what the JSON files say, of the experiments to show.
        failed: experiments that failed; they are named, and nothing of them is shown.
        figures: where the figures are.
    """
    return rendered(
        Path(__file__).with_name("gallery.html"),
        titles=titles,
        failed=failed,
        missing=[name for name in titles if name not in records and name not in failed],
        experiments={
            name: _experiment(CLAIMS[name], record, figures) for name, record in records.items()
        },
    )


def _experiment(claim: Claim, record: dict, figures: Path) -> dict:
    """What the template shows of an experiment."""
    metrics = record["metrics"]
    numbers = {name: entry["ours"] for name, entry in metrics.items()}
    rows = []
    for name, number in claim.numbers.items():
        if name in metrics:
            paper, ours = metrics[name]["paper"], numbers[name]
            row = {"label": number.label, "paper": _items(paper), "ours": _items(ours)}
            row["agrees"] = agrees(number, paper, ours, numbers, record["data"])
            rows.append(row | {"criterion": number.criterion})
    return {
        "claim": claim.text,
        "record": record,
        "commit": in_words(record),
        "scale": SCALES[record["scale"]],
        "rows": rows,
        "others": {
            name: _items(ours) for name, ours in numbers.items() if name not in claim.numbers
        },
        "images": [
            {"alt": alt, "png": _png(figures / f"{name}.png", record["figures"][name])}
            for name, alt in claim.figures.items()
            if name in record["figures"]
        ],
    }


def _items(value) -> list[str]:
    return shown_items(value) if isinstance(value, list) else [show(value)]


def _png(path: Path, sha256: str) -> str | None:
    """The figure in base64; None where the file is missing or of another run."""
    if not path.exists():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        return None
    return base64.b64encode(content).decode()
