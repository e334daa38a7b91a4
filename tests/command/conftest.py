"""The breast-cancer table as people have it: with names, gaps, a category and a date."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

TRAIN_ROWS = 455


@pytest.fixture(scope="session")
def cancer():
    """569 rows: 30 numbers, clinic, visit, diagnosis."""
    data, generator = load_breast_cancer(as_frame=True), np.random.default_rng(0)
    table = data.data.copy()
    days = pd.to_timedelta(generator.integers(0, 900, len(table)), "D")
    table["clinic"] = generator.choice(["north", "south", "west"], len(table))
    table["visit"] = (pd.Timestamp("2020-01-01") + days).strftime("%Y-%m-%d")
    table["diagnosis"] = np.where(data.target == 1, "benign", "malignant")
    table.loc[3, "mean radius"] = np.nan
    table.loc[7, "clinic"] = None
    table.loc[9, "visit"] = None
    return table


@pytest.fixture
def folder(cancer, tmp_path, monkeypatch):
    """train.csv and test.csv in the working directory."""
    monkeypatch.chdir(tmp_path)
    write(cancer, tmp_path)
    return tmp_path


def write(table, folder):
    """As train.csv and test.csv."""
    table[:TRAIN_ROWS].to_csv(folder / "train.csv", index=False)
    table[TRAIN_ROWS:].to_csv(folder / "test.csv", index=False)
