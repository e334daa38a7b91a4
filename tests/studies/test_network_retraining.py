"""Fast retraining of networks against what it stands for: the flow's equation, the objective."""

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from influence import AdamState, GradientFlow, Proximal
from tests.networks import TinyNetwork
from tests.oracles import central_difference


@pytest.fixture
def network(problem):
    """Away from its optimum, where both are meant to be used."""
    model = TinyNetwork(problem.train)
    model.parameters = 0.5 * np.random.default_rng(3).standard_normal(model.num_parameters)
    return model


def settled(model):
    """Adam's state with second moments that differ from parameter to parameter."""
    second = np.linspace(0.01, 0.2, model.num_parameters) ** 2
    return AdamState(10, model.parameters, np.zeros_like(second), second)


@pytest.mark.slow
@pytest.mark.parametrize("index", [None, 3])
def test_the_flow_is_its_differential_equation(network, index):
    state = settled(network)
    other = network if index is None else network._clone(network.train.without(index))
    other = other.with_parameters(network.parameters)

    def velocity(_, theta):
        other.parameters = theta
        return -other.gradient() / np.sqrt(state.second)

    exact = scipy.integrate.solve_ivp(
        velocity, (0, 0.5), network.parameters, rtol=1e-7, atol=1e-10
    ).y[:, -1]
    moved = np.linalg.norm(exact - network.parameters)
    assert moved > 0.1
    matrix = network.gauss_newton().dense()
    errors = [
        np.linalg.norm(GradientFlow(network, state, 0.5, k, matrix).without(index) - exact)
        for k in (5, 10, 40)
    ]
    # A method of second order: a fourth of the step, a sixteenth of the error.
    assert errors[0] < 0.02 * moved
    np.testing.assert_allclose(errors[1] / errors[2], 16, rtol=0.25)
    assert errors[0] > 2 * errors[1]


def test_the_flow_leaves_the_model_alone(network):
    before = network.parameters
    GradientFlow(network, settled(network), 0.1, 2, network.gauss_newton().dense()).without(0)
    np.testing.assert_array_equal(network.parameters, before)


def proximal_objective(model, index, damping):
    """The docstring's formula, from the model's losses and outputs alone."""
    start, n = model.parameters, len(model.train)
    x, labels = model.train.x, model.train.labels
    other = model.with_parameters(start)
    outputs = model.outputs(x)
    probabilities = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    slopes = probabilities - np.eye(outputs.shape[1])[labels]
    losses, regularization = model.losses(x, labels), float(model.regularization())
    slope = model.regularization_gradient()

    def value(theta):
        other.parameters = theta
        move = theta - start
        now = other.losses(x, labels)
        bregman = np.mean(now - losses - np.sum(slopes * (other.outputs(x) - outputs), axis=1))
        bregman += float(other.regularization()) - regularization - slope @ move
        removed = (now[index] + float(other.regularization())) / n
        return bregman + damping / 2 * move @ move - removed

    return value


@pytest.mark.slow
def test_proximal_retraining_minimises_the_objective_it_states(network):
    damping, index = 0.05, 7
    theta, norm = Proximal(network, damping, network.gauss_newton().dense()).without(index, 1e-9)
    objective = proximal_objective(network, index, damping)
    gradient = central_difference(lambda t: np.array([objective(t)]), theta)
    assert norm < 1e-7
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    best = scipy.optimize.minimize(objective, network.parameters, options={"gtol": 1e-6})
    np.testing.assert_allclose(theta, best.x, atol=1e-4)
    assert np.linalg.norm(theta - network.parameters) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damping", "correlation", "tolerance"), [(0.2, 0.98, 0.1), (2.0, 0.998, 0.03)]
)
def test_proximal_retraining_is_what_the_influence_predicts(
    network, problem, damping, correlation, tolerance
):
    # To first order: the more damping, the smaller the moves, and the better.
    test = problem.x_test[0], problem.y_test[0]
    curvature = network.gauss_newton()
    predicted = network.influence_on_loss(*test, curvature=curvature + damping)[0]
    proximal = Proximal(network, damping, curvature.dense())
    indices = np.argsort(-np.abs(predicted))[:20]
    test = problem.x_test[:1], problem.y_test[:1]
    before = network.losses(*test)[0]
    actual = [
        network.with_parameters(proximal.without(i, 1e-9)[0]).losses(*test)[0] - before
        for i in indices
    ]
    assert np.corrcoef(actual, predicted[indices])[0, 1] > correlation
    slope = np.polyfit(actual, predicted[indices], 1)[0]
    np.testing.assert_allclose(slope, 1, atol=tolerance)


def test_one_step_is_newtons_without_the_point(network):
    damping, index = 0.05, 7
    n, matrix = len(network.train), network.gauss_newton().dense()
    alone = network._clone(network.train.where(np.arange(n) == index))
    alone = alone.with_parameters(network.parameters)
    own = alone.gauss_newton().dense() - alone.gauss_newton()._regularizer_matrix()
    gradient = alone.gradient()  # the point's, and the regulariser's
    expected = np.linalg.solve(matrix + damping * np.eye(len(matrix)) - own / n, gradient / n)
    found = Proximal(network, damping, matrix).one_step(index) - network.parameters
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    # The point has leverage: without its own curvature the step is longer.
    plain = np.linalg.solve(matrix + damping * np.eye(len(matrix)), gradient / n)
    assert np.linalg.norm(found) > 1.02 * np.linalg.norm(plain)
