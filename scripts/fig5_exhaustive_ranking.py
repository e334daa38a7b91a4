"""Figure 5, the candidates: every training image's pixel gradient, against the pre-selection.

Not part of `make figures`: it takes about eight minutes a test image, and two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from influence.data.files import saved_arrays, write_atomically
from influence.studies.poisoning import preselect, rank
from scripts.fig5_training_attack import Fig5Config, choose, prepare
from scripts.report.experiment import Config, Results, run

NAME = "fig5_exhaustive_ranking"


@dataclass(frozen=True)
class RankingConfig(Config):
    """Rank all training images for some test images, as the paper does, and look where its best
    ones stand in the order of the gradients at the features.

    Attributes:
        tests: test images, the first that `scripts.fig5_training_attack` attacks.
        image_side: pixels of a side.
        preselected: the images that `scripts.fig5_training_attack` ranks.
    """

    tests: int = 3
    image_side: int = 299
    preselected: int = Fig5Config.preselected

    QUICK: ClassVar[dict] = {"tests": 1, "preselected": 10}


def compute(config: RankingConfig) -> Results:
    """Where the best ten of the exhaustive ranking stand in the other order, for every test."""
    side, shared = config.image_side, (config.data, config.scale, config.output_dir)
    problem, found = prepare(Fig5Config(*shared, image_side=side))
    model, everybody = problem.model, np.arange(len(problem.data.train))
    chosen = choose(problem, config.tests)
    places = []
    for test in tqdm(chosen, desc="test images", disable=None):
        point = problem.point(test)
        path = problem.path("ranking", test)
        unit = saved_arrays(path)
        if unit is None:
            order, norms = rank(model, everybody, *point, progress=True)
            unit = {"order": order, "norms": norms}
            write_atomically(path, lambda file, unit=unit: np.savez(file, **unit))
        place = np.empty(len(everybody), int)
        place[preselect(model, *point, len(everybody))] = everybody
        places.append(place[unit["order"][:10]])
    places = np.array(places)

    results = Results(problem.data.provenance, {"places": places})
    found.describe(results)
    results.add("test_indices", chosen)
    results.add("preselected", config.preselected)
    preselected = places < config.preselected
    results.add("tests", len(chosen))
    results.add("tests_with_best_two_preselected", int(preselected[:, :2].all(axis=1).sum()))
    results.add("of_best_ten_preselected", preselected.sum(axis=1))
    results.add("last_place_of_best_two", places[:, :2].max(axis=1))
    results.add("last_place_of_best_ten", places.max(axis=1))
    return results


def plot(results: Results) -> dict[str, plt.Figure]:
    """Nothing to draw: the table says it all."""
    return {}


if __name__ == "__main__":
    run(NAME, RankingConfig, compute, plot)
