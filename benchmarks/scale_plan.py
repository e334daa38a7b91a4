"""A plan past these machines: unit costs, what they make of more workers, and whether they do.

The unit costs are measured with one thread, in seconds of the processor: of the scans of a linear
model, per row and feature, and of a task beside its work, per task and byte. ``Plan`` makes seconds
and bytes of them. Its clock is held against a simulation: 1, 2 and 4 local workers that are sent
everything but sleep instead of computing, so that they may be more than there are cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# First: TensorFlow reads once, as it is imported, what this sets.
import scripts  # noqa: F401

# isort: split
import numpy as np

from benchmarks.scale_out import processes
from influence.linear.functions import LinearLoss
from influence.linear.sharded import LinearPart, LinearRecipe, row_of
from influence.models.logistic_regression import Logistic
from influence.sharding.sharding import Sharding
from influence.sharding.shards import npy_shards

ROWS, FEATURES, COLUMNS = 25_000, 1000, 10


@dataclass(frozen=True)
class Plan:
    """Seconds and bytes of a pass over rows in shards.

    Args:
        shards, workers: numbers of them.
        work: seconds of a shard in a worker.
        task: seconds that a task takes beside, with what is sent.
    """

    shards: int
    workers: int
    work: float
    task: float

    @property
    def seconds(self) -> float:
        """Of the pass: as many rounds as the busiest worker has shards, unless the caller, who
        sends and adds one task after the other, takes longer."""
        rounds = math.ceil(self.shards / self.workers)
        return max(rounds * (self.work + self.task), self.shards * self.task)


def loss() -> LinearLoss:
    """Of the model that is measured."""
    return Logistic()


def scans() -> dict[str, float]:
    """Seconds of the processor: of a gradient, and scores of a block of columns, per row and
    feature; of a Hessian, and a self-influence, per row and squared feature."""
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, FEATURES), np.float32)
    x.flags.writeable = False
    labels = (random.random(ROWS) < 0.5).astype(int)
    single, double = (
        LinearRecipe(loss(), dtype, 2000, 0.0, 1.0, row_of(x, labels)).part((x, labels))
        for dtype in ("float32", "float64")
    )
    block = random.standard_normal((FEATURES, COLUMNS)).astype(np.float32)
    number = ROWS * FEATURES

    def gradient(theta):
        double.scans.value_and_gradient(theta)

    def hessian(theta):
        double.parameters = theta
        double.hessian().dense()

    def scores(theta):
        single.parameters = theta.astype(np.float32)
        single.scans.directional_derivatives(single.tensors, block)

    def own(theta):
        double.parameters = theta
        double.scans.own_terms(np.eye(FEATURES))

    return {
        "gradient": quickest(gradient) / number,
        "scores of 10": quickest(scores) / number,
        "Hessian": quickest(hessian) / number / FEATURES,
        "self-influence": quickest(own) / number / FEATURES,
    }


def quickest(function: Any, times: int = 4) -> float:
    """Processor seconds of one call, at parameters that it has not seen."""
    taken = []
    for i in range(times):
        start = time.process_time()
        function(np.full(FEATURES, 0.001 * (i + 1)))
        taken.append(time.process_time() - start)
    return min(taken)


def asleep(part: LinearPart, seconds: float, given: np.ndarray, size: int) -> np.ndarray:
    """What stands for work in a simulation."""
    time.sleep(seconds)
    return np.zeros(size)


def simulated(workers: int, shards: int, work: float, size: int, repeats: int) -> float:
    """Seconds of a pass whose tasks are sent, and give, ``size`` numbers."""
    with tempfile.TemporaryDirectory() as folder, processes(workers) as executor:
        np.save(f"{folder}/x.npy", np.zeros((shards, 1)))
        np.save(f"{folder}/y.npy", np.arange(shards) % 2)
        pieces = npy_shards(f"{folder}/x.npy", f"{folder}/y.npy", shards)
        recipe = LinearRecipe(
            loss(), "float64", 10, 0.0, 1.0, row_of(np.zeros((1, 1)), np.zeros(1))
        )
        sharding = Sharding(executor, pieces, recipe, [1] * shards)
        given, taken = np.ones(size), []
        # Once before, so that every worker is there and has its rows.
        sharding.total(None, asleep, 0.1, given, size)
        for _ in range(repeats):
            start = time.perf_counter()
            sharding.total(None, asleep, work, given, size)
            taken.append(time.perf_counter() - start)
        return min(taken)


def simulation(shards: int, work: float, repeats: int) -> dict[str, Any]:
    """What the plan says of 1, 2 and 4 workers, and what they take."""
    result = {}
    for size in (100, 10**6):
        # One after the other: there and back.
        task = simulated(1, 1, 0.0, size, 10 * repeats)
        for workers in (1, 2, 4):
            plan = Plan(shards, workers, work, task).seconds
            found = simulated(workers, shards, work, size, repeats)
            line = {"plan": round(plan, 3), "found": round(found, 3), "task": round(task, 5)}
            result[f"{workers} workers, {8 * size} bytes"] = line
            print(workers, size, line, flush=True)
    return result


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--work", type=float, default=0.25, help="seconds of a shard")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(json.dumps({"seconds per row and feature": scans()}, indent=2))
    print(json.dumps(simulation(options.shards, options.work, options.repeats), indent=2))


if __name__ == "__main__":
    main()
