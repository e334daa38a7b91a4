"""What the columns of a table are taken as."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influence.command.columns import columns_of, differences

PATH = Path("t.csv")
ROWS = 50
TABLE = pd.DataFrame(
    {
        "Unnamed: 0": np.arange(ROWS),
        "size": [1.0, None, *np.arange(2.0, ROWS)],
        "texts of numbers": [str(i) for i in range(ROWS)],
        "yes": [True, False] * (ROWS // 2),
        "day": ["2024-02-28", None, "2024-02-29T12:00:00Z", *["2024-03-01"] * (ROWS - 3)],
        "time": pd.date_range("2024-01-01", periods=ROWS, tz="Europe/Vienna"),
        "colour": ["red", None, *["blue"] * (ROWS - 2)],
        "name": [f"patient {i}" for i in range(ROWS)],
        "nothing": [None] * ROWS,
    }
)


def test_kinds():
    columns = columns_of(TABLE, PATH)
    assert columns.numbers == ["size", "texts of numbers", "yes"]
    assert columns.dates == ["day", "time"]
    assert columns.categories == ["colour"]
    assert columns.left_out.keys() == {"Unnamed: 0", "name", "nothing"}
    assert str(columns) == (
        "3 numbers standardised, 2 dates as days, month and weekday, 1 category one-hot"
    )


def test_features_are_standardised_numbers_with_names():
    columns = columns_of(TABLE, PATH)
    features = columns.encoder().fit_transform(columns.tidy(TABLE, PATH))
    assert features.columns.tolist() == [
        *("size", "texts of numbers", "yes"),
        *("day (days)", "day (month)", "day (weekday)"),
        *("time (days)", "time (month)", "time (weekday)"),
        *("colour = (empty)", "colour = blue", "colour = red"),
    ]
    numbers = features.iloc[:, :9]
    np.testing.assert_allclose(numbers.mean(), 0, atol=1e-9)
    np.testing.assert_allclose(numbers.std(ddof=0), 1)
    # The gap is filled with the median, which is here the number in the middle.
    size = TABLE["size"].fillna(TABLE["size"].median())
    np.testing.assert_allclose(features["size"], (size - size.mean()) / size.std(ddof=0))
    # From one day to the next but half of one; the 28th of February 2024 was a Wednesday.
    days = features["day (days)"].to_numpy()
    assert (days[2] - days[0]) / (days[3] - days[0]) == pytest.approx(0.75)
    weekdays = features["day (weekday)"].to_numpy()
    assert weekdays[0] < weekdays[2] < weekdays[3]
    assert features["colour = red"].tolist() == [1.0] + [0.0] * (ROWS - 1)


def test_many_categories_are_one_at_the_end():
    frame = pd.DataFrame({"city": np.repeat([f"city {i}" for i in range(40)], 5)})
    columns = columns_of(frame, PATH)
    features = columns.encoder().fit_transform(columns.tidy(frame, PATH))
    assert features.shape[1] == 20
    assert "city = infrequent_sklearn" in features.columns


def test_a_category_that_only_the_test_table_has_is_none_of_the_others():
    columns = columns_of(TABLE, PATH)
    encoder = columns.encoder().fit(columns.tidy(TABLE, PATH))
    with pytest.warns(UserWarning, match="unknown categories"):
        features = encoder.transform(columns.tidy(TABLE[:1].assign(colour="green"), PATH))
    assert not features.filter(like="colour").to_numpy().any()


def test_differences_are_in_standard_deviations():
    frame = pd.DataFrame(
        {
            "size": [0.0, 2.0, 4.0, np.nan],
            "day": pd.to_datetime(["2024-01-01", "2024-01-03", "2024-01-05", None]),
            "colour": ["red", "blue", "red", "red"],
            "same": [3.0] * 4,
        }
    ).astype({"colour": object})
    apart = differences(frame, frame.iloc[0], frame)
    expected = [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(apart, expected)


def test_a_column_of_one_date_is_not_apart():
    frame = pd.DataFrame({"day": pd.to_datetime(["2024-01-01"] * 3)})
    other = frame.iloc[0] + pd.Timedelta(days=4)
    assert differences(frame, frame.iloc[0], frame)["day"].tolist() == [0, 0, 0]
    assert differences(frame, other, frame)["day"].tolist() == [4, 4, 4]


def test_dates_are_those_of_people_there():
    times = pd.date_range("2024-06-01", periods=3, tz="Asia/Tokyo")
    frame = pd.DataFrame({"known": times, "written": times.map(str)})
    columns = columns_of(frame, PATH)
    tidy = columns.tidy(frame, PATH)
    for name in frame:
        assert tidy[name].dt.strftime("%m-%d %H:%M").tolist() == [
            *("06-01 00:00", "06-02 00:00", "06-03 00:00")
        ]
    # Of another table in another zone they are the same.
    moved = columns.tidy(frame.assign(known=times.tz_convert("UTC")), PATH)
    assert (moved["known"] == tidy["known"]).all()


@pytest.mark.parametrize("wrong", ["yesterday", "2024-02-30", 20240229])
def test_a_date_that_is_none_is_refused(wrong):
    columns = columns_of(TABLE, PATH)
    table = TABLE.astype({"day": object})
    table.loc[4, "day"] = wrong
    words = rf"Column 'day' of t\.csv must be dates .*, and row 4 \(counted from 0\) has .?{wrong}"
    with pytest.raises(ValueError, match=words):
        columns.tidy(table, PATH)
    assert columns.tidy(TABLE.assign(day=np.nan), PATH)["day"].isna().all()


def test_times_are_no_numbers():
    columns = columns_of(pd.DataFrame({"size": [1.0, 2.0]}), PATH)
    times = pd.DataFrame({"size": pd.to_datetime(["2024-01-01", "2024-01-02"])})
    with pytest.raises(ValueError, match="Column 'size' of t.csv must be numbers, and row 0"):
        columns.tidy(times, PATH)


def test_categories_are_the_same_as_numbers_and_as_texts():
    columns = columns_of(pd.DataFrame({"grade": ["1", "2", "A", "B", None]}), PATH)
    for values in ([1, 2], [1.0, 2.0], ["1.0", "2"]):
        assert columns.tidy(pd.DataFrame({"grade": values}), PATH)["grade"].tolist() == ["1", "2"]
    with_gap = columns.tidy(pd.DataFrame({"grade": [1.0, None]}), PATH)
    assert with_gap["grade"].tolist() == ["1", "(empty)"]


def test_what_is_saved_as_categories_is_no_number():
    frame = pd.DataFrame({"grade": pd.Categorical([1, 2, None])})
    columns = columns_of(frame, PATH)
    assert columns.categories == ["grade"]
    assert columns.tidy(frame, PATH)["grade"].tolist() == ["1", "2", "(empty)"]


GAPS = [True, None, False]


@pytest.mark.parametrize("values", [GAPS, pd.array(GAPS, "boolean")])
def test_truth_values_may_have_gaps(values):
    frame = pd.DataFrame({"yes": values})
    numbers = columns_of(pd.DataFrame({"yes": [True, False]}), PATH)
    np.testing.assert_array_equal(numbers.tidy(frame, PATH)["yes"], [1, np.nan, 0])
    columns = columns_of(pd.DataFrame({"yes": [True, None, False] * 3}), PATH)
    assert columns.categories == ["yes"]
    assert columns.tidy(frame, PATH)["yes"].tolist() == ["True", "(empty)", "False"]
