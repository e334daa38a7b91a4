"""The README's code runs, and its numbers are those of the committed results."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?"
README = (ROOT / "README.md").read_text()


def test_code_runs(capsys):
    scope = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    correlation, slope = map(float, re.search(r"R = (\S+) slope = (\S+)", printed).groups())
    assert correlation > 0.99
    assert slope == pytest.approx(1, abs=0.1)
    assert printed.count("(3, 1500)") >= 4


def test_numbers_are_in_the_results():
    table = README.split("<!-- table")[1].split("<!-- end")[0]
    results = (ROOT / "figures" / "results.md").read_text()
    ours = [row.split("|")[3] for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(ours) >= 15
    known = np.abs([float(number) for number in re.findall(NUMBER, results)])
    for cell in ours:
        for text in re.findall(NUMBER, cell):
            mantissa, _, exponent = text.partition("e")
            digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
            near = np.abs(known - float(text)) <= 0.51 * 10.0**-digits
            assert near.any(), f"{text} is not in figures/results.md"


def test_files_it_names_exist():
    for name in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / name).exists(), name


def test_results_are_of_the_papers_data():
    results = (ROOT / "figures" / "results.md").read_text()
    assert "STAND-IN" not in results
    assert results.count("data: paper") >= 3
