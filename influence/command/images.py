"""Images in a folder, by class: as ``keras.utils.image_dataset_from_directory`` reads them."""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_LARGEST = {"255": 1.0, "1": 1 / 255}
# Images of a page are enlarged to about this many pixels, so that small ones stay sharp.
_SHOWN = 96


@dataclass(frozen=True)
class Folder:
    """Images, one folder for each class.

    Attributes:
        path: the folder of folders.
        files: [n] names below ``path``, sorted.
        y: [n] the class of each, its folder's name (object).
    """

    path: Path
    files: list[str]
    y: np.ndarray


def list_images(path: Path) -> Folder:
    """The images below the folders of ``path``, those of class a first.

    Raises:
        ValueError: there are none.

    Warns:
        UserWarning: other files lie there.
    """
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    files, y, others = [], [], []
    for folder in folders:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            if file.name.startswith("."):
                continue
            name = file.relative_to(path).as_posix()
            if file.suffix.lower() not in _SUFFIXES:
                others.append(name)
                continue
            files.append(name)
            y.append(folder.name)
    if not files:
        raise ValueError(
            f"{path} has no images ({', '.join(_SUFFIXES)}) in folders of their classes, as in "
            f"{path}/cat/1.png."
        )
    if others:
        warnings.warn(
            f"{len(others)} files of {path} are no images by their names and left out, such as "
            f"{others[0]}.",
            stacklevel=2,
        )
    return Folder(path, files, np.array(y, object))


def load_images(folder: Folder, shape: tuple[int | None, ...], pixels: str) -> np.ndarray:
    """The images as a network takes them: [n, *shape], float32.

    Args:
        folder: of ``list_images``.
        shape: (h, w, c) or (h, w); where h or w is None the images must have one size.
        pixels: the largest value of a pixel, "255" or "1".

    Raises:
        ValueError: a file is no image; the network takes no images, or they are of several sizes
            and it does not say which it wants.
    """
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"The model takes points of the shape {list(shape)}, no images [height, width, 1 or 3]:"
            f" give it a table or a .npz."
        )
    channels = int(shape[2] or 0) if len(shape) == 3 else 1
    first = _decoded(folder.path / folder.files[0], channels)
    size = shape[0] or first.shape[0], shape[1] or first.shape[1]
    images = np.empty((len(folder.files), *size, channels), np.float32)
    for place, name in enumerate(folder.files):
        image = _decoded(folder.path / name, channels)
        if None in shape[:2] and image.shape != first.shape:
            raise ValueError(
                f"The model takes images of any size, and those of {folder.path} have several, "
                f"such as {name}: make them as large as those that it was trained on."
            )
        images[place] = image if image.shape[:2] == size else tf.image.resize(image, size)
    images *= np.float32(_LARGEST[pixels])
    return images if len(shape) == 3 else images[..., 0]


def are_images(points: np.ndarray) -> bool:
    """Whether points [n, ...] can be looked at: [n, h, w], or with 1 or 3 channels."""
    shape = points.shape[1:]
    return len(shape) in (2, 3) and min(shape[:2]) > 3 and (len(shape) == 2 or shape[2] in (1, 3))


def as_pngs(images: np.ndarray, low: float, high: float) -> list[str]:
    """Each image as the address of a PNG that has its content, ``data:image/png;base64,…``.

    Args:
        images: [k, h, w] or [k, h, w, c].
        low, high: what is black, and what is white.
    """
    addresses = []
    for image in images:
        scaled = np.clip((image - low) / (high - low or 1.0), 0, 1) * 255
        pixels = np.round(scaled).astype(np.uint8)
        pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
        times = max(1, _SHOWN // min(pixels.shape[:2]))
        pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
        content = base64.b64encode(tf.io.encode_png(pixels).numpy()).decode()
        addresses.append(f"data:image/png;base64,{content}")
    return addresses


def _decoded(path, channels):
    """[h, w, channels], uint8."""
    try:
        content = path.read_bytes()
        return tf.io.decode_image(content, channels, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError:
        raise ValueError(
            f"{path} is not an image that can be read: mend it or delete it."
        ) from None
