"""Every experiment that exists, one after the other, and the paper's numbers beside ours.

`python -m scripts.reproduce` runs them all, writes the figures, `figures/results.md` and
`output/*.json`, prints the table, and exits with 1 if an experiment failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from influence.files import write_atomically
from scripts.experiment import SCALES, show

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
    """Run the experiments, each in a process of its own; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("auto", "real", "stand-in"), default="auto")
    parser.add_argument("--scale", choices=SCALES, default="laptop")
    parser.add_argument("--output-dir", type=Path, default=Path("output"))
    parser.add_argument("--figures-dir", type=Path, default=Path("figures"))
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    options = parser.parse_args(arguments)
    shared = ["--data", options.data, "--scale", options.scale]
    shared += ["--output-dir", str(options.output_dir), "--figures-dir", str(options.figures_dir)]

    start, failed = time.perf_counter(), []
    for name in tqdm(options.only, desc="experiments", unit="experiment"):
        print(f"\n=== {EXPERIMENTS[name]}", flush=True)
        command = [sys.executable, "-m", f"scripts.{name}", *shared]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
            print(f"=== {name} FAILED; the others go on.", flush=True)
    done = [name for name in options.only if name not in failed]
    report = results_table(options.output_dir, done, failed, shared[:4])
    write_atomically(options.figures_dir / "results.md", lambda file: file.write(report.encode()))
    print(f"\n{report}\nAll in {time.perf_counter() - start:.0f} s.")
    return 1 if failed else 0


def results_table(output: Path, done: list[str], failed: list[str], options: list[str]) -> str:
    """The paper's numbers beside ours, as Markdown, from the JSON files of ``done``."""
    lines = ["# Results: the paper's numbers and ours", ""]
    for name in done:
        record = json.loads((output / f"{name}.json").read_text())
        lines += [f"## {EXPERIMENTS[name]}", ""]
        if record["data"] != "paper":
            lines += [f"**On {record['data'].upper()} data: not the paper's numbers.**", ""]
        command = " ".join(["python -m", f"scripts.{name}", *options])
        lines += [
            f"`{command}` · data: {record['data']} · scale: {record['scale']} · "
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
