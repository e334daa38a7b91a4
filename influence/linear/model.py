"""What all models with logits xW share: the closed forms, and a fit to the last digits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Self

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.curvature.operator import HessianOperator
from influence.data.dataset import Dataset
from influence.data.types import DType, Inputs
from influence.fitting.newton import minimize
from influence.linear.functions import LinearLoss
from influence.linear.gram import quadratic_forms, sparse_gram
from influence.linear.hessian import ClassInverse, LinearHessian
from influence.linear.penalty import Penalty, Ridge
from influence.linear.points import LinearPoints
from influence.linear.scans import LinearScans
from influence.linear.separability import LP_SIZE, is_separable, no_minimum
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.objective.minimum import ConvergenceWarning
from influence.solvers.preconditioners import InverseMatrix, KeptInverse
from influence.solvers.solution import Operator, Solver

# fit() stops at this gradient norm relative to the one at θ = 0. It computes in float64, and what
# rounding θ to float32 adds is below 1e-6.
FIT_TOLERANCE = {"float32": 1e-7, "float64": 1e-10}
# A loss below this part of that at θ = 0 is on its way to 0.
_VANISHED = 1e-4
# Products of one of its solves that cost as much as a new ``approximate_inverse``.
_PATIENCE = 8


class LinearModel(GenericNeuralNet):
    """A model z = x̃W with the loss ℓ(z, y) and a quadratic regulariser of W.

    Args:
        train: the training points; ``labels`` as ``loss`` takes them.
        loss: ℓ.
        penalty: the regulariser.
        dtype: "float32" or "float64".
        batch_size: points converted at a time.
        bias: the constant feature that is appended to x, last; 0 for none.
        keeps_sum: without a point, the regulariser stays as it is beside the *sum* of the losses,
            not beside their mean: then no regulariser's term stands in an influence.
    """

    train: Dataset
    loss: LinearLoss
    scans: LinearScans

    def __init__(
        self,
        train: Dataset,
        loss: LinearLoss,
        penalty: Penalty,
        dtype: DType,
        batch_size: int | None,
        bias: float = 0.0,
        keeps_sum: bool = False,
    ) -> None:
        self.loss, self.penalty = loss, penalty
        self.bias, self.keeps_sum = float(bias), keeps_sum
        features = int(np.prod(train.x.shape[1:])) + bool(bias)
        self.weights = tf.Variable(tf.zeros([features, loss.outputs], dtype), name="weights")
        super().__init__(train, [self.weights], dtype, batch_size)

    @property
    def weight_decay(self) -> float:
        """λ, where the regulariser is (λ/2)‖W‖²."""
        if not isinstance(self.penalty, Ridge):
            raise AttributeError(f"A {type(self.penalty).__name__} has no weight_decay.")
        return self.penalty.strength

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        """x̃W: [m, c]."""
        rows = tf.reshape(x, [-1, x.shape[1:].num_elements()])
        if self.bias:
            constant = tf.fill([tf.shape(rows)[0], 1], tf.constant(self.bias, rows.dtype))
            rows = tf.concat([rows, constant], axis=1)
        return rows @ self.weights

    def example_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """ℓ(z, y): [m]."""
        return self.loss.losses(logits, labels)

    def regularization(self) -> tf.Tensor:
        """The penalty of W."""
        return self.penalty.value(self.weights)

    def fit(
        self,
        preconditioner: Callable[[HessianOperator], Operator | None] | None = None,
        gradient_norm: float | None = None,
    ) -> Self:
        """Minimise in float64, whatever the model's dtype, to a gradient norm of 1e-10 of that
        at θ = 0 (1e-7 for a float32 model): Newton's method with the exact Hessian.

        Args:
            preconditioner: operator -> approximate inverse, such as a ``KeptInverse``, in place
                of a kept ``LinearHessian.approximate_inverse``.
            gradient_norm: to reach, instead of that one.

        Warns:
            ConvergenceWarning: the gradient norm was not reached, or there is no minimum to reach
                (``has_minimum``).
        """
        x, labels = self.scans.matrix
        functions = self.scans.functions("float64")

        def hessian(theta):
            weights = self._as_weights(theta)
            return LinearHessian(functions, x, labels, weights, self.penalty, self.loss)

        if gradient_norm is None:
            _, at_zero = self.value_and_gradient(np.zeros(self.num_parameters))
            gradient_norm = FIT_TOLERANCE[str(self.dtype)] * float(np.linalg.norm(at_zero))
        self.parameters = minimize(
            self.value_and_gradient,
            hessian,
            self.parameters.astype(np.float64),
            gradient_norm,
            preconditioner or KeptInverse(LinearHessian.approximate_inverse, _PATIENCE),
            lbfgs=False,
        )
        if not self.has_minimum():
            message = no_minimum(type(self).__name__, "use weight_decay > 0")
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return self

    def has_minimum(self) -> bool:
        """Whether the objective has a single minimum, as far as separable classes are concerned.

        Without a penalty a direction that separates the classes, completely or all but ties, lowers
        the loss for ever (or leaves the squared hinge's at 0). Exactly for up to 200,000 numbers,
        by a linear programme; for more from whether the present loss is below 1e-4 of that at
        θ = 0. A free constant feature alone never separates two classes.

        Examples:
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [1], [2]], [0, 1, 1])
            >>> BinaryLogisticRegression(train, weight_decay=0).has_minimum()
            False
            >>> BinaryLogisticRegression(train, weight_decay=0.1).has_minimum()
            True
        """
        free = self.penalty.free(self.weights.shape[0])
        if not self.loss.falls_with_margins or free.sum() <= bool(self.bias):
            return True
        x, labels = self.scans.matrix
        slopes = self.loss.slopes(
            tf.zeros([len(self.train), self.loss.outputs], tf.float64), labels
        )
        counts = np.abs(slopes).sum(axis=1) > 0  # no points of weight 0
        if x.shape[0] * x.shape[1] <= LP_SIZE:
            rows = x.toarray() if scipy.sparse.issparse(x) else x.numpy()
            separable = is_separable(rows[counts][:, free].astype(float), slopes.numpy()[counts])
            if separable is not None:
                return not separable
        at_zero, _ = self.value_and_gradient(np.zeros(self.num_parameters))
        return bool(self.objective() > _VANISHED * at_zero)

    def objective(self) -> float:
        """R(θ), the regulariser included, accumulated in float64."""
        return float(self.value_and_gradient(self.parameters.astype(np.float64))[0])

    def gradient(self) -> np.ndarray:
        """∇R(θ) [p], accumulated in float64 whatever the model's dtype."""
        return self.value_and_gradient(self.parameters.astype(np.float64))[1]

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """R and ∇R [p] at ``theta`` [p], in float64."""
        x, labels = self.scans.matrix
        functions, weights = self.scans.functions("float64"), self._as_weights(theta)
        value, gradient = functions.value_and_gradient(x, labels, weights)
        pull = self._pull(theta[:, np.newaxis])[:, 0]
        n = len(self.train)
        return float(value) / n + theta @ pull / 2, gradient.numpy().ravel() / n + pull

    def hessian(self, dtype: DType | None = None) -> HessianOperator:
        """∇²R(θ) as an operator; ``dtype`` other than the model's makes one for that call."""
        if dtype is None or np.dtype(dtype) == self.dtype:
            return super().hessian()
        return self._make_hessian(np.dtype(dtype))

    def gauss_newton(self) -> HessianOperator:
        """The Hessian itself: the logits are linear in the parameters."""
        return self.hessian()

    def preconditioner(self) -> ClassInverse | InverseMatrix | None:
        """``approximate_inverse`` of this Hessian, computed once."""
        if "preconditioner" not in self._at_theta:
            self._at_theta["preconditioner"] = self.hessian().approximate_inverse()
        return self._at_theta["preconditioner"]

    def self_influence(
        self,
        *,
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        train_indices: ArrayLike | None = None,
        strict: bool = False,
    ) -> np.ndarray:
        """∇L(z_i)ᵀ H⁻¹ ∇L(z_i), [n]; with one logit ℓ'(z_i)² x_iᵀH⁻¹x_i in closed form.

        For wide data (n ≤ d) with one logit and no ``solver``, through the n×n Gram matrix.
        """
        self._warn_unless_at_minimum(curvature)
        x, labels = self.scans.matrix
        asked = any(option is not None for option in (solver, curvature, train_indices))
        ridge = self.penalty.strength if isinstance(self.penalty, Ridge) else 0.0
        if asked or not (self.loss.outputs == 1 and x.shape[0] <= x.shape[1] and ridge > 0):
            return super().self_influence(
                solver=solver, curvature=curvature, train_indices=train_indices, strict=strict
            )
        n, scale = len(self.train), self.train.scale
        if scipy.sparse.issparse(x):
            rows = x.astype(np.float64) * scale
            gram = sparse_gram(rows)
        else:
            rows = tf.cast(x, tf.float64) * scale
            gram = tf.matmul(rows, rows, transpose_b=True).numpy()
        logits = tf.constant(rows @ tf.cast(self.weights, tf.float64).numpy())
        curvature = self.loss.curvature_matrix(self.loss.curvature(logits, labels))
        forms = quadratic_forms(gram, curvature.numpy()[:, 0, 0], n * ridge)
        slopes = self.loss.slopes(logits, labels).numpy()[:, 0]
        return (n * slopes**2 * forms).astype(self.dtype)

    def gradients_without(self, thetas: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Gradients of the objectives without one point each, column j at thetas[:, j] without
        point indices[j].

        float64, [p, k] -> [p, k]; one scan of the data for all columns.
        """
        functions, (x, labels) = self.scans.functions("float64"), self.scans.matrix
        # Refits start from one θ, where one column does for all.
        different = thetas if (thetas != thetas[:, :1]).any() else thetas[:, :1]
        total = functions.gradients_at(x, labels, different).numpy()
        total = np.repeat(total, thetas.shape[1] // total.shape[1], axis=1)
        for column, index in enumerate(indices):
            row = slice(index, index + 1)
            weights = self._as_weights(thetas[:, column])
            total[:, column] -= functions.gradients(x[row], labels[row], weights).numpy()[0]
        n = len(self.train)
        return total / (n if self.keeps_sum else n - 1) + self._pull(thetas)

    def losses_at(self, thetas: np.ndarray, x: ArrayLike, labels: ArrayLike) -> np.ndarray:
        """The loss of each point at each column of ``thetas`` [p, k], in float64: [m, k]."""
        x, labels = self.points.checked(x, labels, "x", "labels")
        x = self.scans.rows(x)
        x = x if scipy.sparse.issparse(x) else tf.cast(x, tf.float64)
        return self.scans.functions("float64", tf.float64).losses_at(x, labels, thetas).numpy()

    def outputs_at(self, thetas: np.ndarray, x: Inputs) -> np.ndarray:
        """The logits of points ``x`` at each column of ``thetas`` [p, k], in float64: [k, m, c]."""
        rows = self.scans.rows(self.points.inputs(x, "x"))
        rows = rows if scipy.sparse.issparse(rows) else rows.numpy()
        rows, (d, c) = rows.astype(np.float64) * self.train.scale, self.weights.shape
        outputs = rows @ np.asarray(thetas, np.float64).reshape(d, -1)
        return np.moveaxis(outputs.reshape(rows.shape[0], c, -1), 2, 0)

    def class_probabilities(self, logits: tf.Tensor) -> tf.Tensor | None:
        return self.loss.class_probabilities(logits)

    def _pull(self, thetas):
        """The regulariser's gradient at every column of ``thetas`` [p, k]: [p, k]."""
        return np.asarray(self.penalty.product(thetas))

    def _as_weights(self, theta):
        return tf.reshape(tf.constant(theta), self.weights.shape)

    def _make_scans(self):
        return LinearScans(self)

    def _make_points(self):
        return LinearPoints(self.train, self.dtype, self.label_dtype, self._check_labels)

    def _make_hessian(self, dtype=None):
        dtype = dtype or self.dtype
        weights = tf.cast(self.weights, dtype)
        functions = self.scans.functions(dtype)
        return LinearHessian(functions, *self.scans.matrix, weights, self.penalty, self.loss)

    def _removed_regularizer(self, block):
        return 0.0 if self.keeps_sum else super()._removed_regularizer(block)
