"""What a terminal shows: only what the project says."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import warnings


@contextlib.contextmanager
def held_back():
    """Keep from the terminal what is written to stderr meanwhile, by compiled code too, and show it
    if the block raises."""
    if sys.stderr is None:  # closed
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            kept.seek(0)
            with open(terminal, "wb", closefd=False) as shown:
                shutil.copyfileobj(kept, shown)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


@contextlib.contextmanager
def plain_warnings():
    """A warning is one line of words, without the path and the line of the source."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"Warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual
