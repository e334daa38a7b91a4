"""What stands in for MNIST: scikit-learn's 1,797 digits of 8×8 pixels, written anew many times."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits

SIDE = 28
# Original digits that training images are made of; test images are made of the others.
TRAIN_ORIGINALS = 1437
SEED = 0
# How much a digit is moved: radians, share of its size, pixels, and pixels by which its lines bend.
_ROTATION, _SCALE, _SHIFT, _BEND = 0.2, 0.1, 1.0, 0.6
# Where ink begins, between none (0) and all (1), which makes strokes thick or thin; and the
# width of the grey edge of a stroke.
_INK, _EDGE = (0.3, 0.65), 0.35
# Pixels of an image for each pixel of an original.
_ENLARGED = 2.6
_FINE, _KNOTS, _AT_ONCE = 4, 4, 2000


def written_anew(
    train: int, test: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """So many training and test images: (images [n, 28, 28] of eight bits, labels [n]) of both.

    Each is an original digit, turned, scaled, shifted, bent and drawn with another stroke, each
    drawn at random from a fixed seed. No original is in both parts.

    Examples:
        >>> from scripts.loaders.digits import written_anew
        >>> (images, labels), _ = written_anew(train=20, test=10)
        >>> images.shape, str(images.dtype), labels.shape
        ((20, 28, 28), 'uint8', (20,))
    """
    digits, random = load_digits(), np.random.default_rng(SEED)
    order = random.permutation(len(digits.target))
    # Four pixels for each, in a margin of one, to draw from.
    finer = _splines(8 + 2, _FINE, "grid-constant")
    padded = np.pad(digits.images.astype(np.float32) / 16, ((0, 0), (1, 1), (1, 1)))
    enlarged = finer @ padded @ finer.T
    parts = []
    for originals, number in ((order[:TRAIN_ORIGINALS], train), (order[TRAIN_ORIGINALS:], test)):
        # Every original as often as the others, to one.
        chosen = random.permutation(originals[np.arange(number) % len(originals)])
        images = np.empty((number, SIDE, SIDE), np.uint8)
        for first in range(0, number, _AT_ONCE):
            rows = slice(first, first + _AT_ONCE)
            images[rows] = _drawn(enlarged, chosen[rows], random)
        parts.append((images, digits.target[chosen].astype(np.uint8)))
    return parts[0], parts[1]


def _drawn(enlarged, chosen, random):
    """One image [28, 28] of each of the ``chosen`` enlarged originals [40, 40] of 0..1."""
    count = len(chosen)

    def uniform(width, *axes):
        return random.uniform(-width, width, (*axes, count, 1, 1)).astype(np.float32)

    # Where each pixel of the image comes from: its place, counted from the middle, moved back.
    place = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    angle, scale, shift, bend = (
        uniform(_ROTATION), 1 + uniform(_SCALE, 2), uniform(_SHIFT, 2), _bends(count, random),
    )  # fmt: skip
    down = place[:, np.newaxis] - shift[0] + bend[0]
    right = place - shift[1] + bend[1]
    cosine, sine = np.cos(angle), np.sin(angle)
    middle, fine = (enlarged.shape[1] - 1) / 2, _FINE / _ENLARGED
    places = np.empty((3, count, SIDE, SIDE), np.float32)
    places[0] = chosen[:, np.newaxis, np.newaxis]
    places[1] = middle + fine * (cosine * down + sine * right) / scale[0]
    places[2] = middle + fine * (cosine * right - sine * down) / scale[1]
    ink = ndimage.map_coordinates(enlarged, places, order=1, output=np.float32)
    begins = random.uniform(*_INK, (count, 1, 1)).astype(np.float32)
    return (255 * np.clip((ink - begins) / _EDGE + 0.5, 0, 1)).round()


def _bends(count, random):
    """Smooth random fields, down and right: [2, count, 28, 28]."""
    smooth = _splines(_KNOTS, SIDE // _KNOTS, "nearest")
    heights = random.standard_normal((2, count, _KNOTS, _KNOTS), dtype=np.float32)
    return _BEND * (smooth @ heights @ smooth.T)


def _splines(number, zoom, mode):
    """The matrix [number · zoom, number] that enlarges a column by cubic splines."""
    units = np.eye(number, dtype=np.float32)
    columns = [ndimage.zoom(unit, zoom, order=3, grid_mode=True, mode=mode) for unit in units]
    return np.stack(columns, axis=1)
