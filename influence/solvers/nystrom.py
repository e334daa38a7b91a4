"""Nyström's approximation of an operator by few of its products, to precondition with."""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.solvers.block_conjugate_gradient import BlockConjugateGradient
from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.solution import Operator, Solution, SolverError, as_block

# Columns of the default solver's sketch, and the steps that it saves a right-hand side: networks
# took 40 to 70 without and 13 to 15 with it.
_RANK, _STEPS_SAVED = 100, 45
# Numbers that the default sketch may have (0.5 GB in float32); those that are multiplied at once,
# of which a product holds many copies, and the columns that are at least.
_MOST_NUMBERS, _NUMBERS_AT_ONCE, _COLUMNS_AT_ONCE = 2**27, 2**22, 10


def nystrom(operator: Operator, rank: int = 100, seed: int = 0) -> NystromInverse:
    """A preconditioner for conjugate gradients, from one product with ``rank`` random columns.

    Of A + δI, with δ the operator's ``damping``, it knows the ``rank`` largest eigenvalues λ_i of A
    and their eigenvectors U, nearly, and takes all others for the smallest of them, λ_r (Frangella,
    Tropp & Udell, *Randomized Nyström preconditioning*, 2021, arXiv 2110.02820, algorithm 2.1 and
    equation 5.3):

        P⁻¹ = U diag(1/(λ_i + δ)) Uᵀ + (I − UUᵀ)/(λ_r + δ).

    It is positive definite, also where A has small negative eigenvalues that δ makes up for.
    What is known of A is kept with the operator, and serves it with any other damping, too.

    Args:
        operator: [p, p], an array, a SciPy ``LinearOperator`` or a ``HessianOperator``.
        rank: columns; what it takes is ``rank``·p numbers.
        seed: of the random columns.

    Raises:
        SolverError: the operator has a direction without positive curvature.
        ValueError: ``rank`` is below 1.

    Examples:
        Eigenvalues that fall quickly, as those of networks do:

        >>> import numpy as np
        >>> from influence import ConjugateGradient, nystrom
        >>> matrix = np.diag(1000 / np.arange(1.0, 301.0) ** 2 + 0.01)
        >>> solver = ConjugateGradient(preconditioner=nystrom(matrix, rank=100))
        >>> v = np.ones(300)
        >>> solver.solve(matrix, v).iterations, ConjugateGradient().solve(matrix, v).iterations
        (26, 176)
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank!r}.")
    kept: MutableMapping[Any, Any] = getattr(operator, "kept", {})
    key = ("nystrom", rank, seed)
    if key not in kept:
        kept[key] = Sketch(operator, rank, seed)
    return NystromInverse(kept[key], getattr(operator, "damping", 0.0))


class Sketch:
    """A positive semi-definite matrix of low rank, from a product with random columns.

    Args:
        operator: as for ``nystrom``.
        rank: columns.
        seed: of the columns.

    Attributes:
        vectors: U [p, r], orthonormal.
        eigenvalues: λ [r], descending, of the operator without its damping.
        rest: what stands for all other eigenvalues.
        lowest: the lowest curvature that was met.
    """

    def __init__(self, operator: Any, rank: int, seed: int) -> None:
        size, dtype = operator.shape[0], np.result_type(operator.dtype, np.float32)
        random = np.random.default_rng(seed).standard_normal((min(rank, size), size), np.float32)
        columns = _orthonormal(random.T.astype(dtype, copy=False))[0]
        del random  # in double precision another array, as large as what follows
        products = _undamped_product(operator, columns)
        core = (columns.T @ products).astype(np.float64)
        del columns
        values, basis = np.linalg.eigh((core + core.T) / 2)
        rounding = 10 * np.finfo(dtype).eps * np.linalg.norm(products)
        self.lowest = 0.0 if abs(values[0]) <= rounding else float(values[0])
        # Others are rounding, or less than the negative curvature among them.
        large = values > max(rounding, -self.lowest)
        roots = (basis[:, large] / np.sqrt(values[large])).astype(dtype)
        scaled = (roots.T @ products.T).T
        del products
        q, r = _orthonormal(scaled)
        left, roots, _ = np.linalg.svd(r.astype(np.float64))
        self.vectors = tf.constant(q @ left.astype(dtype))
        self.eigenvalues = roots**2
        self.rest = float(self.eigenvalues[-1]) if large.all() else 0.0


def _orthonormal(columns):
    """Q and R of ``columns``, in Fortran's order, in whose place Q is made; NumPy's would take five
    times the room."""
    return scipy.linalg.qr(columns, overwrite_a=True, mode="economic", check_finite=False)


def _undamped_product(operator, columns):
    damping = getattr(operator, "damping", 0.0)
    at_once = max(_COLUMNS_AT_ONCE, _NUMBERS_AT_ONCE // len(columns))
    products = np.empty_like(columns)
    for first in range(0, columns.shape[1], at_once):
        some = slice(first, first + at_once)
        products[:, some] = operator @ columns[:, some] - damping * columns[:, some]
    if not np.isfinite(products).all():
        raise SolverError(
            "A product with the operator is not finite: check the parameters and the data."
        )
    return products


class NystromInverse:
    """P⁻¹ of ``nystrom``: a positive definite operator whose ``@`` approximates (A + δI)⁻¹.

    Args:
        sketch: of A.
        damping: δ.

    Raises:
        SolverError: A + δI has a direction without positive curvature.
    """

    def __init__(self, sketch: Sketch, damping: float) -> None:
        self._rest = sketch.rest + damping
        lowest = min(self._rest, sketch.lowest + damping)
        if not lowest > 0:
            raise SolverError(
                f"Nyström's approximation met a curvature of {lowest:.3g}, and conjugate gradients "
                f"need positive ones: add a damping above {damping - lowest:.2g}, as in "
                f"`hessian + δ`."
            )
        self._vectors = sketch.vectors
        # Of what it does beside a multiple of the identity.
        self._weights = (1 / (sketch.eigenvalues + damping) - 1 / self._rest)[:, np.newaxis]

    def __matmul__(self, block: ArrayLike) -> np.ndarray:
        columns = np.asarray(block)
        flat = columns.reshape(len(columns), -1)
        # By TensorFlow: BLAS threads that wait for NumPy's next call slow it down.
        inner = tf.matmul(self._vectors, tf.constant(flat, self._vectors.dtype), transpose_a=True)
        weighted = tf.constant(self._weights * inner.numpy(), self._vectors.dtype)
        change = (self._vectors @ weighted).numpy()
        return columns / self._rest + change.reshape(columns.shape)


@dataclass(frozen=True)
class NystromSolver:
    """Block conjugate gradients, preconditioned by a sketch from when on that pays: the default of
    networks.

    A sketch costs the products of its columns once, and saves some steps for every right-hand side
    of this operator from then on. It is made before a solve that will take, or after solves that
    have taken, as many products; a single right-hand side alone is not worth one. An operator
    that has no positive sketch is left to plain conjugate gradients, which say what is wrong.

    Args:
        tolerance: of ``ConjugateGradient``.
    """

    tolerance: float = 1e-6

    def solve(self, operator: Any, rhs: ArrayLike, strict: bool = False) -> Solution:
        """As ``BlockConjugateGradient.solve``."""
        kept = getattr(operator, "kept", {})
        products = kept.get("products", 0) + _STEPS_SAVED * as_block(rhs)[0].shape[1]
        fits = _RANK * operator.shape[0] <= _MOST_NUMBERS
        preconditioner = None
        if fits and products >= _RANK:
            with contextlib.suppress(SolverError):
                preconditioner = nystrom(operator, _RANK)
        kind = ConjugateGradient if preconditioner is None else BlockConjugateGradient
        solver = kind(self.tolerance, preconditioner=preconditioner)
        solution = solver.solve(operator, rhs, strict)
        kept["products"] = kept.get("products", 0) + int(np.sum(solution.iterations))
        return solution
