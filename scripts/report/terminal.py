"""What a terminal shows: only what the project says."""

from __future__ import annotations

import contextlib
import warnings


@contextlib.contextmanager
def plain_warnings():
    """A warning is one line of words, without the path and the line of the source."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"Warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual
