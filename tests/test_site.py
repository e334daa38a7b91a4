"""The site: its pages, its examples, and what it says of messages."""

import ast
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.image import imread

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
TROUBLES = re.findall(r"^### `(.*)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)


def test_every_example_is_in_the_gallery():
    pages = {path.stem: path.read_text() for path in (ROOT / "docs/gallery").glob("*.md")}
    index = pages.pop("index")
    assert sorted(pages) == EXAMPLES
    for name, text in pages.items():
        assert f"({name}.md)" in index
        assert f'--8<-- "{name}.py"' in text
        assert re.search(rf"!\[.{{40,}}\]\({name}\.png\)", text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:KerasModel is not at a minimum")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_draws_what_the_gallery_shows(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / f"examples/{name}.py"), run_name="__main__")
    plt.close("all")
    assert capsys.readouterr().out
    drawn, shown = imread(f"{name}.png"), imread(ROOT / f"docs/gallery/{name}.png")
    assert drawn.shape == shown.shape


def messages():
    """All texts of the library, with … for what is filled in."""
    for path in (ROOT / "influence").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.fixture(scope="module")
def said():
    return list(messages())


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_message_is_one_of_the_library(trouble, said):
    assert any(trouble.rstrip("…") in message for message in said)


def test_there_are_troubles_to_shoot():
    assert len(TROUBLES) >= 20


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="no mkdocs")
def test_the_site_is_built_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "api/adapters/index.html").read_text()
    assert "influence_on_loss" in page
    assert "class=&quot;" not in page
