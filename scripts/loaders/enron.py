"""Enron1 (Metsis et al. 2006): spam and ham as documents, with the split of the 2017 code."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.loaders.archive import DataError
from scripts.loaders.registry import ENRON, Provenance, load

_SEED = 0
_TRAIN_SHARE = 0.8
# Public modules whose documentation stands in for the e-mail of the two classes.
_HAM_MODULES = ("scipy.linalg", "scipy.optimize", "scipy.signal")
_SPAM_MODULES = tuple(
    f"matplotlib.{name}"
    for name in (
        "axes",
        "axis",
        "collections",
        "colors",
        "figure",
        "image",
        "lines",
        "patches",
        "text",
        "ticker",
        "transforms",
    )
)
_SHORTEST_DOCUMENT = 200


@dataclass(frozen=True)
class Enron:
    """Documents and labels (1 = spam), shuffled, the first ``train_size`` for training."""

    documents: list[str]
    labels: np.ndarray
    train_size: int
    provenance: Provenance


def load_enron(choice: str = "auto") -> Enron:
    """Enron1 or its stand-in; ``choice`` as in ``registry.load``.

    Spam first, then ham, each by name (not in the folder's order, which differs from machine to
    machine); one shuffle with the 2017 code's seed; Latin-1.
    """
    contents, provenance = load(choice, {"enron1": ENRON}, stand_in)
    files = contents["enron1"]
    by_class = [
        [files[name] for name in sorted(files) if name.startswith(f"enron1/{kind}/")]
        for kind in ("spam", "ham")
    ]
    spam, ham = by_class
    if not spam or not ham:
        raise DataError(f"enron1 has {len(spam)} spam and {len(ham)} ham files: both are needed.")
    documents = [content.decode("latin-1") for content in spam + ham]
    labels = np.concatenate([np.ones(len(spam), np.int64), np.zeros(len(ham), np.int64)])
    order = np.arange(len(labels))
    np.random.RandomState(_SEED).shuffle(order)
    return Enron(
        [documents[i] for i in order],
        labels[order],
        int(_TRAIN_SHARE * len(labels)),
        provenance,
    )


def stand_in() -> dict[str, dict[str, bytes]]:
    """Real English that is installed: documentation of SciPy, and of Matplotlib."""
    files = {}
    ham = _documentation(_HAM_MODULES)
    spam = _documentation(_SPAM_MODULES) - ham  # what both inherit is neither's
    for kind, documents in (("ham", ham), ("spam", spam)):
        for i, document in enumerate(sorted(documents)):
            files[f"enron1/{kind}/{i:04d}.txt"] = document.encode("latin-1", "replace")
    return {"enron1": dict(sorted(files.items()))}


def _documentation(modules) -> set[str]:
    """The long docstrings of the modules' public functions, classes and methods.

    As they stand in the source: some of those that an import makes differ from process to process.
    """
    found = set()
    for spec in map(importlib.util.find_spec, modules):
        folders = map(Path, spec.submodule_search_locations or ())
        paths = [path for folder in folders for path in folder.rglob("*.py")]
        for path in paths or [Path(spec.origin)]:
            if "tests" not in path.parts:
                found |= _docstrings(ast.parse(path.read_bytes()))
    return {text for text in found if len(text) >= _SHORTEST_DOCUMENT}


def _docstrings(tree: ast.Module) -> set[str]:
    documented = (ast.FunctionDef, ast.ClassDef)
    return {
        ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, documented) and not node.name.startswith("_")
    }
