"""A linear model with example weights, a constant feature, and a regulariser that spares it."""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.data.dataset import Dataset, check_indices
from influence.linear.functions import LinearLoss
from influence.linear.hessian import LinearHessian
from influence.linear.model import LinearModel
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.sklearn_models.losses import Weighted, pack
from influence.solvers.solution import SolverError

# 1 − h below this is rounding.
_FULL_LEVERAGE = 1e-10


class WeightedLinearModel(LinearModel):
    """R(θ) = (1/n) Σ w_i ℓ(W̃ᵀx̃_i, y_i) + ½ Σ_j a_j ‖W̃_j‖², in float64.

    x̃ is x with the constant ``bias`` appended (nothing for 0), and W̃ [d̃, c] are the weights.
    Rows without penalty of a model with several logits have a second regulariser, half the squared
    sum of the row over c: softmax does not see that direction, so it moves neither the optimum nor
    an influence, and without it the Hessian would be singular.

    Args:
        train: the training points; ``labels`` as ``loss`` takes them.
        loss: ℓ.
        example_weights: w [n].
        penalties: a [d̃].
        bias: the constant feature.
        keeps_sum: without a point, the regulariser stays as it is beside the *sum* of the losses,
            not beside their mean: then no regulariser's term stands in an influence.
    """

    def __init__(
        self,
        train: Dataset,
        loss: LinearLoss,
        example_weights: np.ndarray,
        penalties: np.ndarray,
        bias: float,
        keeps_sum: bool,
    ):
        self.bias = float(bias)
        self.keeps_sum = keeps_sum
        self.example_weights = example_weights
        self.penalties = penalties
        super().__init__(train, 0.0, Weighted(loss), "float64", None)

    @functools.cached_property
    def _regularizer(self) -> np.ndarray:
        """The Hessian of the regulariser, which is zero between the rows of W̃: [d̃, c, c]."""
        c = self.loss.outputs
        blocks = self.penalties[:, np.newaxis, np.newaxis] * np.eye(c)
        if c > 1:
            blocks[self.penalties == 0] += 1 / c
        return blocks

    def regularization(self):
        """½ Σ_j W̃_jᵀ B_j W̃_j."""
        return tf.einsum("ja,jab,jb->", self.weights, self._regularizer, self.weights) / 2

    def gauss_newton(self):
        """The Hessian itself: the logits are linear in the parameters."""
        return self.hessian()

    def self_influence(self, *, solver=None, curvature=None, train_indices=None, strict=False):
        """∇ℓ_iᵀ H⁻¹ ∇ℓ_i with the weight of the example in ∇ℓ_i: [n]."""
        return GenericNeuralNet.self_influence(
            self, solver=solver, curvature=curvature, train_indices=train_indices, strict=strict
        )

    def preconditioner(self):
        """As an approximation, every row has the mean penalty."""
        if "preconditioner" not in self._at_theta:
            operator = self.hessian() + float(self.penalties.mean())
            self._at_theta["preconditioner"] = operator.approximate_inverse()
        return self._at_theta["preconditioner"]

    def losses(self, x, labels, loss="normal"):
        """The loss of each point, [m], by the scans that all models of a kind share: refits trace
        nothing."""
        if loss != "normal":
            return super().losses(x, labels, loss)
        return self.losses_at(self.parameters[:, np.newaxis], x, labels)[:, 0]

    def objective(self) -> float:
        """R(θ), the regulariser included."""
        return float(self._value_and_gradient(self.parameters)[0])

    def _value_and_gradient(self, theta):
        value, gradient = super()._value_and_gradient(theta)
        pull = self._pull(theta[:, np.newaxis])[:, 0]
        return value + theta @ pull / 2, gradient + pull

    def _pull(self, thetas):
        """The regulariser's gradient at every column of ``thetas`` [p, k]: [p, k]."""
        rows = thetas.reshape(*self._regularizer.shape[:2], -1)
        return (self._regularizer @ rows).reshape(thetas.shape)

    def _make_hessian(self, dtype=None):
        dtype = dtype or self.dtype
        return RowwisePenalisedHessian(
            self._functions(dtype),
            *self._matrix,
            tf.cast(self.weights, dtype),
            self.loss,
            self._regularizer.astype(dtype),
        )

    def gradients_without(self, thetas, indices):
        """Gradients of the objectives without one point each, [p, k] -> [p, k]."""
        means = super().gradients_without(thetas, indices)
        n = len(self.train)
        return means * ((n - 1) / n if self.keeps_sum else 1.0) + self._pull(thetas)

    def _removal(self, points, s_test):
        if not self.keeps_sum:
            return super()._removal(points, s_test)
        block = tf.constant(s_test.reshape(len(s_test), -1))
        along = self._directional_derivatives(points, block).numpy()
        return along.T.reshape(s_test.shape[1:] + (-1,)) / len(self.train)

    def parameters_without(self, train_indices=None, *, solver=None, curvature=None, strict=False):
        """θ after one Newton step from θ̂ of the objective without point i, for each i: [p, n].

        θ̂ + (nH − H_i)⁻¹∇ℓ_i, where the influence function has (nH)⁻¹∇ℓ_i: it neglects that the
        Hessian loses a point, too. The penalty is kept beside the sum. For least squares the step
        ends at the optimum. See ``one_newton_step``.

        Args:
            train_indices, solver, curvature, strict: as for ``influence_on_loss``; it solves for
                the whole inverse of H, [p, p].

        Raises:
            SolverError: without one of the points there is no single optimum.
        """
        identity = np.eye(self.num_parameters)
        inverse = self.inverse_hvp(identity, solver, strict, curvature).x / len(self.train)
        x, labels = self._train_points(train_indices)
        rows = self._rows(x)
        rows = rows.toarray() if scipy.sparse.issparse(rows) else rows.numpy()
        rows = rows.astype(self.dtype, copy=False)
        logits = tf.constant(rows @ self.weights.numpy())
        slopes = self.loss.slopes(logits, labels).numpy()
        curvatures = self.loss.curvature_matrix(self.loss.curvature(logits, labels)).numpy()
        steps = one_newton_step(rows, slopes, curvatures, inverse)
        return self.parameters[:, np.newaxis] + steps

    # Weights and the constant feature.

    @functools.cached_property
    def tensors(self):
        """The training points (x, labels packed with their weights) as tensors."""
        # Outside any function that is being traced.
        with tf.init_scope():
            labels = pack(self.train.labels, self.example_weights)
            return self._input_tensor(self.train.x), labels

    def _train_points(self, indices):
        if indices is None:
            return self.tensors
        indices = check_indices(indices, len(self.train), "train_indices")
        labels = pack(self.train.labels[indices], self.example_weights[indices])
        return self._input_tensor(self.train.x[indices]), labels

    def _label_tensor(self, labels):
        return pack(labels, np.ones(len(labels)))

    def _rows(self, x, scale=1.0):
        rows = super()._rows(x)
        if not self.bias:
            return rows
        if scipy.sparse.issparse(rows):
            constant = np.full((rows.shape[0], 1), self.bias)
            return scipy.sparse.hstack([rows, constant], format="csr")
        if not rows.dtype.is_floating:
            rows = tf.cast(rows, self.dtype)
        constant = tf.fill([tf.shape(rows)[0], 1], tf.constant(self.bias, rows.dtype))
        return tf.concat([rows, constant], axis=1)


def one_newton_step(rows, slopes, curvatures, inverse) -> np.ndarray:
    """M_i⁻¹∇ℓ_i for each of q points, M_i being M without the point's own curvature: [p, q].

    With X_i = x_i ⊗ I, ∇ℓ_i = X_i s_i and M_i = M − X_i A_i X_iᵀ, it is by Woodbury's identity
    M⁻¹X_i (I − A_i K_i)⁻¹ s_i, K_i = X_iᵀM⁻¹X_i: for c = 1 the step M⁻¹∇ℓ_i of the influence
    function over 1 − h_i, with the leverage h_i = A_i K_i.

    Args:
        rows: x, [q, d].
        slopes: s, [q, c].
        curvatures: A, [q, c, c].
        inverse: M⁻¹, [d·c, d·c].

    Raises:
        SolverError: I − A_i K_i is singular: the leverage of a point is 1.
    """
    (q, d), c = rows.shape, slopes.shape[1]
    forms, blocks = np.empty((q, c, c)), inverse.reshape(d, c, d, c)
    for a, b in np.ndindex(c, c):
        forms[:, a, b] = np.sum((rows @ blocks[:, a, :, b]) * rows, axis=1)
    left = np.eye(c) - curvatures @ forms
    full = np.flatnonzero(np.linalg.det(left) < _FULL_LEVERAGE)
    if len(full):
        raise SolverError(
            f"The leverage of point {full[0]} of {q} is 1: the others alone do not determine the "
            f"parameters. Use leverage=False, or a penalty."
        )
    corrected = np.linalg.solve(left, slopes[:, :, np.newaxis])[:, :, 0]
    gradients = rows[:, :, np.newaxis] * corrected[:, np.newaxis]
    return inverse @ gradients.reshape(q, -1).T


class RowwisePenalisedHessian(LinearHessian):
    """A linear model's Hessian with a regulariser's that is zero between the rows of W.

    Args:
        functions, x, labels, weights, loss: as for ``LinearHessian``.
        regularizer: the Hessian of the regulariser in every row of W, [d, c, c].
    """

    def __init__(self, functions, x, labels, weights, loss, regularizer: np.ndarray):
        super().__init__(functions, x, labels, weights, 0.0, loss)
        self._regularizer = tf.constant(regularizer)

    def _product(self, block):
        return super()._product(block) + self._pull(block)

    def _product_on(self, rows, block):
        return super()._product_on(rows, block) + self._pull(block)

    def _pull(self, block):
        """The regulariser's Hessian times ``block`` [..., p, k]."""
        d, c, _ = self._regularizer.shape
        shape = tf.shape(block)
        columns = tf.reshape(block, tf.concat([shape[:-2], [d, c], shape[-1:]], axis=0))
        return tf.reshape(self._regularizer @ columns, shape)

    def _dense(self):
        d, c, _ = self._regularizer.shape
        matrix = super()._dense().reshape(d, c, d, c)
        rows = np.arange(d)
        matrix[rows, :, rows, :] += self._regularizer.numpy()
        return matrix.reshape(self.shape)

    def _diagonal(self):
        return super()._diagonal() + tf.linalg.diag_part(self._regularizer).numpy().ravel()
