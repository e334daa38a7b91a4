"""The command from its options to what it prints, in this process."""

import errno
import io
import re
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from influence.command.main import main
from tests.command.conftest import TRAIN_ROWS
from tests.command.running import refuse, run

EXPLAIN = ["explain", "train.csv", "--test", "test.csv", "--target", "diagnosis"]
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?"


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


@pytest.mark.slow
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
    assert main([*arguments, "--csv", "out.csv"]) == 2
    printed = capsys.readouterr()
    assert "out.csv cannot be written (No space left on device)" in printed.err
    assert "Wrote" not in printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_an_answer_is_not_lost_with_a_file(tmp_path, monkeypatch, capsys):
    arguments = small(tmp_path, monkeypatch)
    answer = run(capsys, *arguments)
    assert main([*arguments, "--csv", "t.csv/out.csv", "--html", "out.html"]) == 2
    printed = capsys.readouterr()
    assert printed.out == f"{answer}\nWrote out.html\n"
    assert "influence: t.csv/out.csv cannot be written" in printed.err
    assert (tmp_path / "out.html").read_text().endswith("</html>")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_standard_output_is_a_sentence(tmp_path, monkeypatch, capsys):
    arguments = small(tmp_path, monkeypatch)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([*arguments, "--csv", "out.csv"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert len(pd.read_csv("out.csv")) == 60


def test_a_terminal_of_few_letters_has_the_answer(tmp_path, monkeypatch):
    arguments = small(tmp_path, monkeypatch)
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, "ascii"))
    assert main(arguments) == 0
    assert b"C = 1, of 0.001 ? 10" in file.getvalue().replace(b"C = 0.1,", b"C = 1,")


# (more options, what is said before anything is computed)
BAD_OUTPUTS = {
    "--csv t.csv": "--csv t.csv is TRAIN, too: give it a name of its own",
    "--html ./link.csv": "--html link.csv is TRAIN, too",
    "--csv a --html ../here/a": "--html ../here/a is --csv, too",
    "--model m.joblib --html m.joblib": "--html m.joblib is --model, too",
    "--csv .": r"--csv . is a folder: give a file in it",
    "--pixels 1": "--pixels is for folders of images, and t.csv is none: leave it out",
}


@pytest.mark.parametrize("options", BAD_OUTPUTS)
def test_files_are_not_written_over_others(options, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    arguments = small(tmp_path / "here", monkeypatch)
    before = (tmp_path / "here/t.csv").read_bytes()
    (tmp_path / "here/link.csv").symlink_to("t.csv")
    assert BAD_OUTPUTS[options] in refuse(capsys, *arguments, *options.split())
    assert (tmp_path / "here/t.csv").read_bytes() == before


def test_options_that_do_not_fit_are_one_line(capsys):
    explain, mislabelled = ["explain", "t.csv", "--test", "t.csv"], ["mislabelled", "t.csv"]
    for arguments in (
        *([], ["explain", "t.csv"], ["overturn", "t.csv"], ["what"]),
        *([*explain, "--row", "-1"], [*explain, "--top", "0"], [*mislabelled, "--top", "-3"]),
        ["overturn", "t.csv", "--coefficient", "u", "--below", "nan"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_help_is_on_one_screen(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 24
