"""Labels that deserve a look: the scores, and the trial of their order."""

import re

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from influence.command.doubting import find_suspects
from influence.command.explaining import explain
from influence.command.subject import prepare
from tests.command.conftest import TRAIN_ROWS
from tests.command.running import run


def test_planted_flips_are_found(folder, cancer, capsys):
    table = cancer[:TRAIN_ROWS].copy()
    flipped = np.random.default_rng(1).choice(TRAIN_ROWS, TRAIN_ROWS // 20, replace=False)
    other = {"benign": "malignant", "malignant": "benign"}
    table.loc[flipped, "diagnosis"] = table.loc[flipped, "diagnosis"].map(other)
    table.to_csv("flipped.csv", index=False)
    arguments = ["flipped.csv", "--target", "diagnosis", "--csv", "out/suspects.csv"]
    printed = run(capsys, "mislabelled", *arguments)
    suspects = pd.read_csv("out/suspects.csv")
    assert suspects.columns[0] == "row"
    assert sorted(suspects["row"]) == list(range(TRAIN_ROWS))
    assert (suspects["score"].diff().dropna() <= 0).all()
    first = suspects["row"][: TRAIN_ROWS // 10]
    assert np.isin(flipped, first).mean() >= 0.6
    np.testing.assert_array_equal(suspects["diagnosis"], table["diagnosis"][suspects["row"]])
    # The trial, which does not know of these, promises as much.
    promised = int(re.search(r"(\d+)% *\(?.*at random", printed.split("46 rows ")[1])[1])
    assert promised >= 60
    listed = re.findall(r"^ *(\d+) +[\d.]+ ", printed, re.MULTILINE)
    assert [int(row) for row in listed] == suspects["row"][:10].tolist()


WEIGHTS = {"no": 2.0, "yes": 9.0}


def saved(folder, class_weight, features=2):
    """(x [90, d], y [90], a fitted estimator); t.csv and m.joblib."""
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(90, features)), np.repeat(["no", "yes"], [65, 25])
    x[y == "yes"] += 1
    estimator = LogisticRegression(C=0.01, class_weight=class_weight, tol=1e-10).fit(x, y)
    table = pd.DataFrame(x, columns=[f"v{i}" for i in range(features)])
    table.assign(y=y).to_csv(folder / "t.csv", index=False)
    joblib.dump(estimator, folder / "m.joblib")
    return x, y, estimator


def asked(folder, **files):
    return prepare(folder / "t.csv", target="y", model=folder / "m.joblib", trust=True, **files)


@pytest.mark.parametrize("class_weight", [None, WEIGHTS])
def test_the_score_is_the_rise_of_the_rows_own_loss(class_weight, tmp_path):
    x, y, estimator = saved(tmp_path, class_weight)
    scores = find_suspects(asked(tmp_path)).scores

    def loss(fitted, row):
        return log_loss(y[[row]], fitted.predict_proba(x[[row]]), labels=["no", "yes"])

    rises = []
    for row in range(len(y)):
        keep = np.arange(len(y)) != row
        refitted = LogisticRegression(C=0.01, class_weight=class_weight, tol=1e-10)
        rises.append(loss(refitted.fit(x[keep], y[keep]), row) - loss(estimator, row))
    slope, _ = np.polyfit(rises, scores, 1)
    assert slope == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(scores, rises, rtol=0.15)


def test_weights_of_classes_are_made_anew_for_other_labels(tmp_path):
    x, y, _ = saved(tmp_path, "balanced")
    changed = np.where(np.arange(len(y)) % 7 == 0, "yes", y)
    found = asked(tmp_path).scorer.rises_with((changed == "yes").astype(int))
    # C w s² xᵀH⁻¹x, where the class that has grown weighs less.
    estimator = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-10).fit(x, changed)
    weights = compute_sample_weight("balanced", changed)
    p, rows = estimator.predict_proba(x)[:, 1], np.column_stack([x, np.ones(len(x))])
    hessian = 0.01 * (rows.T * (weights * p * (1 - p))) @ rows + np.diag([1, 1, 0])
    forms = np.sum(rows @ np.linalg.inv(hessian) * rows, axis=1)
    slopes = p - (changed == "yes")
    np.testing.assert_allclose(found, 0.01 * weights * slopes**2 * forms, rtol=1e-5)


NAMES = ["row", "predicted", "probability_of_label", "file", "score", "training row"]


@pytest.mark.slow
def test_columns_with_our_names_stand_beside_ours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y, _ = saved(tmp_path, None, len(NAMES))
    table = pd.DataFrame(x, columns=NAMES).assign(score=y)
    table.to_csv("t.csv", index=False)
    arguments = ["t.csv", "--target", "score", "--csv", "s.csv", "--html", "s.html"]
    printed = run(capsys, "mislabelled", *arguments)
    suspects = pd.read_csv("s.csv")
    assert suspects.columns.tolist() == [
        *("row", "score", "score (table)", "predicted", "probability_of_label"),
        *("row (table)", "predicted (table)", "probability_of_label (table)", "file"),
        "training row",
    ]
    order = suspects["row"].to_numpy()
    assert suspects["score"].is_monotonic_decreasing
    assert suspects["score (table)"].tolist() == y[order].tolist()
    np.testing.assert_allclose(suspects["predicted (table)"], table["predicted"][order])
    header = re.findall(r'<th scope="col">(.*?)</th>', (tmp_path / "s.html").read_text())
    assert header == suspects.columns.tolist()
    assert re.search("row +score +score \\(table\\) +predicted +probability of", printed)
    run(capsys, "explain", *arguments[:3], "--test", "t.csv", "--html", "e.html")
    table = (tmp_path / "e.html").read_text().split("<tbody>")[1].split("</tbody>")[0]
    lines = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert len(lines) == len(set(lines)) == 3 + len(NAMES) - 1
    frame = explain(prepare(tmp_path / "t.csv", tmp_path / "t.csv", target="score")).to_frame()
    names = frame.reset_index().columns
    assert names.is_unique
    assert {"training row (table)", "score (table)", "row"} <= set(names)
