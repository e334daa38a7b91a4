"""Scores that need not fit into memory: in a file, or only the largest and the smallest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from influence.data.files import DAMAGED, load_checkpoint, save_checkpoint
from influence.data.types import File
from influence.objective.tiles import Tiles


def large_influence(tiles: Tiles, out: File | None, top: int | None) -> np.ndarray:
    """See ``GenericNeuralNet.influence_on_loss``."""
    if out is not None and top is not None:
        raise ValueError(
            "Give out, for all scores, or top, for the largest and smallest, not both."
        )
    return scores_in_file(tiles, Path(out)) if out is not None else top_scores(tiles, top)


def scores_in_file(tiles: Tiles, path: Path) -> np.ndarray:
    """All scores, [m, n], memory-mapped from the .npy file ``path``.

    They are written to ``path`` + ".partial", tile by tile, which takes its name when it is
    complete; ``path`` + ".progress" says how far it is. After a kill the first tile is computed
    again, to see that its numbers are the same here to the last bit, and what is there is kept.

    Raises:
        OSError: there is no room for the file, which is seen before all but the first tile.
        ValueError: ``path`` is a folder.
    """
    if path.is_dir():
        raise ValueError(f"out must be a file, and {path} is a folder.")
    partial, progress = (path.with_name(path.name + end) for end in (".partial", ".progress"))
    saved, first = load_checkpoint(progress, tiles.key), tiles[0]
    array, done = None, 0
    if saved is not None:
        array, done = _written(partial, tiles, first), int(saved["done"])
    if array is None:
        array, done = _new(partial, tiles.shape, first.dtype), 0
    for number in range(done, len(tiles.slices)):
        array[tiles.slices[number]] = first if number == 0 else tiles[number]
        array.flush()
        save_checkpoint(progress, tiles.key, done=number + 1)
    os.replace(partial, path)
    progress.unlink()
    return np.load(path, mmap_mode="r")


def _written(path, tiles, first):
    """The array in a file that was left, to be written on; None where there is none of this work,
    or not all of it."""
    try:
        # To be read first: for writing, NumPy fills up a file that was cut off.
        array = np.load(path, mmap_mode="r")
    except DAMAGED:
        return None
    like = array.shape == tiles.shape and array.dtype == first.dtype
    if not like or not np.array_equal(array[tiles.slices[0]], first):
        return None
    return np.load(path, mmap_mode="r+")


def _new(path, shape, dtype):
    """An array in a new file, whose room is taken at once: a mapped file that does not fit onto its
    disk ends the process, without a word."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            path.unlink()
            needed = f"{array.nbytes / 1e9:.3g} GB of scores have no room: {error.strerror}"
            raise OSError(error.errno, needed, str(path)) from None
    return array


def top_scores(tiles: Tiles, count: Any) -> np.ndarray:
    """The ``count`` largest and the ``count`` smallest scores of each test point, [m, 2 ``count``]
    with the fields "index" and "score"; never more than a tile of scores at a time.

    A row is ``np.argsort(-scores, kind="stable")`` of all training points without its middle: the
    most helpful first, the most harmful last. Where there are no more than 2 ``count`` training
    points it is all of them.
    """
    if not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(
            f"top must be at least 1, the largest and smallest to keep, not {count!r}."
        )
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    places = np.arange(tiles.shape[1])
    for number, (rows, columns) in enumerate(tiles.slices):
        block = tiles[number]
        # Of these test points, from the tiles before.
        before = found.get(rows.start or 0, [(places[:0], block[0, :0])] * len(block))
        found[rows.start or 0] = [
            _ends(np.append(old, places[columns]), np.append(scores, row), count)
            for (old, scores), row in zip(before, block)
        ]
    best = [ends for block in found.values() for ends in block]
    indices, scores = (np.stack(part) for part in zip(*best))
    kept = np.empty(scores.shape, [("index", np.int64), ("score", scores.dtype)])
    kept["index"], kept["score"] = tiles.columns[indices], scores
    return kept


def _ends(places, scores, count):
    """The ``count`` largest and smallest of one row, [2 ``count``] both, in descending order; of
    equal ones that with the smaller place first."""
    n = len(scores)
    if n > 2 * count:
        low, high = np.partition(scores, (count - 1, n - count))[[count - 1, n - count]]
        there = np.flatnonzero((scores >= high) | (scores <= low))
        places, scores = places[there], scores[there]
    order = np.lexsort((places, -scores))
    if len(order) > 2 * count:
        order = np.append(order[:count], order[-count:])
    return places[order], scores[order]
