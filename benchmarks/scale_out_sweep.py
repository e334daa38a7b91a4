"""A sweep of 200 refits by one process of one thread, and by two: ``python -m
benchmarks.scale_out_sweep``.

Softmax regression on 20,000 × 100 rows is refitted without each of 200 points. Workers have been
started, and have made their model, before a time is taken; what a sweep costs besides, such as the
way of the answers, is in it. The scores of both are compared bit by bit.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import joblib
import numpy as np

from influence import Dataset, LogisticRegression

REFITS, ROWS, FEATURES, CLASSES, TESTS = 200, 20_000, 100, 10, 10
WARM_UP = 8


def sweep(refits: int = REFITS) -> float:
    """Prints the seconds of both, and gives how many times as fast two processes are."""
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, FEATURES), np.float32)
    noise = random.gumbel(size=(ROWS, CLASSES))
    labels = (x @ random.standard_normal((FEATURES, CLASSES)) / 5 + noise).argmax(axis=1)
    model = LogisticRegression(Dataset(x, labels), weight_decay=0.01).fit()
    points = x[:TESTS], labels[:TESTS]
    seconds, changes = [], []
    for processes in (1, 2):
        with joblib.parallel_config("loky", n_jobs=processes):
            model.influence_of_sets([[i] for i in range(WARM_UP)], *points, order="refit")
            start = time.perf_counter()
            sets = [[i] for i in range(refits)]
            changes.append(model.influence_of_sets(sets, *points, order="refit"))
            seconds.append(time.perf_counter() - start)
    print(f"{refits} refits, {ROWS:,} × {FEATURES} rows, {CLASSES} classes, a thread a process")
    for processes, spent in zip((1, 2), seconds):
        print(f"  {processes} process{'es' if processes > 1 else '  '}  {spent:7.1f} s")
    ratio = seconds[0] / seconds[1]
    same = "the same bits" if np.array_equal(*changes) else "DIFFERENT NUMBERS"
    print(f"  two are {ratio:.2f} times as fast as one, with {same}")
    return ratio


if __name__ == "__main__":
    sweep()
