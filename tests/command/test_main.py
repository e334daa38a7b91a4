"""The command from its options to what it prints, in this process."""

import errno
import re
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from influence import from_sklearn
from influence.command.main import main
from tests.command.conftest import TRAIN_ROWS

EXPLAIN = ["explain", "train.csv", "--test", "test.csv", "--target", "diagnosis"]
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?"


def run(capsys, *arguments):
    """What the command prints, when all is well."""
    status = main(list(arguments))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def refuse(capsys, *arguments):
    """The sentence that it fails with."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert not printed.out
    [sentence] = printed.err.splitlines()
    assert sentence.startswith("influence: ")
    return sentence


def by_hand(cancer):
    """The features of all rows as the command is to make them: standardised by the training rows,
    whose medians fill the gaps."""
    table = cancer.drop(columns=["diagnosis", "visit", "clinic"])
    visit = pd.to_datetime(cancer["visit"])
    table["days"] = (visit - pd.Timestamp(1970, 1, 1)).dt.days
    table["month"], table["weekday"] = visit.dt.month, visit.dt.day_of_week
    table = table.fillna(table[:TRAIN_ROWS].median())
    table = (table - table[:TRAIN_ROWS].mean()) / table[:TRAIN_ROWS].std(ddof=0)
    dummies = pd.get_dummies(cancer["clinic"].fillna("(empty)"))
    return np.column_stack([table, dummies]), cancer["diagnosis"].to_numpy()


def test_the_most_harmful_rows_are_those_of_refits(folder, cancer, capsys):
    printed = run(capsys, *EXPLAIN)
    C = float(re.search(rf"C = ({NUMBER}),", printed)[1])  # noqa: N806
    row = int(re.search(r"Test row (\d+) is the most wrong of 114", printed)[1])
    x, y = by_hand(cancer)
    train, y_train = x[:TRAIN_ROWS], y[:TRAIN_ROWS]

    def losses(keep):
        estimator = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)
        estimator.fit(train[keep], y_train[keep])
        right = y[TRAIN_ROWS:, np.newaxis] == estimator.classes_
        return -np.log(estimator.predict_proba(x[TRAIN_ROWS:])[right])

    everything = np.arange(TRAIN_ROWS)
    before = losses(everything)
    assert row == before.argmax()
    harmful, helpful = printed.split("Harmful:")[1].split("Helpful:")
    for text, sign in ((harmful, -1), (helpful, 1)):
        found = re.findall(rf"^ *(\d+) .*? ({NUMBER})  ", text, re.MULTILINE)
        assert len(found) == 5
        scores = np.array([float(score) for _, score in found])
        actual = [losses(np.delete(everything, int(i)))[row] - before[row] for i, _ in found]
        assert (np.diff(sign * scores) <= 0).all()
        np.testing.assert_allclose(scores, actual, rtol=0.15)


def test_another_row_and_fewer_neighbours(folder, capsys):
    printed = run(capsys, *EXPLAIN, "--row", "3", "--top", "2")
    assert "for row 3 of test.csv" in printed
    assert len(re.findall(r"^ *\d+ ", printed, re.MULTILINE)) == 4


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


@pytest.fixture(scope="module")
def diabetes():
    table = load_diabetes(as_frame=True).frame[:120]
    return table.rename(columns={"target": "progression"})


def test_an_overturned_sign_is_certified(diabetes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    diabetes.to_csv("train.csv", index=False)
    arguments = ["train.csv", "--target", "progression", "--coefficient", "s2"]
    printed = run(capsys, "overturn", *arguments)
    alpha = float(re.search(rf"alpha = ({NUMBER}),", printed)[1])
    x, y = diabetes.drop(columns="progression"), diabetes["progression"]
    x = StandardScaler().fit_transform(x)
    column = diabetes.columns.get_loc("s2")
    removed = [int(row) for row in re.findall(r"^ *(\d+)  ", printed, re.MULTILINE)]
    assert f"{len(removed)} of 120 training rows" in printed
    keep = np.delete(np.arange(len(y)), removed)
    signs = [np.sign(Ridge(alpha=alpha).fit(x[k], y[k]).coef_[column]) for k in (slice(None), keep)]
    assert signs[0] == -signs[1]


def two_clouds(rows=60):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(rows, 2)), np.arange(rows) % 2
    x[y == 1] += 1
    return x, y


def test_an_overturned_metric_is_certified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = two_clouds()
    np.savez("train.npz", X=x, y=y)
    estimator = LogisticRegression(C=0.1, tol=1e-10).fit(x, y)
    joblib.dump(estimator, "model.joblib")
    before = roc_auc_score(y, estimator.decision_function(x))
    bound = before - 0.003
    arguments = ["train.npz", "--metric", "auroc", "--below", str(bound)]
    arguments += ["--model", "model.joblib", "--trust"]
    printed = run(capsys, "overturn", *arguments)
    assert f"{before:.4g}" in printed
    removed = [int(row) for row in re.findall(r"^ *(\d+)  ", printed, re.MULTILINE)]
    keep = np.delete(np.arange(len(y)), removed)
    refitted = LogisticRegression(C=0.1, tol=1e-10).fit(x[keep], y[keep])
    assert roc_auc_score(y, refitted.decision_function(x)) < bound


def test_the_scores_are_checked_by_refits(folder, capsys):
    arguments = ["train.csv", "--test", "test.csv", "--target", "diagnosis", "--points", "4"]
    printed = run(capsys, "check", *arguments)
    pairs = re.findall(rf"^ *\d+ +({NUMBER}) +({NUMBER})$", printed, re.MULTILINE)
    predicted, actual = np.array(pairs, float).T
    np.testing.assert_allclose(predicted, actual, rtol=0.15)
    assert "\n\nTrust " in printed


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


def test_parquet_and_feather_are_read_as_csv_is(folder, cancer, capsys):
    tables = {"train": cancer[:TRAIN_ROWS], "test": cancer[TRAIN_ROWS:]}
    tables["train"].to_parquet("train.parquet")
    tables["test"].assign(visit=pd.to_datetime(tables["test"]["visit"])).to_feather("test.feather")
    others = ["explain", "train.parquet", "--test", "test.feather", "--target", "diagnosis"]
    printed = run(capsys, *others).replace("train.parquet", "train.csv")
    assert printed.replace("test.feather", "test.csv") == run(capsys, *EXPLAIN)


def rows(**columns):
    return pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": list("abab")} | columns)


# (what the table is, more options, what is said)
BAD_TABLES = {
    "no target": (rows(), ["--target", "z"], r"t\.csv has no column 'z': it has x, y"),
    "one class": (rows(y=list("aaaa")), [], r"'y' of t\.csv has one class, 'a', in all 4 rows"),
    "text": (rows(x=["1", "2", "3", "ten"]), [], r"Column 'x' .* row 3 .* has 'ten'"),
    "infinite": (rows(x=[1, 2, 3, np.inf]), [], r"Column 'x' .* has inf in row 3"),
    "text for numbers": (rows(), ["--as", "numbers"], r"Column 'y' .* must be numbers"),
    "a label missing": (rows(y=["a", None, "b", "a"]), [], r"'y' of t\.csv is empty in row 1"),
    "nothing else": (rows()[["y"]], [], r"no column beside the target 'y'"),
    "no values": (rows(x=[None] * 4), [], r"no column to predict from \('x': it is empty\)"),
    "no rows": (rows()[:0], [], r"t\.csv has no rows"),
    "names": (
        pd.DataFrame({"x": np.arange(60.0), "y": [f"{i}th" for i in range(60)]}),
        [],
        r"has 60 different values, too many for classes",
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_refused_in_a_sentence(name, tmp_path, monkeypatch, capsys):
    table, options, words = BAD_TABLES[name]
    monkeypatch.chdir(tmp_path)
    table.to_csv("t.csv", index=False)
    options = options if "--target" in options else ["--target", "y", *options]
    sentence = refuse(capsys, "mislabelled", "t.csv", "--csv", "out.csv", *options)
    assert re.search(words, sentence), sentence
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


BAD_FILES = {
    "t.csv": (b"", r"t\.csv is not a CSV table"),
    "binary.csv": (b"\xff\xfe\x00a\x00,y\n\x9d,1", r"binary\.csv is not a CSV table"),
    "t.parquet": (b"PAR1, not", r"t\.parquet is not a Parquet file"),
    "t.arrow": (b"ARROW1, not", r"t\.arrow is not an Arrow file"),
    "t.npz": (b"PK, not", r"t\.npz is not a \.npz of numbers"),
    "t.xlsx": (b"", r"no table that can be read: give a file that ends in \.csv"),
    "none.csv": (None, r"There is no file none\.csv"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_a_sentence(name, tmp_path, monkeypatch, capsys):
    content, words = BAD_FILES[name]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    sentence = refuse(capsys, "mislabelled", name, "--target", "y")
    assert re.search(words, sentence), sentence


def test_arrays_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", X=np.ones((3, 2)))
    assert "must have the arrays X [n, d] and y [n]" in refuse(capsys, "mislabelled", "a.npz")
    np.savez("a.npz", X=np.ones((3, 2)), y=np.ones(4))
    assert "3 rows of points and 4 labels" in refuse(capsys, "mislabelled", "a.npz")


def test_test_rows_that_do_not_fit_are_refused(folder, cancer, capsys):
    test = cancer[TRAIN_ROWS:]
    for table, words in (
        (test.drop(columns="clinic"), "test.csv has no column 'clinic', which the training table"),
        (test.assign(diagnosis="unknown"), "has the class 'unknown', which is not in train.csv"),
    ):
        table.to_csv("test.csv", index=False)
        assert words in refuse(capsys, *EXPLAIN)
    table = test.astype({"mean area": object})
    table.iloc[2, table.columns.get_loc("mean area")] = "big"
    table.to_csv("test.csv", index=False)
    assert "Column 'mean area' of test.csv must be numbers, and row 2" in refuse(capsys, *EXPLAIN)
    test.to_csv("test.csv", index=False)
    assert "--row must lie in 0..113" in refuse(capsys, *EXPLAIN, "--row", "114")


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


def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = two_clouds()
    pd.DataFrame(x, columns=["u", "v"]).assign(y=y).to_csv("t.csv", index=False)
    return ["mislabelled", "t.csv", "--target", "y"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    arguments = small(tmp_path, monkeypatch)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", ".tmp")

    monkeypatch.setattr("influence.data.files.os.replace", full)
    sentence = refuse(capsys, *arguments, "--csv", "out.csv")
    assert "out.csv cannot be written (No space left on device)" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert "cannot be written" in refuse(capsys, *arguments, "--csv", "t.csv/out.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_standard_output_is_a_sentence(tmp_path, monkeypatch, capsys):
    arguments = small(tmp_path, monkeypatch)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(arguments) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_options_that_do_not_fit_are_one_line(capsys):
    for arguments in ([], ["explain", "t.csv"], ["overturn", "t.csv"], ["what"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_help_is_on_one_screen(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 24


CELLS = st.sampled_from(
    ["", "0", "1", "2.5", "-3", "1e308", "1e-320", "inf", "nan", "a", "b", "True", "2024-02-30"]
    + ["2024-02-29", "2024-03-01T12:00:00Z", "99999-01-01", '"a,b"', "\u00fc", " ", '"', "1,2"]
)
LINES = st.lists(st.lists(CELLS, min_size=3, max_size=3).map(",".join), min_size=1, max_size=12)
HEADERS = st.sampled_from(["u,v,y", "u,u,y", ",v,y", "u,u = a,y", "row,score,y", "y,y,y"])
FILES = st.one_of(
    st.builds(lambda header, lines: "\n".join([header, *lines]).encode(), HEADERS, LINES),
    st.binary(max_size=40),
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=FILES, command=st.sampled_from(["mislabelled", "explain"]))
def test_no_table_ends_in_a_traceback(content, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_bytes(content)
    more = ["--test", "t.csv"] if command == "explain" else ["--csv", "out.csv"]
    status = main([command, "t.csv", "--target", "y", *more])
    printed = capsys.readouterr()
    if status:
        assert status == 2
        assert not printed.out
        assert len(printed.err.splitlines()) == 1
    else:
        assert printed.out
