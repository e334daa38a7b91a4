"""The gallery: what it shows, what it never shows, and how it looks in a browser."""

import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import reproduce
from scripts.report.claims import (
    AT_LEAST,
    CLAIMS,
    SAME,
    Number,
    agrees,
    ends_within,
    inside,
    within,
)
from scripts.report.comparison import show
from scripts.report.gallery import gallery

NUMBER = r"\d+\.?\d*(?:e-?\d+)?"
TITLES = reproduce.EXPERIMENTS
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Numbers that stand nowhere else.
FIG3 = {
    "pearson_r_t0": (0.632, 0.64137),
    "pearson_r_t0.001": (0.95, 0.89173),
    "slope_t0.1": (None, 0.73851),
    "points": (100, 83),
    "test_margin": (None, -0.97413),
    "temperatures": (None, [0.00017, 0.0037, 0.047, 0.61]),
}
LONG = "Imagenette's English springers and tench, " + 5 * "imagenette2-224-dogfish.tar"


def record(name, metrics, data="paper", figures=()):
    """What an experiment's JSON says."""
    return {
        "experiment": name,
        "command": f"python -m scripts.{name} --data real --points 83",
        "data": data,
        "scale": "laptop",
        "metrics": {
            metric: {"paper": paper, "ours": ours} for metric, (paper, ours) in metrics.items()
        },
        "seconds": 1531.27,
        "cores": 48,
        "commit": "c0ffee" + 34 * "0",
        "dirty": False,
        "versions": {"python": "3.11.2", "tensorflow": "2.21.0"},
        "figures": dict(figures),
    }


def draw(folder, name, size=(40, 30)):
    """A grey figure on disk, and its entry of the JSON."""
    path = folder / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, "gray").save(path)
    return name, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def fig3(tmp_path):
    """The record of an experiment whose figure is in ``tmp_path``."""
    return record("fig3_smooth_hinge", FIG3, figures=[draw(tmp_path, "fig3_smooth_hinge")])


def page_of(folder, *records, failed=()):
    """The page with these records."""
    return gallery(TITLES, {item["experiment"]: item for item in records}, list(failed), folder)


class Page(HTMLParser):
    """The words of a page, its tags, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.references, self.alts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self.references += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.alts.append(attributes["alt"])
            self.words.append(attributes["alt"])

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.words.append(data)


@pytest.mark.parametrize(
    ("criterion", "paper", "ours", "expected"),
    [
        (SAME, 500, 500, True),
        (SAME, [3, 24], [3, 23], False),
        (SAME, "official", "stand-in", False),
        (within(0.02), 0.95, 0.969, True),
        (within(0.02), 0.95, 0.929, False),
        (within(0.01), [0.4, 0.6], [0.405, 0.595], True),
        (within(0.01), [0.4, 0.6], [0.405, 0.615], False),
        (within(0.01), [0.4, 0.6], [0.4], False),
        (within(0.01, first=2), [0.4, 0.6, 0.8], [0.4, 0.6, 0.1, 9.0], True),
        (within(0.01, first=2), [0.4, 0.6, 0.8], [0.4, 0.5, 0.8], False),
        (ends_within(1), [27, 41], [40.6, 27.2, 30], True),
        (ends_within(1), [27, 41], [27.2, 30, 39], False),
        (AT_LEAST, 0.86, 0.86, True),
        (AT_LEAST, 0.86, 0.85, False),
        (inside("interval"), 0.57, 0.66, True),
        (inside("interval"), 0.99, 0.66, False),
    ],
)
def test_criteria(criterion, paper, ours, expected):
    numbers = {"interval": [0.2, 0.94]}
    assert agrees(Number("label", criterion), paper, ours, numbers, "paper") is expected
    assert agrees(Number("label", criterion), paper, ours, numbers, "substitute") is expected
    # Nothing to compare.
    assert agrees(Number("label", criterion), None, ours, numbers, "paper") is None
    assert agrees(Number("label", criterion), paper, None, numbers, "paper") is None
    assert agrees(Number("label", criterion), paper, ours, numbers, "stand-in") is None
    assert agrees(Number("label"), paper, ours, numbers, "paper") is None


def test_the_committed_numbers_agree_where_they_should():
    # Of the network, which no quick run has: the metrics' names, and the paper's R reached.
    numbers = CLAIMS["fig2_leave_one_out"].numbers
    assert agrees(numbers["cnn_pearson_r"], 0.86, 0.90141, {}, "paper")
    assert agrees(numbers["cnn_test_accuracy"], 0.9746, 0.9731, {}, "paper")
    results = (Path(__file__).parents[3] / "figures" / "published" / "results.md").read_text()
    for claim in CLAIMS.values():
        for metric in claim.numbers:
            if metric.startswith("cnn_"):
                assert f"| `{metric}` |" in results


def test_marks_stand_in_the_right_rows(tmp_path, fig3):
    page = page_of(tmp_path, fig3)
    rows = dict(re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page, re.DOTALL))
    assert "✓" in rows["Pearson R, hinge (t = 0)"]
    assert "✗" in rows["Pearson R, t = 0.001"]
    assert "✗" in rows["points left out, one at a time"]
    for label in ("slope, t = 0.1", "<code>test_margin</code>"):
        assert "✓" not in rows[label]
        assert "✗" not in rows[label]


def test_every_number_is_in_the_json_or_among_the_claims(tmp_path, fig3):
    claim = CLAIMS["fig3_smooth_hinge"]
    values = [value for entry in fig3["metrics"].values() for value in entry.values()]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    sources = [fig3["command"], *fig3["versions"].values(), *fig3["metrics"], "1531", "48"]
    sources.append(fig3["commit"][:12])
    sources += [show(value) for value in flat]
    sources += [claim.text, *claim.figures.values(), *TITLES.values()]
    for number in claim.numbers.values():
        sources += [number.label, number.criterion.words if number.criterion else ""]
    known = {number for source in sources for number in re.findall(NUMBER, source)}
    words = " ".join(Page(page_of(tmp_path, fig3)).words)
    shown = re.findall(NUMBER, words)
    assert set(shown) <= known
    for value in flat:
        assert value is None or show(value) in words


def test_needs_nothing_but_itself(tmp_path, fig3):
    text = page_of(tmp_path, fig3)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    outside = [name for name in page.references if not name.startswith(("data:", "#"))]
    assert outside == ["https://arxiv.org/abs/1703.04730"]  # a link: nothing is loaded
    assert page.alts == [CLAIMS["fig3_smooth_hinge"].figures["fig3_smooth_hinge"]]


def test_photographs_are_never_shown(tmp_path):
    figures = [draw(tmp_path, "fig4_rbf_vs_inception"), draw(tmp_path, "photos/dog", (50, 50))]
    text = page_of(tmp_path, record("fig4_rbf_vs_inception", {}, "substitute", figures))
    assert text.count("<img") == 1
    assert "SUBSTITUTE DATA" in text


def test_a_figure_of_another_run_is_not_shown(tmp_path, fig3):
    assert "<img" in page_of(tmp_path, fig3)
    draw(tmp_path, "fig3_smooth_hinge", (41, 30))
    text = page_of(tmp_path, fig3)
    assert "<img" not in text
    assert "not of these numbers" in text
    (tmp_path / "fig3_smooth_hinge.png").unlink()
    assert "not of these numbers" in page_of(tmp_path, fig3)
    assert "No figure was drawn" in page_of(tmp_path, fig3 | {"figures": {}})


def test_stand_ins_are_loud_and_not_compared(tmp_path, fig3):
    text = page_of(tmp_path, fig3 | {"data": "stand-in", "scale": "quick"})
    section = text.split("<section")[1]
    assert "STAND-IN DATA" in section
    assert "QUICK" in section
    assert "✓" not in section
    assert "✗" not in section


def test_failed_and_missing_experiments_are_named(tmp_path, fig3):
    text = page_of(tmp_path, fig3, failed=["fig1_components"])
    assert text.count("FAILED") == 1
    assert re.search(r'id="fig1_components">\s*<h2>Figure 1: ', text)
    others = set(TITLES) - {"fig1_components", "fig3_smooth_hinge"}
    not_run = re.search("Not run: (.*)</p>", text)[1]
    assert {title for title in TITLES.values() if title in not_run} == {TITLES[o] for o in others}
    assert "Figure 1" in page_of(tmp_path, failed=["fig1_components"])  # nothing but failures


def test_what_the_json_says_is_escaped(tmp_path, fig3):
    text = page_of(tmp_path, fig3 | {"command": "python <b>&"})
    assert "python &lt;b&gt;&amp;" in text


def test_report_only_writes_both_reports_and_runs_nothing(tmp_path, fig3, monkeypatch):
    monkeypatch.setattr(reproduce.subprocess, "run", None)
    (tmp_path / "fig3_smooth_hinge.json").write_text(json.dumps(fig3))
    folders = ["--output-dir", str(tmp_path), "--figures-dir", str(tmp_path)]
    assert reproduce.main(["--report-only", *folders]) == 0
    assert (tmp_path / "index.html").read_text() == page_of(tmp_path, fig3)
    table = (tmp_path / "results.md").read_text()
    assert f"`{fig3['command']}`" in table
    assert "| `points` | 100 | 83 |" in table
    with pytest.raises(SystemExit, match="run without --report-only first"):
        reproduce.main(["--report-only", *folders, "--only", "fig1_components"])


@pytest.fixture
def browser(tmp_path):
    """Calls a headless browser, where there is one, with an empty profile."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    options += [f"--disable-{what}" for what in ("background-networking", "component-update")]
    options += ["--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]

    def call(page, *more):
        command = [path, *options, *more, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)

    return call


@pytest.fixture
def demanding(tmp_path, fig3):
    """A page with the widest things that there are, opened from disk."""
    wide = {
        "images": (None, LONG),
        "inception_checksum": (None, "sha256:" + 64 * "b"),
        "inception_objective": (0.012129, -1.2345e-10),
    }
    figures = [draw(tmp_path, "fig4_rbf_vs_inception", (2400, 900))]
    fig4 = record("fig4_rbf_vs_inception", wide, "substitute", figures)
    long = {"fixed_loss": 2 * ([0.349, 0.517, 0.623, 0.697, 0.754, 0.793],)}
    path = tmp_path / "index.html"
    path.write_text(page_of(tmp_path, fig3, fig4, record("fig6_label_fixing", long)))
    return path


def test_fits_a_phone(demanding, browser):
    # A window has 500 pixels at least, a frame as many as it is given.
    frame, page = demanding.with_name("phone.html"), html.escape(demanding.read_text())
    frame.write_text(
        f'<iframe id="phone" width="390" height="800" srcdoc="{page}">'
        """</iframe><script>phone.onload = () => {
        const page = phone.contentDocument, root = page.documentElement;
        page.querySelectorAll("details").forEach(details => details.open = true);
        document.title = JSON.stringify({
            width: phone.contentWindow.innerWidth,
            overflow: root.scrollWidth - root.clientWidth,
            cut: [...page.querySelectorAll("td, th, dd")].filter(
                cell => cell.scrollWidth > cell.clientWidth + 1).map(cell => cell.textContent),
            images: [...page.images].map(image => image.naturalWidth),
        })}</script>"""
    )
    dump = browser(frame, "--dump-dom").stdout
    found = json.loads(html.unescape(re.search("<title>(.*)</title>", dump)[1]))
    assert found == {"width": 390, "overflow": 0, "cut": [], "images": [40, 2400]}


def test_light_and_dark(demanding, browser, tmp_path):
    brightness = []
    for scheme in (0, 1):  # dark, light
        picture = tmp_path / f"{scheme}.png"
        setting = f"--blink-settings=preferredColorScheme={scheme}"
        browser(demanding, setting, f"--screenshot={picture}", "--window-size=900,700")
        brightness.append(np.asarray(Image.open(picture).convert("L"))[:, :5].mean())
    assert brightness[0] < 40
    assert brightness[1] > 240
