"""The bounds of the smallest eigenvalue against dense float64 ones."""

import numpy as np
import pytest

from influence import SolverError
from influence.solvers.lanczos import LANCZOS_STEPS, smallest_eigenvalue

EPS = 1e-14


def symmetric(eigenvalues, seed=0):
    """A matrix with these eigenvalues."""
    p = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((p, p)))
    return (q * eigenvalues) @ q.T


def test_the_truth_lies_between():
    ratios = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        p, size = int(random.integers(1, 120)), random.uniform(-3, 3)
        eigenvalues = 10 ** (size - random.uniform(0, 4) * random.random(p))
        bounds = smallest_eigenvalue(symmetric(eigenvalues, seed), p, EPS)
        ratios.append(np.array(bounds) / eigenvalues.min())
    below, above = np.transpose(ratios)
    assert (above >= 1 - 1e-6).all()
    assert (below <= 1 + 1e-6).mean() > 0.95
    assert below.max() < 1.3
    assert (above - below < 0.01 * above + 1e-6).mean() > 0.9


def test_it_is_near_after_few_products_of_a_large_operator():
    class Diagonal:
        values, products = np.array([0.1, *np.linspace(0.5, 10, 4999)]), 0

        def __matmul__(self, block):
            self.products += 1
            return self.values[:, np.newaxis] * block

    operator = Diagonal()
    below, above = smallest_eigenvalue(operator, 5000, EPS)
    assert 0.098 < below <= 0.1 <= above < 0.102
    assert operator.products < LANCZOS_STEPS / 2


@pytest.mark.parametrize("eigenvalues", [[3.0] * 7, [2.0], [1.0, 1.0, 5.0]])
def test_few_different_eigenvalues(eigenvalues):
    below, above = smallest_eigenvalue(symmetric(np.array(eigenvalues)), len(eigenvalues), EPS)
    assert below <= min(eigenvalues) <= above
    assert above - below < 1e-8


def test_zero_and_negative_ones():
    below, above = smallest_eigenvalue(symmetric(np.array([0.0, 1, 2, 3])), 4, EPS)
    assert below <= 0 <= above < 1e-12
    below, above = smallest_eigenvalue(symmetric(np.array([-0.5, 1, 2, 3])), 4, EPS)
    assert below == pytest.approx(-0.5)
    assert above == pytest.approx(-0.5)
    assert smallest_eigenvalue(np.zeros((3, 3)), 3, EPS) == (0, 0)


def test_what_the_products_cannot_tell_from_zero_is_not_told():
    # In float32 the products of an operator around 1 are right to 1e-7.
    matrix = symmetric(np.array([1e-9, *np.linspace(0.5, 1, 20)]))
    noisy = matrix + 3e-8 * symmetric(np.random.default_rng(1).standard_normal(21), 1)
    below, above = smallest_eigenvalue(noisy, 21, 1e-6)
    assert below < 0 < above < 1e-5


def test_what_does_not_end_in_time_is_bounded_from_above_only():
    eigenvalues = np.geomspace(1e-9, 1, 3000)

    class Diagonal:
        def __matmul__(self, block):
            return eigenvalues[:, np.newaxis] * block

    below, above = smallest_eigenvalue(Diagonal(), 3000, EPS)
    assert below <= 1e-9 <= above < 0.01


def test_a_product_that_is_not_finite_is_an_error():
    with pytest.raises(SolverError, match="not finite"):
        smallest_eigenvalue(np.full((3, 3), np.nan), 3, EPS)
