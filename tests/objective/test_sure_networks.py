"""Networks and regressions that are sure of their points: Λ = diag(p) − ppᵀ is all but rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import KerasModel
from influence.models.logistic_regression import Softmax
from influence.solvers.downdate import roots

CLASSES = 3
RANDOM = np.random.default_rng(0)
Y = np.arange(30) % CLASSES
X = 3 * np.eye(CLASSES)[Y] + 0.1 * RANDOM.standard_normal((30, CLASSES))


def sure(margin, dtype):
    """A network whose logits of a point's own class are ahead of the others by some ``margin``."""
    first, last = (keras.layers.Dense(CLASSES, dtype=dtype) for _ in range(2))
    network = keras.Sequential([keras.Input((CLASSES,), dtype=dtype), first, last])
    network.set_weights(
        [np.eye(CLASSES), np.zeros(CLASSES), margin / 3 * np.eye(CLASSES), np.zeros(CLASSES)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
    return KerasModel(network, (X.astype(dtype), Y), loss=loss)


@pytest.mark.filterwarnings("ignore:.*minimum")
@pytest.mark.parametrize("margin", [3.0, 8.0, 12.0, 16.0])
def test_newton_steps(margin):
    """In float32 they were refused as of a loss that is not convex, from p = 0.9999 on."""
    change = {}
    for dtype in ("float32", "float64"):
        model = sure(margin, dtype)
        curvature = model.gauss_newton() + 1e-3
        change[dtype] = model.parameter_changes([[3], [4, 8]], "newton", curvature=curvature)
    # In float32 the slope p − 1, of the size of exp(−margin), is known to some 4e-8.
    atol = (2e-3 + 4e-8 * np.exp(margin)) * np.abs(change["float64"]).max()
    np.testing.assert_allclose(change["float32"], change["float64"], rtol=0, atol=atol)


@pytest.mark.filterwarnings("ignore:.*minimum")
@pytest.mark.parametrize("margin", [3.0, 12.0, 16.0])
def test_ekfac(margin):
    model = sure(margin, "float32")
    truth = sure(margin, "float64").ekfac().dense()
    atol = (0.02 + 4e-8 * np.exp(margin)) * truth.max()  # as above
    np.testing.assert_allclose(model.ekfac().dense(), truth, rtol=0, atol=atol)


@pytest.mark.parametrize("margin", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_curvature_of_a_softmax_has_its_digits(margin, dtype):
    z = margin * np.array([[1.0, 0.0, -0.3], [0.2, 1.0, 0.0]])
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    truth = -p[:, :, np.newaxis] * p[:, np.newaxis, :]
    for i in range(CLASSES):
        truth[:, i, i] = p[:, i] * np.delete(p, i, axis=1).sum(axis=1)
    loss = Softmax(CLASSES)
    state = loss.curvature(tf.constant(z, dtype), tf.constant([0, 1]))
    matrix = loss.curvature_matrix(state).numpy()
    np.testing.assert_allclose(matrix, truth, rtol=1e-5 if dtype == "float32" else 1e-13)
    root = roots(matrix)
    np.testing.assert_allclose(root @ np.swapaxes(root, 1, 2), truth, atol=1e-5 * truth.max())


def test_what_is_no_rounding_is_refused():
    blocks = np.array([[[1e-5, 0], [0, -1e-6]]], np.float32)
    with pytest.raises(ValueError, match="not convex in the outputs"):
        roots(blocks, scale=0.2)
    assert roots(np.array([[[1e-5, 0], [0, -1e-7]]], np.float32), scale=0.2)[0, 1, 1] == 0
