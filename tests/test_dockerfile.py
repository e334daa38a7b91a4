"""What the Dockerfile promises: nobody is root, the lock is what is installed, layers cache."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def instructions():
    """(instruction, arguments) in order, comments left out and lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def place(instructions, name, part):
    """Where the one instruction of this name with ``part`` in its arguments is."""
    (found,) = (
        position
        for position, (instruction, arguments) in enumerate(instructions)
        if instruction == name and part in arguments
    )
    return found


def test_nothing_of_the_project_runs_as_root(instructions):
    users = [arguments for name, arguments in instructions if name == "USER"]
    assert users == ["reader"]
    user = place(instructions, "USER", "reader")
    assert user > place(instructions, "RUN", "useradd")
    assert user < place(instructions, "RUN", "-r requirements.lock")
    copies = [arguments for name, arguments in instructions if name == "COPY"]
    assert all(arguments.startswith("--chown=reader:reader ") for arguments in copies)


def test_the_lock_is_installed_before_the_source_is_copied(instructions):
    install = place(instructions, "RUN", "-r requirements.lock")
    arguments = instructions[install][1]
    assert "--require-hashes -r requirements.lock" in arguments
    assert "--only-binary :all:" in arguments
    lock = place(instructions, "COPY", "requirements.lock ./")
    source = place(instructions, "COPY", " . ./")
    assert lock < install < source
    # And the Makefile takes it for installed.
    assert place(instructions, "RUN", "touch .venv/.installed") > source
    assert "READY := $(VENV)/.installed" in (ROOT / "Makefile").read_text()


def test_only_make_is_added_to_the_base(instructions):
    (base,) = (arguments for name, arguments in instructions if name == "FROM")
    assert re.fullmatch(r"python:3\.1[1-3]-slim-\w+", base)
    added = instructions[place(instructions, "RUN", "apt-get")][1]
    assert re.search(r"install [\w\s-]*--no-install-recommends (.*?)\s*&&", added)[1] == "make"
    assert "rm -rf /var/lib/apt/lists/*" in added


def test_the_command_is_installed(instructions):
    """From the source, without anything that the lock does not have."""
    install = place(instructions, "RUN", "--editable .")
    assert install > place(instructions, "COPY", " . ./")
    for option in ("--no-index", "--no-deps", "--no-build-isolation"):
        assert option in instructions[install][1]
    assert place(instructions, "ENV", 'PATH="/project/.venv/bin:$PATH"') > install
    lock = (ROOT / "requirements.lock").read_text()
    assert "\nsetuptools==" in lock  # what builds it
    assert 'influence = "influence_command:main"' in (ROOT / "pyproject.toml").read_text()


def test_folders_and_command(instructions):
    (folder,) = (arguments for name, arguments in instructions if name == "WORKDIR")
    volumes = json.loads(instructions[place(instructions, "VOLUME", "")][1])
    assert {f"{folder}/{name}" for name in ("data", "inception", "output")} <= set(volumes)
    assert instructions[-1] == ("CMD", '["make", "figures"]')


def test_what_git_ignores_is_not_sent():
    """Neither data nor an environment of the host; of each folder's README, still."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    excluded = [line for line in lines if line and line[0] not in "#!"]
    for path in (
        ".git",
        ".venv",
        "output",
        "data/mnist",
        "inception/w.h5",
        "figures/photos",
        "figures/a.png",
    ):
        assert any(fnmatch(path, pattern) for pattern in excluded), path
    for path in ("influence", "tests", "Makefile", "requirements.lock", "Dockerfile", "figures"):
        assert not any(fnmatch(path, pattern) for pattern in excluded), path
    assert {"!data/README.md", "!inception/README.md", "!figures/published"} <= set(lines)
