"""Which code a run is of: the commit, and whether what makes its numbers differs from it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What numbers and figures depend on.
CODE = ("influence", "scripts", "requirements.lock")


@dataclass(frozen=True)
class Version:
    """The code of a run; both None where there is no git, or no repository.

    Attributes:
        commit: 40 hexadecimal digits.
        dirty: whether ``CODE`` had changes, or new files, that were not committed.
    """

    commit: str | None
    dirty: bool | None


def version(root: Path = ROOT) -> Version:
    """The code in ``root`` as it is now."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # A copy without a history, inside another repository, is of no commit of that one.
    if top is None or Path(top).resolve() != root.resolve():
        return Version(None, None)
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return Version(None, None)
    return Version(commit, _git(root, "status", "--porcelain", "--", *CODE) != "")


def in_words(record: dict) -> str:
    """The code of a run, from what its JSON says."""
    if record["commit"] is None:
        return "unknown"
    return record["commit"][:12] + (" and changes" if record["dirty"] else "")


def same_code(first: str, second: str, root: Path = ROOT) -> bool:
    """Whether two commits have the same ``CODE``; not where one of them is not in ``root``."""
    return _git(root, "diff", "--quiet", first, second, "--", *CODE) is not None


def _git(root, *arguments) -> str | None:
    """What git prints; None where it is missing or fails."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
