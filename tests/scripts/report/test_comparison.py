"""The table of a terminal: marks as in the gallery, and never wider than a hundred columns."""

import pytest

from scripts.report.claims import CLAIMS
from scripts.report.comparison import comparison

FIG3 = {"pearson_r_t0": (0.632, 0.641), "pearson_r_t0.001": (0.95, 0.89), "slope_t0.1": (None, 0.7)}


def record(metrics, data="paper"):
    """What is needed of an experiment's JSON."""
    entries = {name: {"paper": paper, "ours": ours} for name, (paper, ours) in metrics.items()}
    return {"metrics": entries, "data": data}


def test_ticks_and_crosses():
    lines = comparison("fig3_smooth_hinge", record(FIG3 | {"test_margin": (None, 0.5)})).split("\n")
    assert lines[0].split() == ["quantity", "paper", "ours", "agrees"]
    assert "0.632  0.641  ✓ ±\N{NO-BREAK SPACE}0.02" in lines[2]
    assert "0.95   0.89   ✗ ±\N{NO-BREAK SPACE}0.02" in lines[3]
    assert lines[4].endswith("—      0.7")
    assert len(lines) == 5  # of the rest only the JSON has


def test_stand_ins_are_not_compared():
    table = comparison("fig3_smooth_hinge", record(FIG3, "stand-in"))
    assert "✓" not in table
    assert "✗" not in table


@pytest.mark.parametrize("name", CLAIMS)
def test_fits_a_hundred_columns(name):
    wide = [-0.123456789] * 12, "a description in many words, " + 70 * "x"
    table = comparison(name, record(dict.fromkeys(CLAIMS[name].numbers, wide), "stand-in"))
    assert max(map(len, table.splitlines())) <= 100
    assert "-0.12346 …" in " ".join(table.split())


def test_without_a_claim_every_number_is_shown():
    assert "a_number" in comparison("fig5_exhaustive_ranking", record({"a_number": (None, 3)}))
