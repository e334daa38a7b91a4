"""Figure 2, the network: retrainings of 30,000 real steps beside the flow that stands for them.

Not part of `make figures`: it takes about 15 minutes a retraining, and two a point.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from influence import Adam, AdamState, AllCNNC
from influence.fitting.adam import continue_without
from scripts import fig2_leave_one_out
from scripts.loaders.mnist import load_mnist
from scripts.report.experiment import Config, Results, read, run
from scripts.steps.cnn_leave_one_out import first_images

NAME = "fig2_long_retraining"


@dataclass(frozen=True)
class LongConfig(Config):
    """Retrain the network of Figure 2 without single points, step by step.

    It starts from the network that `scripts.fig2_leave_one_out` left in the output folder, at its
    default settings.

    Attributes:
        points: training points, spread evenly over those of the figure.
        steps: of every retraining.
        decayed_rate: first learning rate of the second kind of retraining: a tenth of it after a
            third of the steps, a hundredth after two thirds.
    """

    points: int = 3
    steps: int = 30_000
    decayed_rate: float = 1e-4

    QUICK: ClassVar[dict] = {"points": 1, "steps": 20}


def compute(config: LongConfig) -> Results:
    """The change of the test loss after each retraining, and the figure's for the same points."""
    output = Path(config.output_dir)
    figure = read(output, fig2_leave_one_out.NAME)
    mnist = load_mnist(config.data)
    if figure.provenance.sha256 != mnist.provenance.sha256:
        sys.exit(f"{NAME}: {output} holds Figure 2 of other data: run it again.")
    arrays = figure.arrays
    if "cnn_indices" not in arrays:
        sys.exit(f"{NAME}: Figure 2 in {output} has no network: run it without --no-network.")
    moments = (arrays[f"cnn_adam_{name}"] for name in ("parameters", "first", "second"))
    state = AdamState(int(arrays["cnn_adam_step"]), *moments)
    settings = fig2_leave_one_out.Fig2Config()
    train = first_images(mnist.train, int(arrays["cnn_images"]))
    model = AllCNNC(train, settings.cnn_weight_decay).with_parameters(state.parameters)
    test_index = figure.metrics["cnn_test_index"]["ours"]
    test = mnist.test.x[test_index][np.newaxis], mnist.test.labels[test_index][np.newaxis]
    before = model.losses(*test)[0]
    third = state.step + config.steps // 3, state.step + 2 * config.steps // 3
    adams = {
        "restored": Adam(1e-6, ()),
        "decayed": Adam(config.decayed_rate, ((third[0], 0.1), (third[1], 0.01))),
    }

    chosen = np.linspace(0, len(arrays["cnn_indices"]) - 1, config.points).round().astype(int)
    results = Results(mnist.provenance)
    changes = {name: [] for name in adams}
    for name, adam in adams.items():
        for index in arrays["cnn_indices"][chosen]:
            retrained = continue_without(
                adam,
                model,
                state,
                int(index),
                config.steps,
                checkpoint=output / f"{NAME}_{name}_{index}.npz",
                progress=True,
            )
            changes[name].append(float(retrained.losses(*test)[0] - before))
    results.add("indices", arrays["cnn_indices"][chosen])
    results.add("flow", arrays["cnn_actual"][chosen])
    for name, values in changes.items():
        results.add(name, values)
        results.arrays[name] = np.array(values)
    results.add("gauss_newton_prediction", arrays["cnn_gauss_newton"][chosen])
    return results


def plot(results: Results) -> dict[str, plt.Figure]:
    """Nothing to draw: the table says it all."""
    return {}


if __name__ == "__main__":
    run(NAME, LongConfig, compute, plot)
