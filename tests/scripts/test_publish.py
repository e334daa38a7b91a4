"""What is published: whole runs on real data, of the code of the last commit, and nothing else."""

import hashlib
import json
import shutil

import pytest

from scripts import publish
from scripts.publish import RefusedError
from scripts.report import commit as commits
from scripts.report.commit import Version, version
from scripts.report.results import EXPERIMENTS
from tests.checkout import commit, git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


@pytest.fixture
def repository(tmp_path):
    """A small repository with code, and a published figure."""
    for name in ("influence", "scripts", "docs", "figures/published"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "influence" / "solver.py").write_text("exact = True\n")
    (tmp_path / "scripts" / "figure.py").write_text("draw()\n")
    (tmp_path / "requirements.lock").write_text("numpy==2.1\n")
    (tmp_path / "docs" / "method.md").write_text("H\n")
    (tmp_path / "figures" / "published" / "fig1_components.png").write_bytes(b"old")
    (tmp_path / ".gitignore").write_text("output/\nfigures/*\n!figures/published/\n")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


@pytest.fixture
def ran(repository):
    """The repository after a whole run."""
    (repository / "output").mkdir()
    code = vars(version(repository))
    for name in EXPERIMENTS:
        write_figure(repository, name)
        write_figure(repository, f"photos/{name}")
        digests = {figure: digest_of(repository, figure) for figure in (name, f"photos/{name}")}
        record = {
            "experiment": name,
            "command": f"python -m scripts.{name} --data real",
            "data": "substitute" if "fig4" in name else "paper",
            "scale": "laptop",
            "metrics": {"n": {"paper": None, "ours": 12345}},
            "seconds": 2.5,
            "cores": 48,
            "versions": {"tensorflow": "2.21.0"},
            "figures": digests,
            "drawn_by": code,
            **code,
        }
        (repository / "output" / f"{name}.json").write_text(json.dumps(record))
    return repository


def write_figure(repository, name, content=b"new"):
    path = repository / "figures" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content + name.encode())


def digest_of(repository, name):
    return hashlib.sha256((repository / "figures" / f"{name}.png").read_bytes()).hexdigest()


def change(repository, name, **items):
    """Change the record of an experiment."""
    path = repository / "output" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | items))


def published(repository):
    """What is published, by name."""
    folder = repository / "figures" / "published"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_publish(repository):
    figures = repository / "figures"
    return publish.publish(repository / "output", figures, figures / "published", repository)


def refused(repository, words):
    """It is refused in these words, and nothing is changed."""
    before = published(repository)
    with pytest.raises(RefusedError, match=words) as caught:
        run_publish(repository)
    assert "\n" not in str(caught.value)
    assert published(repository) == before
    assert not list((repository / "figures").glob(".*"))


def test_publishes_what_ran_beyond_the_seven_with_its_table(ran):
    name = "fig2_training"
    write_figure(ran, name)
    record = json.loads((ran / "output" / "fig1_components.json").read_text())
    record |= {"experiment": name, "figures": {name: digest_of(ran, name)}}
    (ran / "output" / f"{name}.json").write_text(json.dumps(record))
    (ran / "output" / f"{name}.csv").write_text("step,objective\n")
    run_publish(ran)
    files = published(ran)
    assert files.keys() >= {f"{name}.{ending}" for ending in ("png", "json", "csv")}
    for page in ("results.md", "index.html"):
        assert "what convergence does to influence" in files[page].decode()


def test_what_takes_hours_stays_with_its_commit_until_it_runs_again(ran):
    """The trace of 500,000 steps is not lost with every other line of code, nor made newer."""
    name, old = "fig2_training", git(ran, "rev-parse", "HEAD").strip()
    write_figure(ran, name, b"old")
    record = json.loads((ran / "output" / "fig1_components.json").read_text())
    record |= {"experiment": name, "figures": {name: digest_of(ran, name)}}
    folder = ran / "figures" / "published"
    (folder / f"{name}.json").write_text(json.dumps(record))
    (folder / f"{name}.csv").write_text("step,objective\n")
    (ran / "figures" / f"{name}.png").rename(folder / f"{name}.png")
    (ran / "influence" / "solver.py").write_text("exact = False\n")
    new = commit(ran)
    for other in EXPERIMENTS:
        code = {"commit": new, "dirty": False}
        change(ran, other, **code, drawn_by=code)
    stays = {f"{name}.{ending}" for ending in ("png", "json", "csv")}
    before = published(ran)
    assert run_publish(ran) == {name: old[:12]}
    after = published(ran)
    assert {file: after[file] for file in stays} == {file: before[file] for file in stays}
    lines = after["results.md"].decode().splitlines()
    last = lines.index("## Beyond the paper: what convergence does to influence")
    assert [new[:12] in line for line in lines if "commit:" in line] == [True] * 7 + [False]
    assert f"commit: {old[:12]}" in lines[last + 2]
    (folder / f"{name}.png").write_bytes(b"another")
    refused(ran, "not of the numbers in fig2_training.json")


def test_publishes_figures_reports_and_json_but_no_photograph(ran):
    run_publish(ran)
    files = published(ran)
    expected = {f"{name}.{ending}" for name in EXPERIMENTS for ending in ("png", "json")}
    assert files.keys() == expected | {"results.md", "index.html"}
    assert files["fig1_components.png"] == b"newfig1_components"
    record = ran / "output" / "fig1_components.json"
    assert files["fig1_components.json"] == record.read_bytes()
    head = git(ran, "rev-parse", "HEAD")[:12]
    for page in ("results.md", "index.html"):
        text = files[page].decode()
        assert "12345" in text
        assert head in text
        assert "48 cores" in text
        assert "tensorflow 2.21.0" in text
    assert "SUBSTITUTE" in files["results.md"].decode()
    assert not list((ran / "figures").glob(".*"))
    # Committed, it may be published again: the code is the same.
    commit(ran)
    run_publish(ran)
    assert published(ran) == files


def test_what_is_beyond_the_paper_may_be_published_alone(ran):
    """The seven stay one run of one commit, and what took hours joins them, of its own."""
    seven = {path: path.read_bytes() for path in (ran / "output").iterdir()}
    name = "fig2_training"
    for path in seven:
        path.unlink()
    first = json.loads(seven[ran / "output" / "fig1_components.json"])
    (ran / "output" / f"{name}.json").write_text(json.dumps(first | {"experiment": name}))
    refused(ran, "fig1_components, .* did not run")  # nor are they published
    (ran / "output" / f"{name}.json").unlink()
    refused(ran, "did not run")
    for path, content in seven.items():
        path.write_bytes(content)
    run_publish(ran)
    before, old = published(ran), git(ran, "rev-parse", "HEAD").strip()
    (ran / "influence" / "solver.py").write_text("exact = False\n")
    code = {"commit": commit(ran), "dirty": False}
    name = "datamodeling_mnist"
    write_figure(ran, name)
    record = json.loads((ran / "output" / "fig1_components.json").read_text())
    record |= {"experiment": name, "figures": {name: digest_of(ran, name)}, **code}
    for path in (ran / "output").iterdir():
        path.unlink()
    (ran / "output" / f"{name}.json").write_text(json.dumps(record | {"drawn_by": code}))
    assert run_publish(ran) == dict.fromkeys(EXPERIMENTS, old[:12])
    after = published(ran)
    pages = {"results.md", "index.html"}
    assert {file: after[file] for file in before.keys() - pages} == {
        file: before[file] for file in before.keys() - pages
    }
    assert after.keys() - before.keys() == {f"{name}.json", f"{name}.png"}
    assert code["commit"][:12] in after["results.md"].decode()


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ({"data": "stand-in"}, "fig3_smooth_hinge ran on stand-in data"),
        ({"scale": "quick"}, "quick"),
        ({"metrics": {"inception_weights": {"paper": "official", "ours": "random"}}}, "random"),
        ({"commit": None, "dirty": None}, "ran without git"),
        ({"dirty": True}, "changes that were not committed"),
        ({"commit": 40 * "a"}, "other code, of commit aaaaaaaaaaaa"),
        ({"drawn_by": {"commit": 40 * "a", "dirty": False}}, "was drawn by other code"),
        ({"figures": {}}, "drawn no figure"),
    ],
)
def test_refuses_other_runs(ran, items, words):
    change(ran, "fig3_smooth_hinge", **items)
    refused(ran, words)


def test_refuses_a_run_that_is_not_whole(ran):
    (ran / "output" / "fig6_label_fixing.json").unlink()
    refused(ran, "fig6_label_fixing did not run")


def test_refuses_figures_of_other_numbers(ran):
    write_figure(ran, "fig3_smooth_hinge", b"other")
    refused(ran, "not of the numbers in fig3_smooth_hinge.json")
    (ran / "figures" / "fig3_smooth_hinge.png").unlink()
    refused(ran, "is missing")


def test_refuses_without_a_repository(ran):
    shutil.rmtree(ran / ".git")
    refused(ran, "without git and a repository")


def test_refuses_to_lose_a_figure(ran):
    (ran / "figures" / "published" / "fig2_leave_one_out_cnn.png").write_bytes(b"the network")
    refused(ran, "did not draw fig2_leave_one_out_cnn.png")


@pytest.mark.parametrize("name", ["influence/solver.py", "scripts/new.py", "requirements.lock"])
def test_refuses_a_run_of_other_code(ran, name):
    (ran / name).write_text("changed\n")
    refused(ran, "have changes: commit them")
    commit(ran)
    refused(ran, "ran by other code")


def test_other_commits_of_the_same_code_are_taken(ran):
    (ran / "docs" / "method.md").write_text("H and G\n")
    change(ran, "fig6_label_fixing", **vars(Version(commit(ran), False)))
    run_publish(ran)


def test_a_failure_half_way_keeps_what_was_published(ran, monkeypatch):
    before, rename = published(ran), publish.os.rename

    def fails(source, target):
        if source.name == "new":
            raise OSError("the disk is full")
        rename(source, target)

    monkeypatch.setattr(publish.os, "rename", fails)
    with pytest.raises(OSError, match="the disk is full"):
        run_publish(ran)
    assert published(ran) == before


def test_it_ends_with_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"^Not published: fig1_components, .* did not run"):
        publish.main(["--output-dir", str(tmp_path)])


def test_the_code_of_a_run(repository, monkeypatch):
    head = git(repository, "rev-parse", "HEAD").strip()
    assert version(repository) == Version(head, False)
    (repository / "notes.txt").write_text("not code")
    assert version(repository) == Version(head, False)
    (repository / "scripts" / "new.py").write_text("")
    assert version(repository) == Version(head, True)
    # Neither a folder inside another repository nor a machine without git is of a commit.
    assert version(repository / "scripts") == Version(None, None)
    monkeypatch.setenv("PATH", "")
    assert version(repository) == Version(None, None)
    assert commits.in_words({"commit": None, "dirty": None}) == "unknown"
    assert commits.in_words({"commit": head, "dirty": True}) == f"{head[:12]} and changes"
