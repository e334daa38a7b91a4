"""The last layer of a network in closed form, against the generic scans and float64 algebra."""

import keras
import numpy as np
import pytest

from influence import AutodiffHessian, Exact, KerasModel
from influence.keras_models.last_layer import LastLayerHessian
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.objective.removal import Removal
from influence.objective.sets import Sets

N, CHOSEN = 60, [7, 3, 50]
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((N, 6))
CLASSES = (X[:, :3] + RANDOM.gumbel(size=(N, 3))).argmax(axis=1)
WEIGHTS = RANDOM.uniform(0.5, 2, N)
L2 = keras.regularizers.L2(0.01)


def network(units, activation=None, use_bias=True, regularizer=L2):
    body = keras.layers.Dense(5, activation="tanh")
    last = keras.layers.Dense(
        units,
        activation,
        use_bias=use_bias,
        kernel_regularizer=regularizer,
        bias_regularizer=regularizer if use_bias else None,
    )
    whole = keras.Sequential([keras.Input((6,)), body, last])
    # The same for every type of numbers.
    random = np.random.default_rng(2)
    whole.set_weights([random.normal(0, 0.5, weight.shape) for weight in whole.weights])
    return whole, last


def made(labels, loss, units, activation=None, use_bias=True, regularizer=L2, **settings):
    whole, last = network(units, activation, use_bias, regularizer)
    model = KerasModel(whole, (X, labels), loss, variables=[last], **settings)
    return model.fit()


MODELS = {
    "softmax": lambda: made(CLASSES, "sparse_categorical_crossentropy", 3, "softmax"),
    "weighted": lambda: made(
        CLASSES, "sparse_categorical_crossentropy", 3, "softmax", sample_weight=WEIGHTS
    ),
    "sigmoid": lambda: made(
        (CLASSES == 0)[:, np.newaxis].astype(float), "binary_crossentropy", 1, "sigmoid"
    ),
    "regression": lambda: made(X[:, :2] ** 2, "mse", 2),
    "huber": lambda: made(X[:, :1] ** 2, keras.losses.Huber(0.5), 1),
    "without biases": lambda: made(CLASSES, "sparse_categorical_crossentropy", 3, "softmax", False),
    "damped": lambda: made(
        CLASSES, "sparse_categorical_crossentropy", 3, "softmax", True, None, damping=0.1
    ),
}


@pytest.fixture(autouse=True)
def double():
    keras.config.set_dtype_policy("float64")  # as it was, after every test


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def truth(model):
    """(gradients [n, p], the default curvature's matrix)."""
    matrix = AutodiffHessian(model).dense() + model.damping * np.eye(model.num_parameters)
    return model.scans.gradients("normal", model.tensors), matrix


@pytest.mark.slow
def test_the_matrix_is_that_of_automatic_differentiation(model):
    _, matrix = truth(model)
    hessian = model.hessian()
    assert isinstance(hessian, LastLayerHessian)
    assert model.gauss_newton() is hessian
    np.testing.assert_allclose(
        hessian.dense() + model.damping * np.eye(len(matrix)), matrix, rtol=1e-9, atol=1e-12
    )
    block = RANDOM.standard_normal((len(matrix), 3))
    np.testing.assert_allclose((hessian + model.damping) @ block, matrix @ block, rtol=1e-9)


def test_self_influence_is_that_of_every_gradient(model):
    gradients, matrix = truth(model)
    expected = np.einsum("ip,pq,iq->i", gradients, np.linalg.pinv(matrix), gradients)
    found = model.self_influence()
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9 * expected.max())
    some = model.self_influence(train_indices=CHOSEN)
    np.testing.assert_allclose(some, found[CHOSEN], rtol=1e-10)
    generic = GenericNeuralNet.self_influence(model, train_indices=CHOSEN)
    np.testing.assert_allclose(generic, expected[CHOSEN], rtol=1e-5)
    damped = model.self_influence(curvature=model.gauss_newton() + 0.3, solver=Exact())
    matrix = model.hessian().dense() + 0.3 * np.eye(len(matrix))
    expected = np.einsum("ip,pq,iq->i", gradients, np.linalg.inv(matrix), gradients)
    np.testing.assert_allclose(damped, expected, rtol=1e-8)


def test_single_points_go_as_the_generic_removal_has_it(model):
    points = Sets.of_points(np.array(CHOSEN), N)
    solver = Exact()
    found = model._make_removal(solver).changes(points, "newton")
    expected = Removal(model, solver).changes(points, "newton")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


def test_a_step_of_least_squares_is_the_refit():
    whole, last = network(2, regularizer=None)
    model = KerasModel(whole, (X, X[:, :2] ** 2), "mse", variables=[last]).fit()
    found = model.parameter_changes([[4], [9]], order="newton", solver=Exact())
    refits = model.parameter_changes([[4], [9]], order="refit")
    np.testing.assert_allclose(found, refits, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_it_does_not_depend_on_how_many_come_at_a_time(monkeypatch):
    found = MODELS["weighted"]().self_influence()
    monkeypatch.setattr("influence.keras_models.last_layer._NUMBERS", 1)
    np.testing.assert_allclose(MODELS["weighted"]().self_influence(), found, rtol=1e-10)


@pytest.mark.slow
def test_float32_has_the_digits_of_float32():
    found = MODELS["softmax"]().self_influence()
    keras.config.set_dtype_policy("float32")
    model = MODELS["softmax"]()
    assert model.dtype == np.float32
    np.testing.assert_allclose(model.self_influence(), found, rtol=1e-3)


def a_relu_after():
    whole, last = network(3)
    return keras.Sequential([whole, keras.layers.ReLU()]), last


def two_layers():
    whole, _ = network(3)
    return whole, whole.layers


def a_square():
    x = keras.Input((6,))
    last = keras.layers.Dense(6)
    return keras.Model(x, last(x) * x), last


@pytest.mark.parametrize("make", [a_relu_after, two_layers, a_square])
def test_other_models_are_not_taken_for_one(make):
    whole, variables = make()
    units = whole.output_shape[1]
    labels = RANDOM.standard_normal((N, units))
    model = KerasModel(whole, (X, labels), "mse", variables=variables, damping=0.1)
    assert not isinstance(model.hessian(), LastLayerHessian)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_newton_steps_of_a_model_in_float32(name):
    """Its second derivatives have eigenvalues just below 0, which are rounding."""
    model = MODELS[name]()
    y = model.train.labels[:2]
    expected = model.influence_on_loss(X[:2], y, order="newton")
    keras.config.set_dtype_policy("float32")
    single = MODELS[name]()
    assert single.dtype == np.float32
    found = single.influence_on_loss(X[:2].astype(np.float32), y, order="newton")
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
