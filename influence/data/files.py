"""What is kept of long work: files that are whole or not there, and what they belong to."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse

from influence.data.types import File

# What NumPy raises for a file that is cut off, changed, or none of its own.
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write(binary file)`` on a temporary file beside ``path``, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def saved_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a .npz by name; None where the file is missing or damaged."""
    try:
        with np.load(path) as saved:
            return dict(saved)
    except DAMAGED:
        return None


def save_checkpoint(path: File | None, key: str, **arrays: Any) -> None:
    """Keep what long work has come to, whole or not at all; nothing where ``path`` is None.

    ``key`` is the ``fingerprint`` of all that the work depends on.
    """
    if path is not None:
        write_atomically(Path(path), lambda file: np.savez(file, key=key, **arrays))


def load_checkpoint(path: File | None, key: str) -> dict[str, np.ndarray] | None:
    """What ``save_checkpoint`` kept under this ``key``; None where there is nothing.

    Warns:
        UserWarning: the file is damaged.
    """
    if path is None or not Path(path).exists():
        return None
    saved = saved_arrays(Path(path))
    if saved is None or "key" not in saved:
        warnings.warn(f"{path} is not a readable checkpoint; starting again.", stacklevel=3)
        return None
    return saved if str(saved.pop("key")) == key else None


def kept(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from its file; ``compute()``, saved there, where it is missing or damaged."""
    try:
        with np.load(path) as saved:
            return saved["array"]
    except DAMAGED:
        array = compute()
        # In a .npz, even of one array, there is a checksum.
        write_atomically(path, lambda file: np.savez(file, array=array))
        return array


def fingerprint(*parts: Any) -> str:
    """SHA-256 of texts, arrays (with their dtypes and shapes) and sparse matrices, in this order:
    of what a saved result depends on."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        elif scipy.sparse.issparse(part):
            own = fingerprint(repr(part.shape), part.data, part.indices, part.indptr)
            digest.update(own.encode())
        else:
            array = np.ascontiguousarray(part)
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(array.data)
    return digest.hexdigest()
