"""Curvature is a linear operator, ∇²R at one θ, regulariser included."""

from __future__ import annotations

import copy
import numbers
import warnings
from typing import Any, Self, overload

import numpy as np
import scipy.sparse.linalg
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.types import DType
from influence.solvers.solution import Operator, SolverError, check_finite, product

# dense() refuses above this size: 10,000² float64 numbers are 0.8 GB.
MAX_DENSE_SIZE = 10_000
_COLUMNS_AT_ONCE = 64
# Up to this size the eigenvalues of a matrix take a fraction of a second. Where it has to be made
# of p products Lanczos's method is quicker from the smaller size on (ARPACK needs a few spare).
_MATRIX_EIGENVALUES, _PRODUCT_EIGENVALUES = 1000, 64
# Vectors that LOBPCG iterates, of which it is the smallest eigenvalue's that counts.
_LOBPCG_BLOCK, _LOBPCG_STEPS = 3, 100


class HessianOperator(scipy.sparse.linalg.LinearOperator):
    """∇²R(θ) = (1/n) Σ ∇²L(z_i, θ) + ∇²(regulariser), as a symmetric p×p linear operator.

    ``operator @ v`` for ``[p]`` and ``[p, k]``; ``operator + δ`` is the same operator with a ridge;
    it is a SciPy ``LinearOperator``, so ``scipy.sparse.linalg.eigsh`` takes it. It belongs to the
    parameters and the data it was made from: same θ, same data, same answer.

    A subclass writes ``_product`` and ``_product_on``, and may override ``_dense``,
    ``_diagonal`` and ``_eigenvalue_bound`` where it knows a closed form.

    Attributes:
        num_examples: n, the rows that ``on`` chooses from.
        damping: the ridge δ that has been added.
        kept: what has been computed of the undamped operator, shared with those of other damping.
        jit_compile: whether a loop over ``on(rows) @ h`` gains from XLA.

    Examples:
        >>> import numpy as np
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> train = Dataset([[2, 0], [0, 4]], [1, 0])
        >>> hessian = BinaryLogisticRegression(train, weight_decay=0.5).hessian()
        >>> hessian.dense().tolist()
        [[1.0, 0.0], [0.0, 2.5]]
        >>> (hessian @ np.array([1.0, 2.0])).tolist()
        [1.0, 5.0]
        >>> smallest, largest = (hessian + 0.5).extreme_eigenvalues()
        >>> round(smallest, 6), round(largest, 6)
        (1.5, 3.0)
    """

    jit_compile = False

    def __init__(self, size: int, dtype: DType, num_examples: int) -> None:
        super().__init__(dtype=np.dtype(dtype), shape=(size, size))
        self.num_examples = num_examples
        self.damping = 0.0
        self.kept: dict[Any, Any] = {}

    def _product(self, block: tf.Tensor) -> tf.Tensor:
        """H @ block, undamped, in one compiled call: [p, k] -> [p, k]."""
        raise NotImplementedError

    def _product_on(self, rows: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        """The undamped product of the rows' own curvature, traceable: [r, b], [r, p, k]."""
        raise ValueError(
            "This curvature has no rows of data that Lissa could draw: use ConjugateGradient(), or "
            "Exact() for few parameters."
        )

    @overload
    def __add__(self, other: float) -> Self: ...

    @overload
    def __add__(self, other: Any) -> Any: ...

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, numbers.Real):
            return super().__add__(other)
        if not np.isfinite(float(other)):
            raise ValueError(f"damping must be a finite number, not {other!r}.")
        damped = copy.copy(self)
        damped.damping = self.damping + float(other)
        return damped

    __radd__ = __add__

    def on(self, rows: ArrayLike) -> RowsOperator:
        """The curvature of these rows alone, damping and regulariser included.

        ``rows`` [b] makes an operator on ``[p]`` and ``[p, k]``; ``rows`` [r, b] makes a stack of r
        operators on ``[r, p, k]``, each with rows of its own.
        """
        return RowsOperator(self, rows)

    def dense(self, max_size: int = MAX_DENSE_SIZE) -> np.ndarray:
        """The matrix [p, p].

        Raises:
            ValueError: p is above ``max_size``.
        """
        size = self.shape[0]
        if size > max_size:
            raise ValueError(
                f"The {size}×{size} matrix would take {size**2 * self.dtype.itemsize / 1e9:.1f} GB;"
                f" dense() stops at {max_size} parameters. Use ConjugateGradient() or Lissa(), or "
                f"pass a larger max_size."
            )
        matrix = self._dense()
        matrix[np.diag_indices(size)] += self.damping
        return matrix

    def diagonal(self) -> np.ndarray:
        """The diagonal [p], in memory O(p)."""
        return self._diagonal() + self.dtype.type(self.damping)

    def materialize(self, max_size: int = MAX_DENSE_SIZE) -> MatrixOperator:
        """The same operator around its matrix: p products now, and all later ones are cheap."""
        undamped = self + (-self.damping)
        return MatrixOperator(undamped.dense(max_size), self.num_examples) + self.damping

    def eigenvalue_bound(self) -> float:
        """A number that no eigenvalue is below, damping included, as far as that is known without a
        product; −inf where nothing is known."""
        return self._eigenvalue_bound() + self.damping

    def extreme_eigenvalues(
        self, tolerance: float = 1e-6, preconditioner: Operator | None = None
    ) -> tuple[float, float]:
        """The smallest and the largest eigenvalue [2 floats], damping included.

        Of the matrix up to 1,000 parameters, where there is a closed form of it; else by Lanczos's
        method. An indefinite operator becomes positive definite with any damping above minus the
        smallest.

        Args:
            tolerance: of both by Lanczos's method, relative to the larger magnitude. The smallest
                eigenvalue of a badly conditioned operator can take it hundreds of products; where
                they are dear and the matrix fits, ``materialize`` first, or
            preconditioner: a positive definite operator whose ``@`` approximates the inverse of
                this one with a ridge, as ``InverseMatrix(gauss_newton.dense())`` does for a
                network. The smallest eigenvalue is then one of LOBPCG (Knyazev 2001), tens of
                products, to a residual ‖Hv − λv‖ of ``tolerance`` times the larger magnitude.

        Raises:
            SolverError: a method did not converge, or the operator is not finite.
        """
        size = self.shape[0]
        closed_form = type(self)._dense is not HessianOperator._dense
        if size <= (_MATRIX_EIGENVALUES if closed_form else _PRODUCT_EIGENVALUES):
            matrix = self.dense().astype(np.float64)
            check_finite(matrix)
            eigenvalues = np.linalg.eigvalsh(matrix)
            return float(eigenvalues[0]), float(eigenvalues[-1])
        # A fixed starting vector: the same operator has the same answer.
        start = np.random.default_rng(0).standard_normal(size)
        settings = {"k": 1, "tol": tolerance, "v0": start, "return_eigenvectors": False}
        along = product(self, start)
        multiple = float(start @ along / (start @ start))
        if np.allclose(along, multiple * start, rtol=1e-6, atol=0):
            # A multiple of the identity, where Lanczos's method ends before it begins.
            return multiple, multiple
        try:
            [far] = scipy.sparse.linalg.eigsh(self._shifted(0.0), which="LM", **settings)
            if preconditioner is not None:
                smallest = self._smallest_eigenvalue(preconditioner, tolerance * abs(far))
                if far > 0:
                    return smallest, float(far)
            # From the far end of the spectrum, the other end is the largest magnitude, so that
            # the tolerance means the same for both.
            [near] = scipy.sparse.linalg.eigsh(self._shifted(-far), which="LM", **settings)
        except scipy.sparse.linalg.ArpackNoConvergence:
            raise SolverError(
                f"Lanczos's method did not reach a tolerance of {tolerance:g}: raise it, or "
                f"materialize() the operator and take numpy.linalg.eigvalsh of its matrix."
            ) from None
        ends = sorted((float(far), float(near + far)))
        return ends[0], ends[1]

    def _smallest_eigenvalue(self, preconditioner, tolerance):
        """By LOBPCG, to that norm of its residual."""
        start = np.random.default_rng(0).standard_normal((self.shape[0], _LOBPCG_BLOCK))
        with warnings.catch_warnings():
            # It warns where a vector of the block beside the smallest one's has not converged.
            warnings.simplefilter("ignore", UserWarning)
            values, vectors = scipy.sparse.linalg.lobpcg(
                scipy.sparse.linalg.LinearOperator(
                    self.shape,
                    lambda v: product(self, v),
                    matmat=lambda v: product(self, v),
                    dtype=np.float64,
                ),
                start,
                M=lambda block: preconditioner @ block,
                tol=tolerance,
                maxiter=_LOBPCG_STEPS,
                largest=False,
            )
        vector, value = vectors[:, np.argmin(values)], float(np.min(values))
        residual = np.linalg.norm(product(self, vector) - value * vector)
        if not residual <= tolerance:
            raise SolverError(
                f"The smallest eigenvalue did not converge in {_LOBPCG_STEPS} steps of LOBPCG "
                f"(residual {residual:.1e}, not {tolerance:.1e}): raise tolerance, or take a "
                f"preconditioner nearer to the inverse."
            )
        return value

    def _shifted(self, shift):
        """H + shift·I in float64, because ARPACK's own float32 arithmetic is too coarse."""
        return scipy.sparse.linalg.LinearOperator(
            self.shape, lambda v: product(self, v) + shift * v, dtype=np.float64
        )

    def _matmat(self, block):
        block = np.asarray(block)
        result = self._product(tf.constant(block, self.dtype)).numpy()
        return result + self.damping * block if self.damping else result

    def _matvec(self, vector):
        return self._matmat(np.reshape(vector, (-1, 1)))

    def _adjoint(self):
        return self

    def _identity_products(self):
        """(first column, H @ those columns of the identity), a few columns at a time, undamped."""
        size = self.shape[0]
        for first in range(0, size, _COLUMNS_AT_ONCE):
            columns = np.arange(first, min(first + _COLUMNS_AT_ONCE, size))
            block = np.zeros((size, len(columns)), self.dtype)
            block[columns, np.arange(len(columns))] = 1.0
            yield first, self._product(tf.constant(block)).numpy()

    def _eigenvalue_bound(self) -> float:
        return -np.inf

    def _dense(self) -> np.ndarray:
        matrix = np.concatenate([product for _, product in self._identity_products()], axis=1)
        return (matrix + matrix.T) / 2

    def _diagonal(self) -> np.ndarray:
        return np.concatenate(
            [np.diagonal(product[first:]) for first, product in self._identity_products()]
        )


class MatrixOperator(HessianOperator):
    """A Hessian, or another symmetric matrix [p, p], whose entries are known."""

    def __init__(self, matrix: np.ndarray, num_examples: int) -> None:
        super().__init__(len(matrix), matrix.dtype, num_examples)
        self._matrix = matrix

    def _product(self, block):
        return tf.constant(self._matrix @ block.numpy())

    def _product_on(self, rows, block):
        raise ValueError("A matrix has no rows of data: give Lissa the operator it was made from.")

    def _dense(self):
        return self._matrix.copy()

    def _diagonal(self):
        return np.diagonal(self._matrix).copy()


class RowsOperator:
    """What ``HessianOperator.on`` returns; ``@`` takes and gives tensors, so loops can trace it."""

    def __init__(self, operator: HessianOperator, rows: ArrayLike) -> None:
        self._operator = operator
        self._rows = tf.convert_to_tensor(rows, tf.int32)

    def __matmul__(self, block: tf.Tensor) -> tf.Tensor:
        operator = self._operator
        block = tf.convert_to_tensor(block, operator.dtype)
        if self._rows.shape.rank == 2:
            return operator._product_on(self._rows, block) + operator.damping * block
        columns = block[:, tf.newaxis] if block.shape.rank == 1 else block
        product = operator._product_on(self._rows[tf.newaxis], columns[tf.newaxis])[0]
        return tf.reshape(product, tf.shape(block)) + operator.damping * block
