"""Results as tables: the numbers of the result, and in notebooks."""

import numpy as np
import pytest

from influence import Brittleness, DampingChoice, DatamodelingScore, LeaveOneOut, RemovalCurve
from influence.objective.validation import Validation
from influence.studies.sets import InfluentialSet

RANDOM = np.random.default_rng(0)
SCORE = DatamodelingScore(
    0.5, (0.4, 0.6), RANDOM.normal(size=3), 0.9, RANDOM.normal(size=(3, 7)), np.zeros((3, 7))
)
CURVE = RemovalCurve(np.array([0, 2]), {"a": RANDOM.normal(size=(2, 3, 4))})
FLIPPED = np.array([[False, True], [False, False], [True, True]])
# (result, what is in its table by column, its rows)
RESULTS = {
    "validation": (
        Validation(np.array([4, 1]), [0.1, 0.2], [0.1, 0.3], 0.99, 0.9, np.array([0, 1e-9]), 1e-9),
        {"predicted": [0.1, 0.2], "actual": [0.1, 0.3], "gradient_norm": [0, 1e-9]},
        [4, 1],
    ),
    "datamodeling": (SCORE, {"score": SCORE.per_test}, [0, 1, 2]),
    "damping": (
        DampingChoice(0.1, (0.1, 1.0), (SCORE, SCORE)),
        {"score": [0.5] * 2, "low": [0.4] * 2, "high": [0.6] * 2, "ceiling": [0.9] * 2},
        [0.1, 1.0],
    ),
    "leave one out": (
        LeaveOneOut(np.array([3, 8]), np.eye(2), np.zeros(2), np.ones(2)),
        {0: [1, 0], 1: [0, 1]},
        [3, 8],
    ),
    "removals": (CURVE, {"a": CURVE.losses["a"].mean(axis=(1, 2))}, [0, 2]),
    "brittleness": (
        Brittleness(np.array([1, 9]), FLIPPED, np.array([True, True, False])),
        {"share": [0, 0.5]},
        [1, 9],
    ),
    "set": (
        InfluentialSet(np.array([4, 1]), predicted=-0.5, actual=-0.52, before=0.4, size=50),
        {"change": [0, -0.5, -0.52], "target": [0.4, -0.1, -0.12]},
        ["all points", "predicted", "refitted"],
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_a_table(name):
    result, columns, rows = RESULTS[name]
    frame = result.to_frame()
    assert frame.columns.tolist() == list(columns)
    assert frame.index.tolist() == rows
    for column, expected in columns.items():
        np.testing.assert_allclose(frame[column], expected, atol=1e-15)
    html = result._repr_html_()
    assert html.count("<tr") >= len(rows) + 1
    assert result.heading.splitlines()[0] in html


def test_texts_stay_texts():
    class Odd(RemovalCurve):
        heading = "<script>"

    assert "<p>&lt;script&gt;</p>" in Odd(CURVE.sizes, {"<b>": CURVE.losses["a"]})._repr_html_()
    assert "<b>" not in Odd(CURVE.sizes, {"<b>": CURVE.losses["a"]})._repr_html_()


def test_of_a_wide_table_a_notebook_shows_some_columns():
    wide = RemovalCurve(CURVE.sizes, {f"score {i}": CURVE.losses["a"] for i in range(300)})
    assert wide._repr_html_().count("<th>score") == 20
