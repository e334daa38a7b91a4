"""The benchmark at the smallest scale: its numbers and its figure."""

import json

import matplotlib as mpl
import numpy as np
import pytest

from scripts import datamodeling_mnist
from scripts.report.claims import CLAIMS
from scripts.report.experiment import run

mpl.use("Agg")
METRICS = {
    "lr_loo_published",
    "lr_lds_published",
    "lr_loo",
    "lr_lds",
    "mlp_lds",
    "mlp_lds_ensemble",
    "mlp_lds_ceiling",
    "mlp_tracin_lds",
    "mlp_ekfac_lds",
    "mlp_last_layer_lds",
}


def experiment(folder):
    arguments = ["--data", "stand-in", "--scale", "quick", "--output-dir", str(folder)]
    arguments += ["--figures-dir", str(folder)]
    return run(
        datamodeling_mnist.NAME,
        datamodeling_mnist.DatamodelingConfig,
        datamodeling_mnist.compute,
        datamodeling_mnist.plot,
        arguments,
    )


@pytest.mark.slow
def test_the_whole_benchmark(tmp_path):
    results = experiment(tmp_path)
    record = json.loads((tmp_path / "datamodeling_mnist.json").read_text())
    assert record["metrics"].keys() >= METRICS | CLAIMS["datamodeling_mnist"].numbers.keys()
    numbers = {name: entry["ours"] for name, entry in record["metrics"].items()}
    assert record["metrics"]["mlp_lds"]["paper"] == 0.26
    for name, per_test in results.arrays.items():
        low, high = numbers[f"{name}_interval"]
        assert low < numbers[name] < high
        assert abs(numbers[name] - np.nanmean(per_test)) < 1e-9
    # What is at a minimum is foreseen even at this scale.
    assert numbers["lr_lds"] > 0.8
    assert numbers["lr_loo"] > 0.9
    assert (tmp_path / "datamodeling_mnist.png").read_bytes()[:4] == b"\x89PNG"
