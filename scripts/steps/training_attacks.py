"""The attacks of Figure 5, one by one: each in a file of its own, checked from that file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from influence import BinaryInceptionModel
from influence.data.files import fingerprint, saved_arrays, write_atomically
from influence.studies.poisoning import attack, eight_bits, preselect, rank, refit_from_scratch
from scripts.loaders.dogfish import Dogfish
from scripts.report.experiment import Config

# Places in the ranking of the images that change together, in the paper's order; the first set
# that flips the test image is the last that is tried.
LADDER = ((0, 1), (1, 2), (0, 2), (0, 3), (0, 5), (0, 10))


@dataclass(frozen=True)
class Problem:
    """A fitted model, the test images with their features, and where finished attacks are kept."""

    config: Config
    data: Dogfish
    model: BinaryInceptionModel
    features: np.ndarray
    folder: Path

    def point(self, tests) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels of these test images."""
        tests = np.atleast_1d(tests)
        return self.features[tests], self.data.test.labels[tests]

    def correct(self) -> np.ndarray:
        """The test images that the model classifies correctly."""
        predicted = self.model.top.predict(self.features)
        return np.flatnonzero(predicted == self.data.test.labels)

    def path(self, kind: str, tests, *settings) -> Path:
        """Where the attack on these test images is kept."""
        train = self.model.top.train
        own = repr((kind, LADDER, self.config.preselected, self.config.weight_decay, settings))
        key = fingerprint(own, train.x, train.labels, *self.point(tests))
        return self.folder / f"{kind}-{key[:16]}.npz"


def single_attack(problem: Problem, test: int) -> dict[str, np.ndarray]:
    """Up the ladder until the prediction of one test image flips; from its file if it is there.

    ``needed`` is the number of training images that it took, 0 if ten were not enough; ``indices``
    and ``images`` are those of the last set.
    """
    config, model, point = problem.config, problem.model, problem.point(test)

    def ladder():
        shortlist = preselect(model, *point, config.preselected)
        ranking, _ = rank(model, shortlist, *point)
        seconds, passes, refits = {"forward": 0.0, "refit": 0.0, "backward": 0.0}, 0, 0
        for first, last in LADDER:
            settings = {"step_size": config.step_size, "steps": config.steps}
            found = attack(model, ranking[first:last], *point, **settings)
            for part, spent in found.seconds.items():
                seconds[part] += spent
            passes += len(found.indices) * len(found.wrong)
            refits += len(found.wrong)
            if found.wrong[-1]:
                break
        needed = len(found.indices) if found.wrong[-1] else 0
        unit = {"needed": needed, "ranking": ranking, "passes": passes, "refits": refits}
        return unit | seconds | arrays_of(found)

    path = problem.path("single", test, config.step_size, config.steps)
    return finished(problem, path, ladder, point)


def multi_attack(problem: Problem, group: np.ndarray) -> dict[str, np.ndarray]:
    """One training image against all test images of ``group``; from its file if it is there."""
    config, model, point = problem.config, problem.model, problem.point(group)
    path = problem.path("multi", group, config.multi_step_size, config.multi_steps)
    checkpoint = path.with_suffix(".checkpoint.npz")

    def steps():
        ranking, _ = rank(model, preselect(model, *point, config.preselected), *point)
        found = attack(
            model,
            ranking[:1],
            *point,
            step_size=config.multi_step_size,
            steps=config.multi_steps,
            checkpoint=checkpoint,
            progress=True,
        )
        return arrays_of(found)

    unit = finished(problem, path, steps, point)
    checkpoint.unlink(missing_ok=True)
    return unit


def arrays_of(found) -> dict[str, np.ndarray]:
    """What goes into the file of an attack."""
    names = ("indices", "images", "losses", "wrong", "best")
    return {name: np.asarray(getattr(found, name)) for name in names}


def finished(problem: Problem, path: Path, compute_unit, point) -> dict[str, np.ndarray]:
    """An attack and the check of its file, from the file where an earlier run got so far."""
    unit = saved_arrays(path)
    if unit is None:
        unit = compute_unit()
        write_atomically(path, lambda file: np.savez(file, **unit))
        unit = saved_arrays(path)
    if "confirmed" not in unit:
        unit |= check(problem, unit, point)
        write_atomically(path, lambda file: np.savez(file, **unit))
    return unit


def check(problem: Problem, unit, point) -> dict[str, np.ndarray]:
    """Images that eight bits would change, and test images that an ordinary fit gets wrong."""
    model, (features, labels) = problem.model, point
    originals = problem.data.train.x[unit["indices"]]
    different = (eight_bits(unit["images"]) != originals).any(axis=(1, 2, 3))
    refitted = refit_from_scratch(model, unit["indices"], unit["images"])
    return {
        "changed": different.sum(),
        "confirmed": (refitted.predict(features) != labels).sum(),
        "before": model.top.probabilities(features),
        "after": refitted.probabilities(features),
    }
