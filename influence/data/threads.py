"""How many threads a worker process computes with: the last bits of its numbers depend on it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import tensorflow as tf
import threadpoolctl


@contextlib.contextmanager
def limited_to(threads: int) -> Iterator[int]:
    """Linear algebra has so many threads meanwhile, and so has TensorFlow from now on, unless it
    has started already, as in a caller's own process; gives how many TensorFlow has (0 is all)."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    with _libraries().limit(limits=threads):
        yield tf.config.threading.get_intra_op_parallelism_threads()


@functools.cache
def _libraries():
    """Of linear algebra, which have been loaded by now."""
    return threadpoolctl.ThreadpoolController()
