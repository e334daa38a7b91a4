"""What is made of the experiments' JSON files: the table and the gallery."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from influence.data.files import write_atomically
from scripts.report.commit import in_words
from scripts.report.comparison import show
from scripts.report.gallery import gallery

EXPERIMENTS = {
    "fig1_components": "Figure 1: components of influence",
    "fig2_leave_one_out": "Figure 2: leave-one-out retraining",
    "fig3_smooth_hinge": "Figure 3: a loss that is not differentiable",
    "fig4_rbf_vs_inception": "Figure 4: an RBF SVM and Inception",
    "fig5_training_attack": "Figure 5: training-set attacks",
    "fig6_label_fixing": "Figure 6: fixing mislabelled e-mail",
    "hospital_readmission": "Section 5.3: hospital readmission",
}
# Hours that `make figures` does not spend; published with it where they ran.
BEYOND = {
    "fig2_training": "Beyond the paper: what convergence does to influence",
    "fig2_long_retraining": "Beyond the paper: the retraining of Figure 2, step by step",
    "datamodeling_mnist": "Beyond the paper: what scores are worth, by a published benchmark",
}
TITLES = EXPERIMENTS | BEYOND


def read_records(output: Path, names) -> dict[str, dict]:
    """What the JSON files of these experiments say, of those that there are."""
    paths = {name: output / f"{name}.json" for name in names}
    records = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    for name, record in records.items():
        if "commit" not in record:
            sys.exit(f"{paths[name]} is of an older version of this code: run {name} again.")
    return records


def write_reports(records: dict[str, dict], failed: list[str], figures: Path, folder: Path) -> None:
    """Write ``results.md`` and the gallery ``index.html``, which shows ``figures``, to a folder."""
    reports = {
        "results.md": results_table(records, failed),
        "index.html": gallery(_shown(records), records, failed, figures),
    }
    for name, text in reports.items():
        write_atomically(folder / name, lambda file, text=text: file.write(text.encode()))


def _shown(records):
    """The titles of the seven, and of those beyond them that ran."""
    return {name: title for name, title in TITLES.items() if name in EXPERIMENTS | records}


def results_table(records: dict[str, dict], failed: list[str]) -> str:
    """The paper's numbers beside ours, as Markdown, and the runs that they are of."""
    lines = ["# Results: the paper's numbers and ours", ""]
    for name, record in records.items():
        lines += [f"## {TITLES[name]}", ""]
        if record["data"] != "paper":
            lines += [f"**On {record['data'].upper()} data: not the paper's numbers.**", ""]
        lines += [_run(record), "", "| quantity | paper | ours |", "| --- | --- | --- |"]
        lines += [row(metric, numbers) for metric, numbers in record["metrics"].items()]
        lines.append("")
    lines += [f"**{EXPERIMENTS[name]} failed.**" for name in failed]
    return "\n".join(lines).rstrip() + "\n"


def row(metric: str, numbers: dict) -> str:
    """A number of the table."""
    return f"| `{metric}` | {show(numbers['paper'])} | {show(numbers['ours'])} |"


def _run(record):
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    return (
        f"`{record['command']}` · data: {record['data']} · scale: {record['scale']} · "
        f"{record['seconds']:.0f} s on {record['cores']} cores · commit: {in_words(record)} · "
        f"{versions}"
    )
