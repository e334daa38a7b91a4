"""Wide blocks, which share their derivatives layer by layer, against the generic Gauss-Newton."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import ConjugateGradient, Exact, GaussNewton, KerasModel
from influence.curvature.operator import MatrixOperator
from influence.keras_models import layer_gauss_newton
from influence.keras_models.layer_gauss_newton import LayerGaussNewton
from influence.objective.minimum import ConvergenceWarning
from influence.solvers.nystrom import NystromSolver

layers = keras.layers
N, CLASSES = 12, 3


def convolutional():
    return [
        layers.Conv2D(3, (2, 3), strides=(2, 1), padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(2, 2, dilation_rate=2, padding="same", use_bias=False),
        layers.Flatten(),
        layers.Dense(CLASSES),
    ]


def recurring():
    shared = layers.Dense(4, "tanh")
    return [layers.Flatten(), layers.Dense(4, "tanh"), shared, shared, layers.Dense(CLASSES)]


CHAINS = {
    "convolutional": (convolutional, (10, 9, 1)),
    "called twice": (recurring, (2, 3)),
    "sequence": (
        lambda: [
            layers.Conv1D(3, 2, padding="causal", activation="tanh"),
            layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.1)),
            layers.GlobalAveragePooling1D(),
            layers.Dense(CLASSES),
        ],
        (8, 2),
    ),
}


def make(name, dtype="float64", variables=None, stream=False, **settings):
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(0)
    chain, shape = CHAINS[name]
    network = keras.Sequential([keras.Input(shape), *chain()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(loss=loss)
    random = np.random.default_rng(0)
    x, y = random.standard_normal((N, *shape)).astype(dtype), np.arange(N) % CLASSES
    train = tf.data.Dataset.from_tensor_slices((x, y)).batch(5) if stream else (x, y)
    return KerasModel(network, train, variables=variables, **settings)


def block_of(model, k=4):
    return np.random.default_rng(1).standard_normal((model.num_parameters, k)).astype(model.dtype)


@pytest.fixture(params=[0, 2**20], ids=["positions", "multiplied out"])
def form(request, monkeypatch):
    monkeypatch.setattr(layer_gauss_newton, "_MULTIPLIED_OUT", request.param)


@pytest.mark.slow
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("name", CHAINS)
def test_they_equal_the_generic_products(name):
    model = make(name)
    operator, block = model.gauss_newton(), block_of(model)
    assert isinstance(operator, LayerGaussNewton)
    assert operator._shares(4)
    expected = GaussNewton(model).dense() @ block
    np.testing.assert_allclose(operator @ block, expected, atol=1e-12)
    # One column, in the generic way.
    np.testing.assert_allclose(operator @ block[:, 0], expected[:, 0], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 5},
        {"stream": True},
        {"sample_weight": np.linspace(0, 2, N)},
        {"dtype": "float32"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_batches_streams_weights_and_digits(settings, monkeypatch):
    model = make("convolutional", **settings)
    block = block_of(model)
    expected = GaussNewton(model).dense() @ block
    atol = 1e-5 if settings.get("dtype") else 1e-12
    np.testing.assert_allclose(model.gauss_newton() @ block, expected, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "loss", "outputs"),
    [
        ("softmax", "categorical_crossentropy", CLASSES - 1),
        ("softmax", "mse", CLASSES - 1),
        ("softmax", keras.losses.CategoricalFocalCrossentropy(), CLASSES - 1),
        (None, keras.losses.CategoricalCrossentropy(True, label_smoothing=0.1), CLASSES - 1),
        (None, keras.losses.BinaryCrossentropy(True), CLASSES),
        ("sigmoid", "binary_crossentropy", CLASSES),
        (None, "mse", CLASSES),
    ],
)
def test_of_a_softmax_the_last_output_is_not_computed(activation, loss, outputs):
    keras.utils.set_random_seed(0)
    inner = keras.layers.Dense(4, "tanh", dtype="float64")
    last = keras.layers.Dense(CLASSES, activation, dtype="float64")
    network = keras.Sequential([keras.Input((2,), dtype="float64"), inner, last])
    x, y = np.random.default_rng(0).standard_normal((N, 2)), np.eye(CLASSES)[np.arange(N) % CLASSES]
    model = KerasModel(network, (x, y), loss)
    operator, block = model.gauss_newton(), block_of(model)
    assert len(operator._directions()) == outputs
    np.testing.assert_allclose(operator @ block, GaussNewton(model).dense() @ block, atol=1e-12)


@pytest.mark.slow
def test_memory_makes_batches_smaller(monkeypatch):
    monkeypatch.setattr(layer_gauss_newton, "_NUMBERS", 2000)
    model = make("convolutional")
    block = block_of(model)
    expected = GaussNewton(model).dense() @ block
    np.testing.assert_allclose(model.gauss_newton() @ block, expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["some", "last"])
def test_some_of_the_parameters(chosen):
    """Of two layers, or those above a frozen body."""
    whole = make("convolutional")
    first, *_, last = whole._network.model.layers
    variables = [first.bias, last.kernel] if chosen == "some" else last
    train = whole.train.x, whole.train.labels
    model = KerasModel(whole._network.model, train, variables=variables)
    operator, block = model.gauss_newton(), block_of(model)
    assert operator._shares(4)
    np.testing.assert_allclose(operator @ block, GaussNewton(model).dense() @ block, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TensorFlow's forward mode")
def test_layers_of_another_kind_are_served_in_the_generic_way():
    keras.config.set_dtype_policy("float64")
    chain = [layers.LSTM(3), layers.Dense(CLASSES)]
    network = keras.Sequential([keras.Input((4, 2)), *chain])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x = np.random.default_rng(0).standard_normal((N, 4, 2))
    model = KerasModel(network, (x, np.arange(N) % CLASSES), loss)
    operator, block = model.gauss_newton(), block_of(model)
    assert not operator._shares(4)
    np.testing.assert_allclose(operator @ block, operator.dense() @ block, atol=1e-12)


@pytest.mark.slow
def test_scores_of_several_points_are_those_of_each():
    model = make("convolutional", damping=0.1)
    x, y = model.train.x[:3], model.train.labels[:3]
    curvature = model.gauss_newton() + 0.1
    together = model.influence_on_loss(x, y, curvature=curvature)
    for i in range(3):
        alone = model.influence_on_loss(x[i : i + 1], y[i : i + 1], curvature=curvature)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_models_that_share_a_network_have_their_own_parameters():
    model = make("convolutional")
    moved = model.with_parameters(model.parameters + 0.3)
    block = block_of(model)
    for one in (model, moved, model):
        expected = GaussNewton(one).dense() @ block
        np.testing.assert_allclose(one.gauss_newton() @ block, expected, atol=1e-12)
        narrow = [one.scans.directional_derivatives(one.tensors, block[:, [i]]) for i in range(4)]
        wide = one.scans.directional_derivatives(one.tensors, tf.constant(block))
        np.testing.assert_allclose(wide, np.concatenate(narrow, axis=1), atol=1e-12)


@pytest.mark.slow
def test_they_have_their_own_ekfac():
    model = make("sequence")
    model.ekfac()
    theta = model.parameters + 0.5
    moved = model.with_parameters(theta)
    other = make("sequence")
    other.parameters = theta
    for seed in (0, 1):  # Before and after it is compiled.
        expected = other.ekfac(seed=seed).dense()
        np.testing.assert_allclose(moved.ekfac(seed=seed).dense(), expected, atol=1e-9)


@pytest.mark.slow
def test_nothing_is_traced_again():
    model = make("convolutional")
    for k in (4, 2, 9):
        model.gauss_newton() @ block_of(model, k)
        model.scans.directional_derivatives(model.tensors, tf.constant(block_of(model, k)))
    moved = model.with_parameters(model.parameters + 0.3)
    moved.gauss_newton() @ block_of(model)
    functions = model.scans._compiled.values()
    assert {f.experimental_get_tracing_count() for f in functions} == {1}


@pytest.mark.slow
def test_the_default_solver_of_many_parameters_is_preconditioned():
    """Against the matrix."""
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    chain = [layers.Dense(50, "tanh"), layers.Dense(CLASSES)]
    network = keras.Sequential([keras.Input((40,)), *chain])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = random.standard_normal((100, 40)), np.arange(100) % CLASSES
    model = KerasModel(network, (x, y), loss)
    assert isinstance(model._solver_for(None), NystromSolver)
    curvature = model.gauss_newton() + 0.01
    scores = model.influence_on_loss(x[:4], y[:4], curvature=curvature)
    matrix = MatrixOperator(curvature.dense(), 100)
    with pytest.warns(ConvergenceWarning):  # Its damping is in the matrix.
        exact = model.influence_on_loss(x[:4], y[:4], curvature=matrix, solver=Exact())
    np.testing.assert_allclose(scores, exact, atol=1e-5 * np.abs(exact).max())
    # Kept by the operator, whatever the damping.
    assert ("nystrom", 100, 0) in model.gauss_newton().kept
    gradient = model.test_gradient(x[:4], y[:4])
    plain = ConjugateGradient().solve(curvature, gradient)
    assert max(model.inverse_hvp(gradient, curvature=curvature).iterations) < min(plain.iterations)
