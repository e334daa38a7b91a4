"""Every experiment that exists, one after the other, and the paper's numbers beside ours.

`python -m scripts.reproduce` runs them all, writes the figures, `figures/results.md`, the gallery
`figures/index.html` and `output/*.json`, prints the table, and exits with 1 if an experiment
failed. With `--report-only` it writes the table and the gallery of what earlier runs left.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from influence.data.files import write_atomically
from scripts.report.experiment import SCALES, show
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


def main(arguments: list[str] | None = None) -> int:
    """Run the experiments, each in a process of its own, and report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("auto", "real", "stand-in"), default="auto")
    parser.add_argument("--scale", choices=SCALES, default="laptop")
    parser.add_argument("--output-dir", type=Path, default=Path("output"))
    parser.add_argument("--figures-dir", type=Path, default=Path("figures"))
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument(
        "--report-only",
        action="store_true",
        help="run nothing: write the table and the gallery of what --output-dir has",
    )
    options = parser.parse_args(arguments)

    start, failed = time.perf_counter(), []
    if options.report_only:
        names = [name for name in options.only if (options.output_dir / f"{name}.json").exists()]
        if not names:
            sys.exit(f"{options.output_dir} has no results: run without --report-only first.")
    else:
        failed = run_all(options)
        names = [name for name in options.only if name not in failed]
    records = {
        name: json.loads((options.output_dir / f"{name}.json").read_text()) for name in names
    }
    table = results_table(records, failed)
    page = gallery(EXPERIMENTS, records, failed, options.figures_dir)
    for name, text in (("results.md", table), ("index.html", page)):
        write_atomically(
            options.figures_dir / name, lambda file, text=text: file.write(text.encode())
        )
    print(f"\n{table}\nAll in {time.perf_counter() - start:.0f} s.")
    print(f"The figures, with the paper's claims: {options.figures_dir / 'index.html'}")
    return 1 if failed else 0


def run_all(options: argparse.Namespace) -> list[str]:
    """Run the experiments one after the other; returns those that failed."""
    shared = ["--data", options.data, "--scale", options.scale]
    shared += ["--output-dir", str(options.output_dir), "--figures-dir", str(options.figures_dir)]
    failed = []
    for name in tqdm(options.only, desc="experiments", unit="experiment"):
        print(f"\n=== {EXPERIMENTS[name]}", flush=True)
        command = [sys.executable, "-m", f"scripts.{name}", *shared]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
            print(f"=== {name} FAILED; the others go on.", flush=True)
    return failed


def results_table(records: dict[str, dict], failed: list[str]) -> str:
    """The paper's numbers beside ours, as Markdown, from what the JSON files say."""
    lines = ["# Results: the paper's numbers and ours", ""]
    for name, record in records.items():
        lines += [f"## {EXPERIMENTS[name]}", ""]
        if record["data"] != "paper":
            lines += [f"**On {record['data'].upper()} data: not the paper's numbers.**", ""]
        lines += [
            f"`{record['command']}` · data: {record['data']} · scale: {record['scale']} · "
            f"{record['seconds']:.0f} s",
            "",
            "| quantity | paper | ours |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| `{metric}` | {show(numbers['paper'])} | {show(numbers['ours'])} |"
            for metric, numbers in record["metrics"].items()
        ]
        lines.append("")
    lines += [f"**{EXPERIMENTS[name]} failed.**" for name in failed]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
