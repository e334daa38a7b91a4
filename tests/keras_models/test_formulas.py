"""The formulas that stand for TensorFlow's functions: same values, and only for the time."""

import numpy as np
import pytest
import tensorflow as tf

from influence.keras_models import formulas

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((2, 5, 7, 3))
SIZES = [(3, 3), (9, 14), (5, 7), (10, 4)]
METHODS = [
    "nearest",
    "bilinear",
    "bicubic",
    "lanczos3",
    "lanczos5",
    "gaussian",
    "mitchellcubic",
    "area",
]
CALLS = [
    *[("max_pool", (size, 1, "SAME")) for size in (1, 2, 3, 4, [2, 3], [1, 3, 2, 1])],
    *[("max_pool", (3, stride, padding)) for stride in (1, 2) for padding in ("SAME", "VALID")],
    *[("max_pool", (size, 2, "VALID")) for size in (1, 2, [2, 1])],
    ("moments", ([1, 2],)),
    ("moments", ([-1], None, True)),
    ("softsign", ()),
    ("reduce_logsumexp", ()),
    ("reduce_logsumexp", ([1, -1],)),
    ("reduce_logsumexp", (2, True)),
    *[("resize", (size, method)) for size in SIZES for method in METHODS],
    *[("resize", (SIZES[0], method, False, True)) for method in METHODS],
    ("resize", (SIZES[1], "bilinear", True)),
]
MODULES = {"resize": tf.image, "reduce_logsumexp": tf}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_they_have_the_values_of_tensorflow(name, arguments, dtype):
    images = tf.constant(IMAGES, dtype)
    theirs = getattr(MODULES.get(name, tf.nn), name)(images, *arguments)
    ours = getattr(formulas, name)(images, *arguments)
    # Images are resized in float32.
    atol = 3e-6 if dtype == "float32" or name == "resize" else 1e-12
    for one, other in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def test_windows_apart_have_the_derivatives_of_tensorflow():
    """Where several numbers of a window are the largest, too."""
    images = tf.constant(np.maximum(np.round(2 * IMAGES), 0))
    direction = tf.constant(RANDOM.standard_normal(IMAGES.shape))
    results = []
    for pool in (formulas.max_pool, tf.nn.max_pool):
        with tf.GradientTape() as tape:
            tape.watch(images)
            with tf.autodiff.ForwardAccumulator(images, direction) as forward:
                value = pool(images, 2, 2, "VALID")
            along = forward.jvp(value)
            total = tf.reduce_sum(along**2 * value + value**3)
        results.append([value, along, tape.gradient(total, images)])
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_what_is_not_the_largest_may_be_infinite():
    x = tf.constant([-np.inf, 1.0, -np.inf, -np.inf], shape=[1, 2, 2, 1])
    assert formulas.max_pool(x, 2, 2, "VALID").numpy() == 1.0


def test_infinities_of_logsumexp():
    for row in ([np.inf, 1.0], [-np.inf, -np.inf], [-np.inf, 0.0]):
        x = tf.constant(row)
        assert formulas.reduce_logsumexp(x).numpy() == tf.reduce_logsumexp(x).numpy()


def test_unknown_sizes_and_other_numbers_are_left_to_tensorflow():
    images = tf.constant(IMAGES * 100)
    whole = tf.cast(images, tf.int32)
    np.testing.assert_array_equal(
        formulas.resize(whole, (3, 3), "nearest"), tf.image.resize(whole, (3, 3), "nearest")
    )

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def half(images):
        size = tf.shape(images)[1:3] // 2
        return formulas.resize(images, size), tf.image.resize(images, size)

    ours, theirs = half(tf.cast(images, tf.float32))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["max_pool", "max_pool1d", "max_pool2d"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_ways_to_pool(name, dtype):
    images = tf.constant(IMAGES[0] if name == "max_pool1d" else IMAGES, dtype)
    pool = getattr(tf.nn, name)
    for arguments in [(3, 1, "SAME"), (2, 2, "VALID")]:
        with formulas.differentiable():
            ours = getattr(tf.nn, name)(images, *arguments)
        np.testing.assert_array_equal(ours, pool(images, *arguments))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_window_at_all(dtype):
    # In float32 it ended the process.
    for shape, size in [((2, 5, 1, 3), (1, 2)), ((2, 5, 3), 6)]:
        with pytest.raises(ValueError, match="too small for pooling windows"):
            formulas.max_pool(tf.zeros(shape, dtype), size, 1, "VALID")


def fail_within():
    with formulas.differentiable():
        assert tf.nn.moments is formulas.moments
        with formulas.differentiable():
            assert tf.nn.moments is formulas.moments
        assert tf.nn.moments is formulas.moments
        raise ValueError("within")


def test_they_stand_in_only_meanwhile():
    before = tf.nn.moments
    with pytest.raises(ValueError, match="within"):
        fail_within()
    assert tf.nn.moments is before
