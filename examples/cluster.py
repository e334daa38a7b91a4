"""A cluster: rows in files that no process reads as a whole, and refits on every worker."""

import tempfile
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
from dask.distributed import Client, LocalCluster

from influence import BinaryLogisticRegression, Dataset, leave_one_out, plots
from influence.sharding.shards import npy_shards

ROWS, FEATURES, SHARDS = 20_000, 20, 8


def main() -> None:
    """What a script does is in a function: every worker imports the script."""
    folder = Path(tempfile.mkdtemp())  # on a cluster, one that all workers mount
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, FEATURES))
    y = (4 * (x[:, 0] - x[:, 1]) + random.logistic(size=ROWS) > 0).astype(int)
    y[:200] = 1 - y[:200]  # wrong labels
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)

    # The rows that a model begins with only say what a row looks like.
    first = Dataset(x[:50], y[:50])
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        model = BinaryLogisticRegression(first, weight_decay=0.01, dtype="float64").sharded(
            client.get_executor(), npy_shards(folder / "x.npy", folder / "y.npy", SHARDS)
        )
        model.fit()
        own = model.self_influence()
        worst = np.argsort(-own)
        found = np.mean(np.isin(np.arange(200), worst[: ROWS // 10]))
        print(f"{found:.0%} of the wrong labels are in the first tenth by self-influence.")

        # What fits into memory is refitted point by point, by the same workers.
        few = BinaryLogisticRegression(Dataset(x[:2000], y[:2000]), 0.01, dtype="float64").fit()
        scores = few.influence_on_loss(x[-1:], y[-1:])[0]
        chosen = np.argsort(-np.abs(scores))[:40]
        with joblib.parallel_config("dask"):
            refits = leave_one_out(few, chosen, x[-1:], y[-1:])

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.6), layout="constrained")
    plots.scores_by_rank(own, axes[0])
    axes[0].set(ylabel="self-influence")
    plots.predicted_against_actual(scores[chosen], refits.changes[:, 0], axes[1])
    figure.savefig("cluster.png", dpi=100)


if __name__ == "__main__":
    main()
