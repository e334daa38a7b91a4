"""Figure 3: influence on a hinge loss, which has no curvature, through smooth versions of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from influence import Dataset, plots
from influence.models.smooth_hinge import SmoothHinge, SmoothHingeLoss
from scripts.loaders.mnist import load_mnist
from scripts.report.experiment import Config, Results, run

NAME = "fig3_smooth_hinge"
SWEEP_NAME = "fig3_temperatures"
# The panels of (b) with the paper's R; (a) has one temperature more.
PAPER_R = {0.0: 0.632, 0.001: 0.950, 0.1: 0.914}
LOSSES = (0.0, 0.001, 0.01, 0.1)
# Beyond the paper.
SWEEP = np.geomspace(1e-4, 1, 9)
# The axes of the paper, which cuts off what lies outside; these are wider then.
LIMIT = 0.025
LIMIT_HINGE = 0.5


@dataclass(frozen=True)
class Fig3Config(Config):
    """Figure 3 of the paper: a smooth hinge predicts what refitting a hinge does.

    Attributes:
        test_index: the test image of the paper, among the ones and sevens; the stand-in takes the
            one whose hinge loss is closest to 0.5.
        points: training points to leave out, those with the largest |influence| at t = 0.
        weight_decay: λ.
    """

    test_index: int = 1597
    points: int = 100
    weight_decay: float = 0.01

    QUICK: ClassVar[dict] = {"points": 20}


def compute(config: Fig3Config) -> Results:
    """Predictions at the hinge's weights for each temperature, and refits of the hinge."""
    mnist = load_mnist(config.data, config.scale).pair(negative=7, positive=1)
    train, test = _whole_hundreds(mnist.train), _whole_hundreds(mnist.test)
    hinge = SmoothHinge(train, config.weight_decay, 0, dtype="float64").fit()
    test_index = config.test_index
    if mnist.provenance.data != "paper":
        test_index = int(np.abs(hinge.losses(test.x, test.labels) - 0.5).argmin())
    x_test, y_test = test.x[test_index], test.labels[test_index]

    def influence(temperature):
        model = SmoothHinge(train, config.weight_decay, temperature, dtype="float64")
        return model.with_parameters(hinge.parameters).influence_on_loss(x_test, y_test)[0]

    at_zero = influence(0)
    chosen = np.argsort(-np.abs(at_zero), kind="stable")[: config.points]
    predicted = np.array([influence(t)[chosen] for t in PAPER_R])
    sweep = np.array([influence(t)[chosen] for t in SWEEP])
    # One after the other: liblinear's random numbers are global to the process, so that threads
    # would mix them up, and starting processes takes longer than all the refits.
    before = hinge.losses(x_test, y_test)[0]
    refits = (hinge.refit(index) for index in tqdm(chosen, desc="leave-one-out", disable=None))
    actual = np.array([refit.losses(x_test, y_test)[0] for refit in refits]) - before

    results = Results(mnist.provenance)
    results.arrays = {"indices": chosen, "actual": actual, "predicted": predicted, "sweep": sweep}
    for (temperature, paper), values in zip(PAPER_R.items(), predicted):
        results.add(f"pearson_r_t{temperature:g}", _correlation(actual, values), paper)
    for temperature, values in zip(PAPER_R, predicted):
        results.add(f"slope_t{temperature:g}", _slope(actual, values))
    results.add("temperatures", SWEEP)
    results.add("pearson_r_by_temperature", [_correlation(actual, values) for values in sweep])
    results.add("slope_by_temperature", [_slope(actual, values) for values in sweep])
    results.add("points", len(chosen), 100)
    results.add("test_index", test_index, 1597)
    results.add("test_margin", y_test * hinge.outputs(x_test)[0, 0])
    results.add("training_points", len(train))
    results.add("test_accuracy", (hinge.predict(test.x) == test.labels).mean())
    return results


def plot(results: Results) -> dict[str, plt.Figure]:
    """(a) the losses, (b) predicted against actual changes; and R and slope by temperature."""
    return {NAME: _figure(results), SWEEP_NAME: _sweep_figure(results)}


def _figure(results):
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 6.2), layout="constrained")
    _draw_losses(axes[0, 0])
    actual, predicted = results.arrays["actual"], results.arrays["predicted"]
    smooth_limit = _limit(LIMIT, actual, predicted[1:])
    titles = ("t = 0 (hinge)", "t = 0.001", "t = 0.1")
    for axis, temperature, values, title in zip(axes.flat[1:], PAPER_R, predicted, titles):
        limit = _limit(LIMIT_HINGE, values) if temperature == 0 else smooth_limit
        both = max(limit, smooth_limit)
        plots.predicted_against_actual(values, actual, axis, limit=both).set_aspect("auto")
        axis.set(xlim=(-smooth_limit, smooth_limit), ylim=(-limit, limit), title=f"(b) {title}")
        axis.set(xlabel="Actual diff in loss", ylabel="Predicted diff in loss", box_aspect=1)
        correlation = results.metrics[f"pearson_r_t{temperature:g}"]["ours"]
        axis.text(0.05, 0.9, f"$R$ = {correlation:.3f}", transform=axis.transAxes)
        axis.locator_params(axis="x", nbins=3)
        axis.locator_params(axis="y", nbins=5)
    return figure


def _draw_losses(axis):
    margins = np.linspace(0.8, 1.2, 401)
    ones = np.ones(len(margins), np.int64)
    for temperature in LOSSES:
        losses = SmoothHingeLoss(temperature).losses(margins[:, np.newaxis], ones)
        label = f"t = {temperature:g}" if temperature else "t = 0 (hinge)"
        # The two lowest are hardly apart: the hinge goes below, wider.
        width = 1.5 if temperature else 4
        axis.plot(margins, losses, label=label, linewidth=width, alpha=1 if temperature else 0.4)
    axis.set(title="(a) Losses", xlabel="Margin $s$", ylabel="Loss", box_aspect=1)
    axis.set(xlim=(0.8, 1.2), ylim=(-0.005, 0.225))
    axis.locator_params(nbins=5)
    axis.legend(frameon=False, loc="upper right", fontsize="small")


def _sweep_figure(results):
    numbers = {name: entry["ours"] for name, entry in results.metrics.items()}
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    axis.axhline(1, color="0.6", linewidth=1)
    axis.axhline(numbers["pearson_r_t0"], color="tab:blue", linewidth=1, linestyle=":")
    axis.semilogx(
        numbers["temperatures"],
        numbers["pearson_r_by_temperature"],
        marker="o",
        color="tab:blue",
        label="Pearson $R$ (dotted: the hinge)",
    )
    axis.semilogx(
        numbers["temperatures"],
        numbers["slope_by_temperature"],
        marker="s",
        color="tab:orange",
        label="slope, predicted on actual",
    )
    axis.set(xlabel="Temperature $t$", title="Beyond the paper: how to choose a temperature")
    # From 0, unless a number of the stand-in lies below.
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    axis.legend(frameon=False, loc="lower left")
    return figure


def _limit(paper, *values):
    return max(paper, *(1.1 * np.abs(array).max() for array in values))


def _correlation(actual, predicted):
    return np.corrcoef(actual, predicted)[0, 1]


def _slope(actual, predicted):
    return np.polyfit(actual, predicted, 1)[0]


def _whole_hundreds(points):
    """The first points, a multiple of hundred (all if fewer), labelled −1 and +1."""
    size = 100 * (len(points) // 100) or len(points)
    labels = 2 * points.labels[:size].astype(np.int64) - 1
    return Dataset(points.x[:size], labels, points.scale)


if __name__ == "__main__":
    run(NAME, Fig3Config, compute, plot)
