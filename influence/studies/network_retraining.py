"""Retraining a network without a training point in seconds: by gradient flow, or near the old one.

Both start from the trained parameters and multiply gradients by a factor that is computed once.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import tensorflow as tf

from influence.curvature.gauss_newton import GaussNewton
from influence.data.batches import map_over_batches, sum_over_batches
from influence.fitting.adam import Adam, AdamState
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.solvers.downdate import Downdated, scaled_rows

# Of Anderson's method: 4 to 9 are the rule.
_MOST_STEPS = 30


class GradientFlow:
    """What many small steps of Adam do on average, in a few large ones.

    With a small learning rate η and settled running means, T steps of Adam follow the flow
    dθ/dτ = −D⁻¹ ∇R(θ) for the time τ = Tη, where D is the square root of Adam's second moment. The
    flow is stiff (∇²R has eigenvalues of 100 and of 0.001), and its stiff part is linear: with G
    the Gauss-Newton matrix at the start and u = D^½ θ it is du/dτ = −A u + N(u), with the symmetric
    A = D^-½ G D^-½. So its integrator takes −A as it is, by the exponential, and approximates N:
    the Runge-Kutta method of second order ETD2RK of Cox & Matthews (J. Comput. Phys. 176, 2002),
    with two gradients a step. One eigendecomposition serves every step and every point.

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
        self._gradients = _Gradients(model)
        self._start = model.parameters.astype(np.float64)
        self._steps, self._step = steps, time / steps
        self._root = np.sqrt(np.sqrt(state.second.astype(np.float64)) + Adam.EPSILON)
        matrix = gauss_newton.astype(np.float64) / np.outer(self._root, self._root)
        rates, self._modes = scipy.linalg.eigh(matrix, overwrite_a=True, check_finite=False)
        self._rates = np.maximum(rates, 0.0)
        self._full_start = self._gradients(self._start)

    def without(self, index: int | None) -> np.ndarray:
        """θ [p] after the flow without training point ``index``, or with all of them (None)."""
        decay = self._step * self._rates
        modes, u = self._modes, self._root * self._start
        for step in range(self._steps):
            velocity = self._velocity(u, index, self._full_start if step == 0 else None)
            ahead = u + self._step * (modes @ (_phi_1(decay) * (modes.T @ velocity)))
            bend = self._velocity(ahead, index) - velocity
            bend = modes.T @ bend + self._rates * (modes.T @ (ahead - u))
            u = ahead + self._step * (modes @ (_phi_2(decay) * bend))
        return u / self._root

    def _velocity(self, u, index, full=None):
        """du/dτ at ``u``; ``full`` is the gradient with all points where it is known."""
        theta, gradients = u / self._root, self._gradients
        full = gradients(theta) if full is None else full
        return -gradients.without(index, theta, full) / self._root


def _phi_1(x):
    """(1 − e⁻ˣ)/x for x ≥ 0."""
    x = np.maximum(x, 1e-12)
    return -np.expm1(-x) / x


def _phi_2(x):
    """(e⁻ˣ − 1 + x)/x² for x ≥ 0, whose series starts with 1/2 − x/6."""
    large = np.maximum(x, 1e-4)
    return np.where(x < 1e-4, 0.5 - x / 6, (1 - _phi_1(large)) / large)


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
        self._gradients = _Gradients(model, _slopes(model))
        self._model, self._curvature = model, GaussNewton(model)
        self._slope = model.regularization_gradient().astype(np.float64)
        self._start = model.parameters.astype(np.float64)
        self._damping = damping
        matrix = gauss_newton.astype(np.float64) + damping * np.eye(len(self._start))
        self._root = scipy.linalg.cholesky(matrix, lower=True)

    def without(self, index: int, tolerance: float = 1e-6) -> tuple[np.ndarray, float]:
        """θ [p] without training point ``index``, and the norm of the gradient there.

        Steps of Newton's method with the curvature of ``one_step``, which stays what it is, mixed
        by Anderson's method: until no coordinate of a step is above ``tolerance`` where G + δ is
        the identity, or to the point of the smallest step of 30.
        """
        newton = self._newton(index)
        best: dict[str, Any] = {"size": np.inf}

        def step(coordinates):
            move = scipy.linalg.solve_triangular(self._root, coordinates, trans="T", lower=True)
            gradient = self._gradient(move, index)
            step = self._root.T @ -newton(gradient)
            size = float(np.abs(step).max())
            if size < best["size"]:
                norm = float(np.linalg.norm(gradient))
                best.update(size=size, norm=norm, theta=self._start + move)
            return step

        # Where rounding lets it come no closer it raises: the answer is the best that it saw.
        with contextlib.suppress(scipy.optimize.NoConvergence):
            scipy.optimize.anderson(
                step,
                np.zeros(len(self._start)),
                alpha=1.0,
                M=3,
                line_search=None,
                maxiter=_MOST_STEPS,
                f_tol=tolerance,
            )
        return best["theta"], best["norm"]

    def one_step(self, index: int) -> np.ndarray:
        """θ [p] after one step of Newton's method, without training point ``index``.

        The influence with G + δ is the same step with the curvature of all points. Here the point
        takes its own along, the G + δ − J_iᵀΛ_iJ_i/n of Woodbury's identity; what that adds is its
        leverage. (The regulariser's 1/n, which goes too, is nothing beside δ.)
        """
        return self._start - self._newton(index)(self._gradient(None, index))

    def _newton(self, index):
        """The inverse of the curvature without point ``index``, as a function of [p]."""
        points = self._model.points.chosen([index])
        rows = scaled_rows(*self._curvature.factors(points)) / np.sqrt(self._gradients.n)
        left = Downdated(rows, self._solve(rows.T))
        return lambda gradient: left.correct(self._solve(gradient))

    def _solve(self, block):
        return scipy.linalg.cho_solve((self._root, True), block)

    def _gradient(self, move, index):
        """∇ of the objective at θ̃ + ``move``, [p]; None is no move, where B has none."""
        gradients, theta = self._gradients, self._start
        gradient, slope = np.zeros_like(theta), self._slope
        if move is not None and move.any():
            theta = theta + move
            gradient, slope = gradients.losses(theta), gradients.regularization(theta)
            gradient = gradient + slope - self._slope + self._damping * move
        return gradient - (gradients.of_point(index, theta) + slope) / gradients.n


class _Gradients:
    """∇ of (1/n) Σ (L_j(θ) − s_jᵀ f_j(θ)), f the outputs and s 0 or given, and of its parts at any
    θ, in float64.

    On a model of its own, so that the parameters of the one it was made from stay.
    """

    def __init__(self, model: GenericNeuralNet, slopes: tf.Tensor | None = None):
        self.n = len(model.train)
        self._model = model._clone(model.train)
        arrays = self._model.tensors if slopes is None else (*self._model.tensors, slopes)
        # Compiled for this model: the arrays are captured, θ is in its variables.
        self._compiled = tf.function(functools.partial(self._scan, arrays), autograph=False)

    def __call__(self, theta: np.ndarray) -> np.ndarray:
        """With the regulariser's, [p]."""
        return self.losses(theta) + self.regularization(theta)

    def without(self, index: int | None, theta: np.ndarray, full: np.ndarray) -> np.ndarray:
        """The mean over all points but one, from that over ``full``, regulariser included."""
        if index is None:
            return full
        own = self.of_point(index, theta) + self.regularization(theta)
        return full + (full - own) / (self.n - 1)

    def losses(self, theta: np.ndarray) -> np.ndarray:
        """Without the regulariser's, [p]."""
        self._model.parameters = theta
        return self._compiled().numpy().astype(np.float64) / self.n

    def of_point(self, index: int, theta: np.ndarray) -> np.ndarray:
        """∇L of one training point, [p]."""
        self._model.parameters = theta
        points = self._model.points.chosen([index])
        return self._model.scans.gradients("normal", points)[0].astype(np.float64)

    def regularization(self, theta: np.ndarray) -> np.ndarray:
        """The regulariser's, [p]."""
        self._model.parameters = theta
        return self._model.regularization_gradient().astype(np.float64)

    def _scan(self, arrays):
        zero = tf.zeros(self._model.num_parameters, self._model.dtype)
        return sum_over_batches(self._model.sum_gradient, arrays, self._model.batch_size, zero)


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
    scan = functools.partial(map_over_batches, of_batch, (x, labels), model.batch_size, like)
    return tf.function(scan, autograph=False)()
