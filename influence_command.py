"""Where the installed command begins.

TensorFlow writes to the terminal when it is imported, so what keeps it from that is not in a
package that imports it.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator


def main() -> int:
    """The command ``influence``, see ``influence.command.main``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Some notices come before any level applies, others when it first looks for devices.
    with held_back():
        import tensorflow as tf

        from influence.command.main import main as command

        tf.config.list_physical_devices()
    return command()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
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
