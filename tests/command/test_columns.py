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
