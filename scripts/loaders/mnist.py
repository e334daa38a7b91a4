"""MNIST from IDX files: 55,000 training images (5,000 are held out, as in 2017), 10,000 test."""

from __future__ import annotations

import functools
import math
import struct
from dataclasses import dataclass

import numpy as np

from influence.data.dataset import Dataset
from scripts.loaders.archive import DataError
from scripts.loaders.digits import SIDE, written_anew
from scripts.loaders.registry import MNIST, Provenance, load

VALIDATION = 5000
_UNSIGNED_BYTE = 8


@dataclass(frozen=True)
class Mnist:
    """x [n, 784] eight-bit pixels with scale 1/255, labels [n] 0..9; ``held_out`` are the first of
    the training images, which are not in ``train``, if there are any."""

    train: Dataset
    test: Dataset
    held_out: Dataset | None
    provenance: Provenance

    def pair(self, negative: int, positive: int) -> Mnist:
        """Only two digits, labelled 0 and 1, in their order."""
        return Mnist(
            _pair(self.train, negative, positive),
            _pair(self.test, negative, positive),
            self.held_out and _pair(self.held_out, negative, positive),
            self.provenance,
        )


def load_mnist(choice: str = "auto", scale: str = "laptop") -> Mnist:
    """MNIST, or its stand-in; ``choice`` as in ``registry.load``. At scale quick the stand-in has a
    tenth of its images."""
    small = functools.partial(stand_in, train=2_400, test=300)
    contents, provenance = load(choice, MNIST, small if scale == "quick" else stand_in)
    train = _images(contents, "train")
    test = _images(contents, "test")
    # The stand-in is smaller; it holds out the same share.
    held_out = VALIDATION * len(train[0]) // 60_000
    return Mnist(
        Dataset(train[0][held_out:], train[1][held_out:], scale=1 / 255),
        Dataset(test[0], test[1], scale=1 / 255),
        Dataset(train[0][:held_out], train[1][:held_out], scale=1 / 255) if held_out else None,
        provenance,
    )


def stand_in(train: int = 24_000, test: int = 3_000) -> dict[str, bytes]:
    """So many variants of scikit-learn's digits, as the contents of four IDX files."""
    contents = {}
    for part, (images, labels) in zip(("train", "test"), written_anew(train, test)):
        contents |= {f"{part}_images": write_idx(images), f"{part}_labels": write_idx(labels)}
    return contents


def write_idx(array: np.ndarray) -> bytes:
    """An array of unsigned bytes in the IDX format."""
    header = struct.pack(">HBB", 0, _UNSIGNED_BYTE, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def read_idx(content: bytes, ndim: int, name: str) -> np.ndarray:
    """Unsigned bytes from an IDX file's content.

    Raises:
        DataError: another magic number or number of axes, or a length that is not the header's.
    """
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{name} is too short for an IDX file ({len(content)} bytes).")
    zero, kind, axes = struct.unpack(">HBB", content[:4])
    if (zero, kind, axes) != (0, _UNSIGNED_BYTE, ndim):
        raise DataError(
            f"{name} is not an IDX file of unsigned bytes with {ndim} axes "
            f"(its first bytes are {content[:4].hex()})."
        )
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{name} should have {math.prod(shape):,} bytes of data after its header, "
            f"{list(shape)}; it has {len(content) - header:,}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _images(contents, part):
    images = read_idx(contents[f"{part}_images"], 3, f"{part} images")
    labels = read_idx(contents[f"{part}_labels"], 1, f"{part} labels")
    if len(images) != len(labels):
        raise DataError(f"{part}: {len(images)} images but {len(labels)} labels.")
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{part} images are {images.shape[1:]}, not {SIDE}×{SIDE}.")
    if len(labels) == 0:
        raise DataError(f"{part} has no images.")
    if labels.max() > 9:
        raise DataError(f"{part} labels go up to {labels.max()}, not 9.")
    return images.reshape(len(images), -1), labels


def _pair(points, negative, positive):
    kept = points.where((points.labels == negative) | (points.labels == positive))
    return Dataset(kept.x, (kept.labels == positive).astype(np.uint8), kept.scale)
