"""What all models with logits xW share: the closed forms, and a fit to the last digits.

The generic versions in ``GenericNeuralNet`` compute the same; the tests hold these against them.
"""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.data.dataset import Dataset
from influence.fitting.newton import minimize
from influence.linear.functions import LinearLoss, compiled
from influence.linear.gram import quadratic_forms
from influence.linear.hessian import LinearHessian
from influence.linear.sparse_functions import SparseFunctions
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.solvers.preconditioners import KeptInverse

# fit() stops at this gradient norm relative to the one at θ = 0. It computes in float64, and what
# rounding θ to float32 adds is below 1e-6.
FIT_TOLERANCE = {"float32": 1e-7, "float64": 1e-10}
# Products of one of its solves that cost as much as a new ``approximate_inverse``.
_PATIENCE = 8


class LinearModel(GenericNeuralNet):
    """A model without bias, z = xW, with loss ``loss`` and the regulariser (λ/2)‖W‖²."""

    def __init__(self, train: Dataset, weight_decay: float, loss: LinearLoss, dtype, batch_size):
        if not 0 <= weight_decay < np.inf:
            raise ValueError(f"weight_decay must be at least 0, not {weight_decay!r}.")
        self.loss = loss
        self.weight_decay = float(weight_decay)
        features = self._rows(tf.zeros([1, *train.x.shape[1:]], dtype)).shape[1]
        self.weights = tf.Variable(tf.zeros([features, loss.outputs], dtype), name="weights")
        self._sparse_functions = {}
        super().__init__(train, [self.weights], dtype, batch_size)

    def logits(self, x):
        """xW: [m, c]."""
        return self._rows(x) @ self.weights

    def example_losses(self, logits, labels):
        """ℓ(z, y): [m]."""
        return self.loss.losses(logits, labels)

    def regularization(self):
        """(λ/2)‖W‖²."""
        return self.weight_decay / 2 * tf.reduce_sum(tf.square(self.weights))

    def fit(self, preconditioner=None, gradient_norm: float | None = None):
        """Minimise in float64, whatever the model's dtype, to a gradient norm of 1e-10 of that
        at θ = 0 (1e-7 for a float32 model): Newton's method with the exact Hessian.

        Args:
            preconditioner: operator -> approximate inverse, such as a ``KeptInverse``, in place
                of a kept ``LinearHessian.approximate_inverse``.
            gradient_norm: to reach, instead of that one.

        Warns:
            ConvergenceWarning: the gradient norm was not reached.
        """
        x, labels = self._matrix
        functions = self._functions("float64")

        def hessian(theta):
            weights = self._as_weights(theta)
            return LinearHessian(functions, x, labels, weights, self.weight_decay, self.loss)

        if gradient_norm is None:
            _, at_zero = self._value_and_gradient(np.zeros(self.num_parameters))
            gradient_norm = FIT_TOLERANCE[str(self.dtype)] * np.linalg.norm(at_zero)
        self.parameters = minimize(
            self._value_and_gradient,
            hessian,
            self.parameters.astype(np.float64),
            gradient_norm,
            preconditioner or KeptInverse(LinearHessian.approximate_inverse, _PATIENCE),
            lbfgs=False,
        )
        return self

    def gradient(self):
        """∇R(θ) [p], accumulated in float64 whatever the model's dtype."""
        return self._value_and_gradient(self.parameters.astype(np.float64))[1]

    def _value_and_gradient(self, theta):
        """R and ∇R [p] at ``theta`` [p], in float64."""
        x, labels = self._matrix
        weights = self._as_weights(theta)
        value, gradient = self._functions("float64").value_and_gradient(x, labels, weights)
        value = float(value) / len(self.train) + self.weight_decay / 2 * theta @ theta
        return value, gradient.numpy().ravel() / len(self.train) + self.weight_decay * theta

    def preconditioner(self):
        """``approximate_inverse`` of this Hessian, computed once."""
        if "preconditioner" not in self._at_theta:
            self._at_theta["preconditioner"] = self.hessian().approximate_inverse()
        return self._at_theta["preconditioner"]

    def self_influence(self, *, solver=None, curvature=None, train_indices=None, strict=False):
        """∇L(z_i)ᵀ H⁻¹ ∇L(z_i), [n]; with one logit ℓ'(z_i)² x_iᵀH⁻¹x_i in closed form.

        For wide data (n ≤ d) with one logit and no ``solver``, through the n×n Gram matrix.
        """
        x, labels = self._matrix
        wide = self.loss.outputs == 1 and x.shape[0] <= x.shape[1] and self.weight_decay > 0
        asked = any(option is not None for option in (solver, curvature, train_indices))
        if asked or not wide:
            return super().self_influence(
                solver=solver, curvature=curvature, train_indices=train_indices, strict=strict
            )
        n, scale = len(self.train), self.train.scale
        if scipy.sparse.issparse(x):
            rows = x.astype(np.float64) * scale
            gram = (rows @ rows.T).toarray()
        else:
            rows = tf.cast(x, tf.float64) * scale
            gram = tf.matmul(rows, rows, transpose_b=True).numpy()
        logits = tf.constant(rows @ tf.cast(self.weights, tf.float64).numpy())
        curvature = self.loss.curvature_matrix(self.loss.curvature(logits, labels))
        forms = quadratic_forms(gram, curvature.numpy()[:, 0, 0], n * self.weight_decay)
        slopes = self.loss.slopes(logits, labels).numpy()[:, 0]
        return (n * slopes**2 * forms).astype(self.dtype)

    def gradients_without(self, thetas: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Gradients of the n − 1 objectives, column j at thetas[:, j] without point indices[j].

        float64, [p, k] -> [p, k]; one scan of the data for all columns.
        """
        functions, (x, labels) = self._functions("float64"), self._matrix
        total = functions.gradients_at(x, labels, thetas).numpy()
        for column, index in enumerate(indices):
            row = slice(index, index + 1)
            weights = self._as_weights(thetas[:, column])
            total[:, column] -= functions.gradients(x[row], labels[row], weights).numpy()[0]
        return total / (len(self.train) - 1) + self.weight_decay * thetas

    def losses_at(self, thetas: np.ndarray, x, labels) -> np.ndarray:
        """The loss of each point at each column of ``thetas`` [p, k], in float64: [m, k]."""
        x, labels = self._points(x, labels, "x", "labels")
        x = self._rows(x, self.train.scale)
        x = x if scipy.sparse.issparse(x) else tf.cast(x, tf.float64)
        return self._functions("float64", tf.float64).losses_at(x, labels, thetas).numpy()

    @functools.cached_property
    def _matrix(self):
        x, labels = self.tensors
        return self._rows(x, self.train.scale), labels

    def _rows(self, x, scale: float = 1.0):
        """Points [m, ...] as what W multiplies, [m, d], before ``scale`` multiplies them."""
        if scipy.sparse.issparse(x):
            return x
        return tf.reshape(x, [-1, x.shape[1:].num_elements()])

    def _functions(self, dtype, x_dtype=None):
        if scipy.sparse.issparse(self.train.x):
            if str(dtype) not in self._sparse_functions:
                functions = SparseFunctions(self.loss, dtype, self.train.scale)
                self._sparse_functions[str(dtype)] = functions
            return self._sparse_functions[str(dtype)]
        x_dtype = self._matrix[0].dtype if x_dtype is None else x_dtype
        return compiled(self.loss, x_dtype, str(dtype), self.train.scale, self.batch_size)

    def _input_tensor(self, x):
        if not scipy.sparse.issparse(self.train.x):
            return super()._input_tensor(x)
        return scipy.sparse.csr_array(x)

    def _outputs(self, x):
        if scipy.sparse.issparse(x):
            return self._functions(self.dtype).logits(self._rows(x), self.weights)
        return super()._outputs(x)

    def _call(self, function, loss, x, labels, block=None):
        if not scipy.sparse.issparse(x):
            return super()._call(function, loss, x, labels, block=block)
        # The generic functions, differentiated at the logits: x itself is never made dense, but
        # for gradients of single points, which are.
        logits = self._outputs(x)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = self._losses_of(loss)(logits, labels)
        if function == "_traced_losses":
            return losses
        slopes = tape.gradient(losses, logits).numpy()
        rows = self._rows(x).astype(self.dtype) * self.dtype.type(self.train.scale)
        if function == "_traced_mean_gradient":
            return tf.constant((rows.T @ slopes).ravel() / len(slopes))
        if function == "_traced_gradients":
            dense = rows.toarray()[:, :, np.newaxis] * slopes[:, np.newaxis]
            return tf.constant(dense.reshape(len(slopes), -1))
        raise ValueError("Sparse points have no input gradient: use x.toarray().")

    def _as_weights(self, theta):
        return tf.reshape(tf.constant(theta), self.weights.shape)

    def hessian(self, dtype=None):
        """∇²R(θ) as an operator; ``dtype`` other than the model's makes one for that call."""
        if dtype is None or np.dtype(dtype) == self.dtype:
            return super().hessian()
        return self._make_hessian(np.dtype(dtype))

    def _make_hessian(self, dtype=None):
        dtype = dtype or self.dtype
        weights = tf.cast(self.weights, dtype)
        functions = self._functions(dtype)
        return LinearHessian(functions, *self._matrix, weights, self.weight_decay, self.loss)

    def _directional_derivatives(self, points, block):
        x, labels = points
        x = self._rows(x, self.train.scale)
        functions = self._functions(self.dtype, x.dtype)
        return functions.directional_derivatives(x, labels, self.weights, block)

    def _gradients(self, loss, x, labels):
        if loss != "normal":
            return super()._gradients(loss, x, labels)
        x = self._rows(x, self.train.scale)
        return self._functions(self.dtype, x.dtype).gradients(x, labels, self.weights).numpy()

    def _mean_gradient(self, loss, x, labels):
        if loss != "normal" or scipy.sparse.issparse(x):
            return super()._mean_gradient(loss, x, labels)
        x = self._rows(x, self.train.scale)
        functions = self._functions(self.dtype, x.dtype)
        _, total = functions.value_and_gradient(x, labels, self.weights)
        return total.numpy().ravel() / len(labels)

    def _input_gradients(self, x, labels, direction):
        if scipy.sparse.issparse(x):
            return super()._input_gradients(x, labels, direction)
        rows = self._rows(x, self.train.scale)
        functions = self._functions(self.dtype, rows.dtype)
        gradients = functions.input_gradients(rows, labels, self.weights, direction).numpy()
        # Without what a subclass appends to a row.
        return gradients[:, : x.shape[1:].num_elements()].reshape(x.shape)
