"""Beyond the paper: what scores are worth, by a published benchmark of attribution methods.

The linear datamodeling score (Park et al. 2023, arXiv 2303.14186) on MNIST, with the training
recipes of dattri (Deng et al. 2024, arXiv 2410.04555) and its numbers beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt

from scripts.loaders.mnist import load_mnist
from scripts.report.experiment import Config, Results, run
from scripts.steps.datamodeling import Benchmark
from scripts.steps.datamodeling_networks import add_networks
from scripts.steps.datamodeling_regression import add_minimum, add_regression

NAME = "datamodeling_mnist"
# Scores of the figure: the metric, its name, and the published ones that have no counterpart here.
BARS = {
    "logistic regression, published recipe": {
        "lr_lds_published": "influence",
        "lr_tracin_lds": "TracIn",
    },
    "logistic regression, at the minimum": {
        "lr_lds_first": "λ = 0.01, first order",
        "lr_lds": "λ = 0.01, Newton step",
        "lr_weak_lds_first": "λ = 0.001, first order",
        "lr_weak_lds": "λ = 0.001, Newton step",
    },
    "network": {
        "mlp_lds": "influence",
        "mlp_lds_ensemble": "influence, ensemble",
        "mlp_ekfac_lds": "influence by EK-FAC",
        "mlp_last_layer_lds": "influence, last layer",
        "mlp_tracin_lds": "TracIn",
    },
}


@dataclass(frozen=True)
class DatamodelingConfig(Config):
    """Do scores foresee what training on random halves of the data does?

    Attributes:
        points: the first of the training images.
        tests: the first of the test images.
        subsets: random halves of the points.
        trainings: of each half, with seeds of their own; the truth is their mean.
        removed: points that are removed alone.
        choosing: halves, others, that the damping is chosen by.
        choosing_tests: test images, the next ones, that the damping is chosen by.
        network_tests: of the test images, those that the network's scores are computed for.
        networks: of the ensemble.
        network_passes: over the points.
        every_pixel: one of so many pixels is looked at; for tests.
        jobs: processes that train side by side, with a thread each; -1 is one for every core, and
            0 trains in this one. The numbers are the same for any number.
    """

    points: int = 5000
    tests: int = 500
    subsets: int = 100
    trainings: int = 3
    removed: int = 100
    choosing: int = 20
    choosing_tests: int = 20
    network_tests: int = 500
    networks: int = 10
    network_passes: int = 50
    every_pixel: int = 1
    jobs: int = -1

    QUICK: ClassVar[dict] = {
        "points": 120,
        "tests": 12,
        "subsets": 8,
        "trainings": 2,
        "removed": 4,
        "choosing": 4,
        "choosing_tests": 4,
        "network_tests": 4,
        "networks": 2,
        "network_passes": 5,
        "every_pixel": 27,
        "jobs": 0,
    }


def compute(config: DatamodelingConfig) -> Results:
    """Train on halves, compute scores, and correlate; of two models, each in its own way."""
    mnist = load_mnist(config.data, config.scale)
    results = Results(mnist.provenance)
    folder = Path(config.output_dir) / f"{NAME}.trained"
    benchmark = Benchmark(config, mnist, results, folder)
    add_regression(benchmark)
    add_minimum(benchmark)
    add_networks(benchmark)
    results.add("points", len(benchmark.train), 5000)
    results.add("tests", len(benchmark.test), 500)
    results.add("subsets", config.subsets, 100)
    return results


def plot(results: Results) -> dict[str, plt.Figure]:
    """Bars of the scores, with intervals and ceilings, and the published ones as lines."""
    figure, axes = plt.subplots(
        len(BARS),
        1,
        figsize=(6.4, 5.9),
        sharex=True,
        layout="constrained",
        gridspec_kw={"height_ratios": [len(rows) + 0.8 for rows in BARS.values()]},
    )
    numbers = {name: entry["ours"] for name, entry in results.metrics.items()}
    for axis, (title, rows) in zip(axes, BARS.items()):
        for place, metric in enumerate(rows):
            low, high = numbers[f"{metric}_interval"]
            axis.barh(place, numbers[metric], color="tab:blue", height=0.6)
            axis.plot([low, high], [place, place], color="black", linewidth=1.2)
            published = results.metrics[metric]["paper"]
            if published is not None:
                axis.plot(2 * [published], [place - 0.4, place + 0.4], color="tab:orange")
        ceiling = numbers.get({"network": "mlp_lds_ceiling"}.get(title, "lr_lds_ceiling"))
        if ceiling is not None and "minimum" not in title:
            axis.axvline(ceiling, color="0.6", linestyle=":")
        axis.set(yticks=range(len(rows)), yticklabels=rows.values(), title=title)
        axis.invert_yaxis()
    axes[-1].set(
        xlim=(0, 1),
        xlabel="linear datamodeling score (orange: published; dotted: ceiling)",
    )
    return {NAME: figure}


if __name__ == "__main__":
    run(NAME, DatamodelingConfig, compute, plot)
