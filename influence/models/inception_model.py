"""Inception v3 with a logistic regression on its features, and influences down to the pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tqdm import tqdm

from influence.data.dataset import Dataset, check_chosen, check_dataset, check_inputs
from influence.data.files import write_atomically
from influence.data.types import DType, File
from influence.models import backbones
from influence.models.logistic_regression import BinaryLogisticRegression
from influence.objective.validation import Validation

# What h5py raises for a file that is none, that is cut, or whose checksums do not fit.
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError)


class BinaryInceptionModel:
    """p(1 | image) = σ(wᵀφ(image)): φ is a frozen convolutional network, w is fitted.

    ``top`` is the logistic regression, on the features; its exact fit, Hessian and influences are
    those of the whole, because nothing below it depends on w.

    Images are [m, side, side, 3], either eight-bit, where a pixel v means v/127.5 − 1, or
    floating-point in [−1, 1] already (attacked ones).

    Args:
        train: images, labels 0 and 1, and scale 1.
        image_side: pixels of a side; Inception takes 75 or more.
        weight_decay: λ of (λ/2)‖w‖².
        weights: a file with the weights of Inception v3 without its top, in the layout of Keras 3
            (".weights.h5") or of the official file (".h5"); None draws random ones, with a warning.
        cache_folder: where features of eight-bit images are kept, named by the content of images
            and network; None keeps none.
        dtype: of the logistic regression, "float32" or "float64"; with the first, solves with 2,048
            correlated features come only just to their tolerance.
        backbone: a Keras model [m, side, side, 3] -> [m, f] to use instead of Inception, in its own
            number type; its layers run in inference mode.
        batch_size: images that are in the network at a time.
        progress: show a progress bar while the training features are computed.

    Raises:
        ValueError: images, labels or settings that do not fit, or a file that does not hold the
            weights.

    Examples:
        Four uniform images, dark and bright, with their mean colour for φ in place of Inception:

        >>> import keras
        >>> import numpy as np
        >>> from influence import BinaryInceptionModel, Dataset
        >>> images = np.repeat(np.uint8([40, 90, 160, 200]), 12).reshape(4, 2, 2, 3)
        >>> mean = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.GlobalAveragePooling2D()])
        >>> model = BinaryInceptionModel(Dataset(images, [0, 0, 1, 1]), 2, backbone=mean).fit()
        >>> model.features(images).shape, model.predict(images).tolist()
        ((4, 3), [0, 0, 1, 1])
        >>> model.influence_on_loss(images[:1], [0]).shape
        (1, 4)
        >>> model.influence_input_gradient([1, 2], images[:1], [0]).shape
        (2, 2, 2, 3)
    """

    def __init__(
        self,
        train: Dataset,
        image_side: int = 299,
        weight_decay: float = 0.001,
        weights: File | None = None,
        cache_folder: File | None = None,
        dtype: DType = "float64",
        *,
        backbone: Any = None,
        batch_size: int = 8,
        progress: bool = False,
    ) -> None:
        check_dataset(train)
        if train.scale != 1:
            raise ValueError(
                f"The images must come with scale 1, because pixels are mapped to [-1, 1] here; "
                f"train.scale is {train.scale:g}."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size!r}.")
        if backbone is not None and weights is not None:
            raise ValueError("Give weights for Inception or another backbone, not both.")
        self.train, self.image_side = train, image_side
        self._check_images(train.x, "train.x")
        # What is wrong with the labels or the settings is said now, not after minutes of features.
        BinaryLogisticRegression(
            Dataset(np.zeros((len(train), 1)), train.labels), weight_decay, dtype
        )
        self.weight_decay, self.dtype = float(weight_decay), np.dtype(dtype)
        self.backbone = backbones.inception(image_side, weights) if backbone is None else backbone
        backbones.check(self.backbone, image_side)
        self.cache_folder = None if cache_folder is None else Path(cache_folder)
        self.batch_size, self.progress = batch_size, progress

    @functools.cached_property
    def _forward(self):
        pixels = tf.TensorSpec([None, *self._shape], self.backbone.inputs[0].dtype)
        # A signature with an open first axis: one trace, whatever the number of images.
        return tf.function(self._traced_features, autograph=False, input_signature=[pixels])

    def __getstate__(self) -> dict[str, Any]:
        # To another process: what is compiled is compiled anew there.
        return {name: value for name, value in vars(self).items() if name != "_forward"}

    @property
    def num_features(self) -> int:
        """f: 2,048 for Inception."""
        return self.backbone.output_shape[1]

    @functools.cached_property
    def top(self) -> BinaryLogisticRegression:
        """The logistic regression on the features of the training images."""
        features = self.features(self.train.x, self.progress).astype(self.dtype)
        return BinaryLogisticRegression(
            Dataset(features, self.train.labels), self.weight_decay, self.dtype
        )

    def fit(self) -> BinaryInceptionModel:
        """Fit w as ``BinaryLogisticRegression`` does; returns the model."""
        self.top.fit()
        return self

    def features(self, images: ArrayLike, progress: bool = False) -> np.ndarray:
        """φ of images [m, side, side, 3]: [m, f].

        With a ``cache_folder`` those of eight-bit images are kept; a damaged file is made again.
        """
        images = self._check_images(images, "images")
        if self.cache_folder is None or images.dtype != np.uint8:
            return self._computed(images, progress)
        path = self.cache_folder / f"features-{self._key(images)}.h5"
        shape = (len(images), self.num_features)
        features = _read_features(path, shape)
        if features is None:
            features = self._computed(images, progress)
            write_atomically(path, functools.partial(_write_features, features))
        return features

    def outputs(self, images: ArrayLike) -> np.ndarray:
        """The logits wᵀφ of images [m, side, side, 3]: [m, 1]."""
        return self.top.outputs(self.features(images))

    def predict(self, images: ArrayLike) -> np.ndarray:
        """The more probable class of each image, 0 or 1: [m]."""
        return self.top.predict(self.features(images))

    def influence_on_loss(
        self, x_test: ArrayLike, y_test: ArrayLike, **settings: Any
    ) -> np.ndarray:
        """``GenericNeuralNet.influence_on_loss`` for test images [m, side, side, 3]: [m, n]."""
        return self.top.influence_on_loss(self.features(x_test), y_test, **settings)

    def influence_input_gradient(
        self, train_indices: ArrayLike, x_test: ArrayLike, y_test: ArrayLike, **settings: Any
    ) -> np.ndarray:
        """∇ of ``influence_on_loss(..., reduction="mean")`` with respect to the pixels of training
        images, in units of [−1, 1] (a grey level is 2/255): [k, side, side, 3].

        −I_pert,loss/n of the paper. The gradient with respect to the features, from the top, goes
        back through the network; that is exact, as w and s_test are held fixed in it.
        """
        indices = check_chosen(train_indices, len(self.train))
        gradients = self.top.influence_input_gradient(
            indices, self.features(x_test), y_test, **settings
        )
        return self.pixel_gradient(self.train.x[indices], gradients)

    def validate(
        self, x_test: ArrayLike, y_test: ArrayLike, points: int = 20, **settings: Any
    ) -> Validation:
        """``GenericNeuralNet.validate`` for test images [m, side, side, 3]."""
        return self.top.validate(self.features(x_test), y_test, points, **settings)

    def pixel_gradient(self, images: ArrayLike, feature_gradients: ArrayLike) -> np.ndarray:
        """Vector-Jacobian products gᵢᵀ ∂φ/∂x at images xᵢ: [k, side, side, 3].

        Args:
            images: [k, side, side, 3].
            feature_gradients: g [k, f].
        """
        images = self._check_images(images, "images")
        gradients = np.asarray(feature_gradients)
        if gradients.shape != (len(images), self.num_features):
            raise ValueError(
                f"feature_gradients must be {[len(images), self.num_features]}, a row an image; "
                f"their shape is {gradients.shape}."
            )
        # A batch at a time, so that no more has to be kept between the two passes.
        parts = [
            self.features_and_pullback(images[batch])[1](gradients[batch])
            for batch in self._batches(images)
        ]
        return np.concatenate(parts)

    def features_and_pullback(
        self, images: ArrayLike
    ) -> tuple[np.ndarray, Callable[[ArrayLike], np.ndarray]]:
        """φ of images [k, side, side, 3], and what takes gradients there back to the pixels.

        One forward pass now, and one backward pass when ``pullback(g)``, g [k, f], is called,
        once: gᵢᵀ ∂φ/∂x of every image, [k, side, side, 3]. Until then what the backward pass
        needs is kept, for Inception 0.2 GB an image.
        """
        images = self._check_images(images, "images")
        passes = []
        for batch in self._batches(images):
            pixels = tf.constant(self._pixels(images[batch]))
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(pixels)
                features = self._forward(pixels)
            passes.append((tape, pixels, features))

        def pullback(gradients):
            gradients = tf.cast(gradients, passes[0][2].dtype)
            parts = [
                tape.gradient(features, pixels, output_gradients=gradients[batch]).numpy()
                for batch, (tape, pixels, features) in zip(self._batches(images), passes)
            ]
            return np.concatenate(parts)

        return np.concatenate([features.numpy() for _, _, features in passes]), pullback

    # How it is done.

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.image_side, self.image_side, 3

    def _check_images(self, images, name: str) -> np.ndarray:
        if np.shape(images)[-3:] != self._shape:
            raise ValueError(
                f"{name} must be images [m, {self.image_side}, {self.image_side}, 3]; the shape is "
                f"{np.shape(images)}."
            )
        images = check_inputs(images, self._shape, name)
        if images.dtype == np.uint8:
            return images
        if images.dtype.kind != "f":
            raise ValueError(
                f"{name} must be eight-bit (uint8) or floating-point in [-1, 1]; its dtype is "
                f"{images.dtype}."
            )
        low, high = images.min(), images.max()
        if low < -1 or high > 1:
            raise ValueError(
                f"{name} must lie in [-1, 1] where it is floating-point; it goes from {low:g} to "
                f"{high:g}. Give 0..255 as uint8."
            )
        return images

    def _batches(self, images) -> list[slice]:
        return [slice(i, i + self.batch_size) for i in range(0, len(images), self.batch_size)]

    def _pixels(self, images) -> np.ndarray:
        """Images as the network sees them."""
        pixels = images.astype(self.backbone.inputs[0].dtype)
        return pixels / 127.5 - 1 if images.dtype == np.uint8 else pixels

    def _computed(self, images, progress) -> np.ndarray:
        batches = tqdm(self._batches(images), desc="features", disable=None if progress else True)
        return np.concatenate([self._forward(self._pixels(images[b])).numpy() for b in batches])

    def _traced_features(self, pixels):
        # Without this a tape outside would differentiate with respect to the weights, too.
        weights, statistics = (
            [tf.stop_gradient(variable) for variable in variables]
            for variables in (
                self.backbone.trainable_variables,
                self.backbone.non_trainable_variables,
            )
        )
        return self.backbone.stateless_call(weights, statistics, pixels, training=False)[0]

    @functools.cached_property
    def _backbone_digest(self):
        return backbones.digest(self.backbone)

    def _key(self, images) -> str:
        digest = self._backbone_digest.copy()
        digest.update(repr(images.shape).encode())
        digest.update(np.ascontiguousarray(images))
        return digest.hexdigest()[:32]


def _write_features(features: np.ndarray, file) -> None:
    with h5py.File(file, "w") as saved:
        saved.create_dataset("features", data=features, fletcher32=True)


def _read_features(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The saved features, or None where the file is missing or damaged."""
    try:
        with h5py.File(path, "r") as saved:
            features = saved["features"][...]
    except _DAMAGE:
        return None
    return features if features.shape == shape and np.isfinite(features).all() else None
