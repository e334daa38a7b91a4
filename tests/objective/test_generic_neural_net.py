"""Influences of any model: formulas, signs, scales, and what the door refuses."""

import numpy as np
import pytest
import tensorflow as tf

from influence import ConjugateGradient, Dataset, Exact, Lissa, SolverError, SolverWarning
from influence.objective.minimum import ConvergenceWarning
from influence.objective.scans import Scans
from tests.networks import TinyNetwork
from tests.oracles import SoftmaxRegression, central_difference, of_parameters, removal


@pytest.fixture
def network(problem):
    return TinyNetwork(problem.train).fit()


def test_gradient_is_the_derivative_of_the_objective(problem, network):
    network.parameters = network.parameters + 0.3
    objective = of_parameters(network, lambda model: np.array(model.objective()))
    truth = central_difference(objective, network.parameters)
    np.testing.assert_allclose(network.gradient(), truth, atol=1e-8)


def test_test_gradients(problem, network):
    losses = of_parameters(network, lambda model: model.losses(problem.x_test, problem.y_test))
    truth = central_difference(losses, network.parameters)
    gradients = network.test_gradient(problem.x_test, problem.y_test)
    np.testing.assert_allclose(gradients, truth.T, atol=1e-8)
    mean = network.test_gradient(problem.x_test, problem.y_test, reduction="mean")
    np.testing.assert_allclose(mean, truth.mean(axis=0), atol=1e-8)


@pytest.mark.slow
def test_influence_is_the_formula(problem, network):
    theta, n = network.parameters, len(problem.x)
    test = network.test_gradient(problem.x_test, problem.y_test)
    train = network.test_gradient(problem.x, problem.labels)
    s_test = np.linalg.solve(network.hessian().dense(), test)
    regularizer = network.weight_decay * theta
    regularizer[20:24] = 0  # the bias is not regularised
    truth = s_test.T @ (train + regularizer[:, np.newaxis]) / n
    scores = network.influence_on_loss(problem.x_test, problem.y_test)
    assert scores.shape == (7, n)
    np.testing.assert_allclose(scores, truth, atol=1e-10)
    self_influence = np.sum(train * np.linalg.solve(network.hessian().dense(), train), axis=0)
    np.testing.assert_allclose(network.self_influence(), self_influence, rtol=1e-8)
    some = network.self_influence(train_indices=[5, 1])
    np.testing.assert_allclose(some, self_influence[[5, 1]], rtol=1e-8)


@pytest.mark.slow
def test_influence_is_the_change_of_refitting(problem, network):
    scores = network.influence_on_loss(problem.x_test, problem.y_test)
    before = network.losses(problem.x_test, problem.y_test)
    chosen = np.argsort(-np.abs(scores).max(axis=0))[:8]
    actual = np.stack(
        [network.refit(i).losses(problem.x_test, problem.y_test) - before for i in chosen], axis=1
    )
    assert np.corrcoef(scores[:, chosen].ravel(), actual.ravel())[0, 1] > 0.97
    assert np.polyfit(actual.ravel(), scores[:, chosen].ravel(), 1)[0] == pytest.approx(1, abs=0.2)


def test_reduction_subsets_and_phantoms_agree(problem, network):
    x, y = problem.x_test, problem.y_test
    scores = network.influence_on_loss(x, y)
    mean = network.influence_on_loss(x, y, reduction="mean")
    assert mean.shape == (len(problem.x),)
    np.testing.assert_allclose(mean, scores.mean(axis=0), atol=1e-13)
    some = network.influence_on_loss(x, y, train_indices=[9, 2, 4])
    np.testing.assert_allclose(some, scores[:, [9, 2, 4]], atol=1e-14)
    points = network.influence_of_points(problem.x[[9, 2]], problem.labels[[9, 2]], x, y)
    np.testing.assert_allclose(points, scores[:, [9, 2]], atol=1e-14)
    one = network.influence_on_loss(x[0], y[0])
    np.testing.assert_allclose(one, scores[:1], atol=1e-14)


def test_phantom_is_minus_the_change_of_adding(problem):
    model = problem.softmax_model().fit()
    x, y = problem.x_test, problem.y_test
    phantom = model.influence_of_points(x[:4], (y[:4] + 1) % 3, x, y)
    before = model.losses(x, y)
    actual = []
    for i in range(4):
        more = Dataset(
            np.concatenate([problem.x, x[i : i + 1]]), np.append(problem.labels, (y[i] + 1) % 3)
        )
        actual.append(model._clone(more).fit().losses(x, y) - before)
    actual = np.stack(actual, axis=1)
    assert np.corrcoef(-phantom.ravel(), actual.ravel())[0, 1] > 0.99
    assert np.polyfit(actual.ravel(), -phantom.ravel(), 1)[0] == pytest.approx(1, abs=0.1)


def test_input_gradient_against_finite_differences(problem, network):
    for model in (network, problem.softmax_model().fit(), problem.binary_model().fit()):
        binary = model.train.labels.max() == 1
        y_test = (problem.y_test == 0).astype(int) if binary else problem.y_test
        labels = model.train.labels

        def influence(x, model=model, y_test=y_test, labels=labels):
            return model.influence_of_points(
                x[np.newaxis], labels[4:5], problem.x_test, y_test, reduction="mean"
            )[0]

        truth = central_difference(influence, problem.x[4])
        gradient = model.influence_input_gradient([4, 2], problem.x_test, y_test)
        assert gradient.shape == (2, 5)
        np.testing.assert_allclose(gradient[0], truth, atol=1e-9)


def test_linear_scans_are_the_generic_ones(problem):
    for model in (problem.softmax_model().fit(), problem.binary_model().fit()):
        points, generic = model.tensors, Scans(model)
        block = np.random.default_rng(0).standard_normal((model.num_parameters, 3))
        for name, arguments in (
            ("losses", ("normal", points)),
            ("gradients", ("normal", points)),
            ("mean_gradient", ("normal", points)),
            ("directional_derivatives", (points, tf.constant(block))),
            ("input_gradients", (points, tf.constant(block[:, :1]))),
        ):
            expected = getattr(generic, name)(*arguments)
            found = getattr(model.scans, name)(*arguments)
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=name)
        whole = generic.mean_gradient("normal", points) + model.regularization_gradient()
        np.testing.assert_allclose(model.gradient(), whole, atol=1e-12)


def test_solvers_agree(problem):
    model = problem.softmax_model(weight_decay=0.5).fit()
    x, y = problem.x_test, problem.y_test
    exact = model.influence_on_loss(x, y, solver=Exact())
    iterative = model.influence_on_loss(x, y, solver=ConjugateGradient(1e-10))
    np.testing.assert_allclose(iterative, exact, atol=1e-9 * np.abs(exact).max())
    sampled = model.influence_on_loss(x, y, solver=Lissa(30.0, 2000, 20))
    assert np.corrcoef(sampled.ravel(), exact.ravel())[0, 1] > 0.99
    assert np.polyfit(exact.ravel(), sampled.ravel(), 1)[0] == pytest.approx(1, abs=0.05)


def test_images_are_scaled_once(problem):
    images = (40 * (problem.x - problem.x.min())).clip(0, 255).astype(np.uint8)
    tests = (40 * (problem.x_test - problem.x.min())).clip(0, 255).astype(np.uint8)
    eight_bit = problem.softmax_model()._clone(Dataset(images, problem.labels, scale=1 / 40)).fit()
    floats = problem.softmax_model()._clone(Dataset(images / 40, problem.labels)).fit()
    np.testing.assert_allclose(eight_bit.parameters, floats.parameters, atol=1e-8)
    np.testing.assert_allclose(
        eight_bit.influence_on_loss(tests, problem.y_test),
        floats.influence_on_loss(tests / 40, problem.y_test),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        eight_bit.influence_input_gradient([3], tests, problem.y_test),
        floats.influence_input_gradient([3], tests / 40, problem.y_test),
        atol=1e-9,
    )


def test_float32_is_close_to_float64(problem):
    x, y = problem.x_test, problem.y_test
    double = problem.softmax_model().fit().influence_on_loss(x, y)
    single = problem.softmax_model(dtype="float32").fit().influence_on_loss(x, y)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, atol=1e-4 * np.abs(double).max())


def test_indefinite_hessian_is_said(problem):
    network = TinyNetwork(problem.train, weight_decay=0.0)
    x, y = problem.x_test, problem.y_test
    assert np.linalg.eigvalsh(network.hessian().dense()).min() < 0
    with pytest.raises(SolverError, match=r"hessian \+"):
        network.influence_on_loss(x, y)
    with pytest.warns(ConvergenceWarning), pytest.warns(SolverWarning, match="negative curv"):
        network.influence_on_loss(x, y, solver=ConjugateGradient())
    with pytest.raises(SolverError, match="negative curvature"):
        network.influence_on_loss(x, y, solver=ConjugateGradient(), strict=True)


def test_nothing_retraces(problem, network):
    for count in (2, 5, 7):
        x, y = problem.x_test[:count], problem.y_test[:count]
        network.influence_on_loss(x, y)
        network.influence_on_loss(x, y, reduction="mean", train_indices=range(count))
        network.influence_input_gradient(range(count), x, y)
        network.losses(x, y)
    traces = {key: f.experimental_get_tracing_count() for key, f in network.scans._compiled.items()}
    assert set(traces.values()) == {1}
    assert len(traces) >= 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: m.influence_on_loss(x[:, :3], y), r"x_test must be \[m, 5\]"),
        (lambda m, x, y: m.influence_on_loss(x, y[:3]), "y_test must be a vector of 7"),
        (lambda m, x, y: m.influence_on_loss(x * np.nan, y), "x_test must be finite"),
        (lambda m, x, y: m.influence_on_loss(x, y + 9), "y_test must be the classes 0..2"),
        (lambda m, x, y: m.influence_on_loss(x, y, loss="worst"), '"normal" or "adversarial"'),
        (lambda m, x, y: m.influence_on_loss(x, y, reduction="sum"), "reduction"),
        (lambda m, x, y: m.influence_on_loss(x, y, train_indices=[120]), "0..119"),
        (lambda m, x, y: m.influence_on_loss(x, y, train_indices=[1, 1]), "1 occurs twice"),
        (lambda m, x, y: m.influence_input_gradient([-1], x, y), "-1 at position 0"),
        (lambda m, x, y: m.influence_of_points(x[:, 1:], y, x, y), r"x must be \[m, 5\]"),
        (lambda m, x, y: m.with_parameters(np.ones(3)), "15 finite numbers"),
        (lambda m, x, y: m.refit(200), "0..119"),
        (lambda m, x, y: m._clone((x, y)), "influence.Dataset"),
    ],
)
def test_the_door_says_what_and_where(problem, call, message):
    with pytest.raises(ValueError, match=message):
        call(problem.softmax_model(), problem.x_test, problem.y_test)


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_dtypes_are_two(problem, dtype):
    with pytest.raises(ValueError, match="float32 or float64"):
        problem.softmax_model(dtype=dtype)


def test_truth_of_the_influences_in_numpy(problem):
    model = problem.softmax_model().fit()
    oracle = SoftmaxRegression(problem.x, problem.labels, 0.05, 3)
    theta = oracle.fit()
    test = oracle.gradients(theta, problem.x_test, problem.y_test)
    s_test = np.linalg.solve(oracle.hessian(theta), test.T)
    train = oracle.gradients(theta, problem.x, problem.labels)
    truth = removal(train, s_test, theta, 0.05, 120)
    scores = model.influence_on_loss(problem.x_test, problem.y_test)
    np.testing.assert_allclose(scores, truth, atol=1e-9 * np.abs(truth).max())
