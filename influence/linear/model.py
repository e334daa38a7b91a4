"""What all models with logits xW share: the closed forms, and a fit to the last digits."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Self

import numpy as np
import scipy.sparse
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.curvature.operator import MAX_DENSE_SIZE, HessianOperator
from influence.data.dataset import Dataset
from influence.data.types import DType, Inputs
from influence.fitting.newton import minimize
from influence.linear.diagnostics import cooks_distance, dfbetas, leave_one_out_outputs
from influence.linear.forms import inverse_for_forms
from influence.linear.functions import LinearLoss
from influence.linear.hessian import ClassInverse
from influence.linear.leverage import LinearRemoval
from influence.linear.penalty import Penalty, Ridge
from influence.linear.points import LinearPoints
from influence.linear.scans import LinearScans, as_array
from influence.linear.separability import LP_SIZE, is_separable, no_minimum
from influence.linear.sharded import ShardedLinearScans, recipe_of
from influence.linear.terms import point_terms
from influence.linear.wide import wide_forms
from influence.objective.generic_neural_net import EXACT_SIZE, GenericNeuralNet
from influence.objective.minimum import ConvergenceWarning
from influence.solvers.exact import Exact
from influence.solvers.preconditioners import InverseMatrix, KeptInverse, UpdatedInverse
from influence.solvers.solution import Operator, Solver

# fit() stops at this gradient norm relative to the one at θ = 0. It computes in float64, and what
# rounding θ to float32 adds is below 1e-6.
FIT_TOLERANCE = {"float32": 1e-7, "float64": 1e-10}
# A loss below this part of that at θ = 0 is on its way to 0.
_VANISHED = 1e-4
# Above EXACT_SIZE an inverse is made for one point in so many parameters, or more.
_PARAMETERS_A_POINT = 8
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

    @functools.cached_property
    def num_outputs(self) -> int:
        """c, the numbers that the model puts out for a point."""
        return self.loss.outputs

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
        if gradient_norm is None:
            _, at_zero = self.value_and_gradient(np.zeros(self.num_parameters))
            gradient_norm = FIT_TOLERANCE[str(self.dtype)] * float(np.linalg.norm(at_zero))
        self.parameters = minimize(
            self.value_and_gradient,
            lambda theta: self.scans.hessian(theta, "float64"),
            self.parameters.astype(np.float64),
            gradient_norm,
            preconditioner
            or KeptInverse(lambda operator: operator.approximate_inverse(), _PATIENCE),
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
        if len(self.train) * self.weights.shape[0] <= LP_SIZE:
            x, labels = self.scans.matrix
            slopes = self.loss.slopes(
                tf.zeros([len(self.train), self.loss.outputs], tf.float64), labels
            )
            counts = np.abs(slopes).sum(axis=1) > 0  # no points of weight 0
            rows, slopes = as_array(x)[counts][:, free].astype(float), slopes.numpy()[counts]
            # One class against the rest is as many problems as there are classes.
            parts = np.split(slopes, slopes.shape[1], axis=1) if self.loss.separate else [slopes]
            separable = [is_separable(rows, part) for part in parts]
            if None not in separable:
                return not any(separable)
        return bool(self.objective() > _VANISHED * self.value_at_zero())

    def value_at_zero(self) -> float:
        """R(0), in float64: no look at x is needed."""
        zeros = tf.zeros([len(self.train), self.loss.outputs], tf.float64)
        return float(np.mean(self.loss.losses(zeros, self.points.labels)))

    def objective(self) -> float:
        """R(θ), the regulariser included, accumulated in float64."""
        return float(self.value_and_gradient(self.parameters.astype(np.float64))[0])

    def gradient(self) -> np.ndarray:
        """∇R(θ) [p], accumulated in float64 whatever the model's dtype."""
        return self.value_and_gradient(self.parameters.astype(np.float64))[1]

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """R and ∇R [p] at ``theta`` [p], in float64."""
        value, gradient = self.scans.value_and_gradient(theta)
        n, penalty = len(self.train), float(self.penalty.value(self._as_weights(theta)))
        pull = self._pull(theta[:, np.newaxis])[:, 0]
        return float(value) / n + penalty, gradient / n + pull

    def hessian(self, dtype: DType | None = None) -> HessianOperator:
        """∇²R(θ) as an operator, in the model's ``dtype`` or another one."""
        if dtype is None or np.dtype(dtype) == self.dtype:
            return super().hessian()
        key = f"hessian in {np.dtype(dtype)}"
        if key not in self._at_theta:
            self._at_theta[key] = self._make_hessian(np.dtype(dtype))
        return self._at_theta[key]

    def gauss_newton(self) -> HessianOperator:
        """The Hessian itself: the logits are linear in the parameters."""
        return self.hessian()

    def preconditioner(self) -> ClassInverse | InverseMatrix | UpdatedInverse | None:
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
        """∇L(z_i)ᵀ H⁻¹ ∇L(z_i), [n], in closed form: s_iᵀ (X_iᵀH⁻¹X_i) s_i with the slopes
        s_i = ∂ℓ/∂z and X_i = x̃_i ⊗ I, in float64 and one scan of the data.

        For that the matrix is inverted once, where the solver is ``Exact``, or none is given and it
        takes less than a solve for every point. Wide data (n ≤ d) go through the Gram matrix of the
        points.
        """
        self._warn_unless_at_minimum(curvature)
        number = len(self.train) if train_indices is None else np.size(train_indices)
        largest = max(EXACT_SIZE, min(_PARAMETERS_A_POINT * number, MAX_DENSE_SIZE))
        fits = self.num_parameters <= largest
        asked = any(option is not None for option in (solver, curvature, train_indices))
        if not asked and ((fits and not strict) or self._wide_forms() is not None):
            return self._own_terms()[0].astype(self.dtype)
        exact = self._exact if solver is None and fits else solver
        if isinstance(exact, Exact) and self.num_parameters <= MAX_DENSE_SIZE:
            operator = self.hessian("float64") if curvature is None else curvature
            inverse = inverse_for_forms(operator, exact, curvature is None, strict)
            if inverse is not None:
                return self.scans.own_terms(inverse, train_indices)[0].astype(self.dtype)
        return super().self_influence(
            solver=solver, curvature=curvature, train_indices=train_indices, strict=strict
        )

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

    def _losses_of(self, thetas, points, loss):
        x, labels = points
        rows = self.scans.rows(x)
        rows = tf.cast(rows, tf.float64) if tf.is_tensor(rows) else rows
        if loss == "normal":
            return self.scans.functions("float64", rows).losses_at(rows, labels, thetas).numpy()
        outputs = self._outputs_of(thetas, rows)
        of_outputs = self.scans.losses_of(loss)
        return np.stack([of_outputs(tf.constant(z), labels) for z in outputs], axis=1)

    def leverage(self) -> np.ndarray:
        """How much of its own output each training point decides, 0 to 1: [n], in float64.

        h_i = tr(A_i X_iᵀ(nH)⁻¹X_i) with A_i = ∂²ℓ/∂z²: for least squares ∂ẑ_i/∂y_i. Of c outputs
        it goes up to c. Their sum is the effective number of parameters.

        Examples:
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
            >>> model.leverage().round(2).tolist()
            [0.2, 0.05, 0.05, 0.2, 0.4]
        """
        return self._own_terms()[1].copy()

    def leave_one_out_outputs(self) -> np.ndarray:
        """Each training point's outputs by the model without it, after one Newton step: [n, c].

        z_i + K_i (I − A_i K_i)⁻¹ s_i with K_i = X_iᵀ(nH)⁻¹X_i, the slopes s_i = ∂ℓ/∂z and the
        curvature A_i = ∂²ℓ/∂z² of its loss: approximate leave-one-out cross-validation, for least
        squares exact. ``leave_one_out_losses`` are the losses of them, whose mean is the loss of
        that cross-validation: it chooses a penalty without a refit.

        Raises:
            SolverError: without a point there is no single optimum.

        Examples:
            The same as ``RidgeCV(store_cv_results=True)`` has it:

            >>> from sklearn.linear_model import Ridge
            >>> from influence import from_sklearn
            >>> X, y = [[0.0], [1.0], [2.0], [4.0]], [0.0, 1.5, 1.0, 4.0]
            >>> model = from_sklearn(Ridge().fit(X, y), X, y)
            >>> model.leave_one_out_outputs()[3].round(4).tolist()
            [1.8333]
            >>> Ridge().fit(X[:3], y[:3]).predict(X[3:]).round(4).tolist()
            [1.8333]
        """
        return leave_one_out_outputs(self)

    def leave_one_out_losses(self) -> np.ndarray:
        """The loss of each training point at ``leave_one_out_outputs``, times its weight: [n]."""
        outputs, labels = tf.constant(self.leave_one_out_outputs()), self.points.labels
        return self.loss.losses(outputs, labels).numpy()

    def cooks_distance(self) -> np.ndarray:
        """How far each training point moves the parameters, in their joint uncertainty: [n].

        ΔθᵀnHΔθ/(φ p) of the Newton step Δθ without the point. φ is the dispersion: 1 of a
        Bernoulli, multinomial or Poisson model, else Pearson's, Σ w(y − μ)²/V(μ)/(n − p). Without a
        penalty p is the number of parameters, and this is ``cooks_distance`` of statsmodels'
        ``OLSInfluence`` and, with canonical links (H is the observed information),
        ``GLMInfluence``. With one p is the sum of the leverages.

        Raises:
            ValueError: the loss is no likelihood (a hinge, an absolute value, one class against the
                rest), or is of several targets.
            SolverError: as for ``leave_one_out_outputs``.

        Examples:
            >>> from sklearn.linear_model import LinearRegression
            >>> from influence import from_sklearn
            >>> X, y = [[0.0], [1.0], [2.0], [3.0], [9.0]], [0.1, 0.9, 2.1, 2.9, 6.0]
            >>> model = from_sklearn(LinearRegression().fit(X, y), X, y)
            >>> int(model.cooks_distance().argmax())
            4
        """
        return cooks_distance(self)

    def dfbetas(self) -> np.ndarray:
        """By how many standard errors each training point holds each parameter up: [n, p].

        (θ̂ − θ̂₍ᵢ₎)_j/se_j by one Newton step: **positive where the parameter falls without the
        point**, as statsmodels has it, so the sign is that of the others turned round. se_j² is φ
        times the j-th of the diagonal of (nH)⁻¹. For least squares φ is that of the others, as in
        ``OLSInfluence``; for other models that of all (see ``cooks_distance``), as in
        ``GLMInfluence``. The intercept comes last.

        Raises:
            ValueError, SolverError: as for ``cooks_distance``.

        Examples:
            >>> from sklearn.linear_model import LinearRegression
            >>> from influence import from_sklearn
            >>> X, y = [[0.0], [1.0], [2.0], [3.0], [9.0]], [0.1, 0.9, 2.1, 2.9, 6.0]
            >>> model = from_sklearn(LinearRegression().fit(X, y), X, y)
            >>> model.dfbetas().shape  # the slope, then the intercept
            (5, 2)
            >>> bool(model.dfbetas()[4, 0] < -10)  # without point 4 the slope rises
            True
        """
        return dfbetas(self)

    def outputs_at(self, thetas: np.ndarray, x: Inputs) -> np.ndarray:
        """The logits of points ``x`` at each column of ``thetas`` [p, k], in float64: [k, m, c]."""
        return self._outputs_of(thetas, self.scans.rows(self.points.inputs(x, "x")))

    def _outputs_of(self, thetas, rows):
        rows = rows if scipy.sparse.issparse(rows) else as_array(rows)
        rows, (d, c) = rows.astype(np.float64) * self.train.scale, self.weights.shape
        outputs = rows @ np.asarray(thetas, np.float64).reshape(d, -1)
        return np.moveaxis(outputs.reshape(rows.shape[0], c, -1), 2, 0)

    def class_probabilities(self, logits: tf.Tensor) -> tf.Tensor | None:
        return self.loss.class_probabilities(logits)

    def _own_terms(self):
        """Self-influences [n] and leverages [n] of all training points, computed at once."""
        if "own terms" not in self._at_theta:
            self._at_theta["own terms"] = (
                self._terms_by_inverse() if self._wide_forms() is None else self._wide_terms()
            )
        return self._at_theta["own terms"]

    def _terms_by_inverse(self):
        return self.scans.own_terms(self._exact.inverse(self.hessian("float64")))

    def _wide_terms(self):
        parts = [(terms.slopes, terms.curvatures) for terms in point_terms(self)]
        slopes, curvatures = (np.concatenate(part) for part in zip(*parts))
        forms = self._wide_forms()
        own = np.einsum("ia,iab,ib->i", slopes, forms, slopes)
        return len(self.train) * own, np.einsum("iab,iab->i", curvatures, forms)

    def _wide_forms(self):
        """``wide_forms``, computed once."""
        if "wide forms" not in self._at_theta:
            self._at_theta["wide forms"] = wide_forms(self)
        return self._at_theta["wide forms"]

    def _pull(self, thetas):
        """The regulariser's gradient at every column of ``thetas`` [p, k]: [p, k]."""
        return self.penalty.gradient(thetas)

    def _as_weights(self, theta):
        return tf.reshape(tf.constant(theta), self.weights.shape)

    def _make_scans(self):
        return LinearScans(self)

    def _make_sharded_scans(self, sharding):
        return ShardedLinearScans(self.scans, self, sharding)

    def _recipe(self, own):
        return recipe_of(self)

    def _rows(self):
        return self.train.x, self.points.labels.numpy()

    def _make_points(self):
        return LinearPoints(self.train, self.dtype, self.label_dtype, self._check_labels)

    def _make_hessian(self, dtype=None):
        return self.scans.hessian(self.parameters, dtype or self.dtype)

    def _removed_slope(self):
        return np.zeros(self.num_parameters) if self.keeps_sum else super()._removed_slope()

    def _newton_curvature(self):
        return self.hessian("float64")

    def _make_removal(self, solver=None, curvature=None, strict=False):
        return LinearRemoval(self, solver, curvature, strict)
