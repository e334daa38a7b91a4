"""EK-FAC of Keras models against dense constructions in float64."""

import dataclasses

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import ConjugateGradient, Exact, KerasModel
from influence.curvature.ekfac import DiagonalBlock, KroneckerBlock
from influence.curvature.operator import MatrixOperator
from tests.keras_models.kronecker_truth import (
    KroneckerTruth,
    binary_cross_entropy,
    cross_entropy,
    squared_error,
)

layers = keras.layers
N, CLASSES = 7, 3


def shared():
    dense = layers.Dense(4, "tanh")
    return [dense, dense, layers.Dense(CLASSES)]


# The layers of a chain, and the shape of a point.
CHAINS = {
    "dense": (lambda: [layers.Dense(4, "tanh"), layers.Dense(CLASSES)], (3,)),
    "without bias": (
        lambda: [layers.Dense(4, "tanh", use_bias=False), layers.Dense(CLASSES)],
        (3,),
    ),
    "called twice": (shared, (4,)),
    "sequence": (
        lambda: [layers.Dense(2, "tanh"), layers.Flatten(), layers.Dense(CLASSES)],
        (3, 2),
    ),
    "causal": (
        lambda: [
            layers.Conv1D(3, 2, padding="causal", dilation_rate=2, activation="tanh"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(CLASSES),
        ],
        (6, 2),
    ),
    "strides": (
        lambda: [
            layers.Conv2D(3, (2, 3), strides=2, padding="same", activation="tanh"),
            layers.Conv2D(2, 2, activation="tanh"),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ],
        (5, 6, 2),
    ),
    "dilation": (
        lambda: [
            layers.Conv2D(2, 3, dilation_rate=(2, 1), padding="same", activation="tanh"),
            layers.Conv2D(2, 2, dilation_rate=2, activation="tanh"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ],
        (5, 4, 1),
    ),
    "volume": (
        lambda: [
            layers.Conv3D(2, 2, strides=(1, 2, 1), padding="same", activation="tanh"),
            layers.GlobalAveragePooling3D(),
            layers.Dense(CLASSES),
        ],
        (3, 3, 2, 2),
    ),
    "embedding": (
        lambda: [
            layers.Embedding(5, 3),
            layers.GlobalAveragePooling1D(),
            layers.Dense(CLASSES),
        ],
        (4,),
    ),
}
LOSSES = {
    "cross entropy": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        cross_entropy,
        lambda random: random.integers(0, CLASSES, N),
    ),
    "binary cross entropy": (
        keras.losses.BinaryCrossentropy(from_logits=True),
        binary_cross_entropy,
        lambda random: random.integers(0, 2, (N, CLASSES)),
    ),
    "squared error": ("mse", squared_error, lambda random: random.random((N, CLASSES))),
}
CASES = [(chain, "cross entropy") for chain in CHAINS]
CASES += [("dense", loss) for loss in LOSSES if loss != "cross entropy"]


@dataclasses.dataclass
class Case:
    """A chain, a model of it, and what is known of it."""

    stages: list
    model: KerasModel
    truth: KroneckerTruth


def make(chain, loss="cross entropy", n=N, dtype="float64", **settings):
    """A chain with random weights, and points."""
    keras.config.set_dtype_policy(dtype)
    random = np.random.default_rng(0)
    stages, shape = CHAINS[chain][0](), CHAINS[chain][1]
    if chain == "embedding":
        # Some tokens several times in a point.
        x = random.integers(0, 5, (n, *shape))
    else:
        x = random.standard_normal((n, *shape)).astype(dtype)
    inputs = keras.Input(shape, dtype=x.dtype.name)
    outputs = inputs
    for stage in stages:
        outputs = stage(outputs)
    network = keras.Model(inputs, outputs)
    network.set_weights([random.standard_normal(w.shape) for w in network.get_weights()])
    function, curvature, labels = LOSSES[loss]
    model = KerasModel(network, (x, labels(random)[:n]), function, **settings)
    return Case(stages, model, KroneckerTruth(stages, x, curvature))


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def case(request):
    """No test changes it."""
    policy = keras.config.dtype_policy()
    made = make(*request.param)
    keras.config.set_dtype_policy(policy)
    return made


def blocks_of(matrix, operator):
    """The blocks of a matrix, in the order of their parameters."""
    blocks = [np.r_[tuple(block.places)] for block in operator.blocks]
    return [matrix[np.ix_(rows, rows)] for rows in blocks]


@pytest.mark.slow
def test_the_dense_construction(case):
    ekfac = case.model.ekfac()
    assert all(isinstance(block, KroneckerBlock) for block in ekfac.blocks)
    dense = ekfac.dense()
    total = np.zeros_like(dense)
    for layer, (block, place) in enumerate(zip(blocks_of(dense, ekfac), ekfac.blocks)):
        np.testing.assert_allclose(block, case.truth.ekfac(layer), atol=1e-10)
        rows = np.r_[tuple(place.places)]
        total[np.ix_(rows, rows)] = block
    # Nothing across layers.
    np.testing.assert_allclose(dense, total, atol=1e-14)
    np.testing.assert_allclose(ekfac.diagonal(), np.diag(dense), atol=1e-12)
    # And Gauss-Newton, whose blocks have the same trace.
    gauss_newton = case.model.gauss_newton().dense()
    for layer, block in enumerate(blocks_of(gauss_newton, ekfac)):
        np.testing.assert_allclose(block, case.truth.gauss_newton(layer), atol=1e-10)
    np.testing.assert_allclose(np.trace(dense), np.trace(gauss_newton), rtol=1e-10)


def test_nearer_to_gauss_newton_than_kfac(case):
    ekfac = case.model.ekfac()
    for layer, block in enumerate(blocks_of(ekfac.dense(), ekfac)):
        truth = case.truth.gauss_newton(layer)
        ours = np.linalg.norm(block - truth)
        # Of one position and one Λ for all points the two are the same.
        assert ours <= np.linalg.norm(case.truth.kfac(layer) - truth) + 1e-12


def test_scores_and_self_influence_are_those_of_the_matrix(case):
    model, curvature = case.model, case.model.ekfac() + 0.1
    matrix = MatrixOperator(curvature.dense(), N)
    assert model._make_layer_scans().fits(curvature)
    x, y = model.train.x, model.train.labels
    solved = model.inverse_hvp(np.arange(model.num_parameters), curvature=curvature)
    assert solved.converged
    assert solved.iterations == 0
    truth = np.linalg.solve(curvature.dense(), np.arange(model.num_parameters))
    np.testing.assert_allclose(solved.x, truth, rtol=1e-9, atol=1e-9)
    settings = {"curvature": matrix + 1e-300, "solver": Exact()}
    scores = model.influence_on_loss(x[:2], y[:2], curvature=curvature)
    by_matrix = model.influence_on_loss(x[:2], y[:2], **settings)
    np.testing.assert_allclose(scores, by_matrix, atol=1e-9 * np.abs(by_matrix).max())
    chosen = [4, 0]
    for indices in (None, chosen):
        ours = model.self_influence(curvature=curvature, train_indices=indices)
        truth = model.self_influence(train_indices=indices, **settings)
        np.testing.assert_allclose(ours, truth, rtol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_exact_for_one_datum(loss):
    # Of one position; and of one layer, since there is nothing across layers.
    case = make("dense", loss, n=1)
    ekfac = case.model.ekfac()
    gauss_newton = case.model.gauss_newton().dense()
    for ours, truth in zip(blocks_of(ekfac.dense(), ekfac), blocks_of(gauss_newton, ekfac)):
        np.testing.assert_allclose(ours, truth, atol=1e-12)


def linear(x, labels, outputs, loss="mse", **settings):
    """A single layer."""
    keras.config.set_dtype_policy("float64")
    network = keras.Sequential([keras.Input(x.shape[1:]), layers.Dense(outputs)])
    random = np.random.default_rng(1)
    network.set_weights([random.standard_normal(w.shape) for w in network.get_weights()])
    return KerasModel(network, (x, labels), loss, **settings)


def test_exact_for_a_linear_layer_with_the_squared_error():
    # There the Gauss-Newton matrix is A ⊗ Λ.
    random = np.random.default_rng(0)
    model = linear(random.random((9, 4)), random.random((9, 2)), 2)
    np.testing.assert_allclose(model.ekfac().dense(), model.gauss_newton().dense(), atol=1e-12)


@pytest.mark.slow
def test_exact_where_inputs_and_slopes_are_independent():
    # With the weight the inputs do not matter to have no say in p, which alone makes the slopes:
    # all pairs of an input and of what makes the slopes.
    random = np.random.default_rng(0)
    inputs, offsets = random.standard_normal((4, 3)), random.standard_normal((3, 2))
    x = np.array([np.r_[a, b] for a in inputs for b in offsets])
    keras.config.set_dtype_policy("float64")
    points = keras.Input((5,))
    layer = layers.Dense(2, kernel_initializer="zeros")
    outputs = layer(points[:, :3]) + points[:, 3:]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = KerasModel(keras.Model(points, outputs), (x, np.arange(12) % 2), loss)
    np.testing.assert_allclose(model.ekfac().dense(), model.gauss_newton().dense(), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["strides", "embedding"])
def test_batches_change_nothing(chain):
    dense = [make(chain, batch_size=size).model.ekfac().dense() for size in (1, 3, 100)]
    np.testing.assert_allclose(dense[1], dense[0], atol=1e-12)
    np.testing.assert_allclose(dense[2], dense[0], atol=1e-12)


@pytest.mark.slow
def test_float32_is_near_to_float64():
    double, single = (make("strides", dtype=d).model for d in ("float64", "float32"))
    a, b = double.ekfac().dense(), single.ekfac().dense()
    # What is left out of Λ is less than 1e-4 of its trace.
    assert np.linalg.norm(a - b) < 1e-3 * np.linalg.norm(a)
    assert (double.ekfac() @ np.ones(len(a))).dtype == np.float64


class Wrapped(keras.Model):
    """A subclass, with a model of its own inside."""

    def __init__(self, stages):
        super().__init__()
        self.inner = keras.Sequential(stages[:-1])
        self.last = stages[-1]

    def call(self, x):
        return self.last(self.inner(x))


@pytest.mark.slow
def test_nested_and_subclassed_models():
    case = make("strides")
    network = Wrapped(case.stages)
    network(case.model.train.x)
    train = case.model.train.x, case.model.train.labels
    other = KerasModel(network, train, LOSSES["cross entropy"][0])
    np.testing.assert_allclose(other.ekfac().dense(), case.model.ekfac().dense(), atol=1e-12)
    # The last layer alone, on what the others make of the points.
    last = KerasModel(
        case.model._network.model, train, LOSSES["cross entropy"][0], variables=case.stages[-1]
    )
    size = last.num_parameters
    whole = case.model.ekfac().dense()
    np.testing.assert_allclose(last.ekfac().dense(), whole[-size:, -size:], atol=1e-12)
    # One of its layers alone, and of that the bias alone.
    for variables in (case.stages[0], case.stages[0].bias):
        part = KerasModel(network, train, LOSSES["cross entropy"][0], variables=variables)
        assert part.ekfac().shape[0] == part.num_parameters
        np.testing.assert_allclose(
            np.trace(part.ekfac().dense()), np.trace(part.gauss_newton().dense()), rtol=1e-10
        )


class Tied(keras.layers.Layer):
    """Words in, and the same embedding out."""

    def __init__(self):
        super().__init__()
        self.words = layers.Embedding(CLASSES, 2)

    def call(self, x):
        embedded = keras.ops.mean(self.words(x), axis=1)
        return embedded @ keras.ops.transpose(self.words.embeddings)


# The layers before the last, the shape of a point, and the digits: Keras normalises in float32.
DIAGONAL = {
    "batch normalisation": ([layers.BatchNormalization], (4,), 1e-6),
    "offset alone": ([lambda: layers.BatchNormalization(scale=False)], (4,), 1e-6),
    "layer normalisation": ([layers.LayerNormalization, layers.Flatten], (3, 2), 1e-3),
    "of two axes": ([lambda: layers.LayerNormalization(axis=(1, 2)), layers.Flatten], (3, 2), 1e-3),
    "groups": ([lambda: layers.GroupNormalization(2), layers.Flatten], (3, 4), 1e-3),
    "depthwise": ([lambda: layers.DepthwiseConv1D(2), layers.Flatten], (4, 2), 1e-9),
    "grouped": ([lambda: layers.Conv1D(4, 2, groups=2), layers.Flatten], (4, 2), 1e-9),
    "recurrent": ([lambda: layers.SimpleRNN(2)], (3, 2), 1e-9),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TensorFlow's forward mode has no right derivative")
@pytest.mark.parametrize("name", DIAGONAL)
def test_other_layers_have_the_diagonal(name):
    makers, shape, digits = DIAGONAL[name]
    keras.config.set_dtype_policy("float32" if digits == 1e-3 else "float64")
    random = np.random.default_rng(0)
    first = [maker() for maker in makers]
    network = keras.Sequential([keras.Input(shape), *first, layers.Dense(CLASSES)])
    network.set_weights([random.random(w.shape) + 0.1 for w in network.get_weights()])
    train = random.standard_normal((N, *shape)), random.integers(0, CLASSES, N)
    model = KerasModel(network, train, LOSSES["cross entropy"][0])
    ekfac = model.ekfac()
    here = sum(v.shape.num_elements() for v in model.variables[:-2])
    dense, truth = ekfac.dense()[:here, :here], model.gauss_newton().dense()[:here, :here]
    atol = digits * np.abs(truth).max()
    np.testing.assert_allclose(dense, np.diag(np.diag(truth)), atol=atol)
    assert {type(block) for block in ekfac.blocks} == {KroneckerBlock, DiagonalBlock}
    curvature = ekfac + 0.1
    matrix = {"curvature": MatrixOperator(curvature.dense(), N) + 1e-300, "solver": Exact()}
    scores = model.self_influence(**matrix)
    np.testing.assert_allclose(model.self_influence(curvature=curvature), scores, rtol=digits)
    x, y = train[0][:2], train[1][:2]
    scores = model.influence_on_loss(x, y, **matrix)
    found = model.influence_on_loss(x, y, curvature=curvature)
    np.testing.assert_allclose(found, scores, atol=digits * np.abs(scores).max())


@pytest.mark.slow
def test_a_layer_for_each_moment():
    # Called once a moment, by Keras.
    case = make("sequence")
    each = layers.TimeDistributed(case.stages[0])
    network = keras.Sequential([keras.Input((3, 2)), each, *case.stages[1:]])
    train = case.model.train.x, case.model.train.labels
    model = KerasModel(network, train, LOSSES["cross entropy"][0])
    np.testing.assert_allclose(model.ekfac().dense(), case.model.ekfac().dense(), atol=1e-6)


def test_weights_that_are_used_elsewhere_too_have_the_diagonal():
    keras.config.set_dtype_policy("float64")
    random = np.random.default_rng(0)
    network = keras.Sequential([keras.Input((3,), dtype="int32"), Tied()])
    network.set_weights([random.standard_normal(w.shape) for w in network.get_weights()])
    train = random.integers(0, CLASSES, (N, 3)), random.integers(0, CLASSES, N)
    model = KerasModel(network, train, LOSSES["cross entropy"][0])
    [block] = model.ekfac().blocks
    assert isinstance(block, DiagonalBlock)
    np.testing.assert_allclose(block.values, model.gauss_newton().diagonal(), atol=1e-12)


def test_nothing_is_known_of_a_layer_without_gradients():
    # Behind a last layer of zeros the tied weights have none, nor a wrong one that would show.
    keras.config.set_dtype_policy("float64")
    random = np.random.default_rng(0)
    zeros = layers.Dense(CLASSES, kernel_initializer="zeros")
    network = keras.Sequential([keras.Input((3,), dtype="int32"), Tied(), zeros])
    words, labels = random.integers(0, CLASSES, (N, 3)), np.arange(N) % CLASSES
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = KerasModel(network, (words, labels), loss, damping=0.1)
    block = random.standard_normal((model.num_parameters, 2))
    model.scans.directional_derivatives(model.tensors, tf.constant(block))
    model.parameters = random.standard_normal(model.num_parameters)
    found = model.scans.directional_derivatives(model.tensors, tf.constant(block))
    truth = model.scans.gradients("normal", model.tensors) @ block
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-12)


# Weights, regularisers, draws and files.


@pytest.mark.slow
def test_a_weight_says_how_often_a_point_is_there():
    random = np.random.default_rng(0)
    x, y, w = random.random((5, 4)), random.random((5, 2)), np.arange(5)
    weighted = linear(x, y, 2, sample_weight=w)
    dense = weighted.ekfac().dense()
    np.testing.assert_allclose(dense, weighted.gauss_newton().dense(), atol=1e-12)
    loss, labels = LOSSES["cross entropy"][0], np.array([0, 1, 1, 0, 1])
    weighted = linear(x, labels, 2, loss, sample_weight=w).ekfac().dense()
    repeated = linear(np.repeat(x, w, axis=0), np.repeat(labels, w), 2, loss).ekfac().dense()
    np.testing.assert_allclose(5 * weighted, 10 * repeated, atol=1e-12)


@pytest.mark.slow
def test_a_masked_sequence():
    keras.config.set_dtype_policy("float64")
    random = np.random.default_rng(0)
    embedding = layers.Embedding(5, 2, mask_zero=True)
    network = keras.Sequential([keras.Input((4,), dtype="int32"), embedding, layers.Dense(1)])
    x = random.integers(0, 5, (6, 4))
    x[:, 0] = 1
    y = random.random((6, 4, 1))
    network.compile(loss="mse")
    model = KerasModel(network, (x, y), variables=network.layers[-1])
    # One linear layer; Λ is one number for what counts, and as many tokens count in no two points.
    ekfac = model.ekfac()
    np.testing.assert_allclose(
        np.trace(ekfac.dense()), np.trace(model.gauss_newton().dense()), rtol=1e-10
    )


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_ridge(everywhere):
    keras.config.set_dtype_policy("float64")
    random = np.random.default_rng(0)
    x, y = random.standard_normal((9, 3)), random.integers(0, 2, 9)
    decay = keras.regularizers.L2(0.3)
    dense = layers.Dense(
        2, kernel_regularizer=decay, bias_regularizer=decay if everywhere else None
    )
    network = keras.Sequential([keras.Input((3,)), dense])
    loss = LOSSES["cross entropy"][0]
    with_decay = KerasModel(network, (x, y), loss)
    without = KerasModel(network, (x, y), loss, regularization=lambda variables: 0.0)
    [block] = without.ekfac().blocks
    basis = np.kron(block.left, block.right)
    ridge = np.diag(0.6 * np.r_[np.ones(6), np.full(2, everywhere)])
    added = basis * np.diag(basis.T @ ridge @ basis) @ basis.T
    np.testing.assert_allclose(
        with_decay.ekfac().dense(), without.ekfac().dense() + added, atol=1e-12
    )
    if everywhere:
        np.testing.assert_allclose(added, ridge, atol=1e-12)


def test_a_regulariser_in_which_parameters_meet_is_refused():
    orthogonal = keras.regularizers.OrthogonalRegularizer(0.1)
    network = keras.Sequential([keras.Input((3,)), layers.Dense(2, kernel_regularizer=orthogonal)])
    model = KerasModel(network, (np.eye(3, dtype="float32"), np.zeros((3, 2))), "mse")
    with pytest.raises(ValueError, match="takes regularisers whose parameters do not meet"):
        model.ekfac()


def test_a_loss_that_is_not_convex_is_refused():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((9, 3)), 3 + random.random((9, 1))

    def cauchy(labels, outputs):
        return keras.ops.log(1 + keras.ops.square(labels - outputs))[:, 0]

    with pytest.raises(ValueError, match="not convex in the outputs"):
        linear(x, y, 1, cauchy).ekfac()


MANY = 40
DRAWN = {
    "softmax": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda random: random.integers(0, MANY, 30),
    ),
    "squared error": ("mse", lambda random: random.random((30, MANY))),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", DRAWN)
def test_many_outputs_are_drawn(loss):
    random = np.random.default_rng(0)
    function, labels = DRAWN[loss]
    x, y = random.standard_normal((30, 3)), labels(random)
    weights = random.random(30) + 0.5
    model = linear(x, y, MANY, function, sample_weight=weights)
    other = linear(x, y, MANY, function, sample_weight=weights, batch_size=7)
    ours = [model.ekfac(seed=seed) for seed in range(12)]
    assert model.ekfac(seed=3) is ours[3]
    np.testing.assert_allclose(other.ekfac(seed=3).dense(), ours[3].dense(), atol=1e-12)
    truth = np.trace(model.gauss_newton().dense())
    traces = np.array([np.trace(each.dense()) for each in ours])
    # Signs have the trace exactly, labels in expectation.
    spread = traces.std() / np.sqrt(len(traces)) + 1e-9
    assert abs(traces.mean() - truth) < 4 * spread
    assert traces.std() < 0.1 * truth
    if loss == "softmax":
        assert np.ptp(traces) > 0


def test_many_outputs_of_another_loss_are_refused():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((30, 3)), random.random((30, MANY))

    def norm(labels, outputs):
        return keras.ops.sqrt(1 + keras.ops.sum(keras.ops.square(labels - outputs), axis=1))

    with pytest.raises(ValueError, match="more than 32 outputs only where"):
        linear(x, y, MANY, norm).ekfac()


@pytest.mark.slow
def test_a_file_is_read_back_and_resumed(tmp_path, monkeypatch):
    path = tmp_path / "factors.h5"
    first = make("dense").model
    scans = first._make_layer_scans()
    monkeypatch.setattr(scans, "squares", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        first.ekfac(path=path)
    with h5py.File(path) as saved:
        assert set(saved) == {"factors", "outputs"}
    second = make("dense").model
    scans = second._make_layer_scans()
    monkeypatch.setattr(scans, "factors", lambda *given: 1 / 0)
    dense = second.ekfac(path=path).dense()
    monkeypatch.setattr(scans, "squares", lambda *given: 1 / 0)
    np.testing.assert_array_equal(second.ekfac(path=path).dense(), dense)
    np.testing.assert_allclose(dense, make("dense").model.ekfac().dense(), atol=1e-12)
    assert [file.name for file in tmp_path.iterdir()] == ["factors.h5"]


@pytest.mark.slow
def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "factors.h5"
    model = make("dense").model
    model.ekfac(path=path)
    moved = model.with_parameters(model.parameters + 1)
    other_activation = make("dense")
    other_activation.stages[0].activation = keras.activations.sigmoid
    train = other_activation.model.train
    network = other_activation.model._network.model
    points = train.x, train.labels
    changed = KerasModel(network, points, LOSSES["cross entropy"][0])
    fewer = KerasModel(
        make("dense").model._network.model,
        tuple(array[1:] for array in points),
        LOSSES["cross entropy"][0],
    )
    message = "holds no EK-FAC of this model at these parameters, data and seed: remove it"
    for other in (moved, changed, fewer):
        with pytest.raises(ValueError, match=message):
            other.ekfac(path=path)
    with pytest.raises(ValueError, match=message):
        model.ekfac(path=path, seed=1)
    path.write_text("nothing of the kind")
    with pytest.raises(ValueError, match=message):
        model.ekfac(path=path)


@pytest.mark.slow
def test_refits_share_what_is_compiled():
    random = np.random.default_rng(0)
    x, y = random.random((9, 4)), random.random((9, 2))
    model = linear(x, y, 2)
    scans = model._make_layer_scans()
    for theta in (model.parameters, model.parameters + 0.1):
        moved = model.with_parameters(theta)
        curvature = moved.ekfac() + 0.1
        assert moved.ekfac() is moved.ekfac()
        assert moved.ekfac() is not model.ekfac()
        moved.self_influence(curvature=curvature)
        for m in (1, 2):
            moved.influence_on_loss(x[:m], y[:m], curvature=curvature)
        assert moved._make_layer_scans() is scans
    assert model.refit(without=[1]).ekfac().num_examples == 8
    assert len(scans._compiled) == 4
    assert {f.experimental_get_tracing_count() for f in scans._compiled.values()} == {1}


@pytest.mark.slow
def test_a_stream_is_as_its_points(tmp_path):
    model = make("dense").model
    x, y = model.train.x, model.train.labels
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
    network, loss = model._network.model, LOSSES["cross entropy"][0]
    stream = KerasModel(network, dataset, loss)
    curvature = stream.ekfac(path=tmp_path / "factors.h5") + 0.1
    np.testing.assert_allclose(curvature.dense(), (model.ekfac() + 0.1).dense(), atol=1e-12)
    settings = {"curvature": curvature}
    ours, truth = (each.self_influence(**settings) for each in (stream, model))
    np.testing.assert_allclose(ours, truth, rtol=1e-10)
    ours, truth = (each.influence_on_loss(x[:2], y[:2], **settings) for each in (stream, model))
    np.testing.assert_allclose(ours, truth, atol=1e-12)
    few = KerasModel(network, dataset.skip(1), loss)
    with pytest.raises(ValueError, match="holds no EK-FAC of this model"):
        few.ekfac(path=tmp_path / "factors.h5")


@pytest.mark.slow
def test_other_solvers_take_it_as_any_operator():
    model = make("dense").model
    curvature, v = model.ekfac() + 0.1, np.arange(model.num_parameters)
    own = model.inverse_hvp(v, curvature=curvature).x
    for solver in (ConjugateGradient(1e-10), Exact()):
        solved = model.inverse_hvp(v, solver=solver, curvature=curvature).x
        np.testing.assert_allclose(solved, own, rtol=1e-7, atol=1e-8)
    # One Newton step without a point, with its own curvature.
    test = model.train.x[:2], model.train.labels[:2]
    curvature = curvature + 10.0
    matrix = MatrixOperator(curvature.dense(), N) + 1e-300
    np.testing.assert_allclose(
        model.influence_on_loss(*test, order="newton", curvature=curvature),
        model.influence_on_loss(*test, order="newton", curvature=matrix, solver=Exact()),
        atol=1e-9,
    )
