"""Figure 6: finding e-mail with flipped labels by influence, by loss, and at random."""

from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from influence import BinaryLogisticRegression, Dataset
from influence.data.files import fingerprint, saved_arrays, write_atomically
from influence.objective.sweeps import sweep
from influence.studies.label_fixing import fix_and_refit, most_suspicious, suspicion
from scripts.loaders.enron import load_enron
from scripts.report.experiment import Config, Results, run
from scripts.steps.processes import processes
from scripts.steps.text import clean_documents, count_words

NAME = "fig6_label_fixing"
LEVELS = 6  # 5, 10 … 30 percent, of labels flipped and of labels checked
METHODS = {
    "influence": ("Influence", "tab:red", "-"),
    "influence_2017": ("Influence, 2017 score (the paper's curve)", "tab:green", "-"),
    "loss": ("Loss", "tab:blue", "-"),
    "random": ("Random", "tab:gray", "-"),
}
PAPER = {
    "fixed_influence_2017": [0.417, 0.620, 0.726, 0.786, 0.829, 0.856],
    "fixed_loss": [0.349, 0.517, 0.623, 0.697, 0.754, 0.793],
    "accuracy_influence_2017": [0.938, 0.955, 0.963, 0.967, 0.970, 0.972],
    "accuracy_loss": [0.912, 0.932, 0.942, 0.950, 0.955, 0.960],
    "accuracy_random": [0.894, 0.898, 0.902, 0.907, 0.912, 0.916],
}


@dataclass(frozen=True)
class Fig6Config(Config):
    """Figure 6 of the paper: fixing mislabelled e-mail.

    Attributes:
        weight_decay: λ.
        repeats: seeds.
        flips: sweep 5..30 percent of flipped labels, as the 2017 code does, instead of 10 alone.
        jobs: processes of one thread each; the numbers do not depend on it.
    """

    weight_decay: float = 1e-4
    repeats: int = 40
    flips: bool = False
    jobs: int = os.cpu_count() or 1

    QUICK: ClassVar[dict] = {"repeats": 2, "jobs": 1}


@dataclass(frozen=True)
class Problem:
    """The clean training data, the test data, and where finished repeats are kept."""

    train: Dataset
    x_test: object
    y_test: np.ndarray
    weight_decay: float
    folder: Path

    def accuracy(self, model) -> float:
        """On the test e-mail."""
        return float((model.predict(self.x_test) == self.y_test).mean())


def compute(config: Fig6Config) -> Results:
    """Flip, rank, check, fix and refit, for every seed."""
    enron = load_enron(config.data)
    documents = clean_documents(
        enron.documents, Path(config.output_dir) / "documents", progress=True
    )
    n, labels = enron.train_size, enron.labels
    x, x_test = count_words(documents[:n], documents[n:])
    folder = Path(config.output_dir) / f"{NAME}.repeats"
    problem = Problem(Dataset(x, labels[:n]), x_test, labels[n:], config.weight_decay, folder)
    with threadpool_limits(1):
        clean = BinaryLogisticRegression(problem.train, config.weight_decay).fit()
    results = Results(enron.provenance)
    results.add("train_documents", n, 4137)
    results.add("test_documents", len(labels) - n, 1035)
    results.add("words", x.shape[1])
    results.add("clean_accuracy", problem.accuracy(clean), 0.976)

    levels = range(LEVELS) if config.flips else [1]
    units = [(level, repeat) for level in levels for repeat in range(config.repeats)]
    done = finished_repeats(problem, units, config.jobs)
    for level in levels:
        mine = [unit for (flip, _), unit in zip(units, done) if flip == level]
        for name in mine[0]:
            key = name if level == 1 else f"{name}_flips{5 * (level + 1)}"
            results.arrays[key] = np.stack([unit[name] for unit in mine])
    results.add("flipped_accuracy", results.arrays["flipped_accuracy"].mean(), 0.8885)
    for quantity in ("fixed", "accuracy"):
        for method in METHODS:
            name = f"{quantity}_{method}"
            results.add(name, results.arrays[name].mean(axis=0), PAPER.get(name))
    shutil.rmtree(folder, ignore_errors=True)
    return results


def finished_repeats(
    problem: Problem, units: list[tuple[int, int]], jobs: int
) -> list[dict[str, np.ndarray]]:
    """``one_repeat`` of each unit, from its file if an earlier run finished it on the same data."""
    settings = repr(problem.weight_decay)
    key = fingerprint(settings, problem.train.x, problem.train.labels)[:16]
    paths = {unit: problem.folder / f"{key}_{unit[0]}_{unit[1]}.npz" for unit in units}
    found = {unit: saved_arrays(path) for unit, path in paths.items()}
    done = {unit: saved for unit, saved in found.items() if saved is not None}
    todo = [unit for unit in units if unit not in done]
    bar = tqdm(total=len(units), initial=len(done), desc="repeats", disable=None)
    with bar, processes(jobs):
        for number, result in sweep(functools.partial(one_repeat, problem), todo):
            done[todo[number]] = result
            write_atomically(paths[todo[number]], functools.partial(np.savez, **result))
            bar.update()
    return [done[unit] for unit in units]


def one_repeat(problem: Problem, unit: tuple[int, int]) -> dict[str, np.ndarray]:
    """Shares of flips fixed and accuracies at 5..30 percent checked, with the 2017 seeds, for a
    level and a repeat."""
    level, repeat = unit
    truth, n = problem.train.labels, len(problem.train)
    per_level = n // 20
    seed = 120 * level + 2 * repeat
    flipped = np.random.RandomState(seed).choice(n, per_level * (level + 1), replace=False)
    wrong = problem.train.relabelled(flipped, 1 - truth[flipped])
    model = BinaryLogisticRegression(wrong, problem.weight_decay).fit()
    scores = suspicion(model)
    results = {"flipped_accuracy": np.array(problem.accuracy(model))}
    for method in METHODS:
        fixed, accuracies, start = [], [], model.parameters
        for check in range(LEVELS):
            count = per_level * (check + 1)
            if method == "random":
                random = np.random.RandomState(seed + 1)
                checked = random.choice(n, count, replace=False)
            else:
                checked = most_suspicious(scores[method], count)
            refitted, number = fix_and_refit(model, checked, truth, start)
            start = refitted.parameters
            fixed.append(number / len(flipped))
            accuracies.append(problem.accuracy(refitted))
        results[f"fixed_{method}"] = np.array(fixed)
        results[f"accuracy_{method}"] = np.array(accuracies)
    return results


def plot(results: Results) -> dict[str, plt.Figure]:
    """Test accuracy and flips fixed against the share of labels checked; all flip levels."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.5), layout="constrained")
    draw_panels(axes, results.arrays, "")
    clean = results.metrics["clean_accuracy"]["ours"]
    axes[0].axhline(clean, color="0.5", linestyle=":", linewidth=1)
    axes[0].annotate(
        "clean data", (0, clean), (4, -2), xycoords=("axes fraction", "data"),
        textcoords="offset points", va="top", fontsize="x-small", color="0.4",
    )  # fmt: skip
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="x-small"
    )
    figures = {NAME: figure}
    suffixes = {5 * (level + 1): f"_flips{5 * (level + 1)}" for level in range(LEVELS)} | {10: ""}
    if f"fixed_loss{suffixes[5]}" in results.arrays:
        sweep, grid = plt.subplots(
            2, LEVELS, figsize=(13, 4.8), sharex=True, sharey="row", layout="constrained"
        )
        for column, (percent, suffix) in zip(grid.T, suffixes.items()):
            draw_panels(column, results.arrays, suffix)
            column[0].set_title(f"{percent}% flipped", fontsize="small")
            column[0].set_xlabel("")
            for axis in column if percent > 5 else ():
                axis.set_ylabel("")
        sweep.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figures[f"{NAME}_flips"] = sweep
    return figures


def draw_panels(axes, arrays, suffix):
    """Accuracy in the first of the two axes, flips fixed in the second; bars are one std."""
    checked = 0.05 * np.arange(1, LEVELS + 1)
    for method, (label, colour, line) in METHODS.items():
        for axis, quantity in zip(axes, ("accuracy", "fixed")):
            values = arrays[f"{quantity}_{method}{suffix}"]
            axis.errorbar(
                checked, values.mean(axis=0), values.std(axis=0), label=label, color=colour,
                linestyle=line, capsize=2, linewidth=1.2, elinewidth=0.8,
            )  # fmt: skip
    axes[0].set_ylabel("Test accuracy")
    axes[1].set_ylabel("Fraction of flips fixed")
    axes[1].set_ylim(0, 1)
    for axis in axes:
        axis.set_xlabel("Fraction of train data checked")


if __name__ == "__main__":
    run(NAME, Fig6Config, compute, plot)
