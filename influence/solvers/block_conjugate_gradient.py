"""Conjugate gradients in which all right-hand sides share what is found for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import tensorflow as tf

from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.solution import product

# Of the largest eigenvalue of the Gram matrix of unit vectors: below it they are dependent.
_DEPENDENT = 1e-12


@dataclass(frozen=True)
class BlockConjugateGradient(ConjugateGradient):
    """Block conjugate gradients (O'Leary, Linear Algebra Appl. 29, 1980): one Krylov space for all
    right-hand sides, each of which takes the best point of the whole.

    A step costs the product of ``ConjugateGradient`` with the same block, and fewer are needed,
    the more right-hand sides there are; a single one takes the same steps. Directions that several
    have in common count once. Where negative curvature is met, it is all right-hand sides that
    stop.

    Args:
        tolerance: as for ``ConjugateGradient``.
        max_iterations: products each right-hand side may take part in.
        preconditioner: an operator whose ``@`` approximates H⁻¹, or None.

    Examples:
        >>> import numpy as np
        >>> from influence import BlockConjugateGradient, ConjugateGradient
        >>> matrix = np.diag(1000 / np.arange(1.0, 101.0) ** 2)
        >>> v = np.random.default_rng(0).standard_normal((100, 10))
        >>> solution = BlockConjugateGradient().solve(matrix, v)
        >>> bool(np.allclose(matrix @ solution.x, v, atol=1e-4))
        True
        >>> int(max(solution.iterations)), int(max(ConjugateGradient().solve(matrix, v).iterations))
        (13, 91)
    """

    def _run(self, operator, columns, x, residual, size, iterations, indefinite, curvature):
        r = residual[:, columns] / size[columns]
        d = _basis(self._precondition(r))
        while d.shape[1]:
            hd = product(operator, d)
            iterations[columns] += 1
            core = _inner(d, hd)
            lowest = scipy.linalg.eigvalsh(core, subset_by_index=[0, 0])[0]
            if lowest <= 0:
                indefinite[columns], curvature[columns] = True, lowest
                return
            factor = scipy.linalg.cho_factor(core)
            step = scipy.linalg.cho_solve(factor, _inner(d, r))
            x[:, columns] += _times(d, step) * size[columns]
            r = r - _times(hd, step)
            keep = np.linalg.norm(r, axis=0) > 0.9 * self.tolerance
            keep &= iterations[columns] < self.max_iterations
            if not keep.any():
                return
            columns, r = columns[keep], r[:, keep]
            z = self._precondition(r)
            d = _basis(z - _times(d, scipy.linalg.cho_solve(factor, _inner(hd, z))))


def _basis(block: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span those of a block, as far as they are independent."""
    size = np.linalg.norm(block, axis=0)
    unit = block / np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(_inner(unit, unit))
    there = values > _DEPENDENT * max(values[-1], np.finfo(float).tiny)
    return _times(unit, vectors[:, there] / np.sqrt(values[there]))


# By TensorFlow: BLAS threads that wait for NumPy's next call slow it down.


def _inner(a, b):
    """aᵀb"""
    return tf.matmul(a, b, transpose_a=True).numpy()


def _times(a, b):
    return tf.matmul(a, b).numpy()
