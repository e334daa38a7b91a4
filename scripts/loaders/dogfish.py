"""Dogs against fish, as 299×299 photographs: the authors' arrays, else Imagenette's classes."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from influence.data.dataset import Dataset
from scripts.loaders import registry
from scripts.loaders.archive import DataError
from scripts.loaders.registry import IMAGENETTE_224, IMAGENETTE_320, Provenance, load
from scripts.loaders.remote import file_hash

AUTHORS = "dataset_dog-fish_train-900_test-300.npz"
SIDE = 299
# Images of each class.
TRAIN, TEST = 900, 300
STAND_IN_TRAIN, STAND_IN_TEST = 60, 20
# Label 0 is a dog (English springer), label 1 is a fish (tench).
CLASSES = ("n02102040", "n01440764")
# Photographs have sides of this many pixels; a larger one could fill the memory.
_SIDES = range(64, 4097)
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_CROP = 75
# What the libraries raise for a damaged .npz; RuntimeError is zipfile's for an encrypted one.
_DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Dogfish:
    """x [n, side, side, 3] eight-bit RGB, labels 0 = dog, 1 = fish; all dogs, then all fish.

    The authors' arrays come in the order of their file, where the classes are mixed. A pixel v is
    v/127.5 − 1 for the network and for the paper's distances: the models compute that, because
    ``Dataset.scale`` only multiplies.

    Attributes:
        train_names: where each training image comes from, [n].
        test_names: the same of the test images.
        source: the data set in words.
    """

    train: Dataset
    test: Dataset
    train_names: list[str]
    test_names: list[str]
    source: str
    provenance: Provenance


def load_dogfish(
    choice: str = "auto", side: int = SIDE, stand_in_side: int | None = None
) -> Dogfish:
    """900 + 900 training and 300 + 300 test images, or the smaller stand-in.

    The authors' arrays where they lie in ``data/`` or ``INFLUENCE_DATA``; else the first images by
    name of Imagenette's English springers and tench, provenance "substitute".

    Args:
        choice: as in ``registry.load``.
        side: images are resized to this many pixels, bilinearly, and rounded to eight bits.
        stand_in_side: the same of the stand-in, whose crops have 75; None takes ``side``.

    Raises:
        DataError: names the file, what is wrong, and what to do.
    """
    if choice in ("auto", "real"):
        for folder in registry.folders():
            if (folder / AUTHORS).exists():
                return read_arrays(folder / AUTHORS, side)
    archive = IMAGENETTE_320 if registry.find(IMAGENETTE_224) is None else IMAGENETTE_224
    contents, provenance = load(choice, {"images": archive}, stand_in, real="substitute")
    if provenance.data == "stand-in":
        source = f"crops of scikit-learn's {' and '.join(_PHOTOGRAPHS)}"
        sizes = STAND_IN_TRAIN, STAND_IN_TEST
        side = side if stand_in_side is None else stand_in_side
    else:
        source = f"Imagenette's English springers and tench, {archive.name}"
        print(f"\n*** SUBSTITUTE DATA: {source}, for the paper's dogs and fish.\n")
        sizes = TRAIN, TEST
    train, train_names = _photographs(contents["images"], "train", sizes[0], side)
    test, test_names = _photographs(contents["images"], "val", sizes[1], side)
    return Dogfish(train, test, train_names, test_names, source, provenance)


def stand_in() -> dict[str, dict[str, bytes]]:
    """Crops of a photograph of a temple for the dogs, of a flower for the fish, as JPEG files.

    Those for testing come from the right quarter, so that none overlaps with one for training.
    """
    random = np.random.RandomState(0)
    samples = load_sample_images()
    photographs = dict(zip((Path(name).name for name in samples.filenames), samples.images))
    files = {}
    for folder, photograph in zip(CLASSES, _PHOTOGRAPHS):
        image = photographs[photograph]
        quarter = image.shape[1] // 4
        areas = {"train": image[:, :-quarter], "val": image[:, -quarter:]}
        for (part, area), count in zip(areas.items(), (STAND_IN_TRAIN, STAND_IN_TEST)):
            for i in range(count):
                top, left = (random.randint(size - _CROP + 1) for size in area.shape[:2])
                crop = Image.fromarray(area[top : top + _CROP, left : left + _CROP])
                buffer = io.BytesIO()
                crop.save(buffer, "JPEG", quality=95)
                files[f"stand-in/{part}/{folder}/{i:04d}.JPEG"] = buffer.getvalue()
    return {"images": dict(sorted(files.items()))}


def read_photograph(content: bytes, name: str, side: int) -> np.ndarray:
    """A JPEG, resized bilinearly: [side, side, 3] eight-bit RGB.

    A grey photograph, of which Imagenette has a few, has three equal channels.

    Raises:
        DataError: not a complete JPEG, other channels, or sides that no photograph has.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if image.mode not in ("RGB", "L"):
                raise DataError(f"{name} has the channels {image.mode}: RGB is needed.")
            if not all(length in _SIDES for length in image.size):
                raise DataError(
                    f"{name} is {image.width}×{image.height} pixels; a photograph has sides of "
                    f"{_SIDES[0]} to {_SIDES[-1]}."
                )
            return np.asarray(_resized(image.convert("RGB"), side))
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is not a complete JPEG image ({error}).") from None


def read_arrays(path: Path, side: int = SIDE) -> Dogfish:
    """The authors' .npz: X_train, Y_train, X_test, Y_test with pixels in [−1, 1].

    The arrays are read a row at a time: in the 2017 code's float64 they would take 5 GB.

    Raises:
        DataError: the file is damaged, or its arrays are not 900 + 900 and 300 + 300 images.
    """
    parts = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for part, count in (("train", TRAIN), ("test", TEST)):
                shape = (2 * count, SIDE, SIDE, 3)
                pixels = np.empty((shape[0], side, side, 3), np.uint8)
                for i, row in enumerate(_rows(archive, f"X_{part}", shape)):
                    pixels[i] = _eight_bits(row, f"X_{part}[{i}]", side)
                labels = np.array(list(_rows(archive, f"Y_{part}", shape[:1])))
                if not all((labels == label).sum() == count for label in (0, 1)):
                    raise ValueError(f"Y_{part} must be {count} zeros and {count} ones")
                pixels.flags.writeable = False
                parts[part] = Dataset(pixels, labels.astype(np.uint8))
    except _DAMAGE as error:
        raise DataError(
            f"{path} is not the authors' file ({error}): delete it or replace it."
        ) from None
    names = {part: [f"X_{part}[{i}]" for i in range(len(parts[part]))] for part in parts}
    return Dogfish(
        parts["train"],
        parts["test"],
        names["train"],
        names["test"],
        f"the authors' {path.name}",
        Provenance("paper", {path.name: file_hash(path)}),
    )


def _photographs(files, part, count, side) -> tuple[Dataset, list[str]]:
    """The first ``count`` images of each class by name, dogs first."""
    chosen = []
    for folder in CLASSES:
        inside = [
            name
            for name in sorted(files)
            if PurePosixPath(name).parts[-3:-1] == (part, folder) and name.endswith(".JPEG")
        ]
        if len(inside) < count:
            raise DataError(
                f"The archive has {len(inside)} images in {part}/{folder}: {count} are needed."
            )
        chosen += inside[:count]
    pixels = np.empty((len(chosen), side, side, 3), np.uint8)
    for i, name in enumerate(chosen):
        pixels[i] = read_photograph(files[name], name, side)
    # Read-only, so that Dataset keeps half a gigabyte instead of copying it.
    pixels.flags.writeable = False
    labels = np.repeat(np.arange(len(CLASSES), dtype=np.uint8), count)
    return Dataset(pixels, labels), chosen


def _rows(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The rows of one array of an .npz, as float32 or float64."""
    with archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            found, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            found, by_column, dtype = np.lib.format.read_array_header_2_0(stream)
        if found != shape or by_column or dtype.kind not in "fiu":
            raise ValueError(f"{key} is {dtype}{list(found)}, not numbers {list(shape)}")
        size = dtype.itemsize * int(np.prod(shape[1:]))
        for _ in range(shape[0]):
            row = np.frombuffer(stream.read(size), dtype).reshape(shape[1:])
            yield row.astype(np.float64 if dtype.itemsize > 4 else np.float32)
        # The checksum is compared where the array ends.
        if stream.read(1):
            raise ValueError(f"{key} is longer than its header says")


def _eight_bits(row, name, side):
    # Not "max > 1", which NaN would pass.
    if not np.abs(row).max() <= 1:
        raise ValueError(f"{name} has pixels outside [-1, 1]")
    pixels = np.rint((row + 1) * 127.5).astype(np.uint8)
    return np.asarray(_resized(Image.fromarray(pixels), side))


def _resized(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR)
