"""Retraining a network without a training point in seconds: by gradient flow, or near the old one.

Both start from the trained parameters and multiply gradients by a factor that is computed once.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import tensorflow as tf

from influence.curvature.gauss_newton import GaussNewton
from influence.data.batches import map_over_batches, sum_over_batches
from influence.data.vectors import flatten
from influence.fitting.adam import Adam, AdamState
from influence.objective.generic_neural_net import GenericNeuralNet


class GradientFlow:
    """What many small steps of Adam do on average, in a few large implicit ones.

    With a small learning rate η and settled running means, T steps of Adam follow the flow
    dθ/dτ = −D⁻¹ ∇R(θ) for the time τ = Tη, where D is the square root of Adam's second moment. The
    flow is stiff (∇²R has eigenvalues of 100 and of 0.001), so it is integrated by the linearly
    implicit Euler method with the Gauss-Newton matrix G at the start as its Jacobian: ``steps``
    times θ ← θ − h (D + hG)⁻¹ ∇R(θ), h = τ/steps. One factor serves every step and every point.

    Args:
        model: trained.
        state: of Adam, where it stopped.
        time: τ, the number of Adam's steps times their learning rate.
        steps: of the integration.
        gauss_newton: G [p, p] at the model's parameters.

    Examples:
        From an optimum the flow with all points goes nowhere; without one, to the new optimum:

        >>> import numpy as np
        >>> from influence import AdamState, BinaryLogisticRegression, Dataset, GradientFlow
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> state = AdamState(0, model.parameters, first=np.zeros(1), second=np.ones(1))
        >>> flow = GradientFlow(model, state, 50.0, 100, model.gauss_newton().dense())
        >>> bool(np.allclose(flow.without(None), model.parameters))
        True
        >>> bool(np.allclose(flow.without(4), model.refit(4).parameters, rtol=1e-3))
        True
    """

    def __init__(
        self,
        model: GenericNeuralNet,
        state: AdamState,
        time: float,
        steps: int,
        gauss_newton: np.ndarray,
    ) -> None:
        self._losses = _ShiftedLosses(model)
        self._start = model.parameters.astype(np.float64)
        self._steps, self._step = steps, time / steps
        metric = np.sqrt(state.second.astype(np.float64)) + Adam.EPSILON
        matrix = np.diag(metric) + self._step * gauss_newton.astype(np.float64)
        self._factor = scipy.linalg.cho_factor(matrix)

    def without(self, index: int | None) -> np.ndarray:
        """θ [p] after the flow without training point ``index``, or with all of them (None)."""
        theta, losses = self._start.copy(), self._losses
        for _ in range(self._steps):
            _, gradient = losses(theta)
            if index is not None:
                gradient = (losses.n * gradient - losses.point_gradient(index)) / (losses.n - 1)
            gradient = gradient + losses.regularization()[1]
            theta -= self._step * scipy.linalg.cho_solve(self._factor, gradient)
        return theta


class Proximal:
    """Retraining that stays close to the old network: what influence functions estimate away from
    an optimum (Bae et al. 2022, arXiv 2209.05364).

    With θ̃ the trained parameters, the answer without point i minimises

        B(θ; θ̃) + (δ/2)‖θ − θ̃‖² − (1/n)(L(z_i, θ) + regularization(θ)),

    where B is the Bregman divergence of the objective in the network's outputs: the mean over the
    training points of L(f(θ)) − L(f(θ̃)) − ∇L(f(θ̃))ᵀ(f(θ) − f(θ̃)), and the same of the
    regulariser in θ. B is smallest at θ̃, with Hessian G there, so to first order in 1/n the answer
    is θ̃ + (1/n)(G + δ)⁻¹(∇L + ∇regularization): the influence with G + δ.

    Args:
        model: trained; its loss must be convex in the outputs.
        damping: δ.
        gauss_newton: G [p, p] at the model's parameters.

    Examples:
        Without point 4 the test loss changes as the influence with G + δ says, δ = 10:

        >>> from influence import BinaryLogisticRegression, Dataset, Proximal
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> matrix = model.gauss_newton()
        >>> theta, norm = Proximal(model, 10.0, matrix.dense()).without(4)
        >>> moved = model.with_parameters(theta)
        >>> (moved.losses([[1.5]], [1]) - model.losses([[1.5]], [1])).round(2).tolist()
        [-0.02]
        >>> model.influence_on_loss(
        ...     [[1.5]], [1], train_indices=[4], curvature=matrix + 10.0
        ... ).round(2).tolist()
        [[-0.02]]
    """

    def __init__(self, model: GenericNeuralNet, damping: float, gauss_newton: np.ndarray) -> None:
        self._losses = _ShiftedLosses(model, _slopes(model))
        self._model, self._curvature = model, GaussNewton(model)
        self._slope = model.regularization_gradient().astype(np.float64)
        self._start = model.parameters.astype(np.float64)
        self._damping = damping
        matrix = gauss_newton.astype(np.float64) + damping * np.eye(len(self._start))
        self._root = scipy.linalg.cholesky(matrix, lower=True)
        # Falls of the objective, a mean of rounded numbers below 1, that mean nothing.
        self._rounding = 0.01 * float(np.finfo(model.dtype).eps)

    def without(self, index: int, tolerance: float = 1e-6) -> tuple[np.ndarray, float]:
        """θ [p] without training point ``index``, and the norm of the gradient there.

        L-BFGS in coordinates where G + δ is the identity: its first step is the influence. It
        stops where the largest entry of the gradient in them is ``tolerance``, or where rounding
        lets the objective fall no more.
        """
        best: dict[str, Any] = {"norm": np.inf}

        def value_and_gradient(coordinates):
            move = scipy.linalg.solve_triangular(self._root, coordinates, trans="T", lower=True)
            value, gradient = self._objective(move, index)
            norm = float(np.linalg.norm(gradient))
            if norm < best["norm"]:
                best.update(norm=norm, theta=self._start + move)
            return value, scipy.linalg.solve_triangular(self._root, gradient, lower=True)

        scipy.optimize.minimize(
            value_and_gradient,
            np.zeros(len(self._start)),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 50, "gtol": tolerance, "ftol": self._rounding, "maxls": 10},
        )
        return best["theta"], best["norm"]

    def one_step(self, index: int) -> np.ndarray:
        """θ [p] after one step of Newton's method, without training point ``index``.

        The influence with G + δ is the same step with the curvature of all points. Here the point
        takes its own along, the G + δ − J_iᵀΛ_iJ_i/n of Woodbury's identity; what that adds is its
        leverage. (The regulariser's 1/n, which goes too, is nothing beside δ.)
        """
        points = self._model.points.chosen([index])
        jacobians, curvatures = self._curvature.factors(points)
        jacobian, curvature = jacobians[0].astype(np.float64), curvatures[0] / self._losses.n
        gradient = self._model.scans.gradients("normal", points)[0] + self._slope
        right = np.column_stack([gradient / self._losses.n, jacobian.T])
        solved = scipy.linalg.cho_solve((self._root, True), right)
        step, through = solved[:, 0], solved[:, 1:]
        small = np.eye(len(jacobian)) - curvature @ jacobian @ through
        return self._start + step + through @ np.linalg.solve(small, curvature @ jacobian @ step)

    def _objective(self, move, index):
        """The objective at θ̃ + ``move``, up to a constant, and its gradient [p]."""
        losses = self._losses
        value, gradient = losses(self._start + move)
        regularization, slope = losses.regularization()
        keep = 1 - 1 / losses.n
        value += keep * regularization - self._slope @ move - losses.point_loss(index) / losses.n
        gradient = gradient + keep * slope - self._slope
        gradient -= losses.point_gradient(index) / losses.n
        value += self._damping / 2 * move @ move
        return value, gradient + self._damping * move


class _ShiftedLosses:
    """(1/n) Σ (L_j(θ) − s_jᵀ f_j(θ)) and its gradient, f the outputs, at any θ; s is 0 or given.

    On a model of its own, so that the parameters of the one it was made from stay.
    """

    def __init__(self, model: GenericNeuralNet, slopes: tf.Tensor | None = None):
        self.n = len(model.train)
        self._model = model._clone(model.train)
        self._model.parameters = model.parameters
        self._slopes = slopes
        arrays = self._model.tensors if slopes is None else (*self._model.tensors, slopes)
        # Compiled for this model: the arrays are captured, θ is in its variables.
        self._compiled = tf.function(functools.partial(self._scan, arrays))

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """At ``theta`` [p], float64; the other methods answer for the same θ."""
        self._model.parameters = theta
        value, gradient = self._compiled()
        return float(value) / self.n, gradient.numpy().astype(np.float64) / self.n

    def point_loss(self, index: int) -> float:
        """The loss of one training point."""
        points = self._model.points.chosen([index])
        return float(self._model.scans.losses("normal", points).numpy()[0])

    def point_gradient(self, index: int) -> np.ndarray:
        """∇L of one training point, [p]."""
        points = self._model.points.chosen([index])
        return self._model.scans.gradients("normal", points)[0].astype(np.float64)

    def regularization(self) -> tuple[float, np.ndarray]:
        """The regulariser and its gradient [p]."""
        gradient = self._model.regularization_gradient().astype(np.float64)
        return float(self._model.regularization()), gradient

    def _scan(self, arrays):
        model = self._model

        def of_batch(x, labels, slopes=None):
            with tf.GradientTape() as tape:
                outputs = model.logits(model.convert(x))
                value = tf.reduce_sum(model.example_losses(outputs, labels))
                if slopes is not None:
                    value -= tf.reduce_sum(slopes * outputs)
            return value, flatten(tape.gradient(value, model.variables, None, "zero"))

        zero = tf.zeros([], model.dtype), tf.zeros(model.num_parameters, model.dtype)
        return sum_over_batches(of_batch, arrays, model.batch_size, zero)


def _slopes(model: GenericNeuralNet) -> tf.Tensor:
    """∇L in the outputs of every training point at the model's parameters: [n, ...]."""

    def of_batch(x, labels):
        outputs = model.logits(model.convert(x))
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = tf.reduce_sum(model.example_losses(outputs, labels))
        return tape.gradient(value, outputs)

    x, labels = model.tensors
    like = tf.TensorSpec([None, *model.outputs(model.train.x[:1]).shape[1:]], model.dtype)
    return tf.function(lambda: map_over_batches(of_batch, (x, labels), model.batch_size, like))()
