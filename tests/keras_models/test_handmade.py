"""Gradients by hand: right ones are taken, and others refused by the name of their layer."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import KerasModel
from influence.keras_models.handmade import contradicted, second_contradicted
from tests.keras_models.test_derivatives import (
    LOSS,
    N,
    after_dense,
    function,
    network,
    points,
    right,
)

layers = keras.layers


def by_hand(forward, backward):
    """What ``forward`` computes of x, with backward(x, slopes) for a gradient."""

    @tf.custom_gradient
    def both(x):
        return forward(x), functools.partial(backward, x)

    return both


def rounded(x):
    return tf.round(3 * x) / 3


def quantised(x):
    # There is no kernel in float64.
    return tf.cast(tf.quantization.fake_quant_with_min_max_args(tf.cast(x, tf.float32)), x.dtype)


straight_through = by_hand(rounded, lambda x, slopes: slopes)
WRONG = {
    "straight through": straight_through,
    "straight through by stop_gradient": lambda x: x + tf.stop_gradient(rounded(x) - x),
    "clipped": by_hand(tf.square, lambda x, d: tf.clip_by_value(2 * x * d, -0.03, 0.03)),
    "reversed": by_hand(tf.identity, lambda x, slopes: -slopes),
    "partly stopped": lambda x: x * tf.stop_gradient(x),
    "fake_quant": quantised,
    "quantize_and_dequantize": lambda x: tf.quantization.quantize_and_dequantize_v2(
        x, -6, 6, range_given=True
    ),
    "within a loop": lambda x: tf.map_fn(straight_through, x),
}


def model_of(of, **settings):
    x, y = points((5,))
    return KerasModel(network(after_dense(function(of, name="odd")), x), (x[:N], y[:N]), LOSS)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_derivative_is_refused(name):
    with pytest.raises(ValueError, match=r"gradient of the layer 'odd' \(Lambda\) is not the deri"):
        model_of(WRONG[name])


@pytest.mark.parametrize("name", WRONG)
def test_it_may_be_below_the_chosen_layers(name):
    x, y = points((5,))
    tried = network(after_dense(function(WRONG[name], name="odd")), x)
    model = KerasModel(tried, (x[:N], y[:N]), LOSS, variables=tried.layers[-1])
    curvature = model.hessian() + 0.1
    assert np.isfinite(model.influence_on_loss(x[N:], y[N:], curvature=curvature)).all()
    # But not between an influence and the points.
    with pytest.raises(ValueError, match=r"gradient of the layer 'odd' \(Lambda\) is not the deri"):
        model.influence_input_gradient([0], x[N:], y[N:], curvature=curvature)


def standardised(x):
    """With a right first derivative, as that of the mean within the variance is zero."""
    mean = tf.reduce_mean(x, axis=1, keepdims=True)
    variance = tf.reduce_mean((x - tf.stop_gradient(mean)) ** 2, axis=1, keepdims=True)
    return (x - mean) / tf.sqrt(variance + 0.1)


FIRST_ONLY = {
    "standardised": standardised,
    "constant gradient": by_hand(tf.square, lambda x, d: 2 * tf.stop_gradient(x) * d),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_ONLY)
def test_first_derivatives_alone_leave_gauss_newton(name):
    model = model_of(FIRST_ONLY[name])
    x, y = points((5,))
    curvature = model.gauss_newton() + 0.1
    assert np.isfinite(model.influence_on_loss(x[N:], y[N:], curvature=curvature)).all()
    lack = r"no right second derivative of the layer 'odd' \(Lambda\).*"
    with pytest.raises(ValueError, match=lack + r"curvature=model.gauss_newton\(\)"):
        model.influence_on_loss(x[N:], y[N:])
    with pytest.raises(ValueError, match=lack + "gradient of an influence needs one"):
        model.influence_input_gradient([0], x[N:], y[N:], curvature=curvature)


relu = by_hand(tf.nn.relu, lambda x, slopes: slopes * tf.cast(x > 0, x.dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(3))
def test_right_gradients_are_not_refused_for_their_kinks(dtype, seed):
    random = np.random.default_rng(seed)
    # Half of the numbers are exactly at the kink.
    x = random.standard_normal((8, 20, 20, 2)) * (random.random((8, 20, 20, 2)) < 0.5)
    x, kernel = tf.constant(x, dtype), tf.constant(random.standard_normal((3, 3, 2, 4)), dtype)
    bias = tf.zeros(4, dtype)
    pieces = {
        "relu": (lambda v: [relu(v[0])], [x]),
        "convolution": (lambda v: [relu(tf.nn.conv2d(x, v[0], 1, "SAME") + v[1])], [kernel, bias]),
        "largest": (lambda v: [tf.nn.max_pool2d(relu(v[0]), 2, 2, "SAME")], [x]),
        "smooth": (lambda v: [right(v[0]), tf.nn.silu(v[0])], [x]),
        "small": (lambda v: [1e-6 * tf.exp(1e-3 * right(v[0]))], [x]),
        "large": (lambda v: [1e4 + right(v[0])], [x]),
        "logarithm": (lambda v: [tf.math.log(tf.abs(v[0]) + 1e-3)], [x]),
    }
    for name, (piece, values) in pieces.items():
        assert not contradicted(piece, values), name
        if name != "convolution":
            assert not second_contradicted(piece, values), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(3))
def test_wrong_gradients_are_seen(dtype, seed):
    x = tf.constant(np.random.default_rng(seed).standard_normal((8, 50)), dtype)
    for name in ("straight through", "clipped", "reversed", "partly stopped", "fake_quant"):
        assert contradicted(lambda v, of=WRONG[name]: [of(v[0])], [x]), name
    for name, of in FIRST_ONLY.items():
        # The wider a layer, the less there is to see of what a mean does.
        few = [x[:, :4]]
        assert not contradicted(lambda v, of=of: [of(v[0])], few), name
        assert second_contradicted(lambda v, of=of: [of(v[0])], few), name
