"""Influences of Keras models: against this library's own, against refits, and at the door."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from benchmarks import keras_streaming
from influence import ConjugateGradient, Dataset, KerasModel, Lissa, LogisticRegression
from influence.curvature.autodiff import AutodiffHessian
from influence.keras_models.data import Examples, Stream
from tests.conftest import Problem

layers, L2 = keras.layers, keras.regularizers.L2


def layer(kind, *arguments, **settings):
    """A layer that computes in float64."""
    return getattr(layers, kind)(*arguments, dtype="float64", **settings)


def sequential(shape, *stack, loss="mse", dtype="float64"):
    model = keras.Sequential([layers.Input(shape, dtype=dtype), *stack])
    model.compile(loss=loss)
    return model


def softmax_keras(decay=0.1, dtype="float64", loss="sparse_categorical_crossentropy"):
    """The library's LogisticRegression: its (λ/2)‖W‖² is Keras' L2(λ/2)."""
    dense = layers.Dense(
        3, use_bias=False, activation="softmax", kernel_regularizer=L2(decay / 2), dtype=dtype
    )
    return sequential((5,), dense, loss=loss, dtype=dtype)


def tanh_regression(outputs=1):
    """Two layers with biases."""
    hidden = layer("Dense", 3, activation="tanh", kernel_regularizer=L2(0.01))
    return sequential((5,), hidden, layer("Dense", outputs, kernel_regularizer=L2(0.01)))


@functools.cache
def fitted():
    """A problem, the library's model of it and Keras' one, both at the optimum."""
    problem = Problem()
    ours = LogisticRegression(problem.train, 0.1, 3, "float64").fit()
    return problem, ours, KerasModel(softmax_keras(), problem.train).fit()


# Everything that has a number a point or a parameter.
ANSWERS = {
    "losses": lambda m, x, y: m.losses(x, y),
    "influence": lambda m, x, y: m.influence_on_loss(x, y),
    "gauss_newton": lambda m, x, y: m.gauss_newton().dense(),
    "parameters": lambda m, x, y: m.parameters,
    "outputs": lambda m, x, y: m.outputs(x),
    "gradient": lambda m, x, y: m.gradient(),
    "objective": lambda m, x, y: m.objective(),
    "test_gradient": lambda m, x, y: m.test_gradient(x, y),
    "mean": lambda m, x, y: m.influence_on_loss(x, y, reduction="mean", train_indices=[60, 3]),
    "one point": lambda m, x, y: m.influence_on_loss(x[0], y[0]),
    "points": lambda m, x, y: m.influence_of_points(x[:2], y[:2], x, y),
    "self": lambda m, x, y: m.self_influence(),
    "input": lambda m, x, y: m.influence_input_gradient([5, 100, 2], x, y),
    "hessian": lambda m, x, y: m.hessian().dense(),
    "inverse": lambda m, x, y: m.inverse_hvp(np.arange(15.0), ConjugateGradient(1e-8)).x,
    "refit": lambda m, x, y: m.refit([3, 60]).parameters,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "stream", "one-hot", "logits"])
def test_the_same_dense_layer_is_the_librarys_logistic_regression(kind):
    problem, ours, theirs = fitted()
    y_test = problem.y_test
    if kind == "stream":
        batches = tf.data.Dataset.from_tensor_slices((problem.x, problem.labels)).batch(50)
        theirs = KerasModel(softmax_keras(), batches).with_parameters(theirs.parameters)
    if kind == "one-hot":
        train, y_test = (problem.x, np.eye(3)[problem.labels]), np.eye(3)[y_test]
        keras_model = softmax_keras(loss="categorical_crossentropy")
        theirs = KerasModel(keras_model, train).with_parameters(theirs.parameters)
    if kind == "logits":
        dense = layer("Dense", 3, use_bias=False, kernel_regularizer=L2(0.05))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        theirs = KerasModel(sequential((5,), dense, loss=loss), problem.train).with_parameters(
            theirs.parameters
        )
    # Other labels or outputs change nothing but the loss: the first three answers tell.
    for name in list(ANSWERS)[: None if kind in ("arrays", "stream") else 3]:
        expected = ANSWERS[name](ours, problem.x_test, problem.y_test)
        actual = ANSWERS[name](theirs, problem.x_test, y_test)
        np.testing.assert_allclose(actual, expected, atol=1e-6, err_msg=name)
    probabilities = theirs.predict(problem.x_test)
    truth = ours.outputs if kind == "logits" else ours.probabilities
    np.testing.assert_allclose(probabilities, truth(problem.x_test), atol=1e-6)


@pytest.mark.slow
def test_self_influence_makes_the_matrix_once(monkeypatch):
    # The biases of a softmax have a direction without curvature, where no gradient goes.
    problem = Problem()
    hidden = layer("Dense", 2, use_bias=False, kernel_regularizer=L2(0.05))
    dense = layer("Dense", 3, activation="softmax", kernel_regularizer=L2(0.05))
    network = sequential((5,), hidden, dense, loss="sparse_categorical_crossentropy")
    model = KerasModel(network, problem.train).fit()
    inverse = np.linalg.pinv(model.hessian().dense(), rcond=1e-10, hermitian=True)
    gradients = model.test_gradient(problem.x, problem.labels)
    columns, product = [], AutodiffHessian._product
    monkeypatch.setattr(
        AutodiffHessian, "_product", lambda *a: columns.append(a[1].shape[1]) or product(*a)
    )
    found = model.self_influence()
    np.testing.assert_allclose(found, np.sum(gradients * (inverse @ gradients), axis=0), atol=1e-6)
    assert sum(columns) == model.num_parameters


@pytest.mark.slow
def test_float32_is_close_and_scale_is_the_datasets():
    problem, ours, _ = fitted()
    train = Dataset(problem.x * 10, problem.labels, scale=0.1)
    single = KerasModel(softmax_keras(dtype="float32"), train).fit()
    assert single.dtype == np.float32
    scores = single.influence_on_loss(problem.x_test * 10, problem.y_test)
    truth = ours.influence_on_loss(problem.x_test, problem.y_test)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, truth, atol=1e-3 * np.abs(truth).max())


def test_what_frozen_layers_make_of_points_is_scaled_once():
    problem = Problem()
    model, train = tanh_regression(), Dataset(problem.x * 10, problem.labels, scale=0.1)
    head = KerasModel(model, train, variables=model.layers[-1])
    whole = KerasModel(model, train)
    points = problem.x_test * 10, problem.y_test
    np.testing.assert_allclose(head.losses(*points), whole.losses(*points), atol=1e-12)
    np.testing.assert_allclose(head.predict(points[0]), model(problem.x_test), atol=1e-12)


def assert_predicts_refits(model, x_test, y_test, points=8, gradient_norm=1e-7):
    """R ≥ 0.95 and slope 1 ± 0.1 at the optimum, and the Keras model as it was."""
    before = [v.numpy() for v in model._network.model.variables]
    result = model.fit().validate(x_test, y_test, points)
    assert result.gradient_norm < gradient_norm
    assert result.gradient_norms.max() < gradient_norm
    assert result.pearson_r >= 0.95
    assert result.slope == pytest.approx(1, abs=0.1)
    for value, v in zip(before, model._network.model.variables):
        np.testing.assert_array_equal(v.numpy(), value)


@pytest.mark.slow
def test_cnn_with_dropout_normalisation_and_decay_on_the_digits():
    digits = load_digits()
    x, y = digits.images[..., np.newaxis] / 16, digits.target
    keras.utils.set_random_seed(0)
    model = sequential(
        (8, 8, 1),
        layers.Conv2D(4, 3, strides=2, activation="relu", kernel_regularizer=L2(1e-3)),
        layers.BatchNormalization(),
        layers.Dropout(0.25),
        layers.Flatten(),
        layers.Dense(10, activation="softmax", kernel_regularizer=L2(1e-2)),
        loss="sparse_categorical_crossentropy",
        dtype="float32",
    )
    model.fit(x[:600], y[:600], epochs=2, verbose=0)
    train = Dataset(x[:600], y[:600])
    last = KerasModel(model, train, variables=model.layers[-1])
    assert last.num_parameters == 370
    # Inference: as the Keras model itself, with its own loss and regularisers.
    np.testing.assert_allclose(last.predict(x[:5]), model(x[:5], training=False), atol=1e-6)
    assert last.objective() == pytest.approx(model.evaluate(x[:600], y[:600], verbose=0), rel=1e-5)
    assert_predicts_refits(last, x[600:700], y[600:700], gradient_norm=1e-4)


class Subclassed(keras.Model):
    """Two inputs as a tuple, without a training argument."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.left, self.right = layer("Dense", 3, activation="tanh"), layer("Dense", 3)
        self.drop = layer("Dropout", 0.5)
        self.last = layer("Dense", 1, activation="sigmoid", kernel_regularizer=L2(0.02))

    def call(self, inputs):
        return self.last(self.drop(keras.ops.tanh(self.left(inputs[0]) + self.right(inputs[1]))))


@pytest.mark.slow
def test_subclassed_model_with_a_tuple_of_inputs():
    problem = Problem(n=300)
    keras.utils.set_random_seed(0)
    model, y = Subclassed(), (problem.labels == 0).astype(int)
    x, x_test = (problem.x[:, :2], problem.x[:, 2:]), (problem.x_test[:, :2], problem.x_test[:, 2:])
    model(x)
    model.compile(loss=keras.losses.BinaryCrossentropy())
    last = KerasModel(model, (x, y), variables=[model.last])
    assert_predicts_refits(last, x_test, problem.y_test == 0)
    gradients = last.influence_input_gradient([4, 2], x_test, problem.y_test == 0)
    assert [part.shape for part in gradients] == [(2, 2), (2, 3)]


def two_inputs():
    """Words and numbers, by name."""
    words = layers.Input((3,), dtype="int32", name="words")
    numbers = layers.Input((5,), dtype="float64", name="numbers")
    embedded = layer("Flatten")(layer("Embedding", 6, 2)(words))
    hidden = layer("Dense", 4, activation="tanh")(layer("Concatenate")([embedded, numbers]))
    outputs = layer("Dense", 3, name="last", kernel_regularizer=L2(0.05))(hidden)
    model = keras.Model({"words": words, "numbers": numbers}, outputs)
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


def dict_problem(n=600):
    problem = Problem(n=n)
    random = np.random.default_rng(1)
    inputs = [
        {"words": random.integers(0, 6, (len(x), 3)), "numbers": x}
        for x in (problem.x, problem.x_test)
    ]
    return inputs, np.eye(3)[problem.labels], np.eye(3)[problem.y_test]


@pytest.mark.slow
def test_functional_model_with_a_dict_of_words_and_numbers():
    keras.utils.set_random_seed(0)
    (x, x_test), y, y_test = dict_problem()
    model = two_inputs()
    last = KerasModel(model, (x, y), variables=model.get_layer("last"))
    assert_predicts_refits(last, x_test, y_test)
    with pytest.raises(ValueError, match=r"train.x\['words'\] is int64: only floating-point"):
        last.influence_input_gradient([1], x_test, y_test)
    # The same from a stream, and as the Keras model's outputs.
    stream = KerasModel(
        model,
        tf.data.Dataset.from_tensor_slices((x, y)).batch(64),
        variables=model.get_layer("last"),
    ).with_parameters(last.parameters)
    expected = last.influence_on_loss(x_test, y_test)
    actual = stream.influence_on_loss(x_test, y_test)
    np.testing.assert_allclose(actual, expected, atol=1e-10)
    untouched = KerasModel(model, (x, y))
    np.testing.assert_allclose(untouched.outputs(x_test), model(x_test), atol=1e-12)


@pytest.mark.slow
def test_regression_with_two_targets():
    problem = Problem(n=300)
    keras.utils.set_random_seed(0)
    weights = np.random.default_rng(2).standard_normal((5, 2))
    y, y_test = (np.tanh(x @ weights) for x in (problem.x, problem.x_test))
    y += 0.3 * np.random.default_rng(3).standard_normal(y.shape)
    model = tanh_regression(2)
    assert_predicts_refits(
        KerasModel(model, (problem.x, y), variables=model.layers[-1]), problem.x_test, y_test
    )


@pytest.mark.slow
def test_the_body_is_computed_once_and_changes_nothing():
    problem = Problem()
    model = tanh_regression()
    y, y_test = problem.labels[:, np.newaxis], problem.y_test[:, np.newaxis]
    head = KerasModel(model, (problem.x, y), variables=model.layers[-1]).fit()
    assert head._network.body is not None
    assert head.tensors[0].shape == (120, 3)
    # Through a stream every product goes through the whole network.
    stream = tf.data.Dataset.from_tensor_slices((problem.x, y)).batch(40)
    whole = KerasModel(model, stream, variables=model.layers[-1]).with_parameters(head.parameters)
    assert whole._network.body is None
    for name, call in {
        "influence": lambda m: m.influence_on_loss(problem.x_test, y_test),
        "input": lambda m: m.influence_input_gradient([7, 3], problem.x_test, y_test),
        "objective": lambda m: m.objective(),
    }.items():
        np.testing.assert_allclose(call(head), call(whole), atol=1e-9, err_msg=name)
    assert head.refit(3).train.features.shape == (119, 3)


@pytest.mark.slow
def test_damping_is_a_ridge_in_default_solves_only():
    problem, _, theirs = fitted()
    damped = KerasModel(softmax_keras(), problem.train, damping=0.3)
    damped.parameters = theirs.parameters
    points = problem.x_test, problem.y_test
    expected = theirs.influence_on_loss(*points, curvature=theirs.hessian() + 0.3)
    np.testing.assert_allclose(damped.influence_on_loss(*points), expected, atol=1e-12)
    np.testing.assert_allclose(damped.hessian().dense(), theirs.hessian().dense(), atol=1e-12)
    own = damped.influence_on_loss(*points, curvature=damped.hessian())
    np.testing.assert_allclose(own, theirs.influence_on_loss(*points), atol=1e-12)


@pytest.mark.slow
def test_refits_share_what_is_compiled_and_keep_their_own_parameters():
    problem = Problem()
    model = KerasModel(softmax_keras(), problem.train).fit()
    points, theta = (problem.x_test, problem.y_test), model.parameters
    before = model.influence_on_loss(*points)
    hessian = model.hessian()
    refits = [model.refit(i) for i in (0, 50)]
    losses = [refit.losses(*points) for refit in refits]
    # The variables hold another's parameters now; nobody may notice.
    np.testing.assert_array_equal(model.parameters, theta)
    np.testing.assert_array_equal(hessian @ theta, model.hessian() @ theta)
    np.testing.assert_array_equal(model.influence_on_loss(*points), before)
    for refit, loss in zip(refits[::-1], losses[::-1]):
        np.testing.assert_array_equal(refit.losses(*points), loss)
    sampled = refits[0].inverse_hvp(theta, Lissa(20.0, 500, 5)).x
    exact = np.linalg.solve(refits[0].hessian().dense(), theta)
    assert np.corrcoef(sampled, exact)[0, 1] > 0.98
    counts = {key: f.experimental_get_tracing_count() for key, f in model.scans._compiled.items()}
    assert max(counts.values()) == 1
    assert model.scans._compiled is refits[1].scans._compiled


def test_training_the_keras_model_further_changes_nothing_here():
    problem, _, _ = fitted()
    network = softmax_keras()
    model = KerasModel(network, problem.train)
    before = model.losses(problem.x_test, problem.y_test)
    network.layers[-1].kernel.assign(np.ones((5, 3)))
    np.testing.assert_array_equal(model.losses(problem.x_test, problem.y_test), before)


def test_batches_do_not_matter():
    problem, _, theirs = fitted()
    small = KerasModel(softmax_keras(), problem.train, batch_size=7)
    small.parameters = theirs.parameters
    points = problem.x_test, problem.y_test
    np.testing.assert_allclose(
        small.influence_on_loss(*points), theirs.influence_on_loss(*points), atol=1e-13
    )
    np.testing.assert_allclose(small.gradient(), theirs.gradient(), atol=1e-14)


def test_other_functions_for_loss_and_regularisers():
    problem, _, theirs = fitted()

    def cross_entropy(labels, outputs):
        chosen = tf.one_hot(tf.cast(labels, tf.int32), 3, dtype=outputs.dtype)
        return -tf.math.log(tf.reduce_sum(chosen * outputs, axis=1))

    model = KerasModel(
        softmax_keras(decay=7.0),
        problem.train,
        loss=cross_entropy,
        regularization=lambda variables: 0.05 * tf.reduce_sum(variables[0] ** 2),
    )
    model.parameters = theirs.parameters
    # Keras keeps the 0.05 of its regulariser in float32.
    assert model.objective() == pytest.approx(theirs.objective(), abs=1e-8)
    np.testing.assert_allclose(model.gradient(), theirs.gradient(), atol=1e-8)


def test_fractional_test_labels_of_whole_training_labels_stay():
    model = KerasModel(tanh_regression(), (X, Y))
    outputs = model.predict(X)[:, 0]
    np.testing.assert_allclose(model.losses(X, Y + 0.5), (Y + 0.5 - outputs) ** 2, atol=1e-12)


class Noise(layers.Layer):
    """Noise in inference, too, from a seed that Keras keeps or from nowhere."""

    def __init__(self, seeded):
        super().__init__(dtype="float64")
        self.seed = keras.random.SeedGenerator(0) if seeded else None

    def call(self, x):
        if self.seed is None:
            return x + tf.random.normal(tf.shape(x), dtype=x.dtype)
        return x + keras.random.normal(keras.ops.shape(x), dtype=x.dtype, seed=self.seed)


class BatchMean(layers.Layer):
    """Takes the mean of the batch away."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


X, Y = np.random.default_rng(0).standard_normal((6, 5)), np.arange(6) % 3


def dense_model(*before, units=3, **settings):
    return sequential((5,), *before, layer("Dense", units, **settings))


def two_outputs():
    inputs = layers.Input((5,), dtype="float64")
    model = keras.Model(inputs, [layer("Dense", 1)(inputs), layer("Dense", 1)(inputs)])
    model.compile(loss="mse")
    return model


SPARSE = "sparse_categorical_crossentropy"
ROUND = layers.Lambda(keras.ops.round, dtype="float64")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KerasModel(lambda x: x, (X, Y)), "model must be a Keras model, not function"),
        (lambda: KerasModel(Subclassed(), (X, Y)), "is not built: call it once"),
        (lambda: KerasModel(keras.Sequential([layer("Dense", 2)]), (X, Y)), "is not built"),
        (
            lambda: KerasModel(keras.Sequential([layers.Input((5,)), layers.Dense(3)]), (X, Y)),
            "has no loss",
        ),
        (lambda: KerasModel(two_outputs(), (X, Y)), "labels of the outputs .*it has 1 arrays"),
        (lambda: KerasModel(dense_model(Noise(True)), (X, X[:, :3])), "differ from call to call"),
        (lambda: KerasModel(dense_model(Noise(False)), (X, X[:, :3])), "differ from call to call"),
        (lambda: KerasModel(dense_model(BatchMean(dtype="float64")), (X, X)), "other points of"),
        (
            lambda: KerasModel(dense_model(layer("Dense", 4), ROUND), (X, X[:, :3])),
            "No gradient reaches .*kernel.*round, argmax",
        ),
        (
            lambda: KerasModel(
                dense_model(), (X, X[:, :3]), loss=lambda y, f: tf.reduce_mean((y - f) ** 2)
            ),
            r"must return one number a point, \[m\]; for 6 points its shape is \(\)",
        ),
        (lambda: KerasModel(dense_model(), (X, Y)), r"must be \[m, 3\] for the loss"),
        (lambda: KerasModel(dense_model(), (X, Y + 1), loss=SPARSE), "must be the classes 0..2"),
        (lambda: KerasModel(dense_model(), (X, Y + 0.5), loss=SPARSE), "must be the classes"),
        (lambda: KerasModel(dense_model(), (X[:, :4], X[:, :3])), "does not take points like"),
        (lambda: KerasModel(dense_model(), (X, X[:4, :3])), "train.x has 6 rows and .* has 4"),
        (lambda: KerasModel(dense_model(), (X * np.nan, X)), "train.x must be finite"),
        (lambda: KerasModel(dense_model(), X), "train must be an influence.Dataset, arrays"),
        (lambda: KerasModel(dense_model(), (X, X[:, :3]), damping=-1), "damping"),
        (
            lambda: KerasModel(dense_model(), (X, X[:, :3]), variables=layer("Dense", 2)),
            "has no trainable variables",
        ),
        (
            lambda: KerasModel(dense_model(), (X, X[:, :3]), variables=two_outputs().layers[-1]),
            "is not a layer or trainable variable of the model",
        ),
        (
            lambda: KerasModel(dense_model(activity_regularizer="l2"), (X, X[:, :3])),
            "penalties that depend on the data",
        ),
        (
            lambda: KerasModel(
                sequential((5,), layers.Dense(1, dtype="mixed_float16"), dtype="float32"),
                (X, Y),
            ),
            "float16 and float32: influences need",
        ),
    ],
)
def test_the_door_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: m.losses(x["numbers"], y), r"x must be a dict of \['numbers', 'words'\]"),
        (lambda m, x, y: m.losses({**x, "words": x["words"][:, :2]}, y), r"x\['words'\] must be"),
        (lambda m, x, y: m.losses({**x, "words": x["words"][:3]}, y), "as many rows"),
        (lambda m, x, y: m.losses(x, y[:3]), "x has 7 rows and labels has 3"),
        (lambda m, x, y: m.losses(x, y[:, :2]), r"labels must be \[m, 3\]"),
        (lambda m, x, y: m.self_influence(train_indices=[99]), "0..19"),
        (lambda m, x, y: m.influence_on_loss(x, y, loss="adversarial"), "no adversarial loss"),
    ],
)
def test_the_door_for_test_points(call, message):
    (x, x_test), y, y_test = dict_problem(n=20)
    model = KerasModel(two_inputs(), (x, y))
    with pytest.raises(ValueError, match=message):
        call(model, x_test, y_test)


def stream(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays or (X, Y))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stream(), "batch"),
        (lambda: stream().batch(2).repeat(), "never ends"),
        (lambda: stream().take(0).batch(2), "is empty"),
        (lambda: stream(X * np.inf, Y).batch(2), "must be finite"),
        (lambda: stream(X, Y, -Y).batch(2), "sample_weight must be at least 0"),
        (lambda: stream().shuffle(6).batch(6), "gave other rows than at its first pass"),
    ],
)
def test_streams_are_checked(make, message):
    tf.random.set_seed(3)
    with pytest.raises(ValueError, match=message):
        Stream(make())


def test_streams_give_the_rows_of_arrays():
    arrays, batches = Examples(X, Y), Stream(stream().batch(4))
    assert len(batches) == 6
    for indices in ([5, 0, 3], [4]):
        for one, other in zip(arrays.rows(indices)[:2], batches.rows(indices)[:2]):
            np.testing.assert_array_equal(one, other)
    left = batches.without([0, 1, 2, 3, 5])
    assert len(left) == 1
    np.testing.assert_array_equal(left.rows([0])[0], X[4:5])
    with pytest.raises(ValueError, match="Nothing is left"):
        batches.without(range(6))
    with pytest.raises(ValueError, match="0..5"):
        batches.without(6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:KerasModel is not at a minimum")  # it is never fitted
def test_the_streaming_benchmark_runs():
    taken = keras_streaming.stream(8000, 4)
    assert taken["rows"] == 8000
    assert taken["products"] >= 1


def test_lissa_refuses_streams():
    model = KerasModel(softmax_keras(), stream().batch(4))
    with pytest.raises(ValueError, match="^Lissa draws single training points"):
        model.influence_on_loss(X, Y, solver=Lissa(20.0, 10, 2))
