"""The convolutional network: its layers, its derivatives, and what it predicts of a refit."""

import functools

import numpy as np
import pytest
import scipy.optimize

from influence import AllCNNC, ConjugateGradient, Dataset
from influence.curvature.operator import HessianOperator, MatrixOperator
from tests.oracles import central_difference, softmax


@functools.cache
def images(n=20, side=14, classes=3, seed=0):
    """Noise with a bright square whose place is the class, mostly: x [n, side, side], labels."""
    random = np.random.default_rng(seed)
    x, labels = random.uniform(size=(n, side, side)), random.integers(0, classes, n)
    place = np.where(random.uniform(size=n) < 0.9, labels, (labels + 1) % classes)
    width = side // classes
    for image, at in zip(x, place):
        image[at * width : (at + 1) * width, : side // 2] += 1
    return x, labels


def tiny_cnn(weight_decay=0.05, **settings):
    """79 parameters on 20 images 14×14, in float64."""
    settings = {"channels": 2, "strides": (1, 2), "dtype": "float64", **settings}
    return AllCNNC(Dataset(*images()), weight_decay, 3, **settings)


@pytest.fixture(scope="module")
def cnn():
    """At parameters with biases, that are nobody's optimum; no test changes them."""
    model = tiny_cnn()
    model.parameters = model.parameters + 0.1 * np.random.default_rng(1).standard_normal(
        model.num_parameters
    )
    return model


@pytest.fixture(scope="module")
def true_hessian(cnn):
    """From differences of the gradient, symmetrised."""
    other = cnn.with_parameters(cnn.parameters)

    def gradient(theta):
        other.parameters = theta
        return other.gradient()

    matrix = central_difference(gradient, cnn.parameters)
    return (matrix + matrix.T) / 2


def mnist_shaped(**settings):
    """The defaults on 28×28 images."""
    return AllCNNC(Dataset(*images(5, 28)), **settings)


def test_defaults_are_the_papers_network():
    model = mnist_shaped()
    assert model.num_parameters == 2616
    assert [tuple(w.shape) for w in model.weights] == [
        (3, 3, 1, 8),
        *[(3, 3, 8, 8)] * 4,
        (1, 1, 8, 10),
        (10, 10),
    ]
    assert [tuple(b.shape) for b in model.biases] == [(8,)] * 5 + [(10,)] * 2
    x, shapes = model.convert(model.tensors[0]), []
    for _, function in model.stages:
        x = function(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        (26, 26, 8), (12, 12, 8), (10, 10, 8), (4, 4, 8), (2, 2, 8), (2, 2, 10), (10,)
    ]  # fmt: skip
    assert model.outputs(model.train.x).shape == (5, 10)
    assert (model.steps, model.weight_decay, model.dtype) == (500_000, 0.001, np.float32)


def test_logits_are_those_of_a_loop_in_numpy(cnn):
    def convolved(x, weights, bias, stride):
        width = weights.shape[0]
        side = (x.shape[1] - width) // stride + 1
        out = np.empty((len(x), side, side, weights.shape[-1]))
        for i in range(side):
            for j in range(side):
                rows, columns = i * stride, j * stride
                patch = x[:, rows : rows + width, columns : columns + width]
                out[:, i, j] = np.einsum("nabc,abcd->nd", patch, weights) + bias
        return np.tanh(out)

    layers = [(w.numpy(), b.numpy()) for w, b in zip(cnn.weights, cnn.biases)]
    x = cnn.train.x[..., np.newaxis]
    for (weights, bias), stride in zip(layers[:-1], (1, 2, 1)):
        x = convolved(x, weights, bias, stride)
    truth = x.mean(axis=(1, 2)) @ layers[-1][0] + layers[-1][1]
    np.testing.assert_allclose(cnn.outputs(cnn.train.x), truth, atol=1e-13)
    np.testing.assert_array_equal(cnn.predict(cnn.train.x), truth.argmax(axis=1))
    losses = -np.log(softmax(truth))[np.arange(20), cnn.train.labels]
    np.testing.assert_allclose(cnn.losses(cnn.train.x, cnn.train.labels), losses, atol=1e-13)


def test_initial_weights_are_truncated_and_biases_zero():
    model = mnist_shaped()
    for layer, (weights, biases) in enumerate(zip(model.weights, model.biases)):
        gain = 1 if layer == 6 else 2
        numbers = weights.numpy()
        deviation = gain / np.sqrt(np.prod(numbers.shape[:-1]))
        assert 1.5 * deviation < np.abs(numbers).max() <= 2 * deviation
        # A normal variable cut off at two deviations has 0.88 of the deviation.
        if numbers.size > 500:
            assert numbers.std() == pytest.approx(0.88 * deviation, rel=0.1)
        assert not biases.numpy().any()


def test_same_seed_same_weights():
    first, again, other = (mnist_shaped(seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.parameters, again.parameters)
    for one, another in zip(first.weights, other.weights):
        assert np.abs(one.numpy() - another.numpy()).max() > 0
    # No two layers are alike, either.
    layers = [weights.numpy().ravel()[:64] for weights in first.weights[1:5]]
    assert len({tuple(layer / layer[0]) for layer in layers}) == 4


def test_clones_keep_the_settings(cnn):
    model = tiny_cnn(0.2, steps=7, seed=5, batch_size=11)
    clone = model.with_parameters(cnn.parameters)
    assert (clone.weight_decay, clone.classes, clone.side) == (0.2, 3, 14)
    assert (clone.steps, clone.strides, clone.batch_size) == (7, (1, 2), 11)
    assert clone._settings == model._settings
    np.testing.assert_array_equal(clone.parameters, cnn.parameters)


def test_gradient_against_differences(cnn):
    other = cnn.with_parameters(cnn.parameters)

    def objective(theta):
        other.parameters = theta
        return np.array(other.objective())

    truth = central_difference(objective, cnn.parameters)
    np.testing.assert_allclose(cnn.gradient(), truth, atol=1e-9)


def test_regularizer_is_of_the_weights_alone(cnn):
    squares = sum((weights.numpy() ** 2).sum() for weights in cnn.weights)
    assert float(cnn.regularization()) == pytest.approx(0.05 / 2 * squares, rel=1e-12)
    free = tiny_cnn(0.0).with_parameters(cnn.parameters)
    assert cnn.objective() - free.objective() == pytest.approx(0.05 / 2 * squares, rel=1e-10)
    expected = np.concatenate(
        [
            0.05 * v.numpy().ravel() if "weights" in v.name else np.zeros(v.shape)
            for v in cnn.variables
        ]
    )
    np.testing.assert_allclose(cnn.regularization_gradient(), expected, atol=1e-15)


@pytest.mark.slow
def test_hessian_products_against_differences(cnn, true_hessian):
    block = np.random.default_rng(0).standard_normal((cnn.num_parameters, 3))
    np.testing.assert_allclose(cnn.hessian() @ block, true_hessian @ block, atol=1e-7)


@pytest.mark.slow
def test_dense_hessian_against_differences_and_the_generic_one(cnn, true_hessian):
    dense = cnn.hessian().dense()
    np.testing.assert_allclose(dense, true_hessian, atol=1e-8)
    np.testing.assert_allclose(dense, HessianOperator._dense(cnn.hessian()), atol=1e-12)
    np.testing.assert_array_equal(dense, dense.T)
    other = tiny_cnn(batch_size=7).with_parameters(cnn.parameters)
    damped = (other.hessian() + 0.3).dense()
    np.testing.assert_allclose(damped, dense + 0.3 * np.eye(len(dense)), atol=1e-13)
    # What the solvers are told about it: it is indefinite.
    ends = np.linalg.eigvalsh(dense)[[0, -1]]
    assert ends[0] < -0.01
    close = {"rtol": 0, "atol": 1e-4 * np.abs(ends).max()}
    np.testing.assert_allclose(cnn.hessian().extreme_eigenvalues(), ends, **close)


@pytest.mark.slow
def test_images_in_rows_are_the_same_images(cnn):
    x, labels = images()
    rows = AllCNNC(Dataset(x.reshape(20, -1), labels), 0.05, 3, **cnn._settings)
    rows.parameters = cnn.parameters
    v = np.random.default_rng(0).standard_normal(cnn.num_parameters)
    np.testing.assert_array_equal(rows.outputs(x.reshape(20, -1)), cnn.outputs(x))
    np.testing.assert_array_equal(rows.gradient(), cnn.gradient())
    np.testing.assert_allclose(rows.hessian() @ v, cnn.hessian() @ v, atol=1e-14)
    np.testing.assert_allclose(rows.gauss_newton() @ v, cnn.gauss_newton() @ v, atol=1e-14)
    gradients = rows.test_gradient(x[3].ravel(), labels[3])
    np.testing.assert_allclose(gradients, cnn.test_gradient(x[3], labels[3]), atol=1e-14)
    # Directions of single pixels come in the points' own shape.
    settings = {"curvature": cnn.hessian() + 3.0, "solver": ConjugateGradient(1e-8)}
    in_rows = rows.influence_input_gradient([4], x[3].ravel(), labels[3], **settings)
    square = cnn.influence_input_gradient([4], x[3], labels[3], **settings)
    np.testing.assert_allclose(in_rows.reshape(1, 14, 14), square, atol=1e-9)


@pytest.mark.parametrize("shape", [(20, 14, 13), (20, 30), (20, 14, 14, 3), (20, 8, 8), (20, 1)])
def test_images_that_do_not_fit(shape):
    # 8×8 leaves nothing: 6, 2, 0.
    with pytest.raises(ValueError, match="square grey images"):
        AllCNNC(Dataset(np.ones(shape), images()[1]), strides=(1, 2, 1))


def test_the_smallest_image_leaves_one_pixel():
    # 9 -> 7 -> 3 -> 1
    model = AllCNNC(Dataset(np.ones((20, 9, 9)), images()[1]), strides=(1, 2, 1))
    assert model.outputs(np.ones((9, 9))).shape == (1, 10)


@pytest.mark.parametrize("label", [-1, 3, 0.5])
def test_labels_out_of_range(label, cnn):
    x, labels = images()
    with pytest.raises(ValueError, match=r"train\.labels must be the classes 0\.\.2"):
        AllCNNC(Dataset(x, np.where(labels == 0, label, labels)), 0.05, 3, strides=(1, 2, 1))
    with pytest.raises(ValueError, match=r"y_test must be the classes 0\.\.2"):
        cnn.test_gradient(x[0], label)


@pytest.mark.parametrize("weight_decay", [-0.1, np.nan, np.inf])
def test_weight_decay_out_of_range(weight_decay):
    with pytest.raises(ValueError, match="weight_decay"):
        tiny_cnn(weight_decay)


def test_adversarial_loss_is_the_log_of_a_wrong_answer(cnn):
    p = softmax(cnn.outputs(cnn.train.x))[np.arange(20), cnn.train.labels]
    losses = cnn.losses(cnn.train.x, cnn.train.labels, "adversarial")
    np.testing.assert_allclose(losses, np.log(1 - p), atol=1e-13)
    gradients = cnn.test_gradient(cnn.train.x[:4], cnn.train.labels[:4], "adversarial")
    normal = cnn.test_gradient(cnn.train.x[:4], cnn.train.labels[:4])
    # d log(1 − p) = p/(1 − p) d(−log p)
    np.testing.assert_allclose(gradients, normal * (p / (1 - p))[:4], atol=1e-12)


def test_influences_are_one_gradient_per_example(cnn, true_hessian):
    x, labels = images(4, seed=9)
    curvature = MatrixOperator(true_hessian, 20) + 2.0
    scores = cnn.influence_on_loss(x, labels, curvature=curvature)
    s_test = np.linalg.solve(curvature.dense(), cnn.test_gradient(x, labels))
    regularizer = cnn.regularization_gradient()
    for i in range(20):
        [gradient] = cnn.test_gradient(cnn.train.x[i], cnn.train.labels[i]).T
        expected = s_test.T @ (gradient + regularizer) / 20
        np.testing.assert_allclose(scores[:, i], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_one_trace_however_often(cnn):
    model = cnn.with_parameters(cnn.parameters)
    x, labels = images(6, seed=9)
    operator = model.hessian()
    curvature = operator + 5.0
    for m in (1, 2, 6):
        operator @ np.ones((cnn.num_parameters, m))
        model.losses(x[:m], labels[:m])
        solver = ConjugateGradient(1e-3)
        model.influence_on_loss(x[:m], labels[:m], solver=solver, curvature=curvature)
        model.gradient()
    # Parameters that change are no reason to trace the gradients again.
    model.parameters = 2 * model.parameters
    model.gradient()
    model.influence_on_loss(x, labels, train_indices=[3, 1], curvature=cnn.hessian() + 5.0)
    for function in model.scans._compiled.values():
        assert function.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_predicted_influence_is_the_change_of_refitting():
    x, labels = images(300, 9, 2)
    train, settings = Dataset(x, labels), {"channels": 2, "strides": (1, 2), "dtype": "float64"}
    model = AllCNNC(train, 0.05, 2, **settings)
    x_test, y_test = images(3, 9, 2, seed=100)

    def fit(model, inverse):
        def value_and_gradient(theta):
            model.parameters = theta
            return model.objective(), model.gradient()

        options = {"gtol": 1e-8, "maxiter": 3000, "hess_inv0": inverse}
        theta = model.parameters
        result = scipy.optimize.minimize(
            value_and_gradient, theta, jac=True, method="BFGS", options=options
        )
        model.parameters = result.x
        assert np.abs(model.gradient()).max() < 1e-7
        return model

    fit(model, np.eye(model.num_parameters))
    # All logits may move together: one eigenvalue is 0, without consequences for a loss.
    matrix = model.hessian() @ np.eye(model.num_parameters)
    curvature = MatrixOperator((matrix + matrix.T) / 2, len(x)) + 1e-7
    assert np.linalg.eigvalsh(curvature.dense())[0] < 1e-6
    scores = model.influence_on_loss(x_test, y_test, curvature=curvature)
    before = model.losses(x_test, y_test)
    chosen = np.argsort(-np.abs(scores).max(axis=0))[:5]
    inverse = np.linalg.inv((curvature + 1e-3).dense())
    inverse = (inverse + inverse.T) / 2
    actual = []
    for index in chosen:
        other = model._clone(model.train.without(index))
        other.parameters = model.parameters
        actual.append(fit(other, inverse).losses(x_test, y_test) - before)
    actual, predicted = np.array(actual).T.ravel(), scores[:, chosen].ravel()
    assert np.corrcoef(actual, predicted)[0, 1] > 0.99
    assert actual @ predicted / (predicted @ predicted) == pytest.approx(1, abs=0.05)
