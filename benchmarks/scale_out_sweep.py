"""A sweep of 200 refits by one process of one thread, and by two: ``python -m
benchmarks.scale_out_sweep``.

Softmax regression on 10,000 × 50 rows is refitted without each of 200 points. Workers have been
started, and have made their model, before a time is taken; what a sweep costs besides, such as the
way of the answers, is in it. They take turns, three times, and the best time of each counts, as
others may use the machine. The scores of both are compared bit by bit.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import joblib
import numpy as np

from influence import Dataset, LogisticRegression

REFITS, ROWS, FEATURES, CLASSES, TESTS = 200, 10_000, 50, 5, 10
WARM_UP, RUNS = 8, 3


def sweep(refits: int = REFITS) -> float:
    """Prints the seconds of both, and gives how many times as fast two processes are."""
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, FEATURES), np.float32)
    noise = random.gumbel(size=(ROWS, CLASSES))
    labels = (x @ random.standard_normal((FEATURES, CLASSES)) / 5 + noise).argmax(axis=1)
    model = LogisticRegression(Dataset(x, labels), weight_decay=0.01).fit()
    points = x[:TESTS], labels[:TESTS]

    def timed(processes, number):
        with joblib.parallel_config("loky", n_jobs=processes):
            start = time.perf_counter()
            sets = [[i] for i in range(number)]
            changes = model.influence_of_sets(sets, *points, order="refit")
            return time.perf_counter() - start, changes

    timed(2, WARM_UP)
    runs = [[timed(processes, refits) for processes in (1, 2)] for _ in range(RUNS)]
    one, two = (min(seconds for seconds, _ in each) for each in zip(*runs))
    changes = [changes for run in runs for _, changes in run]
    same = all(np.array_equal(each, changes[0]) for each in changes)
    print(f"{refits} refits, {ROWS:,} × {FEATURES} rows, {CLASSES} classes, a thread a process")
    print(f"  one process    {one:7.1f} s")
    print(f"  two processes  {two:7.1f} s")
    said = "the same bits" if same else "DIFFERENT NUMBERS"
    print(f"  two are {one / two:.2f} times as fast as one, with {said}")
    return one / two


if __name__ == "__main__":
    sweep()
