"""Every experiment that exists, one after the other, and the paper's numbers beside ours.

`python -m scripts.reproduce` runs them all, writes the figures, `figures/results.md`, the gallery
`figures/index.html` and `output/*.json`, prints what the paper claims beside ours, and exits with 1
if an experiment failed. With `--report-only` it writes the table and the gallery of what earlier
runs left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from scripts.report.comparison import comparison
from scripts.report.experiment import SCALES
from scripts.report.results import EXPERIMENTS, read_records, write_reports


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

    start = time.perf_counter()
    failed = [] if options.report_only else run_all(options)
    records = read_records(
        options.output_dir, [name for name in options.only if name not in failed]
    )
    if not records and not failed:
        sys.exit(f"{options.output_dir} has no results: run without --report-only first.")
    write_reports(records, failed, options.figures_dir, options.figures_dir)
    print(f"\n{comparisons(records, failed)}\n")
    print(f"All in {time.perf_counter() - start:.0f} s.")
    print(f"Every number: {options.figures_dir / 'results.md'}")
    print(f"The figures, with the paper's claims: {options.figures_dir / 'index.html'}")
    return 1 if failed else 0


def run_all(options: argparse.Namespace) -> list[str]:
    """Run the experiments one after the other; returns those that failed."""
    shared = ["--data", options.data, "--scale", options.scale]
    shared += ["--output-dir", str(options.output_dir), "--figures-dir", str(options.figures_dir)]
    failed = []
    for name in tqdm(options.only, desc="experiments", unit="experiment", disable=None):
        print(f"\n=== {EXPERIMENTS[name]}", flush=True)
        command = [sys.executable, "-m", f"scripts.{name}", *shared]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
            print(f"=== {name} FAILED; the others go on.", flush=True)
    return failed


def comparisons(records: dict[str, dict], failed: list[str]) -> str:
    """A table for each experiment; data that are not the paper's, and failures, are named."""
    parts = []
    for name, record in records.items():
        data = "" if record["data"] == "paper" else f" — {record['data'].upper()} DATA"
        parts.append(f"=== {EXPERIMENTS[name]}{data}\n\n{comparison(name, record)}\n")
    parts += [f"=== {EXPERIMENTS[name]} FAILED\n" for name in failed]
    return "\n".join(parts).rstrip()


if __name__ == "__main__":
    sys.exit(main())
