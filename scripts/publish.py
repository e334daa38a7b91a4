"""Put a run into `figures/published/`, which is committed: `make publish`, then commit.

It takes what `make figures` left: all seven, on real data, of the code of the last commit, and
their own figures; and what the experiments beyond them left, where they ran. What did not run,
one of those or the seven, stays as it is published, with the commit that it is of. Else it says in
a sentence what is missing, and changes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from scripts.report.commit import ROOT, in_words, same_code, version
from scripts.report.results import EXPERIMENTS, TITLES, read_records, write_reports

PUBLISHED = ROOT / "figures" / "published"


class RefusedError(Exception):
    """The run is not to be published; the message says why."""


def main(arguments: list[str] | None = None) -> None:
    """Publish, or exit with what speaks against it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=Path("output"))
    parser.add_argument("--figures-dir", type=Path, default=Path("figures"))
    options = parser.parse_args(arguments)
    try:
        stayed = publish(options.output_dir, options.figures_dir)
    except RefusedError as error:
        sys.exit(f"Not published: {error}")
    for name, code in stayed.items():
        print(f"{name} did not run: what is published of it stays, of commit {code}.")
    print(f"Published in {PUBLISHED.relative_to(ROOT)}: look at index.html, then commit.")


def publish(
    output: Path, figures: Path, published: Path = PUBLISHED, root: Path = ROOT
) -> dict[str, str]:
    """Replace what is published with the run whose JSON files are in ``output``.

    Returns:
        The experiments that did not run and stay, with their commits.

    Raises:
        RefusedError: it is not whole, or not of real data, or not of the code of the last commit,
            or the figures are not its own. Nothing is changed.
    """
    records = read_records(output, TITLES)
    stay = read_records(published, [name for name in TITLES if name not in records])
    check_complete(records, stay)
    for name, record in records.items():
        check_data(name, record)
    check_code(records, root)
    files = {}
    for of, source, drawn in ((records, output, figures), (stay, published, published)):
        for name, record in of.items():
            files |= own_figures(name, record, drawn) | numbers(name, source)
    check_replaced(files, published)
    every = records | stay
    replace(published, files, {name: every[name] for name in TITLES if name in every})
    return {name: in_words(record) for name, record in stay.items()}


def check_complete(records: dict[str, dict], stay: dict[str, dict]) -> None:
    """Of the seven experiments all ran, or none and all are published; and something ran."""
    missing = [name for name in EXPERIMENTS if name not in records]
    others = [name for name in missing if name in stay]
    if not records or (missing and len(others) < len(EXPERIMENTS)):
        raise RefusedError(f"{', '.join(missing)} did not run; `make figures` runs everything.")


def check_data(name: str, record: dict) -> None:
    """Real data, and not a small scale."""
    again = f"run it again, `python -m scripts.{name} --data real`."
    weights = record["metrics"].get("inception_weights", {}).get("ours")
    if record["data"] == "stand-in":
        raise RefusedError(f"{name} ran on stand-in data: {again}")
    if weights == "random":
        raise RefusedError(f"{name} ran with random weights: {again}")
    if record["scale"] == "quick":
        raise RefusedError(f"{name} ran at the scale of tests, quick: {again}")


def check_code(records: dict[str, dict], root: Path) -> None:
    """All numbers and figures are of the code of the last commit, and so is what is on disk."""
    now = version(root)
    if now.commit is None:
        raise RefusedError("without git and a repository nothing says which code ran.")
    if now.dirty:
        raise RefusedError("influence/, scripts/ or requirements.lock have changes: commit them.")
    for name, record in records.items():
        for what, code in (("ran", record), ("was drawn", record["drawn_by"])):
            again = f"run it again, `python -m scripts.{name}`."
            if code["commit"] is None:
                raise RefusedError(
                    f"{name} {what} without git, so nothing says by which code: {again}"
                )
            if code["dirty"]:
                raise RefusedError(f"{name} {what} with changes that were not committed: {again}")
            if not same_code(code["commit"], now.commit, root):
                raise RefusedError(
                    f"{name} {what} by other code, of commit {in_words(code)}, than that of the "
                    f"last commit, {now.commit[:12]}: {again}"
                )


def own_figures(name: str, record: dict, figures: Path) -> dict[str, bytes]:
    """The figures that these numbers drew, by file name; photographs are never published."""
    found = {}
    again = f"draw it again, `python -m scripts.{name} --plot-only`."
    for figure, digest in record["figures"].items():
        if figure.startswith("photos/"):
            continue
        path = figures / f"{figure}.png"
        if not path.exists():
            raise RefusedError(f"{path} is missing: {again}")
        found[path.name] = path.read_bytes()
        if hashlib.sha256(found[path.name]).hexdigest() != digest:
            raise RefusedError(f"{path} is not of the numbers in {name}.json: {again}")
    if not found:
        raise RefusedError(f"{name} has drawn no figure: {again}")
    return found


def numbers(name: str, folder: Path) -> dict[str, bytes]:
    """An experiment's record, and its table where it has one, by file name."""
    paths = [folder / f"{name}.{ending}" for ending in ("json", "csv")]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def check_replaced(files: dict[str, bytes], published: Path) -> None:
    """No figure is lost: one that this run did not draw tells of an experiment cut short."""
    lost = sorted({path.name for path in published.glob("*.png")} - files.keys())
    if lost:
        raise RefusedError(
            f"this run did not draw {', '.join(lost)}, which is published: run that experiment as "
            f"a whole, or take the figure back with `git rm`."
        )


def replace(published: Path, files: dict[str, bytes], records: dict[str, dict]) -> None:
    """Write everything to a folder beside ``published``, then exchange the two."""
    published.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=published.parent, prefix=".published-") as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        write_reports(records, [], new, new)
        if not published.exists():
            os.rename(new, published)
            return
        os.rename(published, old)
        try:
            os.rename(new, published)
        except BaseException:
            os.rename(old, published)
            raise


if __name__ == "__main__":
    main()
