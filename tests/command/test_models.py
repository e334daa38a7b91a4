"""Estimators of scikit-learn from files."""

import re

import joblib
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from influence import from_sklearn
from tests.command.conftest import TRAIN_ROWS
from tests.command.running import refuse, run

EXPLAIN = ["explain", "train.csv", "--test", "test.csv", "--target", "diagnosis"]


def test_a_pickled_pipeline_is_the_model(folder, cancer, capsys):
    numbers = cancer.columns[[0, 5, 20]]  # not all columns, in their order
    x, y = cancer[numbers].fillna(14.0), cancer["diagnosis"]
    cancer.fillna({"mean radius": 14.0})[:TRAIN_ROWS].to_csv("train.csv", index=False)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8))
    pipeline.fit(x[:TRAIN_ROWS], y[:TRAIN_ROWS])
    joblib.dump(pipeline, "model.joblib")
    assert "is to run whatever program its writer put" in refuse(
        capsys, *EXPLAIN, "--model", "model.joblib"
    )
    printed = run(capsys, *EXPLAIN, "--model", "model.joblib", "--trust")
    model = from_sklearn(pipeline, x[:TRAIN_ROWS], y[:TRAIN_ROWS])
    row = model.losses(x[TRAIN_ROWS:], y[TRAIN_ROWS:]).argmax()
    one = x[TRAIN_ROWS:].iloc[[row]], y[TRAIN_ROWS:].iloc[[row]]
    worst = model.influence_on_loss(*one, order="newton")[0].argmin()
    assert re.search(rf"Test row {row} is the most wrong", printed)
    assert re.search(rf"Harmful:.*\n.*\n *{worst} ", printed)


def test_columns_without_names_are_those_of_the_training_table(folder, cancer, capsys):
    names = ["mean area", "mean texture", "diagnosis"]
    train, test = cancer[names][:TRAIN_ROWS], cancer[names][TRAIN_ROWS:]
    train.to_csv("train.csv", index=False)
    test.to_csv("test.csv", index=False)
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8))
    joblib.dump(model.fit(train[names[:2]].to_numpy(), train["diagnosis"]), "model.joblib")
    arguments = [*EXPLAIN, "--model", "model.joblib", "--trust"]
    printed = run(capsys, *arguments)
    test[names[::-1]].to_csv("test.csv", index=False)
    # What is shown is in the order of the training table, too.
    assert run(capsys, *arguments) == printed
    test.rename(columns={"mean texture": "texture"}).to_csv("test.csv", index=False)
    assert "test.csv has no column 'mean texture', which the training table has" in refuse(
        capsys, *arguments
    )


def test_bad_models_are_refused_in_a_sentence(folder, cancer, capsys):
    x, y = cancer[["mean area", "mean texture"]][:TRAIN_ROWS], cancer["diagnosis"][:TRAIN_ROWS]

    def refused(model, name="model.joblib"):
        if model is not None:
            joblib.dump(model, name)
        return refuse(capsys, *EXPLAIN, "--model", name, "--trust")

    other = LogisticRegression().fit(x.rename(columns={"mean area": "area"}) / 1000, y)
    assert "train.csv has no column 'area', which the model has" in refused(other)
    nameless = LogisticRegression().fit(x.to_numpy() / 1000, y)
    assert "was fitted on 2 columns without names, and train.csv has 32" in refused(nameless)
    assert "does not take RandomForestClassifier" in refused(RandomForestClassifier(3).fit(x, y))
    assert "has a dict in it, not an estimator" in refused({"a": 1})
    assert "not fitted yet" in refused(LogisticRegression())
    (folder / "broken.joblib").write_bytes(b"no")
    assert "broken.joblib cannot be read as a model" in refused(None, "broken.joblib")
    (folder / "model.keras").write_bytes(b"no")
    assert "Keras cannot load model.keras (" in refused(None, "model.keras")
    (folder / "model.h5").write_bytes(b"no")
    assert "model.h5 is no model that can be read" in refused(None, "model.h5")
    assert "There is no file none.skops" in refused(None, "none.skops")


def test_a_skops_file_needs_no_trust(folder, cancer, capsys):
    skops = pytest.importorskip("skops.io")
    x, y = cancer[["mean area"]][:TRAIN_ROWS], cancer["diagnosis"][:TRAIN_ROWS]
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8)).fit(x, y)
    skops.dump(model, "model.skops")
    assert "pipeline that ends in LogisticRegression" in run(
        capsys, *EXPLAIN, "--model", "model.skops"
    )


def test_without_skops_its_files_are_refused_in_a_sentence(folder, monkeypatch, capsys):
    (folder / "model.skops").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sentence = refuse(capsys, *EXPLAIN, "--model", "model.skops")
    assert "To read model.skops skops is needed: install influence[skops]." in sentence
