"""Rows in shards: what does not fit into memory, what sharding costs where it does, and a plan.

``--part large``: logistic regression on 20,000,000 rows of 100 features (8 GB of float32 on disk,
made by a seeded generator): a fit, the scores of all rows for 10 test points, written to a file,
and all self-influences, by two processes of one thread. Prints seconds, and the most memory that
any process took.

``--part overhead``: the same on 1,000,000 rows that are in memory: not sharded, by one thread, and
in shards, by one process of one thread and by two.

``benchmarks.scale_plan`` says what more workers would take.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

# Processes that this one makes have them from here.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# First: TensorFlow reads once, as it is imported, what this sets.
import scripts  # noqa: F401

# isort: split
import numpy as np

from influence import BinaryLogisticRegression, Dataset
from influence.sharding.shards import npy_shards

FEATURES, TESTS, WORKERS = 100, 10, 2
SHARD_ROWS, BLOCK, DECAY = 250_000, 25_000, 1e-4


def make_rows(folder: Path, rows: int) -> tuple[Path, Path]:
    """Files of rows and their labels, a block at a time; those that are there stay."""
    x, y = folder / f"x{rows}.npy", folder / f"y{rows}.npy"
    if not y.exists():
        weights = np.random.default_rng(0).standard_normal(FEATURES) / np.sqrt(FEATURES)
        labels = np.empty(rows, np.int8)
        layout = {"descr": "<f4", "fortran_order": False, "shape": (rows, FEATURES)}
        with x.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, layout)
            for first in range(0, rows, BLOCK):
                random = np.random.default_rng([1, first])
                block = random.standard_normal((min(BLOCK, rows - first), FEATURES), np.float32)
                last = first + len(block)
                labels[first:last] = block @ weights + random.logistic(size=len(block)) > 0
                file.write(block.tobytes())
        np.save(y, labels)
    return x, y


def processes(number: int) -> ProcessPoolExecutor:
    """An executor of spawned processes."""
    return ProcessPoolExecutor(number, multiprocessing.get_context("spawn"))


def peak(seconds: float = 0.0) -> tuple[int, float]:
    """(number of this process, the most memory that it has had, in GB)."""
    time.sleep(seconds)
    status = Path("/proc/self/status").read_text()
    return os.getpid(), int(status.split("VmHWM:")[1].split()[0]) / 1e6


def peaks(executor: Executor) -> dict[str, float]:
    """Of this process and of the workers."""
    workers = dict([future.result() for future in [executor.submit(peak, 0.5) for _ in range(6)]])
    return {"caller": peak()[1], **{f"worker {i}": gb for i, gb in enumerate(workers.values())}}


def small(rows: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Points like the others, for tests and to say what a row looks like."""
    random = np.random.default_rng(2)
    return random.standard_normal((rows, FEATURES), np.float32), np.arange(rows) % 2


def timed(name: str, seconds: dict[str, float], function: Any) -> Any:
    """``function()``, and how long it took."""
    start = time.perf_counter()
    result = function()
    seconds[name] = round(time.perf_counter() - start, 3)
    print(f"{name}: {seconds[name]} s", flush=True)
    return result


def large(folder: Path, rows: int) -> dict[str, Any]:
    """What does not fit into memory."""
    seconds: dict[str, float] = {}
    x, y = timed("rows", seconds, lambda: make_rows(folder, rows))
    x_test, y_test = small()
    x_test, y_test = x_test[:TESTS], y_test[:TESTS]
    number = -(-rows // SHARD_ROWS)
    with processes(WORKERS) as executor:
        start = BinaryLogisticRegression(Dataset(*small()), DECAY)
        model = timed("a look", seconds, lambda: start.sharded(executor, npy_shards(x, y, number)))
        timed("fit", seconds, model.fit)

        def scores():
            with (folder / "scores.bin").open("wb") as file:
                ends = model.sharding.ends.tolist()
                for first, last in zip([0, *ends[7::8]], [*ends[7::8], ends[-1]]):
                    if last > first:
                        block = np.arange(first, last)
                        file.write(
                            model.influence_on_loss(x_test, y_test, train_indices=block).T.tobytes()
                        )

        timed("scores of 10 test points", seconds, scores)
        own = timed("self-influence", seconds, model.self_influence)
        return {
            "rows": rows,
            "shards": number,
            "seconds": seconds,
            "mean self-influence": float(own.mean()),
            "gradient norm": float(np.linalg.norm(model.gradient())),
            "peak GB": peaks(executor),
        }


def questions(model: Any, x_test: np.ndarray, y_test: np.ndarray) -> list[np.ndarray]:
    """The fit, scores and self-influences."""
    model.fit()
    return [model.parameters, model.influence_on_loss(x_test, y_test), model.self_influence()]


def overhead(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """The same as ``large``, of rows in memory, with and without shards."""
    x, y = make_rows(folder, rows)
    train = Dataset(np.load(x), np.load(y))
    x_test, y_test = small()
    x_test, y_test = x_test[:TESTS], y_test[:TESTS]
    taken: dict[str, list[float]] = {"whole": [], "1 process": [], "2 processes": []}
    with processes(1) as one, processes(2) as two:
        executors = {"1 process": one, "2 processes": two}
        # Once before, so that the workers have the rows and nothing is compiled any more.
        ready = {
            name: BinaryLogisticRegression(train, DECAY).sharded(executor, 8)
            for name, executor in executors.items()
        }
        answers = {
            name: questions(model, x_test, y_test)
            for name, model in {"whole": BinaryLogisticRegression(train, DECAY), **ready}.items()
        }
        for _ in range(repeats):
            for name in taken:
                model = BinaryLogisticRegression(train, DECAY)
                if name != "whole":
                    model = ready[name].with_parameters(model.parameters)
                start = time.perf_counter()
                answers[name] = questions(model, x_test, y_test)
                taken[name].append(round(time.perf_counter() - start, 3))
                print(name, taken[name][-1], flush=True)
    quickest = {name: min(each) for name, each in taken.items()}
    pairs = list(zip(answers["whole"], answers["1 process"]))
    return {
        "rows": rows,
        "seconds": taken,
        "to the whole": {name: each / quickest["whole"] for name, each in quickest.items()},
        "largest difference": max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs),
        "same bits": all(
            np.array_equal(*each) for each in zip(answers["1 process"], answers["2 processes"])
        ),
    }


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["large", "overhead"], action="append")
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--rows-in-memory", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the rows are kept; a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        parts = options.part or ["large", "overhead"]
        if "large" in parts:
            print(json.dumps(large(folder, options.rows), indent=2))
        if "overhead" in parts:
            result = overhead(folder, options.rows_in_memory, options.repeats)
            print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
