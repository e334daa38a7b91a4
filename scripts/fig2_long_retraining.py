"""Figure 2, the network: retrainings of 30,000 real steps beside the flow that stands for them.

Not part of `make figures`: it takes about seven minutes a retraining, on a core.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from influence import AdamState, AllCNNC, plots
from scripts import fig2_leave_one_out
from scripts.loaders.mnist import load_mnist
from scripts.report.experiment import Config, Results, read, run
from scripts.steps.cnn_leave_one_out import after_steps, agreement
from scripts.steps.cnn_training import SEED, first_images

NAME = "fig2_long_retraining"


@dataclass(frozen=True)
class LongConfig(Config):
    """Retrain the network of Figure 2 without single points, step by step, as published.

    It starts from the network that `scripts.fig2_leave_one_out` left in the output folder.

    Attributes:
        points: training points, spread evenly over the ranking of those of the figure.
        steps: of every retraining; Adam goes on with its running means and its decayed rate.
        jobs: processes that retrain side by side, with a thread each; -1 is one for every core. The
            numbers are the same for any number.
    """

    points: int = 12
    steps: int = 30_000
    jobs: int = -1

    QUICK: ClassVar[dict] = {"points": 2, "steps": 20, "jobs": 1}


def compute(config: LongConfig) -> Results:
    """The change of the test loss after each retraining, and the figure's for the same points."""
    output = Path(config.output_dir)
    figure = read(output, fig2_leave_one_out.NAME)
    mnist = load_mnist(config.data, config.scale)
    if figure.provenance.sha256 != mnist.provenance.sha256:
        sys.exit(f"{NAME}: {output} holds Figure 2 of other data: run it again.")
    arrays = figure.arrays
    if "cnn_indices" not in arrays:
        sys.exit(f"{NAME}: Figure 2 in {output} has no network: run it without --no-network.")
    moments = (arrays[f"cnn_adam_{name}"] for name in ("parameters", "first", "second"))
    state = AdamState(int(arrays["cnn_adam_step"]), *moments)
    settings = fig2_leave_one_out.Fig2Config()
    train = first_images(mnist.train, int(arrays["cnn_images"]))
    model = AllCNNC(train, settings.cnn_weight_decay, seed=SEED).with_parameters(state.parameters)
    test_index = figure.metrics["cnn_test_index"]["ours"]
    test = mnist.test.x[[test_index]], mnist.test.labels[[test_index]]

    chosen = np.linspace(0, len(arrays["cnn_indices"]) - 1, config.points).round().astype(int)
    indices = arrays["cnn_indices"][chosen]
    before, stepped = model.losses(*test)[0], []
    folder = output / f"{NAME}.retrained"
    for theta in after_steps(model, state, indices, config.steps, folder, config.jobs):
        stepped.append(float(model.with_parameters(theta).losses(*test)[0] - before))

    results = Results(mnist.provenance)
    panel = figure.metrics["cnn_panel"]["ours"]
    results.arrays = {
        "indices": indices,
        "steps": np.array(stepped),
        "flow": arrays["cnn_actual"][chosen],
        "predicted": arrays[f"cnn_{panel}"][chosen],
    }
    results.add("indices", indices)
    for name in ("steps", "flow", "predicted"):
        results.add(name, results.arrays[name])
    for name in ("flow", "predicted"):
        correlation, slope = agreement(results.arrays["steps"], results.arrays[name])
        results.add(f"{name}_pearson_r", correlation)
        results.add(f"{name}_slope", slope)
    return results


def plot(results: Results) -> dict[str, plt.Figure]:
    """The flow, and the prediction, over what the real steps do."""
    arrays = results.arrays
    limit = 1.1 * max(np.abs(arrays[name]).max() for name in ("steps", "flow", "predicted"))
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.4), layout="constrained")
    for axis, name, label in zip(axes, ("flow", "predicted"), ("flow", "influence")):
        plots.predicted_against_actual(arrays[name], arrays["steps"], axis, limit=limit)
        axis.set(xlabel="Diff in loss, real steps", ylabel=f"Diff in loss, {label}")
    return {NAME: figure}


if __name__ == "__main__":
    run(NAME, LongConfig, compute, plot)
