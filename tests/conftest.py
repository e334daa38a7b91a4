"""What all tests share: the real data where they are, and small problems with known answers."""

from __future__ import annotations

import os

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Every worker has a core; more threads would wait for one another.
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import scripts  # noqa: F401  first: it keeps TensorFlow's notices from the terminal
from influence import BinaryLogisticRegression, Dataset, LogisticRegression
from scripts.loaders import registry


def pytest_configure(config):
    """What a solver or a fit complains of is an error. (In pyproject.toml these lines would import
    TensorFlow before its notices are held back.)"""
    for warning in ("solvers.solution.SolverWarning", "objective.minimum.ConvergenceWarning"):
        config.addinivalue_line("filterwarnings", f"error::influence.{warning}")


def pytest_collection_modifyitems(items):
    """Skip the tests that need data which are not on this machine, and say so."""
    needed = (*registry.MNIST.values(), registry.HOSPITAL, registry.ENRON)
    missing = [file.name for file in needed if registry.find(file) is None]
    if not missing:
        return
    skip = pytest.mark.skip(reason=f"no {missing[0]} in data/ or INFLUENCE_DATA")
    for item in items:
        if "realdata" in item.keywords:
            item.add_marker(skip)


class Problem:
    """Correlated points with noisy labels, and some test points."""

    def __init__(self, n=120, d=5, classes=3, seed=0):
        random = np.random.default_rng(seed)
        mixing = random.standard_normal((d, d)) / np.sqrt(d) + np.eye(d)
        weights = random.standard_normal((d, classes))

        def draw(size):
            x = random.standard_normal((size, d)) @ mixing
            noise = random.gumbel(size=(size, classes))
            return x, (x @ weights + noise).argmax(axis=1)

        self.x, self.labels = draw(n)
        self.x_test, self.y_test = draw(7)
        self.classes = classes

    @property
    def train(self):
        """The training points."""
        return Dataset(self.x, self.labels)

    def softmax_model(self, weight_decay=0.05, dtype="float64", **settings):
        """A multinomial model, unfitted."""
        return LogisticRegression(self.train, weight_decay, self.classes, dtype, **settings)

    def binary_model(self, weight_decay=0.05, dtype="float64", **settings):
        """A model of class 0 against the others, unfitted."""
        train = Dataset(self.x, (self.labels == 0).astype(int))
        return BinaryLogisticRegression(train, weight_decay, dtype, **settings)


@pytest.fixture
def problem():
    """The problem that most tests use."""
    return Problem()


@pytest.fixture
def only_folder(tmp_path, monkeypatch):
    """An empty data folder, and no other source of data."""
    monkeypatch.setattr(registry, "DATA_FOLDER", tmp_path)
    monkeypatch.delenv("INFLUENCE_DATA", raising=False)
    return tmp_path
