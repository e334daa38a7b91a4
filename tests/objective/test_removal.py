"""Removals from any model: a network's step is Gauss-Newton's without the points."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from influence import AllCNNC, ConjugateGradient, Dataset, Exact, KerasModel, SolverError
from influence.objective.minimum import ConvergenceWarning
from tests.networks import TinyNetwork
from tests.oracles import central_difference, of_parameters, softmax

SETS = [[3], [5, 17, 60], list(range(0, 110, 2))]


def step(model, members, damping=0.0, curvature=None):
    """Δθ by dense matrices, from the derivatives of the model's outputs by differences; Gauss-
    Newton's, or with another ``curvature`` of all points."""
    x, y, n = model.train.x, model.train.labels, len(model.train)
    jacobians = central_difference(of_parameters(model, lambda m: m.outputs(x)), model.parameters)
    p = softmax(model.outputs(x))
    slopes = p - np.eye(p.shape[1])[y]
    curvatures = np.einsum("na,ab->nab", p, np.eye(p.shape[1])) - np.einsum("na,nb->nab", p, p)
    own = np.einsum("nap,nab,nbq->npq", jacobians, curvatures, jacobians)
    penalty = of_parameters(model, lambda m: m.regularization_gradient().astype(np.float64))
    matrix = own.sum(axis=0) + n * central_difference(penalty, model.parameters)
    matrix = matrix if curvature is None else n * curvature
    matrix += n * damping * np.eye(len(matrix)) - own[members].sum(axis=0)
    gradient = np.einsum("nap,na->p", jacobians[members], slopes[members])
    return np.linalg.solve(matrix, gradient + len(members) * penalty(model.parameters))


@pytest.fixture
def network(problem):
    return TinyNetwork(problem.train, hidden=2).fit()


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, Exact(), ConjugateGradient(1e-12)])
def test_a_networks_step_is_gauss_newtons_without_the_set(network, solver):
    hessian = central_difference(of_parameters(network, lambda m: m.gradient()), network.parameters)
    truth = np.stack([step(network, members, curvature=hessian) for members in SETS], axis=1)
    changes = network.parameter_changes(SETS, solver=solver)
    np.testing.assert_allclose(changes, truth, rtol=1e-4, atol=1e-6)
    for damping in (0.0, 0.1):
        matrix = network.gauss_newton() + damping
        changes = network.parameter_changes(SETS, solver=solver, curvature=matrix)
        truth = np.stack([step(network, members, damping) for members in SETS], axis=1)
        np.testing.assert_allclose(changes, truth, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_order_and_blocks_do_not_matter(network, monkeypatch):
    singles = np.arange(120)[:, np.newaxis]
    truth, points = network.parameter_changes(SETS), network.parameter_changes(singles)
    np.testing.assert_allclose(network.parameter_changes(SETS[::-1]), truth[:, ::-1], atol=1e-12)
    monkeypatch.setattr("influence.objective.removal._COLUMNS", 5)
    np.testing.assert_allclose(network.parameter_changes(SETS), truth, atol=1e-12)
    np.testing.assert_allclose(network.parameter_changes(singles), points, atol=1e-12)
    np.testing.assert_allclose(points[:, [3]], truth[:, [0]], atol=1e-12)


@pytest.mark.slow
def test_first_order_and_refits(network, problem):
    x, y, n = problem.x, problem.labels, 120
    test = problem.x_test, problem.y_test
    first = network.parameter_changes(SETS, "first")
    slope = network.regularization_gradient()[:, np.newaxis]
    gradients = network.test_gradient(x, y) + slope
    truth = np.stack([gradients[:, members].sum(axis=1) for members in SETS], axis=1)
    truth = np.linalg.solve(n * network.hessian().dense(), truth)
    np.testing.assert_allclose(first, truth, rtol=1e-8, atol=1e-12)
    refit = network.parameter_changes(SETS[:1], "refit")[:, 0]
    np.testing.assert_allclose(network.parameters + refit, network.refit(3).parameters)
    # At the new parameters.
    before = network.losses(*test)
    for order in ("newton", "refit"):
        moved = network.parameters + network.parameter_changes(SETS[:2], order)[:, 1]
        change = network.with_parameters(moved).losses(*test) - before
        scores = network.influence_of_sets(SETS[:2], *test, order=order)
        np.testing.assert_allclose(scores[:, 1], change, atol=1e-12)
    points = network.influence_on_loss(*test, order="newton", train_indices=[7, 3])
    np.testing.assert_allclose(points[:, 1], network.influence_of_sets(SETS, *test)[:, 0])


@pytest.mark.slow
def test_newton_is_nearer_to_refits_of_a_network(network, problem):
    test = problem.x_test, problem.y_test
    sets = [[i] for i in np.argsort(-network.self_influence())[:8]]
    actual = network.influence_of_sets(sets, *test, order="refit").ravel()
    errors = [
        np.linalg.norm(network.influence_of_sets(sets, *test, order=order).ravel() - actual)
        for order in ("first", "newton")
    ]
    assert errors[1] < 0.9 * errors[0] < 0.21 * np.linalg.norm(actual)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_keras_models(problem, damping, weighted):
    weights = np.linspace(0.5, 2, 120) if weighted else None
    layer = keras.layers.Dense(
        3, use_bias=False, dtype="float64", kernel_regularizer=keras.regularizers.L2(0.05)
    )
    keras_model = keras.Sequential([keras.Input((5,), dtype="float64"), layer])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    train = problem.x, problem.labels
    model = KerasModel(keras_model, train, loss, damping=damping, sample_weight=weights)
    if damping == 0:
        model.fit()
    w, n = np.ones(120) if weights is None else weights, 120
    p = softmax(problem.x @ model.parameters.reshape(5, 3))
    a = (np.einsum("na,ab->nab", p, np.eye(3)) - np.einsum("na,nb->nab", p, p)) * w[:, None, None]
    own = np.einsum("nj,nab,nk->njakb", problem.x, a, problem.x).reshape(n, 15, 15)
    g = np.einsum("nj,na->nja", problem.x, (p - np.eye(3)[problem.labels]) * w[:, None])
    changes = model.parameter_changes(SETS)
    for column, members in enumerate(SETS):
        matrix = own.sum(axis=0) - own[members].sum(axis=0) + n * (0.1 + damping) * np.eye(15)
        gradient = g[members].reshape(-1, 15).sum(axis=0)
        gradient = gradient + 0.1 * len(members) * model.parameters
        truth = np.linalg.solve(matrix, gradient)
        np.testing.assert_allclose(changes[:, column], truth, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_convolutional_networks():
    random = np.random.default_rng(0)
    train = Dataset(random.uniform(size=(12, 8, 8)), np.arange(12) % 2)
    model = AllCNNC(train, 0.1, 2, channels=1, strides=(2, 1), steps=0, dtype="float64")
    curvature = model.gauss_newton() + 0.1
    changes = model.parameter_changes([[3], [4, 5]], curvature=curvature)
    np.testing.assert_allclose(changes[:, 1], step(model, [4, 5], 0.1), rtol=1e-4, atol=1e-6)


class Saddle(TinyNetwork):
    """A loss that is not convex in the outputs."""

    def example_losses(self, logits, labels):
        return tf.sin(logits[:, 0] + tf.cast(labels, logits.dtype))

    def _clone(self, train):
        return Saddle(train, self.hidden, self.classes, self.weight_decay)


@pytest.mark.slow
def test_what_newton_refuses(network, problem):
    bent = Saddle(problem.train)
    with pytest.raises(ValueError, match="not convex in the outputs"):
        bent.parameter_changes(SETS, curvature=bent.gauss_newton() + 10.0)
    with pytest.raises(ValueError, match='order must be "first" or "newton", not'):
        network.influence_on_loss(problem.x_test, problem.y_test, order="second")
    with pytest.raises(ValueError, match='order must be "first", "newton" or "refit"'):
        network.parameter_changes(SETS, "second")
    unfitted = TinyNetwork(problem.train)
    with pytest.warns(ConvergenceWarning, match="not at a minimum"):
        unfitted.parameter_changes(SETS, curvature=unfitted.gauss_newton())


def test_a_set_that_alone_determines_something_is_refused(problem):
    # An input that one point alone has, and no regulariser.
    x = np.column_stack([problem.x, np.arange(120) == 4])
    layer = keras.layers.Dense(1, dtype="float64")
    keras_model = keras.Sequential([keras.Input((6,), dtype="float64"), layer])
    model = KerasModel(keras_model, (x, problem.labels[:, np.newaxis] * 1.0), "mse").fit()
    model.parameter_changes([[0, 1], [5]])
    with pytest.raises(SolverError, match="The leverage of set 1 is at least 1"):
        model.parameter_changes([[0, 1], [3, 4]])
    with pytest.raises(SolverError, match="The leverage of training point 4 is at least 1"):
        model.influence_on_loss(x[:2], np.ones((2, 1)), order="newton")
