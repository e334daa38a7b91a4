"""What a Keras model must be like: with a minimum, and with maps that its windows fit into."""

import warnings

import keras
import numpy as np
import pytest

from influence import KerasModel
from influence.objective.minimum import ConvergenceWarning
from tests.keras_models.test_model import L2, layer, sequential

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((30, 2))
SEPARATED = (X[:, 0] > 0).astype(int)
LOGITS = keras.losses.BinaryCrossentropy(from_logits=True)


def network(hidden, decay, loss=LOGITS):
    regularizer = L2(decay) if decay else None
    settings = {"kernel_regularizer": regularizer, "bias_regularizer": regularizer}
    stack = [layer("Dense", 4, activation="tanh", **settings)] if hidden else []
    return sequential((2,), *stack, layer("Dense", 1, **settings), loss=loss)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [False, True])
def test_a_fit_without_a_minimum_says_so(hidden):
    model = KerasModel(network(hidden, 0), (X, SEPARATED))
    with pytest.warns(ConvergenceWarning, match="no minimum"):
        model.fit()


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [False, True])
def test_a_regulariser_makes_one(hidden):
    with warnings.catch_warnings():
        # A network's last digits may be out of reach.
        warnings.filterwarnings("ignore", "The fit stopped", ConvergenceWarning)
        warnings.filterwarnings("error", "The model has no minimum", ConvergenceWarning)
        KerasModel(network(hidden, 1e-2), (X, SEPARATED)).fit()


def test_a_loss_of_zero_can_be_a_minimum():
    # The line through all points: growing parameters would leave it.
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = KerasModel(network(False, 0, "mse"), (X, X @ [1.0, -2.0] + 3)).fit()
    assert model.objective() < 1e-12
    np.testing.assert_allclose(model.parameters, [1, -2, 3], atol=1e-6)


def test_the_variables_hold_what_was_fitted():
    model = KerasModel(network(False, 1e-2), (X, SEPARATED)).fit()
    held = np.concatenate([variable.numpy().ravel() for variable in model.variables])
    np.testing.assert_array_equal(held, model.parameters)
    assert np.abs(held).min() > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_map_that_no_window_fits_into_is_refused(dtype):
    # Keras knows no length here, and the pooling of nothing would end the process.
    stack = [
        keras.layers.MaxPooling2D(2, dtype=dtype),
        keras.layers.GlobalMaxPooling2D(dtype=dtype),
    ]
    dense = keras.layers.Dense(1, dtype=dtype)
    model = sequential((None, None, 1), *stack, dense, dtype=dtype)
    small = "does not take points like those of train: a map of .1, 1. is too small for pooling"
    with pytest.raises(ValueError, match=small):
        KerasModel(model, (np.zeros((6, 1, 1, 1)), np.arange(6.0)))
