"""A checkout of the project as it is on disk, with a history of one commit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FILES = (
    *("README.md", "LICENSE", "Makefile", "pyproject.toml", "requirements.lock", ".gitignore"),
    *("docs", "influence", "influence_command.py", "scripts", "tests"),
    *("data/README.md", "inception/README.md"),
    *("figures/README.md", "figures/published"),
)


def checkout(folder: Path) -> Path:
    """Copy what is committed, without data and without what runs wrote, into a new folder; commit
    it where there is git."""
    for name in _FILES:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    if shutil.which("git"):
        git(folder, "init", "--quiet")
        commit(folder)
    return folder


def commit(folder: Path) -> str:
    """Commit everything in it; returns the commit."""
    git(folder, "add", "--all")
    who = ("-c", "user.name=a test", "-c", "user.email=test@example.invalid")
    git(folder, *who, "commit", "--quiet", "--allow-empty", "--message", "As it is")
    return git(folder, "rev-parse", "HEAD").strip()


def git(folder: Path, *arguments: str) -> str:
    """What a git command prints."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
