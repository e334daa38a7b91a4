"""The page: what it shows, and that it needs nothing else."""

import contextlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import style

from influence.command import pictures
from influence.command.checking import check
from influence.command.explaining import explain
from influence.command.main import main
from influence.command.overturning import overturn
from influence.command.report import report
from influence.command.subject import prepare
from tests.command.conftest import write

# What has no end of its own.
VOID = {"meta", "br", "use", "img", "link", "hr"}


class Page(HTMLParser):
    """Elements in their order, and that they are closed in theirs."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def all(self, tag):
        """The attributes of every such element."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(cancer, tmp_path_factory):
    """The report of the most wrong test row, and what the terminal says of it."""
    folder, printed = tmp_path_factory.mktemp("page"), io.StringIO()
    write(cancer, folder)
    arguments = ["train.csv", "--test", "test.csv", "--target", "diagnosis"]
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        assert main(["explain", *arguments, "--html", "report.html"]) == 0
    return (folder / "report.html").read_text(), printed.getvalue()


@pytest.mark.slow
def test_the_page_says_what_the_terminal_says(page):
    text, printed = page
    Page(text)
    question = re.search(r"^Which training rows .*\?$", printed, re.MULTILINE)[0]
    assert f"<h1>{question}</h1>" in text
    for kind, following in (("Harmful", "Helpful"), ("Helpful", "All training rows")):
        part = text.split(f"{kind} training rows</h2>")[1].split(f"{following}")[0]
        listed = printed.split(f"{kind}:")[1].split("\n\n")[0]
        rows = re.findall(r"^ *(\d+) ", listed, re.MULTILINE)
        assert re.findall(r'<th scope="col">(\d+)</th>', part) == rows
        scores = re.findall(r"[+-]\d\.\d{4}", part)
        assert scores == re.findall(r"[+-]\d\.\d{4}", listed)
        assert part.count("<mark>") > len(rows)
    assert "Trust" in text.split("What was checked")[1]
    command = "influence explain train.csv --test test.csv --target diagnosis --html report.html"
    assert f"<code>{command}</code>" in text


def test_the_page_needs_nothing_else(page):
    text, _ = page
    read = Page(text)
    for tag in ("script", "link", "img", "iframe", "object"):
        assert not read.all(tag)
    assert "url(http" not in text
    assert "@import" not in text
    # Only names of XML in the pictures, which nothing is fetched from.
    addresses = set(re.findall(r'"(https?://[^"]*)"', text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    for attributes in read.all("use"):
        assert f'id="{attributes["xlink:href"].removeprefix("#")}"' in text


def test_the_page_is_for_keyboards_and_screen_readers(page):
    text, _ = page
    read = Page(text)
    assert read.all("html") == [{"lang": "en"}]
    assert len(read.all("h1")) == 1
    assert [a["name"] for a in read.all("meta") if "name" in a] == ["viewport", "color-scheme"]
    drawn = read.all("svg")
    assert len(drawn) == 3
    assert all(each["role"] == "img" and len(each["aria-label"]) > 40 for each in drawn)
    scrolled = [each for each in read.all("div") if each.get("class") == "scroll"]
    assert len(scrolled) == 2
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in scrolled)
    assert all("scope" in each for each in read.all("th"))
    names = [each["id"] for tag, each in read.elements if "id" in each]
    referred = {each["aria-labelledby"] for each in read.all("section")}
    assert referred <= set(names)
    outside = [name for name in names if not re.fullmatch(r"[mpC][0-9a-f_]+", name)]
    assert len(outside) == len(set(outside))


@pytest.mark.parametrize("outside", ["default", "dark_background", "ggplot"])
def test_pictures_have_the_colours_of_the_page(outside):
    scores = np.linspace(-1, 2, 50)
    with style.context(outside):
        drawn = pictures.of_scores(scores, [0, 1], [49])
    assert {"var(--bad)", "var(--good)", "var(--text)"} <= set(re.findall(r"var\(--\w+\)", drawn))
    # Nothing is left in a colour of its own that would not be seen on a dark page.
    assert not re.findall(r"(?:fill|stroke): #", drawn)
    # Whatever the style of the session is.
    assert drawn == pictures.of_scores(scores, [0, 1], [49])


@pytest.mark.slow
def test_texts_of_a_table_stay_texts(folder, cancer):
    table = cancer.rename(columns={"clinic": "<b>clinic</b>"})
    table["<b>clinic</b>"] = table["<b>clinic</b>"].replace("west", "<script>alert(1)</script>")
    write(table, folder)
    subject = prepare(folder / "train.csv", folder / "test.csv", target="diagnosis")
    text = report(explain(subject), ["A note & more."], "influence explain '<i>'")
    assert not Page(text).all("script")
    assert not Page(text).all("b")
    assert "A note &amp; more." in text


def test_answers_are_tables_in_notebooks(folder, cancer):
    subject = prepare(folder / "train.csv", folder / "test.csv", target="diagnosis")
    explanation = explain(subject, row=3, top=4)
    frame = explanation.to_frame()
    assert frame.index.tolist() == explanation.harmful + explanation.helpful
    np.testing.assert_array_equal(frame["score"], explanation.scores[frame.index])
    assert (frame["diagnosis"] == cancer["diagnosis"][frame.index]).all()
    assert (frame["mean area"] == cancer["mean area"][frame.index]).all()
    assert "for row 3 of" in explanation._repr_html_()
    found = overturn(subject, coefficient="clinic = west")
    assert found.to_frame().index.tolist() == list(found.found.indices)
    assert "clinic = west" in found._repr_html_()
    checked = check(subject, 3)
    assert checked.to_frame().index.tolist() == checked.validation.indices.tolist()
    assert checked.verdict in checked._repr_html_()
