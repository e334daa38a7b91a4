"""The weights of Inception v3: the official file, else weights that stand in for it, else none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scripts.loaders import registry
from scripts.loaders.registry import INCEPTION, INCEPTION_STAND_IN, MissingError, RawFile


@dataclass(frozen=True)
class InceptionWeights:
    """Verified weights for ``influence.BinaryInceptionModel``.

    Attributes:
        path: the file, None for random weights.
        kind: "official", "stand-in" or "random".
        checksum: "md5:…" or "sha256:…" of the file, None for random weights.
    """

    path: Path | None
    kind: str
    checksum: str | None


def load_inception(choice: str = "auto") -> InceptionWeights:
    """The official weights from ``inception/`` or ``INFLUENCE_DATA``, else those that stand in for
    them from the same places, else a download of the official ones into ``inception/``, else none.

    Anything but the official weights is said loudly.

    Args:
        choice: "auto"; "real" never gives random weights; "stand-in" always does, because they go
            with stand-in images and are everywhere the same.

    Raises:
        DataError: a file is there and is not what it should be, or, with "real", there is none.
    """
    problem = "as asked for."
    if choice != "stand-in":
        for file, kind in ((INCEPTION, "official"), (INCEPTION_STAND_IN, "stand-in")):
            path = registry.find(file, registry.INCEPTION_FOLDER)
            if path is None:
                continue
            file.verified(path)
            if kind == "stand-in":
                print(f"\n*** STAND-IN WEIGHTS for Inception v3, {path.name}: not the paper's.\n")
            return _weights(path, file, kind)
        try:
            registry.fetch(INCEPTION, registry.INCEPTION_FOLDER)
        except MissingError as error:
            if choice == "real":
                raise
            problem = str(error)
        else:
            return _weights(registry.INCEPTION_FOLDER / INCEPTION.name, INCEPTION, "official")
    print(f"\n*** RANDOM WEIGHTS for Inception v3: {problem}\n*** Its features mean nothing.\n")
    return InceptionWeights(None, "random", None)


def _weights(path: Path, file: RawFile, kind: str) -> InceptionWeights:
    return InceptionWeights(path, kind, f"{file.algorithm}:{file.sha256}")
