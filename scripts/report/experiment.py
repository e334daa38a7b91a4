"""What every experiment shares: options, provenance, saving, and how figures look."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import tensorflow as tf
from matplotlib.figure import Figure

from influence.data.files import write_atomically
from influence_command import held_back
from scripts.loaders.archive import DataError
from scripts.loaders.registry import Provenance
from scripts.report.commit import version
from scripts.report.comparison import comparison
from scripts.report.terminal import plain_warnings

SCALES = ("laptop", "paper", "quick")
_VERSIONS = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn", "pandas")


@dataclass(frozen=True)
class Config:
    """Settings that every experiment has; a script's own Config adds the paper's.

    Attributes:
        data: "auto", "real" or "stand-in".
        scale: "laptop" (the paper's data and settings), "paper" (as published, however long) or
            "quick" (for tests).
        output_dir: where the arrays, the JSON and the checkpoints go.
    """

    data: str = "auto"
    scale: str = "laptop"
    output_dir: str = "output"

    # What --scale quick and --scale paper change.
    QUICK: ClassVar[dict] = {}
    PAPER: ClassVar[dict] = {}


@dataclass
class Results:
    """What ``compute`` gives and ``plot`` draws.

    ``metrics`` maps a name to the paper's number (or None) and ours.
    """

    provenance: Provenance
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, dict] = field(default_factory=dict)

    def add(self, name: str, ours, paper=None) -> None:
        """Record a number of ours beside the paper's."""
        self.metrics[name] = {"paper": _plain(paper), "ours": _plain(ours)}


def run(
    name: str,
    config_class: type[Config],
    compute: Callable[[Config], Results],
    plot: Callable[[Results], dict[str, Figure]],
    arguments: list[str] | None = None,
) -> Results:
    """The command line of an experiment: compute unless ``--plot-only``, save, draw.

    ``plot`` returns figures by file name. Exits with one sentence when the data are at fault.
    """
    options, config, command = _parse(name, config_class, arguments)
    output, figures = Path(config.output_dir), Path(options.figures_dir)
    # Before anything is computed: whoever goes on working changes the files of a long run.
    code = vars(version())
    if options.plot_only:
        results = read(output, name)
    else:
        with held_back():
            tf.config.list_logical_devices()  # their driver has something to say, too
        tf.config.experimental.enable_op_determinism()
        tf.keras.utils.set_random_seed(0)
        start = time.perf_counter()
        try:
            with plain_warnings():
                results = compute(config)
        except DataError as error:
            sys.exit(f"{name}: {error}")
        _save(results, output, name, config, command, code, time.perf_counter() - start)
    use_style()
    drawn = {}
    for file_name, figure in plot(results).items():
        path = figures / f"{file_name}.png"
        save_figure(figure, path, results.provenance)
        drawn[file_name] = hashlib.sha256(path.read_bytes()).hexdigest()
    _record_figures(output / f"{name}.json", drawn, code)
    record = {"metrics": results.metrics, "data": results.provenance.data}
    print(f"\n{comparison(name, record)}\n\nEverything else: {output / f'{name}.json'}")
    return results


def read(output: Path, name: str) -> Results:
    """The results that an earlier run of experiment ``name`` saved."""
    try:
        record = json.loads((output / f"{name}.json").read_text())
        with np.load(output / f"{name}.npz") as saved:
            arrays = dict(saved)
    except FileNotFoundError as error:
        sys.exit(f"{name}: {error.filename} is missing: run without --plot-only first.")
    provenance = Provenance(record["data"], record["data_sha256"])
    return Results(provenance, arrays, record["metrics"])


def use_style() -> None:
    """Figures that are readable at the width of a column."""
    sns.set_theme(style="white", context="paper", font_scale=1.25)
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 200, "axes.titleweight": "normal"})


def save_figure(figure: Figure, path: Path, provenance: Provenance) -> None:
    """Write a PNG; data that are not the paper's are named on it."""
    if provenance.data != "paper":
        # Laid out while legends outside of the axes still have their room there, and then no more:
        # they go to the figure, as the canvas grows by these words when it is saved.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for legend in figure.legends:
            legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
        figure.text(
            0.5,
            1.0,
            f"{provenance.data.upper()} DATA — not the paper's",
            ha="center",
            va="bottom",
            color="crimson",
            weight="bold",
        )
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG and close the figure."""
    # No time stamp or version inside: the same numbers give the same bytes.
    write_atomically(
        path,
        lambda file: figure.savefig(
            file, format="png", bbox_inches="tight", metadata={"Software": None}
        ),
    )
    plt.close(figure)
    print(f"Wrote {path}")


def _parse(name, config_class, arguments):
    parser = argparse.ArgumentParser(
        prog=f"python -m scripts.{name}",
        description=config_class.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", choices=("auto", "real", "stand-in"), default="auto")
    parser.add_argument("--scale", choices=SCALES, default="laptop")
    parser.add_argument("--output-dir", default="output")
    parser.add_argument("--figures-dir", default="figures")
    parser.add_argument("--plot-only", action="store_true", help="draw saved results again")
    shared = {item.name for item in dataclasses.fields(Config)}
    own = [item for item in dataclasses.fields(config_class) if item.name not in shared]
    for item in own:
        option = "--" + item.name.replace("_", "-")
        if isinstance(item.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"type": type(item.default)}
        parser.add_argument(option, default=None, help=f"default {item.default}", **kind)
    options = parser.parse_args(arguments)
    chosen = {item.name: getattr(options, item.name) for item in own}
    of_scale = {"quick": config_class.QUICK, "paper": config_class.PAPER}.get(options.scale, {})
    chosen = of_scale | {key: value for key, value in chosen.items() if value is not None}
    config = config_class(
        data=options.data, scale=options.scale, output_dir=options.output_dir, **chosen
    )
    return options, config, _command(parser, options)


def _command(parser, options):
    """The command that computes the same numbers: the options that are not the defaults. Folders
    are left out, as they change no number and may be of one machine only."""
    words = parser.prog.split()
    for name, value in vars(options).items():
        folder = name in ("output_dir", "figures_dir")
        if folder or name == "plot_only" or value == parser.get_default(name):
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def _save(results, output, name, config, command, code, seconds):
    settings = {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(config)
        if item.name not in {shared.name for shared in dataclasses.fields(Config)}
    }
    versions = {package: importlib.metadata.version(package) for package in _VERSIONS}
    record = {
        "experiment": name,
        "command": command,
        "data": results.provenance.data,
        "data_sha256": results.provenance.sha256,
        "scale": config.scale,
        "config": settings,
        "metrics": results.metrics,
        "seconds": round(seconds, 2),
        "cores": os.cpu_count(),
        **code,
        "versions": {"python": platform.python_version(), **versions},
        "figures": {},
        "drawn_by": code,
    }
    write_atomically(output / f"{name}.npz", lambda file: np.savez(file, **results.arrays))
    _write_json(output / f"{name}.json", record)


def _record_figures(path, drawn, code):
    """Which figures these numbers drew, by SHA-256, and which code drew them: whoever shows one
    can tell it from another run's."""
    _write_json(path, json.loads(path.read_text()) | {"figures": drawn, "drawn_by": code})


def _write_json(path, record):
    text = json.dumps(record, indent=2, allow_nan=False).encode()
    write_atomically(path, lambda file: file.write(text))


def _plain(value):
    """NumPy numbers and arrays as what JSON can hold."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
