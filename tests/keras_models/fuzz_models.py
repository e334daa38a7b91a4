"""Random Keras models: layers of each kind of points, losses and the labels that they take."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

L, K = keras.layers, keras.ops
POINTS = 7


class SelfAttention(L.Layer):
    """An attention layer as one of a single input."""

    def __init__(self, inner, **settings):
        super().__init__(**settings)
        self.inner = inner

    def call(self, x):
        return (
            self.inner(x, x) if isinstance(self.inner, L.MultiHeadAttention) else self.inner([x, x])
        )


class Matrix(L.Layer):
    """A linear layer of images without variables, as the matrix that it is: TensorFlow resizes in
    float32 only, which leaves finite differences few digits."""

    def __init__(self, inner, **settings):
        super().__init__(**settings)
        self.inner = inner

    def build(self, shape):
        height, width = shape[1:3]
        units = np.eye(height * width, dtype="float32").reshape(-1, height, width, 1)
        self.images = tf.cast(self.inner(units)[..., 0], self.dtype)

    def call(self, x):
        pixels = tf.reshape(x, [-1, self.images.shape[0], x.shape[-1]])
        return tf.einsum("npc,phw->nhwc", pixels, self.images)


@tf.custom_gradient
def straight_through(x):
    return tf.round(x), lambda slopes: slopes


@tf.custom_gradient
def clipped(x):
    return x * x, lambda slopes: tf.clip_by_value(slopes, -0.1, 0.1)


@tf.custom_gradient
def right(x):
    return tf.sin(x), lambda slopes: slopes * tf.cos(x)


def repeated(x):
    return tf.while_loop(lambda i, _: i < 2, lambda i, z: (i + 1, tf.sin(z)), (0, x))[1]


def quantised(x):
    single = tf.quantization.fake_quant_with_min_max_args(tf.cast(x, "float32"))
    return tf.cast(single, x.dtype)


FUNCTIONS = {
    "straight-through": straight_through,
    "clipped": clipped,
    "custom": right,
    "cond": lambda x: tf.cond(tf.reduce_sum(x) < 1e9, lambda: x**2, lambda: x),
    "while": repeated,
    "stop": lambda x: x * tf.stop_gradient(x),
    "cumsum": lambda x: K.cumsum(x, axis=-1),
    "sort": lambda x: K.sort(x, axis=-1),
    "norm": lambda x: x / (1 + tf.norm(x, axis=-1, keepdims=True)),
    "round": tf.round,
    "fake quantisation": quantised,
}
ACTIVATIONS = [
    "linear", "relu", "tanh", "sigmoid", "softplus", "softsign", "elu", "selu", "gelu", "silu",
    "exponential", "hard_sigmoid", "leaky_relu", "relu6", "mish", "softmax", "log_softmax",
    "hard_silu", "celu", "glu",
]  # fmt: skip
PADDINGS, STRIDES, BOTH = ["valid", "same"], [1, 2], [True, False]


def pick(name, **choices):
    """A strategy of (name of a layer, its settings)."""
    drawn = st.fixed_dictionaries({key: st.sampled_from(values) for key, values in choices.items()})
    return st.tuples(st.just(name), drawn)


ANY = [
    pick("Activation", activation=ACTIVATIONS),
    pick("Function", function=list(FUNCTIONS)),
    pick("Dense", units=[2, 3], activation=ACTIVATIONS, kernel_regularizer=[None, "l2"]),
    pick("BatchNormalization", center=BOTH),
    pick("LayerNormalization", scale=BOTH),
    pick("RMSNormalization"),
    pick("UnitNormalization"),
    pick("GroupNormalization", groups=[1, -1]),
    pick("Dropout", rate=[0.3]),
    pick("GaussianNoise", stddev=[0.2]),
    pick("PReLU"),
    pick("ELU"),
    pick("LeakyReLU"),
    pick("ReLU", max_value=[None, 1.0]),
    pick("Softmax"),
    pick("Rescaling", scale=[0.5]),
    pick("ActivityRegularization", l2=[0.1]),
]
VECTOR = [*ANY, pick("RepeatVector", n=[2]), pick("Reshape", target_shape=[(1, -1), (-1, 1)])]
SEQUENCE = [
    pick("Conv1D", filters=[2], kernel_size=[2], strides=STRIDES, padding=["causal", *PADDINGS]),
    pick("SeparableConv1D", filters=[2], kernel_size=[2], padding=PADDINGS),
    pick("DepthwiseConv1D", kernel_size=[2], padding=PADDINGS),
    pick("Conv1DTranspose", filters=[2], kernel_size=[2], strides=STRIDES),
    pick("MaxPooling1D", pool_size=[2, 3], strides=STRIDES, padding=PADDINGS),
    pick("AveragePooling1D", pool_size=[2, 3], strides=STRIDES, padding=PADDINGS),
    pick("GlobalMaxPooling1D"),
    pick("GlobalAveragePooling1D"),
    pick("UpSampling1D", size=[2]),
    pick("ZeroPadding1D", padding=[1]),
    pick("Cropping1D", cropping=[1]),
    pick("Permute", dims=[(2, 1)]),
    pick("SimpleRNN", units=[2], return_sequences=BOTH, unroll=BOTH),
    pick("LSTM", units=[2], return_sequences=BOTH, unroll=BOTH),
    pick("GRU", units=[2], return_sequences=BOTH, unroll=BOTH),
    pick("Bidirectional", return_sequences=BOTH),
    pick("TimeDistributed"),
    pick("EinsumDense", equation=["abc,cd->abd"], output_shape=[(None, 2)]),
    pick("MultiHeadAttention", num_heads=[2], key_dim=[2]),
    pick("Attention", use_scale=BOTH),
    pick("AdditiveAttention", use_scale=BOTH),
    pick("Masking", mask_value=[0.0]),
]
IMAGE = [
    pick("Conv2D", filters=[2], kernel_size=[2, 3], strides=STRIDES, padding=PADDINGS),
    pick("SeparableConv2D", filters=[2], kernel_size=[2], padding=PADDINGS),
    pick("DepthwiseConv2D", kernel_size=[2], padding=PADDINGS),
    pick("Conv2DTranspose", filters=[2], kernel_size=[2], strides=STRIDES),
    pick("MaxPooling2D", pool_size=[2, 3], strides=STRIDES, padding=PADDINGS),
    pick("AveragePooling2D", pool_size=[2, 3], strides=STRIDES, padding=PADDINGS),
    pick("GlobalMaxPooling2D"),
    pick("GlobalAveragePooling2D"),
    pick("UpSampling2D", size=[2], interpolation=["nearest", "bilinear", "bicubic", "lanczos3"]),
    pick("Resizing", height=[3], width=[4], interpolation=["bilinear", "nearest", "area"]),
    pick("ZeroPadding2D", padding=[1]),
    pick("Cropping2D", cropping=[1]),
    pick("SpatialDropout2D", rate=[0.3]),
]
# Shape of a point, its first layer, and those that are made for what comes out of it.
KINDS = {
    "vector": ((4,), ("Dense", {"units": 3}), VECTOR),
    "sequence": ((4, 3), ("Dense", {"units": 3}), SEQUENCE),
    "words": ((4,), ("Embedding", {"input_dim": 4, "output_dim": 3, "mask_zero": True}), SEQUENCE),
    "image": ((5, 5, 2), ("Conv2D", {"filters": 2, "kernel_size": 2}), IMAGE),
}
# Units of the last layer, its activation, the loss and a layout of labels.
LOSSES = [
    (3, None, lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True), "classes"),
    (3, "softmax", lambda: "sparse_categorical_crossentropy", "classes"),
    (3, "softmax", lambda: "sparse_categorical_crossentropy", "classes [n, 1]"),
    (3, "softmax", lambda: "categorical_crossentropy", "one-hot"),
    (3, "softmax", lambda: keras.losses.CategoricalFocalCrossentropy(), "one-hot"),
    (1, "sigmoid", lambda: "binary_crossentropy", "binary"),
    (1, "sigmoid", lambda: "binary_crossentropy", "binary [n, 1]"),
    (2, "sigmoid", lambda: keras.losses.BinaryFocalCrossentropy(), "several binary"),
    (1, None, lambda: "mse", "numbers"),
    (2, None, lambda: "mse", "several numbers"),
    (1, None, lambda: keras.losses.Huber(2.0), "numbers"),
    (2, None, lambda: "log_cosh", "several numbers"),
    (1, None, lambda: "mae", "numbers"),
    (1, "softplus", lambda: "poisson", "counts"),
    (1, None, lambda: "squared_hinge", "signs"),
    (1, None, lambda: "hinge", "signs"),
    (3, "softmax", lambda: "kl_divergence", "one-hot"),
    (2, None, lambda: "cosine_similarity", "several numbers"),
    (2, "sigmoid", lambda: "mean_squared_logarithmic_error", "several binary"),
    (2, "softmax", lambda: keras.losses.Dice(), "several binary"),
]


class Recipe(NamedTuple):
    """A network and its points.

    Attributes:
        kind: of points, in ``KINDS``.
        stack: (name, settings) of the layers after the first one.
        flat: the last layer sees a point as a vector; else each of its entries has outputs.
        loss: one of ``LOSSES``.
        dtype: of the numbers.
        weighted: the points have weights.
        seed: of all numbers.
    """

    kind: str
    stack: list[tuple[str, dict[str, Any]]]
    flat: bool
    loss: tuple[Any, ...]
    dtype: str
    weighted: bool
    seed: int


@st.composite
def recipes(draw):
    kind = draw(st.sampled_from(list(KINDS)))
    own = KINDS[kind][2]
    stack = [draw(st.one_of(own)), *draw(st.lists(st.one_of([*own, *ANY]), max_size=2))]
    flat, loss = draw(st.booleans()), draw(st.sampled_from(LOSSES))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    return Recipe(kind, stack, flat, loss, dtype, draw(st.booleans()), draw(st.integers(0, 99)))


def network(recipe, dtype, exact=False):
    """A compiled Keras model.

    Args:
        exact: TensorFlow has to have all of it in float64.
    """
    shape, first, _ = KINDS[recipe.kind]
    units, activation, loss, _ = recipe.loss
    layers = [_layer(*one, dtype, exact) for one in (first, *recipe.stack)]
    if recipe.flat:
        layers.append(L.Flatten(dtype=dtype))
    # Enough to be seen in scores.
    decay = keras.regularizers.L2(0.1)
    head = L.Dense(units, activation=activation, dtype=dtype, kernel_regularizer=decay)
    inputs = L.Input(shape, dtype="int32" if recipe.kind == "words" else dtype)
    model = keras.Sequential([inputs, *layers, head])
    model.compile(loss=loss())
    return model


def _layer(name, settings, dtype, exact):
    if name == "Function":
        return L.Lambda(FUNCTIONS[settings["function"]], dtype=dtype)
    if name == "Bidirectional":
        return L.Bidirectional(L.GRU(2, dtype=dtype, **settings), dtype=dtype)
    if name == "TimeDistributed":
        return L.TimeDistributed(L.Dense(2, dtype=dtype), dtype=dtype)
    if exact and name in ("Resizing", "UpSampling2D"):
        return Matrix(getattr(L, name)(**settings, dtype="float32"), dtype=dtype)
    layer = getattr(L, name)(**settings, dtype=dtype)
    return SelfAttention(layer, dtype=dtype) if "Attention" in name else layer


def points(recipe, random):
    shape = (POINTS, *KINDS[recipe.kind][0])
    if recipe.kind != "words":
        return random.standard_normal(shape)
    # 0 is padding, and no sequence is nothing but that.
    x = random.integers(0, 4, shape)
    x[:, 0] = random.integers(1, 4, POINTS)
    return x


def labels(recipe, shape, random):
    """Of outputs of that shape, in the layout that the loss takes."""
    binary, classes = random.integers(0, 2, shape), random.integers(0, 3, shape[:-1])
    numbers = random.standard_normal(shape)
    layouts = {
        "classes": classes,
        "classes [n, 1]": classes[..., np.newaxis],
        "one-hot": np.eye(3)[classes],
        "binary": binary[..., 0],
        "binary [n, 1]": binary,
        "several binary": binary,
        "numbers": numbers[..., 0],
        "several numbers": numbers,
        "counts": random.integers(0, 5, shape[:-1]),
        "signs": 2 * binary[..., 0] - 1,
    }
    return layouts[recipe.loss[3]]
