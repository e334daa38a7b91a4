"""Figure 5: training images changed by less than half a grey level that flip test predictions."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import binomtest, spearmanr
from tqdm import tqdm

from influence.objective.sweeps import in_order, sweep
from influence.studies.poisoning import hopeless
from scripts.report.attack_photographs import draw_photographs, photographs
from scripts.report.experiment import Config, Results, run
from scripts.steps.dogs_and_fish import DogsAndFish, fit_inception
from scripts.steps.training_attacks import Problem, multi_attack, single_attack

NAME = "fig5_training_attack"
COUNTS = (1, 2, 3, 5, 10)
QUARTERS = (0.25, 0.5, 0.75)
# Of the paper's 591 test images, by how many training images changed.
PAPER_SHARES = {1: 335 / 591, 2: 0.77, 10: 590 / 591}
# Of the stand-in: few steps, as its features of random weights mean nothing, but long ones, so
# that they still reach the edge of the box.
STAND_IN_STEPS, STAND_IN_STEP_SIZE = 5, 0.1


@dataclass(frozen=True)
class Fig5Config(Config):
    """Figure 5 of the paper: training-set attacks.

    On the stand-in an attack takes at most 5 steps, of 0.1 grey levels, on images of 75 pixels.

    Attributes:
        tests: test images to attack one by one, of those that are classified correctly: random
            ones, as many from each quarter of their margins; 0 for all of them, as in the paper.
        image_side: pixels of a side.
        weight_decay: λ.
        step_size: α of these attacks, in grey levels.
        steps: the most of each of them.
        pace: a set of images is given up when, its pixels at the edges of their boxes, the steps
            that are left would not flip the test image at the pace of the last so many; 0 makes
            all steps, as in the paper.
        preselected: training images whose pixel gradients are ranked for a test image.
        multi_tests: test images of one class that a single training image is to flip, together.
        multi_step_size: α of this attack, in grey levels.
        multi_steps: the most of this attack (the paper's are 2,000: --scale paper); after 100 its
            pixels are at the edges of their boxes.
        seed: of the choice.
    """

    tests: int = 4
    image_side: int = 299
    weight_decay: float = 0.001
    step_size: float = 0.02
    steps: int = 100
    pace: int = 5
    preselected: int = 40
    multi_tests: int = 30
    multi_step_size: float = 0.005
    multi_steps: int = 250
    seed: int = 0

    QUICK: ClassVar[dict] = {
        "tests": 1, "steps": 3, "preselected": 10, "multi_tests": 5, "multi_steps": 3,
    }  # fmt: skip
    PAPER: ClassVar[dict] = {"tests": 0, "pace": 0, "multi_steps": 2000}


def compute(config: Fig5Config) -> Results:
    """Attack test images one by one, and some together."""
    problem, found = prepare(config)
    config, data, truth = problem.config, problem.data, problem.data.test.labels
    correct, chosen = problem.correct(), choose(problem, config.tests)
    margins = problem.margins()
    attacks = in_order(sweep(functools.partial(single_attack, problem), chosen.tolist()))
    units = list(tqdm(attacks, total=len(chosen), desc="test images", disable=None))
    group = nearest_group(problem.features, truth, correct, config.multi_tests)
    multi = multi_attack(problem, group)

    results = Results(data.provenance)
    found.describe(results)
    results.add("test_images", len(truth), 600)
    results.add("correct", len(correct), 591)
    results.add("tests", len(chosen), 591)
    results.add("test_indices", chosen)
    results.add("steps", config.steps, 100)
    needed = np.array([int(unit["needed"]) for unit in units])
    results.arrays |= {"needed": needed, "margins": margins[chosen]}
    results.arrays["quartiles"] = np.quantile(margins[correct], QUARTERS)
    results.arrays["labels"] = truth[chosen]
    results.add("images_needed", needed)
    results.add("margins", margins[chosen])
    results.add("median_margin", np.median(margins[correct]))
    of_quarters = np.searchsorted(results.arrays["quartiles"], margins[chosen])
    results.add(
        "needed_by_quarter",
        # Those that ten did not flip, 0, come last.
        [sorted(needed[of_quarters == i], key=lambda n: n or np.inf) for i in range(4)],
    )
    results.add("margin_rank_correlation", rank_correlation(margins[chosen], needed))
    if not config.pace:
        lost = sum(missed(unit, config.step_size) for unit in units)
        results.add("flips_that_pace_5_would_miss", lost)
    for count, name, paper in ((1, "one", 335), (2, "two", None), (10, "ten", 590)):
        flipped = int(flips(needed, count).sum())
        results.add(f"flipped_{name}", flipped, paper)
        results.add(f"share_flipped_{name}", flipped / len(needed), PAPER_SHARES[count])
        results.add(f"interval_{name}", interval(flipped, len(needed)))
    results.add("changed_after_rounding", int(sum(unit["changed"] for unit in [*units, multi])), 0)
    results.add("confirmed_from_scratch", int(sum(unit["confirmed"] for unit in units)))
    results.add("multi_tests", len(group), 30)
    results.add("multi_test_indices", group)
    results.add("multi_train_index", int(multi["indices"][0]))
    results.add("multi_steps", len(multi["wrong"]) - 1, 2000)
    results.add("multi_flipped", int(multi["wrong"].max()), 16)
    results.add("multi_confirmed_from_scratch", int(multi["confirmed"]))
    results.add("multi_loss_before", multi["losses"][0], 0.0350)
    results.add("multi_loss_after", multi["losses"][multi["best"]], 1.3600)
    for part in ("forward", "backward"):
        seconds, passes = (sum(unit[name] for unit in units) for name in (part, "passes"))
        results.add(f"seconds_{part}_image", seconds / passes)
    refits = sum(unit["refits"] for unit in units)
    results.add("seconds_refit_step", sum(unit["refit"] for unit in units) / refits)
    results.arrays |= {f"multi_{name}": multi[name] for name in ("losses", "wrong")}
    results.arrays |= photographs(problem, chosen, units, group, multi)
    return results


def prepare(config: Fig5Config) -> tuple[Problem, DogsAndFish]:
    """What to attack, and where it comes from; the stand-in with settings of its own."""
    found = fit_inception(config)
    if found.data.provenance.data == "stand-in":
        config = dataclasses.replace(
            config,
            step_size=STAND_IN_STEP_SIZE,
            steps=min(config.steps, STAND_IN_STEPS),
            multi_step_size=STAND_IN_STEP_SIZE,
            multi_steps=min(config.multi_steps, STAND_IN_STEPS),
        )
    folder = Path(config.output_dir) / NAME
    return Problem(config, found.data, found.model, found.features, folder), found


def choose(problem: Problem, count: int) -> np.ndarray:
    """``count`` of the test images that are classified correctly, 0 for all.

    One from each quarter of the margins in turn, from the smallest to the largest; within a quarter
    at random. The first of a larger choice are those of a smaller one.
    """
    correct = problem.correct()
    margins = problem.margins()[correct]
    random = np.random.RandomState(problem.config.seed)
    quarter = np.searchsorted(np.quantile(margins, QUARTERS), margins)
    shuffled = random.permutation(len(correct))
    turn = np.empty(len(correct), int)
    for i in range(4):
        members = shuffled[quarter[shuffled] == i]
        turn[members] = np.arange(len(members))
    order = np.lexsort((quarter, turn))
    return correct[order[: count if count > 0 else None]]


def missed(unit: dict[str, np.ndarray], step_size: float) -> int:
    """Of one test image with all steps made: sets of images that flipped it and that the default
    ``pace`` would have given up; none where its file is older than the traces."""
    traces = unit.get("traces", np.empty((0, 1)))
    settings = {"step_size": step_size, "steps": traces.shape[1] - 1, "pace": Fig5Config.pace}
    flipped = [trace for trace in (row[~np.isnan(row)] for row in traces) if (trace <= 0).any()]
    return sum(
        any(hopeless(trace[:end], **settings) for end in range(1, len(trace))) for trace in flipped
    )


def rank_correlation(margins: np.ndarray, needed: np.ndarray) -> float | None:
    """Spearman's, of the margins and the images needed; None for fewer than three test images or
    where all needed as many. Those that ten did not flip come last."""
    places = np.where(needed > 0, needed, np.inf)
    if len(needed) < 3 or len(np.unique(places)) == 1:
        return None
    return float(spearmanr(margins, places).statistic)


def nearest_group(features, labels, correct, size: int) -> np.ndarray:
    """``size`` of the test images ``correct``, of one class and near to each other: [size].

    The image whose size − 1 nearest neighbours in feature space, of its own class, have the
    smallest total distance; it and they, by distance. (Fewer where a class has fewer.)
    """
    size = min(size, np.bincount(labels[correct]).max())
    best, group = np.inf, None
    for label in np.unique(labels):
        members = correct[labels[correct] == label]
        if len(members) < size:
            continue
        x = features[members].astype(np.float64)
        squares = (x**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, np.newaxis] + squares - 2 * x @ x.T, 0))
        np.fill_diagonal(distances, 0)
        order = np.argsort(distances, axis=1, kind="stable")[:, :size]
        totals = np.take_along_axis(distances, order, axis=1).sum(axis=1)
        if totals.min() < best:
            best, group = totals.min(), members[order[totals.argmin()]]
    return group


def flips(needed: np.ndarray, count: int) -> np.ndarray:
    """Which test images flipped with at most ``count`` training images."""
    return (needed > 0) & (needed <= count)


def interval(successes: int, trials: int) -> list[float]:
    """Wilson's 95% confidence interval of a share."""
    found = binomtest(successes, trials).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]


def plot(results: Results) -> dict[str, plt.Figure]:
    """Shares flipped, images needed, and the attack on many; the photographs."""
    figure, axes = plt.subplot_mosaic(
        [["shares", "needed", "loss"], ["shares", "needed", "wrong"]],
        figsize=(11.5, 3.8),
        layout="constrained",
    )
    draw_shares(axes["shares"], results)
    draw_needed(axes["needed"], results.arrays)
    metrics = results.metrics
    group = metrics["multi_tests"]["ours"]
    for name, label in (("losses", "Mean test loss"), ("wrong", f"Wrong, of {group}")):
        axis = axes["loss" if name == "losses" else "wrong"]
        axis.plot(results.arrays[f"multi_{name}"], color="tab:red")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes["wrong"].set_ylim(top=group)
    axes["loss"].tick_params(labelbottom=False)
    axes["loss"].set_title(f"One training image against {group} test images")
    axes["wrong"].set_xlabel("Step")
    return {NAME: figure} | {
        f"photos/{NAME}_{name}": picture for name, picture in draw_photographs(results).items()
    }


def draw_shares(axis, results: Results) -> None:
    """Test images flipped against training images changed, with Wilson's intervals."""
    needed = results.arrays["needed"]
    positions = np.arange(len(COUNTS))
    successes = [int(flips(needed, count).sum()) for count in COUNTS]
    shares = np.array(successes) / len(needed)
    edges = np.array([interval(count, len(needed)) for count in successes])
    errors = np.abs(edges - shares[:, np.newaxis]).T
    weights = results.metrics["inception_weights"]["ours"]
    axis.errorbar(
        positions, shares, errors, fmt="o-", color="tab:red", capsize=3,
        label=f"ours: {len(needed)} test images, {weights} weights",
    )  # fmt: skip
    known = [position for position, count in enumerate(COUNTS) if count in PAPER_SHARES]
    axis.plot(known, list(PAPER_SHARES.values()), "kD", label="paper: 591 test images")
    axis.set_xticks(positions, COUNTS)
    axis.set(
        xlabel="Training images changed", ylabel="Share of test images flipped", ylim=(0, 1.03)
    )
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize="small")


def draw_needed(axis, arrays: dict[str, np.ndarray]) -> None:
    """Training images that a flip took, against the margin before, with the quarters' edges."""
    places = np.array([COUNTS.index(n) if n else len(COUNTS) for n in arrays["needed"]])
    for label, name, color in ((0, "dogs", "tab:blue"), (1, "fish", "tab:orange")):
        own = arrays["labels"] == label
        axis.plot(arrays["margins"][own], places[own], "o", color=color, alpha=0.7, label=name)
    for edge in arrays["quartiles"]:
        axis.axvline(edge, color="0.8", linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(COUNTS) + 1), [*COUNTS, "more"])
    axis.set_ylim(-0.4, len(COUNTS) + 0.4)
    axis.set(xlabel="Margin before (logit)", ylabel="Training images needed")
    axis.set_xlim(left=0)
    axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize="small"
    )


if __name__ == "__main__":
    run(NAME, Fig5Config, compute, plot)
