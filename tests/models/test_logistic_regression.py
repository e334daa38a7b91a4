"""Logistic regression: the optimum, its losses, and labels that it refuses."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from influence import BinaryLogisticRegression, ConjugateGradient, Dataset, LogisticRegression
from influence.fitting.newton import minimize
from influence.linear.hessian import ClassInverse
from influence.objective.minimum import ConvergenceWarning
from tests.conftest import Problem
from tests.oracles import SoftmaxRegression, of_parameters, softmax


def relative_gradient(model):
    """‖∇R(θ)‖ / ‖∇R(0)‖."""
    at_zero = model.with_parameters(np.zeros(model.num_parameters)).gradient()
    return np.linalg.norm(model.gradient()) / np.linalg.norm(at_zero)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-10)])
@pytest.mark.parametrize("units", [np.ones(5), np.geomspace(1e-3, 1e4, 5)], ids=["plain", "units"])
@pytest.mark.parametrize("kind", ["softmax_model", "binary_model"])
@pytest.mark.parametrize("weight_decay", [1e-4, 1.0])
def test_fit_reaches_the_optimum(dtype, tolerance, units, kind, weight_decay):
    problem = Problem()
    problem.x = problem.x * units
    model = getattr(problem, kind)(weight_decay=weight_decay, dtype=dtype).fit()
    assert relative_gradient(model) <= tolerance


def test_fit_is_the_oracles(problem):
    truth = SoftmaxRegression(problem.x, problem.labels, 0.05, 3).fit()
    np.testing.assert_allclose(problem.softmax_model().fit().parameters, truth, atol=1e-9)


def test_fit_is_scikit_learns(problem):
    model = problem.binary_model(weight_decay=0.05).fit()
    sklearn = SklearnLogisticRegression(C=1 / (120 * 0.05), fit_intercept=False, tol=1e-12)
    sklearn.fit(problem.x, model.train.labels)
    np.testing.assert_allclose(model.parameters, sklearn.coef_[0], atol=1e-6)
    np.testing.assert_array_equal(model.predict(problem.x), sklearn.predict(problem.x))
    probabilities = sklearn.predict_proba(problem.x_test)[:, 1]
    np.testing.assert_allclose(model.probabilities(problem.x_test), probabilities, atol=1e-6)


def test_fit_beyond_the_size_of_a_factorisation():
    # p = 2,400: Newton's directions come from preconditioned conjugate gradients.
    problem = Problem(n=300, d=800, classes=3)
    model = problem.softmax_model(weight_decay=1e-3).fit()
    assert relative_gradient(model) <= 1e-10


def test_fit_starts_from_where_it_is(problem):
    model = problem.softmax_model().fit()
    before = model.parameters
    np.testing.assert_array_equal(model.fit().parameters, before)


def test_a_gradient_norm_that_is_not_reached_is_said(problem):
    model = problem.binary_model()
    value_and_gradient = of_parameters(model, lambda at: (at.objective(), at.gradient()))
    with pytest.warns(ConvergenceWarning, match="stopped at a gradient norm of .* above 1e-300"):
        minimize(
            value_and_gradient,
            of_parameters(model, lambda at: at.hessian()),
            np.zeros(5),
            1e-300,
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 60))
def test_losses_of_any_margin(seed, size):
    problem = Problem(seed=seed)
    model = problem.softmax_model()
    theta = size * np.random.default_rng(seed).standard_normal(15)
    z = problem.x_test @ theta.reshape(5, 3)
    stable = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)
    expected = stable - z[np.arange(7), problem.y_test]
    model.parameters = theta
    np.testing.assert_allclose(
        model.losses(problem.x_test, problem.y_test), expected, rtol=1e-9, atol=1e-9
    )


def test_adversarial_loss_is_the_log_probability_of_being_wrong(problem):
    model = problem.softmax_model().fit()
    q = softmax(problem.x_test @ model.parameters.reshape(5, 3))[np.arange(7), problem.y_test]
    losses = model.losses(problem.x_test, problem.y_test, loss="adversarial")
    np.testing.assert_allclose(losses, np.log(1 - q), atol=1e-12)
    binary, y = problem.binary_model().fit(), (problem.y_test == 0).astype(int)
    right = np.exp(-binary.losses(problem.x_test, y))
    losses = binary.losses(problem.x_test, y, loss="adversarial")
    np.testing.assert_allclose(losses, np.log(1 - right), atol=1e-12)


def test_adversarial_influence_is_the_normal_one_times_the_odds(problem):
    # d log(1 − q) = −dq/(1 − q) = (q/(1 − q)) d(−log q).
    model = problem.softmax_model().fit()
    normal = model.influence_on_loss(problem.x_test, problem.y_test)
    adversarial = model.influence_on_loss(problem.x_test, problem.y_test, loss="adversarial")
    q = np.exp(-model.losses(problem.x_test, problem.y_test))
    np.testing.assert_allclose(adversarial, normal * (q / (1 - q))[:, np.newaxis], atol=1e-12)


def test_self_influence_of_two_classes_in_closed_form(problem):
    model = problem.binary_model().fit()
    x, theta = problem.x, model.parameters
    wrong = 1 / (1 + np.exp((2.0 * model.train.labels - 1) * (x @ theta)))
    inverse = np.linalg.inv(model.hessian().dense())
    truth = wrong**2 * np.einsum("ni,ij,nj->n", x, inverse, x)
    np.testing.assert_allclose(model.self_influence(), truth, rtol=1e-9)


def test_images_are_flattened():
    problem = Problem(d=6)
    flat = problem.softmax_model().fit()
    square = LogisticRegression(
        Dataset(problem.x.reshape(-1, 2, 3), problem.labels), 0.05, dtype="float64"
    ).fit()
    np.testing.assert_allclose(square.parameters, flat.parameters, atol=1e-10)
    gradient = square.influence_input_gradient(
        [1], problem.x_test.reshape(-1, 2, 3), problem.y_test
    )
    assert gradient.shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("make", "labels", "message"),
    [
        (BinaryLogisticRegression, [0, 1, 2, 1], r"classes 0\.\.1; 2 at position 2"),
        (BinaryLogisticRegression, [-1, 1, 1, -1], r"classes 0\.\.1; -1 at position 0"),
        (BinaryLogisticRegression, [0, 0.5, 1, 1], r"0\.5 at position 1"),
        (BinaryLogisticRegression, [1, 1, 1, 1], "single class, 1"),
        (LogisticRegression, [0, 0, 0, 0], "single class, 0"),
        (LogisticRegression, [0, -3, 1, 0], "-3 at position 1"),
    ],
)
def test_labels_it_cannot_take(make, labels, message):
    with pytest.raises(ValueError, match=message):
        make(Dataset(np.eye(4), labels), 0.1)


@pytest.mark.parametrize("weight_decay", [-1e-3, np.nan, np.inf])
def test_weight_decay_is_at_least_zero(problem, weight_decay):
    with pytest.raises(ValueError, match="weight_decay"):
        problem.softmax_model(weight_decay=weight_decay)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 100))
def test_class_inverse_against_dense_matrices(d, c, seed):
    random = np.random.default_rng(seed)
    roots = random.standard_normal((c, d, d))
    blocks = roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(d)
    inverses, solved = np.linalg.inv(blocks), np.zeros((d, c, d, c))
    for label in range(c):
        solved[:, label, :, label] = inverses[label]
    differences = np.kron(np.eye(d), np.eye(c) - 1 / c)
    truth = differences @ solved.reshape(d * c, d * c) @ differences
    truth += (np.eye(d * c) - differences) / 0.5
    inverse = ClassInverse(tf.constant(inverses, tf.float32), 0.5)
    block = random.standard_normal((d * c, 3))
    np.testing.assert_allclose(inverse @ block, truth @ block, atol=1e-4)
    np.testing.assert_allclose(inverse @ block[:, 0], truth @ block[:, 0], atol=1e-4)


def test_preconditioner_is_exact_where_all_logits_move_together(problem):
    model = problem.softmax_model().fit()
    together = np.repeat(np.random.default_rng(0).standard_normal((5, 2)), 3, axis=0)
    solved = model.preconditioner() @ (model.hessian() @ together)
    np.testing.assert_allclose(solved, together, rtol=1e-5, atol=1e-5)


def test_preconditioner_saves_products(problem):
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 30)) * np.geomspace(0.1, 10, 30)
    model = LogisticRegression(Dataset(x, random.integers(0, 4, 400)), 1e-3, dtype="float64").fit()
    v = model.test_gradient(x[0], 1)[:, 0]
    plain, helped = (
        ConjugateGradient(1e-8, preconditioner=inverse).solve(model.hessian(), v, strict=True)
        for inverse in (None, model.preconditioner())
    )
    assert helped.iterations < plain.iterations / 3
    np.testing.assert_allclose(helped.x, plain.x, atol=1e-6 * np.abs(plain.x).max())


def test_preconditioner_gives_way_where_it_would_be_too_large(problem, monkeypatch):
    model = problem.softmax_model().fit()
    monkeypatch.setattr("influence.linear.hessian.MAX_DENSE_SIZE", 8)
    assert model.preconditioner() is None


def test_the_preconditioner_is_the_inverse_for_two_classes():
    model = Problem(n=19).binary_model().fit()  # few enough points that all of them are used
    block = np.eye(5)
    np.testing.assert_allclose(model.preconditioner() @ (model.hessian() @ block), block, atol=1e-8)


def test_fit_says_nothing_when_all_is_well(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.softmax_model().fit()
