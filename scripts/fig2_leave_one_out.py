"""Figure 2: predicted changes of a test loss against really leaving the point out, on MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from influence import ConjugateGradient, Lissa, LogisticRegression, leave_one_out
from scripts.experiment import Config, Results, run
from scripts.loaders.mnist import load_mnist

NAME = "fig2_leave_one_out"
LIMIT = 0.05


@dataclass(frozen=True)
class Fig2Config(Config):
    """Figure 2 of the paper: influence matches leave-one-out retraining.

    Attributes:
        test_index: the (misclassified) test image of the paper; the stand-in takes its first
            misclassified one.
        points: training points to leave out, those with the largest |influence|.
        weight_decay: λ.
        lissa_repeats: r of LiSSA.
        lissa_depth: t of LiSSA.
        lissa_scale: σ of LiSSA.
        gradient_tolerance: gradient norm of every refit.
    """

    test_index: int = 8
    points: int = 500
    weight_decay: float = 0.01
    lissa_repeats: int = 10
    lissa_depth: int = 5000
    lissa_scale: float = 25.0
    gradient_tolerance: float = 1e-8

    QUICK: ClassVar[dict] = {"points": 20, "lissa_repeats": 4, "lissa_depth": 1000}


def compute(config: Fig2Config) -> Results:
    """Predictions by conjugate gradients and by LiSSA, and the refits."""
    mnist = load_mnist(config.data)
    model = LogisticRegression(mnist.train, config.weight_decay, dtype="float64").fit()
    test_index = config.test_index
    if mnist.provenance.data != "paper":
        test_index = int((model.predict(mnist.test.x) != mnist.test.labels).argmax())
    x_test, y_test = mnist.test.x[test_index], mnist.test.labels[test_index]
    exact = ConjugateGradient(tolerance=1e-8, preconditioner=model.preconditioner())
    lissa = Lissa(config.lissa_scale, config.lissa_depth, config.lissa_repeats)
    predicted = model.influence_on_loss(x_test, y_test, solver=exact, strict=True)[0]
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
    """Actual against predicted changes: one panel a way to compute them."""
    arrays, limit = results.arrays, LIMIT
    if results.provenance.data != "paper":
        # A smaller training set moves more when a point is left out.
        limit = 1.1 * max(np.abs(arrays[name]).max() for name in ("actual", "exact", "lissa"))
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.3), sharey=True, layout="constrained")
    panels = (("exact", "Linear (exact)"), ("lissa", "Linear (approx)"))
    for axis, (name, title) in zip(axes, panels):
        axis.plot([-limit, limit], [-limit, limit], color="0.6", linewidth=1, zorder=0)
        axis.scatter(arrays["actual"], arrays[name], s=9, linewidths=0, color="tab:blue")
        axis.set(title=title, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axis.set_xlabel("Actual diff in loss")
        correlation = results.metrics[f"{name}_pearson_r"]["ours"]
        axis.text(0.05, 0.9, f"$R$ = {correlation:.5f}", transform=axis.transAxes)
        axis.locator_params(nbins=5)
    axes[0].set_ylabel("Predicted diff in loss")
    return {NAME: figure}


if __name__ == "__main__":
    run(NAME, Fig2Config, compute, plot)
