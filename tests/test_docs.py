"""The code of README and docs/ runs, and their numbers are those of the committed results."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from influence.command import main as command
from scripts.report.results import row

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "figures" / "published"
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?"
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
# Of shell blocks only this command is run; the others are of the experiments, which have tests.
COMMAND = re.compile(r"^influence (.*)$", re.MULTILINE)


def run(text, name):
    """Run the Python blocks, and the commands `influence`, of a page in their order."""
    scope = {}
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", text, re.DOTALL):
        if language == "python":
            exec(compile(block, name, "exec"), scope)
        else:
            for arguments in COMMAND.findall(block):
                assert not command.main(shlex.split(arguments, comments=True))
    return scope


@pytest.mark.slow
def test_code_of_the_readme_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(README, "README.md")
    printed = capsys.readouterr().out
    correlation, slope = map(float, re.search(r"R = (\S+) slope = (\S+)", printed).groups())
    assert correlation > 0.99
    assert slope == pytest.approx(1, abs=0.1)
    assert printed.count("(3, 1500)") >= 4


def test_every_page_is_in_the_readme_and_on_the_site():
    site = (ROOT / "mkdocs.yml").read_text()
    assert len(PAGES) == 12
    for name, text in PAGES.items():
        assert f"docs/{name}" in README or name == "index.md"
        assert f" {name}\n" in site
        assert len(text.splitlines()) <= 180, name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PAGES.keys() - {"your-own-model.md", "architecture.md"}))
def test_code_of_a_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(PAGES[name], name)


@pytest.mark.slow
def test_ten_minutes_end_with_the_five_most_harmful_points(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope = run(PAGES["your-own-model.md"], "your-own-model.md")
    printed = capsys.readouterr().out
    assert printed.count("Harmful:") == 2
    worst, scores = scope["worst"], scope["scores"]
    lines = re.findall(r"^training point (\d+) \(a (\d)\): (\S+)$", printed, re.MULTILINE)
    assert [int(index) for index, _, _ in lines] == np.argsort(scores[worst])[:5].tolist()
    assert all(float(score) < 0 for _, _, score in lines)


@pytest.mark.parametrize(
    ("text", "column"), [(README, 3), (PAGES["reproducing.md"], 5)], ids=["README", "reproducing"]
)
def test_numbers_are_in_the_published_results(text, column):
    table = text.split("<!-- table")[1].split("<!-- end")[0]
    results = (PUBLISHED / "results.md").read_text()
    ours = [row.split("|")[column] for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(ours) >= 6
    known = np.abs([float(number) for number in re.findall(NUMBER, results)])
    for cell in ours:
        for text in re.findall(NUMBER, cell):
            mantissa, _, exponent = text.partition("e")
            digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
            near = np.abs(known - float(text)) <= 0.51 * 10.0**-digits
            assert near.any(), f"{text} is not in figures/published/results.md"


@pytest.mark.parametrize("path", [Path("README.md"), *(Path("docs") / name for name in PAGES)])
def test_files_it_names_exist(path):
    folder = (ROOT / path).parent
    for name in re.findall(r"\]\(([^)h#][^)#]*)[^)]*\)", (ROOT / path).read_text()):
        assert (folder / name).exists(), name


def test_published_results_are_of_the_papers_data():
    results = (PUBLISHED / "results.md").read_text()
    assert "STAND-IN" not in results
    assert results.count("data: paper") >= 3


def test_published_figures_and_results_are_those_of_the_json():
    results = (PUBLISHED / "results.md").read_text()
    for path in PUBLISHED.glob("*.json"):
        record = json.loads(path.read_text())
        assert record["commit"][:12] in results
        for metric, numbers in record["metrics"].items():
            assert row(metric, numbers) in results
        for figure, digest in record["figures"].items():
            published = PUBLISHED / f"{figure}.png"
            # Photographs are never published.
            if not figure.startswith("photos/"):
                assert hashlib.sha256(published.read_bytes()).hexdigest() == digest
