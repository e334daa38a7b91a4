"""Scores through layers of all kinds: those of the dense truth, or refused by the layer's name."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import ConjugateGradient, KerasModel
from influence.curvature.modes import FORWARD, REVERSE
from tests.keras_models.truth import DenseTruth, pooled

layers = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
N, CLASSES = 6, 3


def points(shape, words=None):
    """N training and two test points; integers below ``words`` if given."""
    random = np.random.default_rng(0)
    shape = (N + 2, *shape)
    x = random.normal(size=shape) if words is None else random.integers(0, words, shape)
    return x, np.arange(N + 2) % CLASSES


def network(body, x, dtype="float64"):
    """A classifier on what ``body``, whose layers compute in ``dtype``, makes of inputs."""
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(1)
    inputs = layers.Input(x.shape[1:], dtype=dtype if x.dtype.kind == "f" else "int32")
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(body(inputs))))


def model_of(body, shape=(5,), dtype="float64", **settings):
    x, y = points(shape)
    return KerasModel(network(body, x, dtype), (x[:N].astype(dtype), y[:N]), loss=LOSS, **settings)


def told(make):
    """(what ``make`` returns, the messages that it warns with)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = make()
    return result, [str(warning.message) for warning in caught]


def assert_true_scores(
    body,
    shape,
    dtype="float64",
    *,
    by_hand=None,
    first=False,
    tolerance=None,
    step=1e-4,
    words=None,
):
    """Scores with both curvatures are those of the dense truth; returns the model and what it told.

    Args:
        body: inputs -> features.
        by_hand: the same for the truth, where TensorFlow has no exact one.
        first: θ are the variables of the first layer alone.
        step: of differences in the truth.
        words: as for ``points``.
    """
    x, y = points(shape, words)
    exact, tried = network(by_hand or body, x), network(body, x, dtype)
    for one, other in zip(exact.variables, tried.variables):
        one.assign(other.numpy())
    dense = DenseTruth(
        exact, (exact.layers[1] if first else exact).trainable_variables, x[:N], y[:N], step
    )
    x = x if words else x.astype(dtype)
    variables = tried.layers[1] if first else None
    model, messages = told(lambda: KerasModel(tried, (x[:N], y[:N]), LOSS, variables=variables))
    tolerance = tolerance or {"float32": 1e-4, "float64": 1e-8}[dtype]
    solver = ConjugateGradient(tolerance / 100)
    for kind in ("gauss_newton", "hessian"):
        matrix = getattr(dense, kind)()
        damping = 1 + max(0, -np.linalg.eigvalsh(matrix)[0])
        truth = dense.scores(matrix + damping * np.eye(len(matrix)), x[N:], y[N:])
        curvature = getattr(model, kind)() + damping
        scores = model.influence_on_loss(x[N:], y[N:], curvature=curvature, solver=solver)
        atol = tolerance * np.abs(truth).max()
        np.testing.assert_allclose(scores, truth, rtol=0, atol=atol, err_msg=kind)
    return model, messages


def assert_made_of_gradients(model, messages, name):
    """By reverse mode alone, and this said once, with the layer's name."""
    assert model.mode is REVERSE
    [message] = messages
    assert f"TensorFlow's forward mode has no right derivative of {name}" in message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Max", "Average"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    # TensorFlow has no float64 in 3D.
    [((7, 1), "float64"), ((5, 4, 1), "float64"), ((4, 3, 5, 1), "float32")],
    ids=["1D", "2D", "3D"],
)
def test_pooling_of_every_stride_and_padding(kind, shape, dtype):
    dimensions = len(shape) - 1
    settings = [(3, 1, "same"), (2, 1, "valid"), (3, 2, "same"), (2, 2, "valid"), (2, 3, "same")]

    def body(by_hand):
        def features(inputs):
            convolution = getattr(layers, f"Conv{dimensions}D")
            x = convolution(2, 2, padding="same")(inputs)
            of_all = getattr(layers, f"Global{kind}Pooling{dimensions}D")()
            parts = [of_all(x)]
            for size, stride, padding in settings:
                layer = getattr(layers, f"{kind}Pooling{dimensions}D")
                layer = layer(size, stride, padding=padding)
                if by_hand:
                    out = layer.compute_output_shape(x.shape)[1:]
                    how = {"kind": kind, "size": size, "stride": stride, "padding": padding}
                    layer = layers.Lambda(functools.partial(pooled, **how), output_shape=out)
                parts.append(layers.Flatten()(layer(x)))
            return layers.Concatenate()(parts)

        return features

    model, messages = assert_true_scores(body(False), shape, dtype, by_hand=body(True), first=True)
    assert model.mode is FORWARD
    assert not messages


METHODS = ["nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dtype"),
    [(method, "float32") for method in METHODS] + [("bilinear", "float64")],
)
def test_resizing_of_every_method(method, dtype):
    # TensorFlow resizes in float32, so differences need a large step.
    def body(inputs):
        x = layers.Conv2D(1, 2, activation="tanh")(inputs)
        sizes = [layers.UpSampling2D(2, interpolation=method)(x)]
        sizes += [layers.Resizing(*size, interpolation=method)(x) for size in ((2, 3), (5, 4))]
        sizes += [layers.Resizing(2, 2, interpolation=method, antialias=True)(x)]
        return layers.Concatenate()([layers.Flatten()(size) for size in sizes])

    def resize(size, antialias, x):
        # In float64 there is not even a gradient of some.
        single = tf.image.resize(tf.cast(x, tf.float32), size, method, antialias=antialias)
        return tf.cast(single, x.dtype)

    def by_hand(inputs):
        x = layers.Conv2D(1, 2, activation="tanh")(inputs)
        sizes = [((6, 8), False), ((2, 3), False), ((5, 4), False), ((2, 2), True)]
        return layers.Concatenate()(
            [
                layers.Flatten()(
                    layers.Lambda(functools.partial(resize, *how), output_shape=(*how[0], 1))(x)
                )
                for how in sizes
            ]
        )

    model, messages = assert_true_scores(
        body, (4, 5, 1), dtype, by_hand=by_hand, first=True, tolerance=1e-4, step=1e-2
    )
    assert model.mode is FORWARD
    assert not messages


def after_dense(*stack):
    """Inputs -> these layers, made anew each time, after a dense one with four units."""

    def body(inputs):
        x = layers.Dense(4, activation="tanh")(inputs)
        for make in stack:
            x = make()(x)
        return x

    return body


def function(of, **settings):
    """A layer that computes ``of`` of four numbers a point."""
    return functools.partial(layers.Lambda, of, output_shape=(4,), **settings)


def attention(kind):
    def body(inputs):
        x = layers.Dense(2)(inputs)
        return kind()([x, x])

    return body


def logsumexp(x):
    return x - tf.reduce_logsumexp(x, axis=1, keepdims=True)


@tf.custom_gradient
def right(x):
    return tf.exp(x), lambda slopes: slopes * tf.exp(x)


DIRECT = {
    "LayerNormalization": (after_dense(layers.LayerNormalization), (5,)),
    "GroupNormalization": (
        lambda x: layers.GroupNormalization(2)(layers.Conv2D(4, 2)(x)),
        (3, 3, 1),
    ),
    "BatchNormalization": (after_dense(layers.BatchNormalization), (5,)),
    "RMSNormalization": (after_dense(layers.RMSNormalization), (5,)),
    "UnitNormalization": (after_dense(layers.UnitNormalization), (5,)),
    "SpectralNormalization": (
        after_dense(lambda: layers.SpectralNormalization(layers.Dense(2))),
        (5,),
    ),
    "MultiHeadAttention": (lambda x: layers.MultiHeadAttention(2, 2)(x, x), (3, 2)),
    "Attention": (attention(layers.Attention), (3, 2)),
    "AdditiveAttention": (attention(layers.AdditiveAttention), (3, 2)),
    "GRU, unrolled": (lambda x: layers.GRU(2, unroll=True)(x), (3, 2)),
    "LSTM, unrolled": (lambda x: layers.LSTM(2, unroll=True)(x), (3, 2)),
    "softsign": (after_dense(lambda: layers.Dense(3, activation="softsign")), (5,)),
    "silu": (after_dense(lambda: layers.Dense(3, activation="silu")), (5,)),
    "logsumexp": (after_dense(function(logsumexp)), (5,)),
    "custom_gradient": (after_dense(function(right)), (5,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIRECT)
def test_layers_with_derivatives_of_all_kinds(name):
    model, messages = assert_true_scores(*DIRECT[name])
    assert model.mode is FORWARD
    assert not messages


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LayerNormalization", "GroupNormalization", "silu"])
def test_the_same_in_float32(name):
    assert_true_scores(*DIRECT[name], "float32")


@pytest.mark.parametrize("seed", range(3))
def test_rounding_is_no_derivative(seed):
    # Attention does not depend on the keys' bias: its derivatives are rounding alone.
    random = np.random.default_rng(seed)
    x = random.standard_normal((7, 4, 3)).astype("float32")
    tried = network(lambda inputs: layers.MultiHeadAttention(2, 2)(inputs, inputs), x, "float32")
    for variable in tried.trainable_variables:
        variable.assign_add(0.1 * random.standard_normal(variable.shape))
    model, messages = told(lambda: KerasModel(tried, (x, np.arange(7) % CLASSES), LOSS))
    model.hessian()
    assert not messages


def repeated(x):
    return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, tf.sin(x) * 1.5), (0, x))[1]


def scanned(x):
    return tf.transpose(tf.scan(lambda before, now: tf.sin(before) + now, tf.transpose(x)))


CONTROL = {
    "cond": lambda x: tf.cond(tf.reduce_sum(x) < 1e9, lambda: x**2, lambda: x),
    "switch_case": lambda x: tf.switch_case(tf.constant(0), [lambda: x**2, lambda: x]),
    "while_loop": repeated,
    "scan": scanned,
    "map_fn": lambda x: tf.map_fn(lambda row: tf.sin(row) * row, x),
    "function": tf.function(lambda x: tf.sin(x) * x),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROL)
def test_control_flow_goes_by_gradients_of_gradients(name):
    body = after_dense(function(CONTROL[name], name="flow"))
    assert_made_of_gradients(*assert_true_scores(body, (5,)), "the layer 'flow' (Lambda)")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU"])
def test_recurrent_layers_go_by_gradients_of_gradients(kind):
    layer = getattr(layers, kind)
    words = 5 if kind == "SimpleRNN" else None

    def body(inputs):
        x = inputs if words is None else layers.Embedding(words, 2)(inputs)
        return layer(2, name="recurrent")(x)

    shape = (3,) if words else (3, 2)
    told = assert_true_scores(body, shape, words=words)
    assert_made_of_gradients(*told, f"the layer 'recurrent' ({kind})")


@pytest.mark.slow
def test_the_columns_of_a_stream_go_by_gradients_of_gradients_too():
    body = after_dense(function(CONTROL["cond"]))
    x, y = points((5,))
    tried = network(body, x)
    arrays, _ = told(lambda: KerasModel(tried, (x[:N], y[:N]), LOSS))
    batches = tf.data.Dataset.from_tensor_slices((x[:N], y[:N])).batch(4)
    stream, _ = told(lambda: KerasModel(tried, batches, LOSS))
    assert stream.mode is REVERSE
    block = np.random.default_rng(0).standard_normal((arrays.num_parameters, 3))
    for kind in ("hessian", "gauss_newton"):
        one, other = (getattr(model, kind)() @ block for model in (arrays, stream))
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.slow
def test_a_culprit_in_the_loss_is_named():
    def loss(labels, outputs):
        return tf.cond(
            tf.reduce_sum(outputs) < 1e9, lambda: outputs[:, 0] ** 2, lambda: outputs[:, 1]
        )

    x, y = points((5,))
    tried = network(after_dense(), x)
    told_of = told(lambda: KerasModel(tried, (x[:N], y[:N]), loss))
    assert_made_of_gradients(*told_of, "the loss 'loss'")


@pytest.mark.slow
def test_input_gradients_are_differences_of_scores():
    # Through control flow, and a layer before θ that has no second derivative at all.
    def dilated(x):
        kernel = tf.zeros([2, 2, 1], x.dtype)
        return tf.nn.dilation2d(x, kernel, [1, 1, 1, 1], "VALID", "NHWC", [1, 1, 1, 1])

    def body(inputs):
        x = layers.Lambda(dilated, output_shape=(2, 2, 1))(layers.Conv2D(1, 1)(inputs))
        x = layers.Dense(4)(layers.Flatten()(x))
        return function(CONTROL["cond"])()(x)

    x, y = points((3, 3, 1))
    tried = network(body, x)
    chosen = [layer for layer in tried.layers if isinstance(layer, layers.Dense)]
    model, _ = told(lambda: KerasModel(tried, (x[:N], y[:N]), LOSS, variables=chosen))
    test = x[N:], y[N:]
    how = {"curvature": model.gauss_newton() + 1.0, "solver": ConjugateGradient(1e-12)}
    gradient = model.influence_input_gradient([2], *test, **how)[0]
    step = 1e-5 * np.random.default_rng(1).standard_normal(x[2].shape)
    ends = [
        model.influence_of_points((x[2] + sign * step)[np.newaxis], y[2:3], *test, **how).mean()
        for sign in (1, -1)
    ]
    assert np.sum(gradient * step) == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-6)
