"""Everything that a model gets for free once it has said its objective."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from influence.curvature.autodiff import AutodiffHessian
from influence.curvature.gauss_newton import GaussNewton
from influence.curvature.operator import HessianOperator
from influence.data.batches import is_stream, take_rows
from influence.data.dataset import check_indices
from influence.objective.objective import Objective
from influence.objective.validation import Validation, validate
from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.exact import Exact
from influence.solvers.solution import Solution

# Up to this many parameters the whole matrix is cheaper than an iteration.
EXACT_SIZE = 2000
# Right-hand sides that self_influence solves for at a time.
_SELF_INFLUENCE_BLOCK = 512


class GenericNeuralNet(Objective):
    """A model with objective R(θ) = (1/n) Σ L(z_i, θ) + regularization(θ), and its influences.

    A subclass says ``logits``, ``example_losses``, ``regularization`` and ``fit``, how an unfitted
    model with the same settings is made (``_clone``), and which labels it takes
    (``_check_labels``). One convention for every influence: the predicted change of a test loss if
    the training point is **removed** and the model refitted on the n − 1 others with the same
    regulariser, already divided by n, so positive means that the point was helpful:

        (1/n) s_testᵀ (∇L(z_i, θ̂) + ∇regularization(θ̂)),   s_test = H⁻¹ ∇L(z_test, θ̂).

    Args:
        train: the training points.
        variables: the ``tf.Variable``s of the model; θ is all of them, flattened, in this order.
        dtype: "float32" or "float64".
        batch_size: points that are held as floating-point numbers at a time.
    """

    def hessian(self) -> HessianOperator:
        """∇²R(θ) as an operator; the same object until the parameters change."""
        if "hessian" not in self._at_theta:
            self._at_theta["hessian"] = self._make_hessian()
        return self._at_theta["hessian"]

    def gauss_newton(self) -> HessianOperator:
        """The Gauss-Newton matrix as an operator: positive semi-definite wherever the loss is
        convex in the logits, even where the Hessian is not; the same object until the parameters
        change."""
        if "gauss_newton" not in self._at_theta:
            self._at_theta["gauss_newton"] = GaussNewton(self)
        return self._at_theta["gauss_newton"]

    def inverse_hvp(self, v, solver=None, strict: bool = False, curvature=None) -> Solution:
        """H⁻¹ v for v [p] or [p, k], with how the solve went; the rest as elsewhere."""
        operator = self._default_curvature() if curvature is None else curvature
        if operator.shape[0] != self.num_parameters:
            raise ValueError(
                f"curvature must be an operator on {self.num_parameters} parameters, not "
                f"{operator.shape[0]}."
            )
        solver = self._solver_for(curvature) if solver is None else solver
        return solver.solve(operator, v, strict=strict)

    def influence_on_loss(
        self,
        x_test,
        y_test,
        *,
        reduction=None,
        loss="normal",
        solver=None,
        curvature=None,
        train_indices=None,
        strict=False,
    ) -> np.ndarray:
        """Predicted change of each test loss if a training point is removed: > 0 is helpful.

        (1/n) s_testᵀ (∇L(z_i, θ̂) + ∇regularization(θ̂)), which is −I_up,loss/n of the paper with
        the term that makes it the change of refitting on n − 1 points with the same regulariser.

        Args:
            x_test: [m, ...] in the units of ``train.x``, or one point [...].
            y_test: [m] labels.
            reduction: None for every test point, [m, n]; "mean" for their mean loss, [n].
            loss: "normal", the model's own; "adversarial", the log-probability of a wrong answer,
                log(1 − p(y|x)), which rises, like the loss, as the model gets less sure of y.
            solver: ``Exact()``, ``ConjugateGradient()``, ``Lissa()``; None is ``Exact()`` up to
                2,000 parameters and conjugate gradients above.
            curvature: the operator that stands for H; None is ``hessian()``, with its damping
                where a model has one. Away from an optimum
                ``hessian() + δ`` or ``gauss_newton() + δ`` (δ is the paper's damping).
            train_indices: only these training points, in this order, instead of all n.
            strict: an unconverged or indefinite solve is an error instead of a warning.

        Raises:
            ValueError: shapes, labels or indices that do not fit.
            SolverError: the system cannot be solved.
        """
        gradient = self.test_gradient(x_test, y_test, loss, reduction)
        s_test = self.inverse_hvp(gradient, solver, strict, curvature).x
        return self._removal(self._train_points(train_indices), s_test)

    def influence_of_points(
        self,
        x,
        labels,
        x_test,
        y_test,
        *,
        reduction=None,
        loss="normal",
        solver=None,
        curvature=None,
        strict=False,
    ) -> np.ndarray:
        """The same quantity for points that need not be in the training set: [m, q] or [q].

        For a point that is not there it is minus the predicted change if it were added.
        """
        points = self._points(x, labels, "x", "labels")
        gradient = self.test_gradient(x_test, y_test, loss, reduction)
        return self._removal(points, self.inverse_hvp(gradient, solver, strict, curvature).x)

    def influence_input_gradient(
        self,
        train_indices,
        x_test,
        y_test,
        *,
        loss="normal",
        solver=None,
        curvature=None,
        strict=False,
    ) -> np.ndarray:
        """∇_x of ``influence_on_loss(..., reduction="mean")`` at training points: [k, ...].

        This is −I_pert,loss/n of the paper. The derivative is with respect to the converted input
        (after the data set's ``scale``).
        """
        gradient = self.test_gradient(x_test, y_test, loss, "mean")
        s_test = self.inverse_hvp(gradient, solver, strict, curvature).x
        x, labels = self._raw_points(check_indices(train_indices, len(self.train)))
        s_test = tf.constant(s_test[:, np.newaxis] / len(self.train), self.dtype)
        return self._input_gradients(x, labels, s_test)

    def self_influence(
        self, *, solver=None, curvature=None, train_indices=None, strict=False
    ) -> np.ndarray:
        """∇L(z_i)ᵀ H⁻¹ ∇L(z_i) of every training point, [n]: how far it holds up its own label."""
        result = []
        for x, labels in self._blocks(self._train_points(train_indices)):
            gradients = self._gradients("normal", x, labels).T
            solved = self.inverse_hvp(gradients, solver, strict, curvature).x
            result.append(np.sum(gradients * solved, axis=0))
        return np.concatenate(result)

    def validate(
        self, x_test, y_test, points: int = 20, *, solver=None, curvature=None, progress=False
    ) -> Validation:
        """Refit without the most influential points: can the scores be trusted on this model?

        See ``Validation`` for how to read the answer.

        Args:
            x_test, y_test: [m] test points; what is predicted is the change of their mean loss.
            points: k, those with the largest |influence|; every one costs a refit.
            solver, curvature: as in ``influence_on_loss``.
            progress: show a progress bar.

        Raises:
            ValueError: ``points`` is not in 2..n, or all predicted changes are the same.
        """
        return validate(
            self, x_test, y_test, points, solver=solver, curvature=curvature, progress=progress
        )

    # How it is done.

    def _make_hessian(self) -> HessianOperator:
        return AutodiffHessian(self)

    def _default_curvature(self) -> HessianOperator:
        return self.hessian()

    def _blocks(self, points):
        """A few of these points at a time."""
        if is_stream(points):
            yield from points[0]
            return
        x, labels = points
        for first in range(0, labels.shape[0], _SELF_INFLUENCE_BLOCK):
            yield take_rows((x, labels), slice(first, first + _SELF_INFLUENCE_BLOCK))

    def preconditioner(self):
        """An operator that approximates H⁻¹ for conjugate gradients, or None."""
        return None

    def _solver_for(self, curvature):
        """The solver where none was asked for."""
        if self.num_parameters <= EXACT_SIZE:
            return self._exact
        # The preconditioner is of the model's own Hessian.
        preconditioner = self.preconditioner() if curvature is None else None
        return ConjugateGradient(preconditioner=preconditioner)

    @functools.cached_property
    def _exact(self) -> Exact:
        return Exact()

    def _removal(self, points, s_test) -> np.ndarray:
        """(1/n)(s_testᵀ∇L(z) + s_testᵀ∇regularization) for s_test [p] or [p, m]: [q] or [m, q]."""
        block = s_test.reshape(len(s_test), -1)
        along = self._directional_derivatives(points, tf.constant(block, self.dtype)).numpy()
        regularizer = block.T @ self._regularization_gradient()
        influence = (along.T + regularizer[:, np.newaxis]) / len(self.train)
        return influence.astype(self.dtype).reshape(s_test.shape[1:] + (-1,))
