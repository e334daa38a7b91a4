"""Generated pictures, and networks that know them."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers
CLASSES = ["bottom", "top"]


def write_images(folder: Path, count: int, flipped: int = 0, seed: int = 0) -> list[str]:
    """``count`` images of 12 × 10 pixels, bright at the top or at the bottom, as noise lets see;
    the last ``flipped`` lie in the folder of the other class, and their names are returned."""
    generator, wrong = np.random.default_rng(seed), []
    for number in range(count):
        place = number % 2
        image = generator.uniform(0, 120, (12, 10, 3))
        image[6 * (1 - place) : 6 * (2 - place)] += generator.uniform(40, 130)
        is_flipped = number >= count - flipped
        name = f"{CLASSES[place ^ is_flipped]}/{number:02}.png"
        wrong += [name] * is_flipped
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(tf.io.encode_png(image.astype(np.uint8)).numpy())
    return wrong


def save_network(path: Path, folder: Path, decay: float = 1e-2, loss=None, units: int = 2) -> None:
    """A network of such images, trained as people do, its last layer regularised by ``decay``."""
    keras.utils.set_random_seed(0)
    penalty = keras.regularizers.L2(decay) if decay else None
    network = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(6, "relu"),
            layers.Dense(
                units, "softmax" if units > 1 else "sigmoid", kernel_regularizer=penalty, name="top"
            ),
        ]
    )
    network.compile(keras.optimizers.Adam(0.01), loss or "sparse_categorical_crossentropy")
    if loss is None:
        network.fit(as_keras_reads(folder).repeat(40), shuffle=False, verbose=0)
    network.save(path)


def as_keras_reads(folder: Path) -> tf.data.Dataset:
    return keras.utils.image_dataset_from_directory(
        folder, image_size=(8, 8), shuffle=False, verbose=0
    )
