"""Several outputs with several losses, sequences with masks, and losses without curvature."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import Dataset, KerasModel, SmoothHinge
from tests.keras_models.test_model import L2, layer, layers, sequential
from tests.keras_models.test_weights import keras_objective

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((40, 4))
NUMBERS = X @ [[1.0], [-1.0], [0.5], [0.0]] + 0.3 * RANDOM.standard_normal((40, 1))
KINDS = (X[:, 1] + 0.5 * RANDOM.standard_normal(40) > 0).astype(int)
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LOSSES = {"number": "mse", "kind": SPARSE}


def heads(structure, hidden=0):
    """A regression and a classification of the same points."""
    inputs = layers.Input((4,), dtype="float64")
    below = inputs
    if hidden:
        below = layer("Dense", hidden, activation="tanh", kernel_regularizer=L2(0.05))(inputs)
    number = layer("Dense", 1, name="number", kernel_regularizer=L2(0.05))(below)
    # Without biases: softmax would leave a direction of them free.
    kind = layer("Dense", 2, name="kind", use_bias=False, kernel_regularizer=L2(0.05))(below)
    outputs = {"number": number, "kind": kind} if structure is dict else [number, kind]
    return keras.Model(inputs, outputs)


def both(structure):
    if structure is dict:
        return {"number": NUMBERS, "kind": KINDS}
    return [NUMBERS, KINDS] if structure is list else (NUMBERS, KINDS)


@pytest.mark.parametrize("structure", [dict, list, tuple])
@pytest.mark.parametrize("by_name", [True, False])
def test_the_objective_of_several_outputs_is_keras_own(structure, by_name):
    network, labels = heads(structure, hidden=3), both(structure)
    weights = {"number": 0.3, "kind": 2.0}
    if by_name or structure is dict:
        network.compile(loss=LOSSES, loss_weights=weights)
    else:
        network.compile(loss=list(LOSSES.values()), loss_weights=list(weights.values()))
    model = KerasModel(network, (X, labels))
    expected = keras_objective(network, X, labels)
    np.testing.assert_allclose(model.objective(), expected, rtol=1e-5)  # in float32
    for one, other in zip(keras.tree.flatten(model.predict(X)), keras.tree.flatten(network(X))):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.slow
def test_two_outputs_are_two_models():
    """Without common parameters, the scores of a weighted sum of losses are those of its terms."""
    network = heads(dict)
    network.compile(loss=LOSSES, loss_weights={"number": 0.3, "kind": 2.0})
    model = KerasModel(network, (X, both(dict))).fit()
    total = np.zeros(40)
    for name, share, loss in (("number", 0.3, "mse"), ("kind", 2.0, SPARSE)):
        units, bias = (1, True) if name == "number" else (2, False)
        head = layer("Dense", units, use_bias=bias, kernel_regularizer=L2(0.05 / share))
        alone = KerasModel(sequential((4,), head, loss=loss), (X, both(dict)[name])).fit()
        tests = both(dict)[name][:5]
        total += share * alone.influence_on_loss(X[:5], tests, reduction="mean")
    tests = {name: labels[:5] for name, labels in both(dict).items()}
    scores = model.influence_on_loss(X[:5], tests, reduction="mean")
    np.testing.assert_allclose(scores, total, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_scores_of_a_network_with_two_heads_against_refits(stream):
    network = heads(dict, hidden=3)
    network.compile(loss=LOSSES)
    train = (X, both(dict))
    if stream:
        train = tf.data.Dataset.from_tensor_slices(train).batch(16)
    last = [network.get_layer(name) for name in LOSSES]
    model = KerasModel(network, train, variables=last).fit()
    tests = {name: labels[:6] for name, labels in both(dict).items()}
    validation = model.validate(X[:6], tests, points=8)
    assert validation.pearson_r > 0.98
    np.testing.assert_allclose(model.gauss_newton().dense(), numeric_gauss_newton(model), atol=1e-8)


def numeric_gauss_newton(model):
    """The Hessian of the objective with outputs that are linear in θ, by differences."""
    theta = model.parameters
    outputs = lambda at: np.concatenate(  # noqa: E731
        [part.reshape(40, -1) for part in keras.tree.flatten(moved(at).outputs(X))], axis=1
    )
    # Keras flattens a dict by its sorted keys: kind, then number.
    moved = model.with_parameters
    step = 1e-5
    columns = [
        (outputs(theta + step * e) - outputs(theta - step * e)) / (2 * step)
        for e in np.eye(len(theta))
    ]
    jacobians = np.stack(columns, axis=-1)
    p = np.exp(outputs(theta)[:, :2])
    p /= p.sum(axis=1, keepdims=True)
    curvature = np.zeros((40, 3, 3))
    curvature[:, :2, :2] = p[:, :, None] * np.eye(2) - p[:, :, None] * p[:, None]
    curvature[:, 2, 2] = 2
    matrix = np.einsum("nap,nab,nbq->pq", jacobians, curvature, jacobians) / 40
    decay = [0.1 * np.ones(v.shape) * ("kernel" in v.name) for v in model.variables]
    return matrix + np.diag(np.concatenate([part.ravel() for part in decay]))


def test_an_output_without_a_loss():
    network = heads(list)
    network.compile(loss=["mse", None])
    with pytest.raises(ValueError, match="No gradient reaches .*kind"):
        KerasModel(network, (X, [NUMBERS, KINDS]))
    variables = network.get_layer("number")
    full = KerasModel(network, (X, [NUMBERS, KINDS]), variables=variables)
    short = KerasModel(network, (X, [NUMBERS]), variables=variables)
    np.testing.assert_allclose(full.gradient(), short.gradient())


@pytest.mark.parametrize(
    ("train", "settings", "message"),
    [
        ((X, {"number": NUMBERS}), {}, "labels of the outputs kind, number"),
        ((X, [NUMBERS, KINDS, KINDS]), {}, "it has 3 arrays"),
        ((X, {"number": NUMBERS, "kind": KINDS + 1}), {}, "must be the classes 0..1"),
        ((X, {"number": NUMBERS[:9], "kind": KINDS}), {}, "has 9 rows|has 40 rows"),
        ((X, both(dict)), {"loss": {"numbers": "mse"}}, r"names the outputs \['numbers'\]"),
        ((X, both(dict)), {"loss": ["mse"]}, "loss has 1 entries"),
        (
            (X, both(dict)),
            {"loss": ["mse", keras.losses.MeanSquaredError(reduction="sum")]},
            "shape|all the same|must be",
        ),
        ((X, both(dict)), {"class_weight": {0: 2.0}}, "class_weight is for one output"),
    ],
)
def test_the_door_of_several_outputs(train, settings, message):
    network = heads(dict)
    network.compile(loss=LOSSES)
    with pytest.raises(ValueError, match=message):
        KerasModel(network, train, **settings)


# Sequences.

LENGTHS = RANDOM.integers(1, 7, 30)
KEPT = np.arange(6) < LENGTHS[:, np.newaxis]
WORDS = np.where(KEPT, RANDOM.integers(1, 7, (30, 6)), 0)
TAGS = WORDS % 3


def by_hand(network, labels):
    """The mean over the points of the mean over their kept entries."""
    entries = keras.losses.sparse_categorical_crossentropy(
        np.where(KEPT, labels, 0), network(WORDS), from_logits=True
    ).numpy()
    return (entries * KEPT).sum(axis=1) / LENGTHS


def tagger(mask, ignore_class=None):
    embedding = layer("Embedding", 7, 4, mask_zero=mask, embeddings_regularizer=L2(0.01))
    head = layer("Dense", 3, use_bias=False, kernel_regularizer=L2(0.01))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignore_class)
    return sequential((6,), embedding, head, loss=loss, dtype="int32")


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "ignored"), [(True, None), (False, -1), (False, 99), (True, -1)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_point_is_a_sequence(mask, ignored, stream):
    network = tagger(mask, ignored)
    labels = TAGS if ignored is None else np.where(KEPT, TAGS, ignored)
    train = (WORDS, labels)
    if stream:
        train = tf.data.Dataset.from_tensor_slices(train).batch(8)
    model = KerasModel(network, train)
    np.testing.assert_allclose(model.losses(WORDS, labels), by_hand(network, labels), rtol=1e-7)
    model.fit()
    validation = model.validate(WORDS[:5], labels[:5], points=8)
    assert validation.pearson_r > 0.97
    last = KerasModel(network, train, variables=network.layers[-1])
    np.testing.assert_allclose(last.losses(WORDS, labels), by_hand(network, labels), rtol=1e-7)


@pytest.mark.slow
def test_what_does_not_count_changes_nothing():
    network = tagger(True)
    model = KerasModel(network, (WORDS, TAGS), variables=network.layers[-1])
    other = KerasModel(network, (WORDS, np.where(KEPT, TAGS, 2)), variables=network.layers[-1])
    np.testing.assert_array_equal(model.gradient(), other.gradient())
    np.testing.assert_array_equal(model.hessian().dense(), other.hessian().dense())


@pytest.mark.slow
def test_a_point_of_which_nothing_counts():
    network = tagger(False, -1)
    labels = np.where(KEPT, TAGS, -1)
    labels[4] = -1
    model = KerasModel(network, (WORDS, labels)).fit()
    assert model.losses(WORDS, labels)[4] == 0
    assert model.self_influence()[4] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("stream", [False, True])
def test_labels_that_are_neither_classes_nor_ignored(stream):
    labels = np.where(KEPT, TAGS, -1)
    labels[0, 0] = -2
    train = (WORDS, labels)
    if stream:
        train = tf.data.Dataset.from_tensor_slices(train).batch(8)
    with pytest.raises(ValueError, match="classes 0..2, or -1 for what does not count"):
        KerasModel(tagger(False, -1), train)


def test_a_mask_that_the_loss_cannot_take():
    with pytest.raises(ValueError, match="carry a mask"):
        KerasModel(tagger(True), (WORDS, TAGS), loss=lambda y, f: tf.reduce_mean(f**2, axis=[1, 2]))


# Losses without curvature.


def quantile(y, f):
    return tf.maximum(0.8 * (y - f), -0.2 * (y - f))


def line(loss, units=1):
    return sequential((4,), layer("Dense", units, kernel_regularizer=L2(0.01)), loss=loss)


SIGNS = 2 * KINDS - 1
ONE_HOT = np.eye(3)[np.arange(40) % 3]


@pytest.mark.parametrize(
    ("loss", "labels", "words"),
    [
        ("mae", NUMBERS, "mean_absolute_error.*'huber'.*smoothing"),
        (keras.losses.MeanAbsoluteError(name="mine"), NUMBERS, "'mine'.*'huber'.*smoothing"),
        ("mean_absolute_percentage_error", NUMBERS + 9, "percentage.*logarithmic"),
        ("hinge", SIGNS, "'hinge'.*squared_hinge"),
        ("categorical_hinge", ONE_HOT, "categorical_hinge.*cross-entropy"),
        (quantile, NUMBERS, "'quantile' has no curvature.*give one that is smooth"),
        (lambda y, f: tf.abs(y - f), NUMBERS, "no curvature"),
    ],
)
def test_losses_without_curvature_are_refused_by_name(loss, labels, words):
    units = 3 if labels is ONE_HOT else 1
    with pytest.raises(ValueError, match=words):
        KerasModel(line(loss, units), (X, labels))


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ("huber", 1e4 * NUMBERS),
        ("huber", 1e4 * NUMBERS[:, 0]),
        ("log_cosh", NUMBERS),
        ("squared_hinge", SIGNS),
        ("poisson", NUMBERS**2),
        ("mean_squared_logarithmic_error", NUMBERS**2),
    ],
)
def test_losses_with_curvature_are_taken(loss, labels):
    activation = "softplus" if loss in ("poisson", "mean_squared_logarithmic_error") else None
    KerasModel(sequential((4,), layer("Dense", 1, activation=activation), loss=loss), (X, labels))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ("mae", NUMBERS),
        ("mean_absolute_percentage_error", NUMBERS + 9),
        ("hinge", SIGNS),
        ("hinge", KINDS),
        ("categorical_hinge", ONE_HOT),
    ],
)
def test_smoothed_losses_against_refits_and_their_limit(loss, labels):
    network = line(loss, 3 if labels is ONE_HOT else 1)
    model = KerasModel(network, (X, labels), smoothing=0.3).fit()
    assert model.validate(X[:6], labels[:6], points=8).pearson_r > 0.95
    close = KerasModel(network, (X, labels), smoothing=1e-3)
    exact = keras.losses.get(loss)(labels.reshape(40, -1), network(X)).numpy()
    np.testing.assert_allclose(close.losses(X, labels), exact, atol=0.3)
    np.testing.assert_allclose(close.losses(X, labels), exact, rtol=0.02, atol=3e-3)


def test_the_smoothed_hinge_is_that_of_the_library():
    ours = KerasModel(line("hinge"), (X, SIGNS), smoothing=0.1)
    theirs = SmoothHinge(Dataset(X, SIGNS), 0.02, temperature=0.1, use_bias=True, dtype="float64")
    theirs.parameters = ours.parameters
    np.testing.assert_allclose(ours.losses(X, SIGNS), theirs.losses(X, SIGNS), atol=1e-10)


@pytest.mark.parametrize(("loss", "t"), [("mse", 0.1), ("mae", 0.0), ("mae", np.inf)])
def test_smoothing_that_is_none(loss, t):
    with pytest.raises(ValueError, match="smoothing"):
        KerasModel(line(loss), (X, NUMBERS), smoothing=t)
