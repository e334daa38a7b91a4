"""A model away from a minimum says so, once, with both norms; one at a minimum says nothing."""

import re
import warnings

import keras
import numpy as np
import pytest
import scipy.sparse

from influence import (
    BinaryLogisticRegression,
    ConjugateGradient,
    Dataset,
    KerasModel,
    LogisticRegression,
    SmoothHinge,
)
from influence.objective.minimum import ConvergenceWarning, point_gradient_norm
from tests.networks import TinyNetwork


def keras_model(train):
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, kernel_regularizer="l2")])
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return KerasModel(network, train, damping=0.0)


UNFITTED = {
    "softmax": lambda train: LogisticRegression(train, 0.05, dtype="float64"),
    "float32": lambda train: LogisticRegression(train, 0.05),
    "binary": lambda train: BinaryLogisticRegression(_relabelled(train, 0), 0.05),
    "smooth hinge": lambda train: SmoothHinge(_relabelled(train, -1), 0.05, 0.1, dtype="float64"),
    "network": TinyNetwork,
    "keras": keras_model,
}
ASKED = {
    "loss": lambda model, x, y: model.influence_on_loss(x, y, solver=ConjugateGradient()),
    "points": lambda model, x, y: model.influence_of_points(x, y, x, y),
    "input": lambda model, x, y: model.influence_input_gradient([0], x, y),
    "self": lambda model, x, y: model.self_influence(),
}


def _relabelled(train, other):
    return Dataset(train.x, np.where(train.labels == 0, 1, other))


@pytest.mark.filterwarnings("ignore::influence.solvers.solution.SolverWarning")
@pytest.mark.parametrize("make", UNFITTED.values(), ids=UNFITTED)
def test_an_unfitted_model_says_both_norms_once(problem, make):
    model = make(problem.train)
    points = model.train.x[:3], model.train.labels[:3]
    with pytest.warns(ConvergenceWarning, match=f"^{type(model).__name__} is not at a min") as said:
        ASKED["loss"](model, *points)
    here = [warning for warning in said if warning.category is ConvergenceWarning]
    assert len(here) == 1
    norms = re.search(
        r"gradient norm is (\S+), .* loss gradient is (\S+)\. The", str(here[0].message)
    )
    truth = np.linalg.norm(model.gradient()), point_gradient_norm(model)
    np.testing.assert_allclose([float(norm) for norm in norms.groups()], truth, rtol=0.06)
    ASKED["loss"](model, *points)  # in silence
    fitted = model.fit()
    ASKED["loss"](fitted, *points)


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_every_influence_says_it(problem, ask):
    points = problem.x_test, problem.y_test
    with pytest.warns(ConvergenceWarning, match="call fit") as said:
        ask(problem.softmax_model(), *points)
    assert __file__ in {warning.filename for warning in said}
    ask(problem.softmax_model().fit(), *points)


def test_new_parameters_are_looked_at_anew(problem):
    points, model = (problem.x_test, problem.y_test), problem.softmax_model().fit()
    model.influence_on_loss(*points)
    model.parameters = 1.5 * model.parameters
    with pytest.warns(ConvergenceWarning):
        model.influence_on_loss(*points)


def test_a_damped_curvature_is_for_models_as_they_are(problem):
    model, points = problem.softmax_model(), (problem.x_test, problem.y_test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.influence_on_loss(*points, curvature=model.hessian() + 0.1)
    with pytest.warns(ConvergenceWarning):
        model.influence_on_loss(*points, curvature=model.hessian())


@pytest.mark.slow
def test_the_hinge_at_its_own_minimum_is_no_false_alarm(problem):
    """The paper's recipe: derivatives of a smooth loss at what minimises the hinge."""
    train = _relabelled(problem.train, -1)
    hinge = SmoothHinge(train, 0.05, 0, dtype="float64").fit()
    for temperature in (0, 0.001, 0.1):
        model = SmoothHinge(train, 0.05, temperature, dtype="float64")
        model.with_parameters(hinge.parameters).influence_on_loss(train.x[:2], train.labels[:2])


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("sparse", [False, True])
def test_gradient_norms_in_closed_form(problem, scale, sparse):
    x = scipy.sparse.csr_array(problem.x) if sparse else problem.x
    train = Dataset(x, problem.labels, scale=scale)
    model = LogisticRegression(train, 0.05, dtype="float64")
    model.parameters = np.random.default_rng(0).normal(size=15)
    truth = np.linalg.norm(model.scans.gradients("normal", model.tensors), axis=1)
    np.testing.assert_allclose(model.scans.gradient_norms(model.tensors), truth)
