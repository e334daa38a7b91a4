"""What the parts of the datamodeling benchmark share: its data, its trainings, its numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from influence import DatamodelingScore, Dataset, Retrainings, retrain_on_subsets
from influence.objective.retraining import Recipe, Refits
from scripts.loaders.mnist import Mnist
from scripts.report.experiment import Results
from scripts.steps.processes import processes

# Mean and standard deviation of MNIST's pixels, by which the published recipes normalise them.
_MEAN, _DEVIATION = 0.1307, 0.3081
# Of the model that is explained; the halves are trained with others.
SEED = 1000


class Benchmark:
    """The images, trainings on halves, and the record of numbers.

    Args:
        config: a ``DatamodelingConfig``.
        mnist: the data; the first training images are those that other experiments hold out.
        results: of the experiment.
        folder: where finished trainings are kept.

    Attributes:
        train, test: images of eight bits.
        train_normal, test_normal: the same, normalised as published.
        choosing: further test images, normalised, that damping is chosen by.
    """

    def __init__(self, config: Any, mnist: Mnist, results: Results, folder: Path) -> None:
        self.config, self.results, self.folder = config, results, folder
        after = config.tests + config.choosing_tests
        self.train = self._some(mnist.held_out, 0, config.points)
        self.test = self._some(mnist.test, 0, config.tests)
        self.train_normal = _normalised(self.train)
        self.test_normal = _normalised(self.test)
        self.choosing = _normalised(self._some(mnist.test, config.tests, after))

    def _some(self, points, first, last):
        every = self.config.every_pixel
        x = points.x[first:last, every // 2 :: every]
        return Dataset(x, points.labels[first:last], points.scale)

    def halves(self, recipe: Recipe, name: str) -> Retrainings:
        """Trainings on the halves that scores are held against."""
        config = self.config
        # A refit to the minimum has no chance in it.
        trainings = 1 if isinstance(recipe, Refits) else config.trainings
        return self._retrain(recipe, name, config.subsets, trainings, seed=0)

    def other_halves(self, recipe: Recipe, name: str) -> Retrainings:
        """A training on each of the halves that damping is chosen by."""
        return self._retrain(recipe, f"{name}_choosing", self.config.choosing, 1, seed=1)

    def _retrain(self, recipe, name, subsets, trainings, seed):
        with processes(0 if isinstance(recipe, Refits) else self.config.jobs):
            return self.timed(
                f"{name}_trainings",
                lambda: retrain_on_subsets(
                    recipe,
                    len(self.train),
                    subsets=subsets,
                    trainings=trainings,
                    seed=seed,
                    checkpoint=self.folder / f"{name}.npz",
                    progress=True,
                ),
            )

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """What ``work`` gives; its seconds are a metric."""
        start = time.perf_counter()
        value = work()
        self.results.add(f"{name}_seconds", round(time.perf_counter() - start, 1))
        return value

    def add(self, name: str, score: DatamodelingScore, published: float | None = None) -> None:
        """Record a score, its interval and what it is of each test image."""
        self.results.add(name, score.score, published)
        self.results.add(f"{name}_interval", score.interval)
        self.results.arrays[name] = score.per_test


def single(retrainings: Retrainings) -> Retrainings:
    """The first training of each subset alone."""
    return Retrainings(retrainings.size, retrainings.kept, retrainings.values[:, :1])


def first_tests(retrainings: Retrainings, number: int) -> Retrainings:
    """The first test points alone."""
    return Retrainings(retrainings.size, retrainings.kept, retrainings.values[:, :, :number])


def mean_correlation(
    actual: np.ndarray, predicted: np.ndarray
) -> tuple[float, tuple[float, float]]:
    """Pearson's, over points that were removed alone, of each test point, [k, m] both: the mean and
    its 95% interval."""
    first, second = (each - each.mean(axis=0) for each in (actual, predicted))
    sizes = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    values = (first * second).sum(axis=0)[sizes > 0] / sizes[sizes > 0]
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return mean, (mean - half, mean + half)


def _normalised(points):
    x = (points.x * points.scale - _MEAN) / _DEVIATION
    return Dataset(x.astype(np.float32), points.labels.astype(np.int64))
