"""Figure 2: predicted changes of a test loss against really leaving the point out, on MNIST."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from influence import (
    ConjugateGradient,
    Lissa,
    LogisticRegression,
    SolverWarning,
    leave_one_out,
    plots,
)
from scripts.loaders.mnist import Mnist, load_mnist
from scripts.report.experiment import Config, Results, run
from scripts.steps.cnn_leave_one_out import add_network

NAME = "fig2_leave_one_out"
LIMIT = 0.05


@dataclass(frozen=True)
class Fig2Config(Config):
    """Figure 2 of the paper: influence matches leave-one-out retraining.

    On the stand-in the network has 1,000 training images at most, and is retrained without 20.

    Attributes:
        test_index: the (misclassified) test image of the paper; the stand-in takes its first
            misclassified one.
        points: training points to leave out, those with the largest |influence|.
        weight_decay: λ.
        lissa_repeats: r of LiSSA.
        lissa_depth: t of LiSSA.
        lissa_scale: σ of LiSSA.
        gradient_tolerance: gradient norm of every refit.
        network: also retrain the convolutional network, for the paper's third panel;
            ``--no-network`` leaves it out.
        cnn_test_index: test image of the network's panel; the stand-in takes its first
            misclassified one.
        cnn_images: training images of the network.
        cnn_points: training points to leave out of the network's training.
        cnn_weight_decay: λ of the network.
        cnn_damping: δ.
        train: train the network anew, with the settings below, even where there is a state of
            500,000 steps (``data/all_cnn_c_500000.npz``) to start from. Scale paper does so with
            the paper's settings, and data that are not MNIST's have no such state.
        cnn_steps: steps of Adam (500,000 at scale paper), and a learning rate that fits them.
        cnn_rate: the learning rate of the first steps (1e-4 at scale paper).
        cnn_retraining_steps: further steps, with a learning rate of 1e-6, of each retraining. At
            scale laptop the flow that they follow takes their place.
        cnn_flow_steps: of that flow's integrator, two gradients each.
        jobs: processes that retrain side by side at scale paper, with a thread each; -1 is one for
            every core. The numbers are the same for any number.
    """

    test_index: int = 8
    points: int = 500
    weight_decay: float = 0.01
    lissa_repeats: int = 10
    lissa_depth: int = 5000
    lissa_scale: float = 25.0
    gradient_tolerance: float = 1e-8

    network: bool = True
    cnn_test_index: int = 6558
    cnn_images: int = 5500
    cnn_points: int = 100
    cnn_weight_decay: float = 0.001
    cnn_damping: float = 0.01
    train: bool = False
    cnn_steps: int = 10_000
    cnn_rate: float = 1e-3
    cnn_retraining_steps: int = 30_000
    cnn_flow_steps: int = 3
    jobs: int = -1

    QUICK: ClassVar[dict] = {
        "points": 20, "lissa_repeats": 4, "network": False,
        "cnn_images": 100, "cnn_points": 2, "cnn_steps": 60, "cnn_flow_steps": 2,
    }  # fmt: skip
    PAPER: ClassVar[dict] = {"cnn_steps": 500_000, "cnn_rate": 1e-4}


def compute(config: Fig2Config) -> Results:
    """The linear panels, then the network's."""
    mnist = load_mnist(config.data, config.scale)
    results = compute_linear(config, mnist)
    if config.network:
        folder = Path(config.output_dir) / f"{NAME}.cnn"
        add_network(results, config, mnist, folder)
        shutil.rmtree(folder)
    return results


def compute_linear(config: Fig2Config, mnist: Mnist) -> Results:
    """Predictions by conjugate gradients and by LiSSA, and the refits."""
    model = LogisticRegression(mnist.train, config.weight_decay, dtype="float64").fit()
    test_index = config.test_index
    if mnist.provenance.data != "paper":
        test_index = int((model.predict(mnist.test.x) != mnist.test.labels).argmax())
    x_test, y_test = mnist.test.x[test_index], mnist.test.labels[test_index]
    exact = ConjugateGradient(tolerance=1e-8, preconditioner=model.preconditioner())
    lissa = Lissa(config.lissa_scale, config.lissa_depth, config.lissa_repeats)
    predicted = model.influence_on_loss(x_test, y_test, solver=exact, strict=True)[0]
    with warnings.catch_warnings():
        # How far its depth is from enough is in the figure: R and slope against the refits.
        warnings.simplefilter("ignore", SolverWarning)
        approximate = model.influence_on_loss(x_test, y_test, solver=lissa)[0]

    chosen = np.argsort(-np.abs(predicted), kind="stable")[: config.points]
    checkpoint = Path(config.output_dir) / f"{NAME}.checkpoint.npz"
    refits = leave_one_out(
        model,
        chosen,
        x_test,
        y_test,
        gradient_tolerance=config.gradient_tolerance,
        checkpoint=checkpoint,
        progress=True,
    )
    checkpoint.unlink()  # all is done: the next run shall measure its own seconds
    actual = refits.changes[:, 0]
    results = Results(mnist.provenance)
    results.arrays = {
        "indices": chosen,
        "actual": actual,
        "exact": predicted[chosen],
        "lissa": approximate[chosen],
        "gradient_norms": refits.gradient_norms,
    }
    for name in ("exact", "lissa"):
        values = results.arrays[name]
        results.add(f"{name}_pearson_r", np.corrcoef(actual, values)[0, 1])
        results.add(f"{name}_slope", np.polyfit(actual, values, 1)[0])
    results.add("prediction_min", predicted[chosen].min(), -0.024)
    results.add("prediction_max", predicted[chosen].max(), 0.031)
    results.add("max_refit_gradient_norm", refits.gradient_norms.max())
    results.add("points", len(chosen), 500)
    results.add("test_index", test_index, 8)
    results.add("test_accuracy", (model.predict(mnist.test.x) == mnist.test.labels).mean())
    return results


def plot(results: Results) -> dict[str, plt.Figure]:
    """The paper's panels; and the network against plain and proximal retraining."""
    metrics, real = results.metrics, results.provenance.data == "paper"
    panels = [
        ("exact", "actual", "Linear (exact)", "exact"),
        ("lissa", "actual", "Linear (approx)", "lissa"),
    ]
    network = "cnn_panel" in metrics
    if network:
        title = "CNN" if real else f"CNN, {metrics['cnn_training_images']['ours']:,} images"
        panels.append((f"cnn_{metrics['cnn_panel']['ours']}", "cnn_actual", title, "cnn"))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.2 * len(panels), 3.4), layout="constrained"
    )
    for axis, (name, actual, title, metric) in zip(axes, panels):
        _scatter(axis, results, actual, name, LIMIT if real and metric != "cnn" else None)
        correlation = metrics[f"{metric}_pearson_r"]["ours"]
        digits = 5 if metric == "exact" else 4
        axis.text(0.05, 0.9, f"$R$ = {correlation:.{digits}f}", transform=axis.transAxes)
        axis.set(title=title, xlabel="Actual diff in loss")
    axes[0].set_ylabel("Predicted diff in loss")
    if not network:
        return {NAME: figure}
    curvature = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton"}
    note = f"{curvature[metrics['cnn_panel']['ours']]}, scale {metrics['cnn_scale']['ours']}"
    axes[2].text(
        0.97, 0.04, note, transform=axes[2].transAxes, ha="right", fontsize="x-small", color="0.4"
    )
    return {NAME: figure, f"{NAME}_cnn": plot_network(results)}


def plot_network(results: Results) -> plt.Figure:
    """Rows: plain and proximal retraining. Columns: the curvature of the predictions, the last with
    the point's own left out."""
    metrics = results.metrics
    dampings = {"": metrics["cnn_damping"]["ours"]}
    # Where the Hessian is positive definite with the paper's damping, there is no other one.
    if metrics["cnn_chosen_damping"]["ours"] != dampings[""]:
        dampings["_chosen"] = metrics["cnn_chosen_damping"]["ours"]
    columns = {
        f"{name}{suffix}": f"{title} + {damping:.2g}"
        for name, title in (("hessian", "Hessian"), ("gauss_newton", "Gauss-Newton"))
        for suffix, damping in dampings.items()
    }
    if "cnn_ekfac_slope" in metrics:  # older runs have none
        columns["ekfac"] = f"EK-FAC + {dampings['']:.2g}"
    columns["one_step"] = f"Newton step + {dampings['']:.2g}"
    # Then the panel of the paper has another curvature.
    indefinite = metrics["cnn_panel"]["ours"] != "hessian"
    rows = {"actual": ("plain retraining", ""), "proximal": ("proximal objective", "_proximal")}
    size = 2.8 * len(columns), 6
    figure, grid = plt.subplots(2, len(columns), figsize=size, layout="constrained")
    for row, (target, (words, suffix)) in zip(grid, rows.items()):
        for axis, (name, title) in zip(row, columns.items()):
            _scatter(axis, results, f"cnn_{target}", f"cnn_{name}", None)
            label = f"cnn_{name}{suffix}"
            r, slope = (metrics[f"{label}_{what}"]["ours"] for what in ("pearson_r", "slope"))
            note = "no prediction" if r is None else f"$R$ = {r:.3f}\nslope {slope:.2f}"
            if name == "hessian" and indefinite:
                note += "\n(indefinite)"
            axis.text(0.05, 0.95, note, transform=axis.transAxes, verticalalignment="top")
            axis.set_title(title, fontsize="medium")
            axis.set_xlabel(f"Actual diff, {words}", fontsize="small")
        row[0].set_ylabel("Predicted diff in loss")
    return figure


def _scatter(axis, results, actual, name, limit):
    """Predictions over what happened, with equal axes and a diagonal."""
    arrays = results.arrays
    plots.predicted_against_actual(arrays[name], arrays[actual], axis, limit=limit)
    axis.set(xlabel="", ylabel="")  # which the rows and columns of panels share


if __name__ == "__main__":
    run(NAME, Fig2Config, compute, plot)
