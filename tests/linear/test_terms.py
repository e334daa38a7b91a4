"""What is said point by point in closed form, against dense float64 algebra."""

import numpy as np
import pytest

from influence import Exact, GenericNeuralNet
from influence.linear.forms import OutputForms
from influence.linear.terms import point_terms
from tests.linear.test_leverage import MODELS

CHOSEN = [7, 3, 90]
# That estimator is made to be far from its minimum.
KINDS = [kind for kind in MODELS if kind != "beside the mean"]


def dense(model):
    """(gradients [n, p], H⁻¹) by the generic scans and NumPy's inverse."""
    gradients = model.scans.gradients("normal", model.tensors).astype(np.float64)
    return gradients, np.linalg.pinv(model.hessian("float64").dense())


@pytest.mark.parametrize("kind", KINDS)
def test_self_influence_is_that_of_every_gradient(kind):
    model = MODELS[kind]()
    gradients, inverse = dense(model)
    truth = np.einsum("ip,pq,iq->i", gradients, inverse, gradients)
    found = model.self_influence()
    np.testing.assert_allclose(found, truth, rtol=1e-8, atol=1e-8 * truth.max())
    some = model.self_influence(train_indices=CHOSEN)
    np.testing.assert_allclose(some, found[CHOSEN], rtol=1e-10)
    generic = GenericNeuralNet.self_influence(model, train_indices=CHOSEN)
    np.testing.assert_allclose(generic, truth[CHOSEN], rtol=1e-7, atol=1e-8 * truth.max())


@pytest.mark.parametrize("kind", ["binary", "softmax", "weighted"])
def test_self_influence_with_a_damped_curvature(kind):
    model = MODELS[kind]()
    gradients, _ = dense(model)
    matrix = model.hessian("float64").dense() + 0.3 * np.eye(model.num_parameters)
    truth = np.einsum("ip,pq,iq->i", gradients, np.linalg.inv(matrix), gradients)
    for solver in (None, Exact()):
        found = model.self_influence(curvature=model.hessian() + 0.3, solver=solver)
        np.testing.assert_allclose(found, truth, rtol=1e-9)


@pytest.mark.parametrize("kind", ["binary", "softmax", "weighted", "ridge"])
def test_it_does_not_depend_on_how_many_come_at_a_time(kind, monkeypatch):
    model = MODELS[kind]()
    selfs, leverage = model.self_influence(), model.leverage()
    monkeypatch.setattr("influence.linear.terms._NUMBERS", 7 * model.num_parameters)
    model = MODELS[kind]()  # another one: it has kept nothing
    np.testing.assert_allclose(model.self_influence(), selfs, rtol=1e-12)
    np.testing.assert_allclose(model.leverage(), leverage, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_leverages_sum_to_the_effective_number_of_parameters(kind):
    model = MODELS[kind]()
    # Of the losses' part of the Hessian, which is what the points have made of it.
    penalty = np.zeros((model.num_parameters, model.num_parameters))
    model.penalty.add_to(penalty)
    matrix = model.hessian("float64").dense()
    effective = np.trace(np.linalg.pinv(matrix) @ (matrix - penalty))
    leverage = model.leverage()
    assert leverage.min() >= 0
    np.testing.assert_allclose(leverage.sum(), effective, rtol=1e-8)


def test_forms_are_those_of_the_inverse():
    model = MODELS["three classes"]()
    [terms], (d, c) = point_terms(model, CHOSEN), model.weights.shape
    inverse = np.linalg.pinv(model.hessian("float64").dense())
    for row, form in zip(terms.rows, OutputForms(inverse, c)(terms.rows)):
        block = np.kron(row[:, np.newaxis], np.eye(c))
        assert block.shape == (d * c, c)
        np.testing.assert_allclose(form, block.T @ inverse @ block, rtol=1e-8)
