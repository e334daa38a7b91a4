"""The smallest eigenvalue of an operator, between two bounds, by Lanczos's method."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from influence.solvers.solution import Operator, product

# Products at most, and at least: a start can be too near to another eigenvector at first.
LANCZOS_STEPS, _LEAST = 200, 20
# How near to each other the two bounds shall be.
_ACCURACY = 0.01


def smallest_eigenvalue(operator: Operator, size: int, rounding: float) -> tuple[float, float]:
    """Two bounds, (below, above), of the smallest eigenvalue: within 1%, or after 200 products.

    The upper one is the smallest Ritz value θ, the lower one θ minus the norm of its residual, near
    enough to which there is an eigenvalue (Parlett 1998, theorem 4.5.1): the smallest, unless the
    random start has next to no part in it (once in a hundred it is another one, a few percent
    larger). No vectors are kept, and none made orthogonal anew: the end of the spectrum does not
    suffer from it (Paige 1980).

    Args:
        operator: symmetric.
        size: p.
        rounding: of its products, relative to the largest eigenvalue.
    """
    # A fixed start: the same operator has the same answer.
    vector = np.random.default_rng(0).standard_normal(size)
    vector /= np.linalg.norm(vector)
    before, diagonal, beside = np.zeros(size), [], [0.0]
    while True:
        along = product(operator, vector[:, np.newaxis])[:, 0]
        diagonal.append(float(along @ vector))
        along = along - diagonal[-1] * vector - beside[-1] * before
        length = float(np.linalg.norm(along))
        values, vectors = scipy.linalg.eigh_tridiagonal(
            diagonal, beside[1:], select="i", select_range=(0, 0)
        )
        smallest, residual = float(values[0]), length * abs(float(vectors[-1, 0]))
        noise = rounding * max(np.abs(diagonal).max(), *beside)
        enough = residual <= _ACCURACY * abs(smallest) and len(diagonal) >= _LEAST
        if enough or length <= noise or len(diagonal) == LANCZOS_STEPS:
            return smallest - residual - noise, smallest + noise
        beside.append(length)
        before, vector = vector, along / length
