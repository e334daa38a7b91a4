"""The hospital table: 127 features, the split of 2017, and a stand-in with a known truth."""

import io

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from scripts.loaders import hospital
from scripts.loaders.archive import DataError
from scripts.loaders.registry import Provenance


@pytest.fixture(scope="module")
def content():
    return hospital.stand_in()["table"]


@pytest.fixture(scope="module")
def table(content):
    """The stand-in's cells as they stand in the file, all text."""
    return pd.read_csv(io.BytesIO(content), keep_default_na=False, dtype=str)


@pytest.fixture(scope="module")
def stand_in():
    return hospital.load_hospital("stand-in")


@pytest.fixture
def load_with(monkeypatch):
    """``load_hospital`` on another table."""

    def load_with(table):
        contents = {"table": csv(table)}
        monkeypatch.setattr(hospital, "load", lambda *args: (contents, Provenance("stand-in", {})))
        return hospital.load_hospital()

    return load_with


def csv(table):
    return table.to_csv(index=False).encode()


@pytest.mark.parametrize("rows", [30, 32_000])
def test_there_are_127_features_with_names_of_their_own(rows):
    features, labels, names = hospital.read_table(hospital.stand_in(rows)["table"])
    assert features.shape == (len(labels), 127)
    assert features.dtype == np.float32
    assert len(set(names)) == len(names) == 127


def test_numbers_come_first_as_they_are(content, table):
    features, _, names = hospital.read_table(content)
    assert names[:8] == list(hospital.NUMERIC)
    np.testing.assert_array_equal(features[:, :8], table[names[:8]].astype(np.float32))


@pytest.mark.parametrize(
    ("column", "indicator"),
    [
        ("acetohexamide", "acetohexamide_Steady"),
        ("tolbutamide", "tolbutamide_Steady"),
        ("troglitazone", "troglitazone_Steady"),
        ("glipizide-metformin", "glipizide-metformin_Steady"),
        ("glimepiride-pioglitazone", "glimepiride-pioglitazone_Steady"),
        ("metformin-rosiglitazone", "metformin-rosiglitazone_Steady"),
        ("metformin-pioglitazone", "metformin-pioglitazone_Steady"),
        ("change", "change_No"),
        ("diabetesMed", "diabetesMed_Yes"),
        ("examide", "examide_No"),
        ("citoglipton", "citoglipton_No"),
    ],
)
def test_columns_of_one_or_two_categories_have_one_indicator(content, table, column, indicator):
    features, _, names = hospital.read_table(content)
    assert [name for name in names if name.startswith(f"{column}_")] == [indicator]
    ones = table[column] == indicator.removeprefix(f"{column}_")
    np.testing.assert_array_equal(features[:, names.index(indicator)], ones)


@pytest.mark.parametrize(
    ("column", "category"),
    [
        ("max_glu_serum", "None"),  # pandas would read "None" as a missing value
        ("A1Cresult", "None"),
        ("race", "?"),
        ("discharge_disposition_id", "11"),
        ("age", "[0-10)"),
        ("tolazamide", "No"),
    ],
)
def test_a_category_has_its_indicator(content, table, column, category):
    features, _, names = hospital.read_table(content)
    ones = (table[column] == category).to_numpy()
    assert ones.any()
    np.testing.assert_array_equal(features[:, names.index(f"{column}_{category}")], ones)


def test_labels_are_readmissions_within_30_days_only(table):
    changed = table.assign(readmitted=["<30", ">30", "NO", "<30"] * (len(table) // 4))
    _, labels, _ = hospital.read_table(csv(changed))
    assert labels[:4].tolist() == [1, 0, 0, 1]


def test_columns_that_are_not_needed_are_passed_over(content, table):
    wider = table.assign(encounter_id="7", weight="?")[["weight", *table, "encounter_id"]]
    features, labels, names = hospital.read_table(csv(wider))
    expected = hospital.read_table(content)
    assert names == expected[2]
    np.testing.assert_array_equal(features, expected[0])
    np.testing.assert_array_equal(labels, expected[1])


@pytest.mark.parametrize("column", ["num_medications", "insulin", "readmitted"])
def test_a_missing_column_is_named(table, column):
    with pytest.raises(DataError, match=column):
        hospital.read_table(csv(table.drop(columns=column)))


@pytest.mark.parametrize("cell", ["many", ""])
def test_a_number_that_is_none_is_refused(table, cell):
    changed = table.head(50).assign(num_medications=[*table["num_medications"][:49], cell])
    with pytest.raises(DataError, match="hospital table"):
        hospital.read_table(csv(changed))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\xff\xfe\x00\x01", b"PK\x03\x04"])
def test_what_is_no_csv_is_refused(content):
    with pytest.raises(DataError, match="hospital table"):
        hospital.read_table(content)


def test_the_split_is_20_000_balanced_training_rows_and_the_rest(stand_in):
    train, test = stand_in.train, stand_in.test
    assert train.x.shape == (20_000, 127)
    assert train.labels.sum() == 10_000
    assert len(train) + len(test) == stand_in.rows == 32_000
    assert stand_in.provenance.data == "stand-in"


def test_no_row_is_lost_or_in_both_parts(stand_in, content):
    features, labels, _ = hospital.read_table(content)
    rows = np.column_stack([features, labels])
    parts = [np.column_stack([part.x, part.labels]) for part in (stand_in.train, stand_in.test)]
    split = np.concatenate(parts)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], split[np.lexsort(split.T)])


def test_the_draws_are_those_of_2017(load_with, table):
    labels = np.where(np.arange(len(table)) % 3 == 0, "<30", "NO")
    rows = np.arange(len(table))
    split = load_with(table.assign(readmitted=labels, num_procedures=rows))
    random = np.random.RandomState(2)
    readmitted, others = random.permutation(rows[::3]), random.permutation(rows[rows % 3 > 0])
    train = random.permutation([*readmitted[:10_000], *others[:10_000]])
    test = random.permutation([*readmitted[10_000:], *others[10_000:]])
    column = split.features.index("num_procedures")
    np.testing.assert_array_equal(split.train.x[:, column], train)
    np.testing.assert_array_equal(split.test.x[:, column], test)


def test_the_split_is_the_same_every_time(stand_in):
    again = hospital.load_hospital("stand-in")
    np.testing.assert_array_equal(again.train.x, stand_in.train.x)
    np.testing.assert_array_equal(again.test.labels, stand_in.test.labels)
    assert again.provenance == stand_in.provenance


def test_another_seed_draws_another_table(content):
    assert hospital.stand_in(seed=1)["table"] != content


def test_children_are_rare_in_the_stand_in(stand_in, table):
    in_train, in_test = stand_in.children(stand_in.train), stand_in.children(stand_in.test)
    assert in_train.shape == (20_000,)
    assert in_train.sum() + in_test.sum() == (table["age"] == "[0-10)").sum()
    assert 0 < in_train.sum() < 200
    assert in_test.sum() > 0
    assert 0 < stand_in.train.labels[in_train].sum() < in_train.sum() / 2


def test_a_fit_recovers_the_truth_of_the_stand_in(stand_in):
    x = StandardScaler().fit_transform(stand_in.train.x)
    fit = LogisticRegression(C=0.1).fit(x, stand_in.train.labels)
    coefficients = dict(zip(stand_in.features, fit.coef_[0]))
    assert coefficients["number_inpatient"] > 0.2
    assert coefficients["discharge_disposition_id_11"] < -0.2
    assert coefficients["number_inpatient"] == max(coefficients.values())


@pytest.mark.parametrize("label", ["<30", "NO"])
def test_too_few_rows_of_a_label_are_refused(load_with, table, label):
    rows = np.arange(len(table))
    labels = np.where(rows < 10_000, label, "NO" if label == "<30" else "<30")
    with pytest.raises(DataError, match="10,000"):
        load_with(table.assign(readmitted=labels))


def test_one_row_more_than_half_the_training_set_is_enough(load_with, table):
    labels = np.where(np.arange(len(table)) < 10_001, "<30", "NO")
    assert load_with(table.assign(readmitted=labels)).test.labels.sum() == 1


@pytest.mark.realdata
def test_the_real_table():
    real = hospital.load_hospital("real")
    assert real.rows == 101_766
    assert len(real.features) == real.train.x.shape[1] == 127
    in_train = real.children(real.train)
    assert (in_train.sum(), real.train.labels[in_train].sum()) == (24, 3)
    assert real.children(real.test).sum() == 137
    assert real.provenance.data == "paper"
