"""Influences of a Keras model on 1,000,000 streamed rows: seconds, and the most memory it took.

The rows (512 features, 2 GB in all) are drawn again at every pass, as a file would be read again.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

# First: TensorFlow reads once, as it is imported, what this sets.
import scripts  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf

from influence import KerasModel

BATCH = 4000


def rows(number: int, features: int) -> tf.data.Dataset:
    """Uniform features, and labels 0 and 1 that depend on the first."""

    def draw(batch):
        seed = tf.stack([batch, 0])
        x = tf.random.stateless_uniform([BATCH, features], seed, -1, 1)
        noise = tf.random.stateless_uniform([BATCH], seed + 1, -1, 1)
        return x, tf.cast(x[:, 0] + noise > 0, tf.int32)

    return tf.data.Dataset.range(number // BATCH).map(draw).prefetch(2)


def stream(number: int, features: int) -> dict:
    """s_test and the influences of all rows on ten test points, and what they took."""
    keras.utils.set_random_seed(0)
    decay = keras.regularizers.L2(0.05)
    dense = keras.layers.Dense(1, activation="sigmoid", kernel_regularizer=decay)
    network = keras.Sequential([keras.layers.Input((features,)), dense])
    network.compile(loss="binary_crossentropy")
    start = time.perf_counter()
    model = KerasModel(network, rows(number, features))
    x_test, y_test = next(iter(rows(BATCH, features)))
    points = x_test[:10].numpy(), y_test[:10].numpy()
    solved = model.inverse_hvp(model.test_gradient(*points, reduction="mean"))
    scores = model.influence_on_loss(*points, reduction="mean")
    seconds = time.perf_counter() - start
    # Kilobytes on Linux, bytes on macOS.
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return {
        "rows": len(scores),
        "gigabytes of data": number * features * 4 / 1e9,
        "products": int(np.max(solved.iterations)),
        "seconds": seconds,
        "peak gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    options = parser.parse_args()
    for name, value in stream(options.rows, options.features).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
