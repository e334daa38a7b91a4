"""The attacks of Figure 5, one by one: each in a file of its own, checked from that file.

A run that was ended goes on at the rung of the ladder, and within 25 steps of the step, where it
was: files are named by the data and the settings that they depend on, not by the run.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from influence import BinaryInceptionModel
from influence.data.files import fingerprint, saved_arrays, write_atomically
from influence.studies.poisoning import attack, eight_bits, preselect, rank
from influence.studies.refits import MovedInverse, refit_from_scratch
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

    def margins(self) -> np.ndarray:
        """The logit of each test image in favour of its label, float64: above 0 where the model
        classifies it correctly."""
        signs = 2 * self.data.test.labels.astype(np.int64) - 1
        return signs * self.model.top.outputs(self.features)[:, 0].astype(np.float64)

    @functools.cached_property
    def inverse(self) -> MovedInverse:
        """For all attacks to share."""
        return MovedInverse(self.model.top)

    def path(self, kind: str, tests, *settings) -> Path:
        """Where the attack on these test images is kept."""
        train = self.model.top.train
        own = repr((kind, LADDER, self.config.preselected, self.config.weight_decay, settings))
        key = fingerprint(own, train.x, train.labels, *self.point(tests))
        return self.folder / f"{kind}-{key[:16]}.npz"


def single_attack(problem: Problem, test: int) -> dict[str, np.ndarray]:
    """Up the ladder until the prediction of one test image flips; from its file if it is there.

    ``needed`` is the number of training images that it took, 0 if ten were not enough; ``indices``
    and ``images`` are those of the last set; ``traces`` [sets, steps + 1] are the margins of the
    test image after every step of each set, NaN after the last.
    """
    config, point = problem.config, problem.point(test)
    path = problem.path("single", test, config.step_size, config.steps, *given(config.pace))
    rungs = path.with_name(f"rungs-{path.name}")
    unit = finished(problem, path, lambda: climb(problem, point, rungs), point)
    rungs.unlink(missing_ok=True)
    return unit


def climb(problem: Problem, point, path: Path) -> dict[str, np.ndarray]:
    """The attack on one test image, with what is known after each set of images kept."""
    config, model = problem.config, problem.model
    checkpoint = path.with_suffix(".checkpoint.npz")
    unit = saved_arrays(path)
    if unit is None:
        ranking, _ = rank(model, preselect(model, *point, config.preselected), *point)
        traces = np.full((len(LADDER), config.steps + 1), np.nan)
        counts = dict.fromkeys(("rungs", "passes", "refits", "needed"), 0)
        seconds = dict.fromkeys(("forward", "refit", "backward"), 0.0)
        unit = {"ranking": ranking, "traces": traces, **counts, **seconds}
    while unit["rungs"] < len(LADDER) and not unit["needed"]:
        first, last = LADDER[int(unit["rungs"])]
        found = attack(
            model,
            unit["ranking"][first:last],
            *point,
            step_size=config.step_size,
            steps=config.steps,
            pace=config.pace,
            inverse=problem.inverse,
            checkpoint=checkpoint,
        )
        unit["traces"][int(unit["rungs"]), : len(found.margins)] = found.margins
        for part, spent in found.seconds.items():
            unit[part] += spent
        unit["passes"] += len(found.indices) * len(found.wrong)
        unit["refits"] += len(found.wrong)
        unit["rungs"] += 1
        unit["needed"] = len(found.indices) if found.wrong[-1] else 0
        unit |= arrays_of(found)
        write_atomically(path, functools.partial(np.savez, **unit))
        checkpoint.unlink(missing_ok=True)
    return unit


def given(pace: int) -> tuple[int, ...]:
    """A setting that is part of a file's name only where it is used."""
    return (pace,) if pace else ()


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
            inverse=problem.inverse,
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
