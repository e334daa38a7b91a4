"""Newton's method where the Hessian is singular or indefinite: downhill, and to a minimum."""

import warnings

import keras
import numpy as np
import pytest

from influence import ConjugateGradient, KerasModel, SolverWarning
from influence.curvature.operator import MatrixOperator
from influence.fitting import newton
from influence.fitting.newton import minimize, newton_direction
from influence.objective.minimum import ConvergenceWarning
from tests.conftest import Problem


@pytest.fixture(params=["factor", "conjugate gradients"])
def either_way(request, monkeypatch):
    """Both ways to a Newton direction, whatever the number of parameters."""
    if request.param == "conjugate gradients":
        monkeypatch.setattr(newton, "EXACT_NEWTON_SIZE", 0)


def operator(eigenvalues, seed=0):
    """A matrix with these eigenvalues and random eigenvectors."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    matrix = (q * eigenvalues) @ q.T
    return MatrixOperator((matrix + matrix.T) / 2, 1)


SPECTRA = {
    "positive definite": np.geomspace(1e-3, 10, 12),
    "flat directions": np.r_[np.zeros(4), np.ones(8)],
    "below zero by rounding": np.r_[-4e-16, np.zeros(3), np.ones(8)],
    "below zero by float32's rounding": np.r_[-3e-5, np.zeros(3), np.geomspace(1e-6, 50, 8)],
    "indefinite": np.linspace(-3, 5, 12),
    "negative definite": -np.geomspace(1e-3, 10, 12),
    "nothing": np.zeros(12),
}


@pytest.mark.parametrize("size", [1.0, 1e-9])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_newton_directions_go_downhill(spectrum, size, either_way):
    for seed in range(5):
        gradient = size * np.random.default_rng(seed).standard_normal(12)
        direction = newton_direction(operator(SPECTRA[spectrum], seed), gradient, 0.1)
        cosine = gradient @ direction / np.linalg.norm(gradient) / np.linalg.norm(direction)
        # Clear of rounding, so that a line search sees the value fall.
        assert cosine < -1e-6


def test_positive_definite_matrices_are_not_shifted():
    exact = operator(np.geomspace(1e-6, 1, 12))
    gradient = np.random.default_rng(0).standard_normal(12)
    expected = -np.linalg.solve(exact.dense(), gradient)
    np.testing.assert_allclose(newton_direction(exact, gradient, 0.1), expected, rtol=1e-8)


def test_a_negative_eigenvalue_counts_as_positive_as_large():
    indefinite = operator([-2.0, 1.0, 5.0])
    gradient = np.array([1.0, -1.0, 2.0])
    ridge = 2 * 2.0 + 1e-10 * 5 + 1e-3 * np.linalg.norm(gradient)
    expected = -np.linalg.solve((indefinite + ridge).dense(), gradient)
    np.testing.assert_allclose(newton_direction(indefinite, gradient, 0.1), expected, rtol=1e-12)


def test_conjugate_gradients_stop_before_negative_curvature():
    # Steihaug's: the step along the first direction, (gᵀg / gᵀHg) g, is the last one downhill.
    matrix, gradient = np.diag([1.0, -0.5]), np.array([1.0, 1.0])
    with pytest.warns(SolverWarning, match="negative curvature"):
        solution = ConjugateGradient().solve(matrix, gradient)
    assert solution.negative_curvature
    np.testing.assert_allclose(solution.x, [4.0, 4.0])
    # It is no solution, and says so.
    assert solution.residual == pytest.approx(np.linalg.norm([3.0, -3.0]) / np.sqrt(2))


def wells(theta):
    """Σ (θ² − 1)² / 4, with a maximum at 0 and minima at ±1 in every coordinate."""
    return np.sum((theta**2 - 1) ** 2) / 4, theta**3 - theta


def wells_hessian(theta):
    return MatrixOperator(np.diag(3 * theta**2 - 1), 1)


@pytest.mark.parametrize("start", [0.1, 0.5, 3.0])
def test_from_a_maximum_to_a_minimum(start, either_way):
    theta = start * np.random.default_rng(1).uniform(-1, 1, 20)
    found = minimize(wells, wells_hessian, theta, 1e-9, lbfgs=False)
    np.testing.assert_allclose(np.abs(found), 1, atol=1e-8)


def test_flat_directions_stay_where_they_are(either_way):
    # (θ₀ + θ₁ − 2)²/2 has a line of minima; the nearest one, from 0, is (1, 1).
    normal = np.ones(2)

    def value_and_gradient(theta):
        residual = normal @ theta - 2
        return residual**2 / 2, residual * normal

    flat = MatrixOperator(np.outer(normal, normal), 1)
    found = minimize(value_and_gradient, lambda _: flat, np.zeros(2), 1e-9, lbfgs=False)
    np.testing.assert_allclose(found, [1, 1], atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "activation", "seed"), [("float64", "relu", 0), ("float32", "tanh", 1)]
)
def test_networks_without_regularisers_are_refitted_or_say_so(dtype, activation, seed):
    problem = Problem()
    keras.utils.set_random_seed(seed)
    network = keras.Sequential(
        [
            keras.layers.Input((5,), dtype=dtype),
            keras.layers.Dense(8, activation, dtype=dtype),
            keras.layers.Dense(3, dtype=dtype),
        ]
    )
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model = KerasModel(network, problem.train)
    start = model.objective()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit()
        damped = model.gauss_newton() + 0.01
        result = model.validate(problem.x_test, problem.y_test, points=2, curvature=damped)
    assert model.objective() < 0.1 * start
    assert np.isfinite(result.actual).all()
    stopped = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    assert stopped or result.gradient_norms.max() < 1e-4
    assert all("minimum" in str(w.message) for w in stopped)
