"""Figure 1: what the training loss and H⁻¹ contribute to the influence, 1 against 7 in MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from influence import BinaryLogisticRegression
from scripts.loaders.mnist import SIDE, load_mnist
from scripts.report.experiment import Config, Results, run

NAME = "fig1_components"
VARIANTS = {
    "no_train_loss": "without the train loss",
    "no_hessian": "without $H^{-1}$",
    "neither": "without either",
}


@dataclass(frozen=True)
class Fig1Config(Config):
    """Figure 1 of the paper: components of influence.

    Attributes:
        test_index: the test image, within the 1/7 test set.
        weight_decay: λ.
        harmful_rank: which of the most harmful training images with the test label is shown.
    """

    test_index: int = 30
    weight_decay: float = 0.01
    harmful_rank: int = 5

    QUICK: ClassVar[dict] = {}


def compute(config: Fig1Config) -> Results:
    """n × predicted change on removal, in full and without each component."""
    mnist = load_mnist(config.data, config.scale).pair(negative=7, positive=1)
    train, test = mnist.train, mnist.test
    model = BinaryLogisticRegression(train, config.weight_decay, dtype="float64").fit()
    x_test, y_test = test.x[config.test_index], test.labels[config.test_index]
    n = len(train)

    full = n * model.influence_on_loss(x_test, y_test)[0]
    gradient = model.test_gradient(x_test, y_test)[:, 0]
    s_test = model.inverse_hvp(gradient).x
    x = train.x * train.scale
    sign = 2.0 * train.labels - 1
    theta = model.parameters
    # −y x is ∇L without the factor σ(−y θᵀx) that tells how badly the point is fitted.
    without_loss = -sign[:, np.newaxis] * x
    slopes = 1 / (1 + np.exp(sign * (x @ theta)))
    variants = {
        "no_train_loss": without_loss @ s_test,
        "no_hessian": slopes * (without_loss @ gradient) + config.weight_decay * theta @ gradient,
        "neither": without_loss @ gradient,
    }

    same = train.labels == y_test
    harmful = same & (full < 0)
    shown = np.flatnonzero(same)[np.argsort(full[same], kind="stable")][config.harmful_rank - 1]
    results = Results(mnist.provenance)
    results.arrays = {
        "full": full,
        **variants,
        "same": same,
        "test_image": test.x[config.test_index].reshape(SIDE, SIDE),
        "harmful_image": train.x[shown].reshape(SIDE, SIDE),
    }
    results.add("harmful_same_class", int(harmful.sum()))
    for name, values in variants.items():
        results.add(name, float((values[harmful] < 0).mean()) if harmful.any() else None)
    results.add("gradient_norm", float(np.linalg.norm(model.gradient())))
    return results


def plot(results: Results) -> dict[str, plt.Figure]:
    """Three scatters against the full influence, and the two images."""
    arrays = results.arrays
    figure = plt.figure(figsize=(10.5, 3.4), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 0.42))
    first = None
    for column, (name, title) in enumerate(VARIANTS.items()):
        axis = figure.add_subplot(grid[:, column], sharey=first)
        for same, colour in ((False, "tab:red"), (True, "tab:green")):
            chosen = arrays["same"] == same
            axis.scatter(
                arrays[name][chosen],
                arrays["full"][chosen],
                s=5,
                color=colour,
                linewidths=0,
                label="same label as the test image" if same else "other label",
                rasterized=True,
            )
        axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.set_xlabel(title)
        if first is None:
            first = axis
            axis.set_ylabel("full influence\n($n$ × predicted change of test loss)")
            handles, labels = axis.get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="outside upper center", ncols=2, markerscale=3, frameon=False
            )
        else:
            axis.tick_params(labelleft=False)
    for row, (name, title) in enumerate(
        (("test_image", "Test image"), ("harmful_image", "Harmful\ntraining image"))
    ):
        axis = figure.add_subplot(grid[row, 3])
        axis.imshow(arrays[name], cmap="gray")
        axis.set_title(title, fontsize="small")
        axis.set_xticks([])
        axis.set_yticks([])
    return {NAME: figure}


if __name__ == "__main__":
    run(NAME, Fig1Config, compute, plot)
