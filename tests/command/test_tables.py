"""Tables of files, good and bad, from their bytes to what is said."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from influence.command.main import main
from influence.command.tables import read_test_table, read_training_table
from tests.command.conftest import TRAIN_ROWS
from tests.command.running import refuse, run

EXPLAIN = ["explain", "train.csv", "--test", "test.csv", "--target", "diagnosis"]


@pytest.mark.slow
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
    "semicolons.csv": (b"x;y\n1,5;a\n2,5;b\n", "has semicolons between its columns: save it with"),
    "tabs.csv": (b"x\ty\n1\ta\n", "has tabs between its columns: save it with commas"),
    "latin.csv": ("x,y\n1,\xfc\n".encode("latin-1"), "is not a CSV table in UTF-8 .*: save it as"),
    "twice.csv": (b"x,y,y\n1,a,a\n2,b,b\n", "has two columns 'y': rename one of them"),
    "long.csv": (b"x,y\n1,2,a\n3,4,b\n", "has rows that are longer than its header"),
    "space.csv": (b"x, y\n1,a\n2,b\n", "has no column 'y': give --target ' y'"),
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


# (what the bytes are, the target, its values, the names of the other columns)
GOOD_FILES = {
    "a mark of its order": (b"\xef\xbb\xbfy,x\na,1\nb,2\n", "y", ["a", "b"], ["x"]),
    "quoted lines": (b'x,"the\ny"\n1,"a\nb"\n2,c\n', "the\ny", ["a\nb", "c"], ["x"]),
    "other letters": ("größe,y\n1,süß\n2,b\n".encode(), "y", ["süß", "b"], ["größe"]),
    "a comma at the end": (b"x,y\n1,a,\n2,b,\n", "y", ["a", "b"], ["x"]),
    "spaces": (b"x,is it so\n1,a\n2,b\n", "is it so", ["a", "b"], ["x"]),
    "truth": (b"x,y\n1,True\n2,FALSE\n", "y", [True, False], ["x"]),
    "both": (b"x,y\n1,1\n2,a\n", "y", ["1", "a"], ["x"]),
}


@pytest.mark.parametrize("name", GOOD_FILES)
def test_odd_files_are_read(name, tmp_path):
    content, target, y, columns = GOOD_FILES[name]
    (tmp_path / "t.csv").write_bytes(content)
    table = read_training_table(tmp_path / "t.csv", target, None)
    assert table.y.tolist() == y
    assert table.x.columns.tolist() == columns
    assert table.x.iloc[:, 0].tolist() == [1, 2]


# (the training table, the test table, its labels, its codes); both are numbers and texts to pandas.
PAIRS = {
    "zeros": ("01,02\n1b,a1", "01,02\n01,02", ["02", "02"], ["01", "01"]),
    "numbers of some": ("1,1\nb,b", "1,1", ["1"], ["1"]),
    "numbers as floats": ("1,1\nb,b", "1.0,1.0", ["1"], ["1.0"]),
    "floats as numbers": ("1,1.0\nb,b", "1,1", ["1.0"], ["1"]),
    "texts of some": ("1,1\n2,2", "1,1.0\n2,2", [1, 2], [1, 2]),
    "truth": ("1,True\n2,False", "1,False", [False], [1]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_test_rows_have_the_classes_and_texts_of_the_training_rows(name, tmp_path):
    train, test, y, codes = PAIRS[name]
    for path, rows_ in (("train.csv", train), ("test.csv", test)):
        (tmp_path / path).write_text(f"code,y\n{rows_}\n")
    trained = read_training_table(tmp_path / "train.csv", "y", "classes")
    tested = read_test_table(tmp_path / "test.csv", "y", trained)
    assert tested.y.tolist() == y
    assert tested.y.dtype == trained.y.dtype
    assert tested.x["code"].tolist() == codes


def test_one_test_row_of_one_class(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"x": np.arange(30.0), "y": list("abc") * 10})
    table.to_csv("t.csv", index=False)
    table[4:5].to_csv("test.csv", index=False)
    printed = run(capsys, "explain", "t.csv", "--test", "test.csv", "--target", "y")
    assert "Test row 0 is the most wrong of 1" in printed
    assert "whose label is b?" in printed


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
