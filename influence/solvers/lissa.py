"""The stochastic solver of the paper, LiSSA, as one compiled recursion."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import scipy.stats
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.solvers.lanczos import smallest_eigenvalue
from influence.solvers.solution import (
    SampledOperator,
    Solution,
    SolverError,
    as_block,
    complain,
    finish,
    product,
    remedy_of,
)

# What a recursion may be short of, relative to the answer, where no noise hides it.
BIAS = 0.01


@dataclass(frozen=True)
class Lissa:
    """LiSSA (Agarwal et al. 2016; paper, section 3): h ← v + (I − H_s/σ) h, answer h/σ.

    H_s is the curvature, damping included, of ``batch_size`` sampled rows. The repeats advance
    together, each on its own rows, in one compiled loop.

    Args:
        scale: σ. None finds it: from a power-iteration estimate of the largest eigenvalue,
            doubled until a short run stays bounded.
        recursion_depth: steps of one repeat (the paper's t); about 5σ over the smallest eigenvalue
            will do, and a warning says how many that are where they were too few.
        repeats: independent runs that are averaged (the paper's r); their spread is the standard
            error, so at least two.
        batch_size: rows a step.
        seed: of the legacy NumPy generator, as in the 2017 code.
        replacement: False takes consecutive rows of a shuffled data set, reshuffled when used up;
            True draws every row independently, which long recursions over few points need.

    Examples:
        Here all points have the same curvature, so sampling them makes no noise; H = 2.

        >>> from influence import BinaryLogisticRegression, Dataset, Lissa
        >>> model = BinaryLogisticRegression(Dataset([[2], [-2]], [1, 0]), 1.0, dtype="float64")
        >>> solution = Lissa(recursion_depth=50, repeats=2).solve(model.hessian(), [1.0])
        >>> solution.x.round(6).tolist(), solution.standard_error.round(6).tolist()
        ([0.5], [0.0])
        >>> round(solution.scale, 6)
        2.0
    """

    scale: float | None = None
    recursion_depth: int = 5000
    repeats: int = 10
    batch_size: int = 1
    seed: int = 17
    replacement: bool = False
    _compiled: WeakKeyDictionary[Any, Any] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )
    _smallest: WeakKeyDictionary[Any, Any] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < np.inf:
            raise ValueError(f"scale must be a positive number or None, not {self.scale!r}.")
        for name, least in (("recursion_depth", 1), ("repeats", 2), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)!r}.")

    def solve(self, operator: SampledOperator, rhs: ArrayLike, strict: bool = False) -> Solution:
        """Solve for ``rhs`` [p] or [p, k].

        Two things are wrong with an answer x. ``standard_error`` is its noise, as the repeats show
        it. ``bias`` is what the recursion, of t steps, was too short for: as E x = H⁻¹v −
        (I − H/σ)ᵗ⁺¹ H⁻¹v, each further t/2 steps add at most q = (1 − μ/σ)ᵗᐟ² of what the t/2
        before them have added; after the second half, which has added D, that is q/(1 − q) ‖D‖ in
        all, where μ is the smallest eigenvalue. It is bounded by what is known of the operator (its
        ``eigenvalue_bound``: the regulariser of a convex model, and damping), or, where that does
        not do, by Lanczos's method, in 200 products at most.

        Converged means that the bias is no more than twice the noise and 1% of x, and that noise
        explains the true residual, too, as a whole and along the answer. Where it is not, a
        ``SolverWarning`` (with ``strict=True`` a ``SolverError``) says why, and names the
        ``recursion_depth`` that would do: 5σ/μ, as in Klochkov & Liu (2024, arXiv 2409.17357).

        Raises:
            SolverError: the recursion diverges at the given ``scale``.
            ValueError: the operator has no rows of data to draw from.
        """
        v, vector = as_block(rhs)
        rows = self.sample(operator.num_examples)
        scale = self.scale
        if scale is None:
            scale = self._bounded_scale(operator, v, rows)
        half, h = self._run(operator, v, rows, scale)
        # What stays bounded in a short run can still diverge in a long one.
        while self.scale is None and scale < np.inf and not _bounded(h, v, self.recursion_depth):
            scale *= 2
            half, h = self._run(operator, v, rows, scale)
        if not _bounded(h, v, self.recursion_depth):
            raise SolverError(
                f"Lissa diverges at scale {scale:g}: raise it (scale=None finds one), or add "
                f"damping if the operator may be indefinite."
            )
        x, added = h / scale, (h - half).mean(axis=0) / scale
        solution, bounds = self._summarise(operator, x, added, v, scale)
        if not np.all(solution.converged):
            complain(self._reason(operator, solution, *bounds), strict)
        return finish(vector, solution)

    def sample(self, num_examples: int) -> np.ndarray:
        """The rows of every step and repeat: [recursion_depth, repeats, batch_size] int32."""
        random = np.random.RandomState(self.seed)
        shape = (self.repeats, self.recursion_depth, self.batch_size)
        if self.replacement:
            rows = random.randint(num_examples, size=shape)
        else:
            epochs = -(-int(np.prod(shape)) // num_examples)
            order = np.concatenate([random.permutation(num_examples) for _ in range(epochs)])
            rows = order[: int(np.prod(shape))].reshape(shape)
        return np.ascontiguousarray(rows.transpose(1, 0, 2), dtype=np.int32)

    def _run(self, operator, v, rows, scale, steps=None) -> tuple[np.ndarray, np.ndarray]:
        """h after half of ``steps`` and after all of them, of every repeat: [repeats, p, k]."""
        if operator not in self._compiled:
            self._compiled[operator] = _compile_recursion(operator)
        half, h = self._compiled[operator](
            tf.constant(v, operator.dtype),
            tf.constant(rows),
            tf.constant(scale, operator.dtype),
            tf.constant(self.recursion_depth if steps is None else steps),
        )
        return half.numpy().astype(np.float64), h.numpy().astype(np.float64)

    def _bounded_scale(self, operator, v, rows) -> float:
        direction = np.random.RandomState(self.seed).standard_normal(len(v))
        largest = 0.0
        for _ in range(20):
            direction /= np.linalg.norm(direction)
            direction = product(operator, direction)
            largest = float(np.linalg.norm(direction))
            if largest == 0:
                raise SolverError("The operator is zero: Lissa has nothing to invert.")
        scale, steps = largest, min(self.recursion_depth, 500)
        while scale < np.inf:
            if _bounded(self._run(operator, v, rows, scale, steps)[1], v, steps):
                break
            scale *= 2
        return scale

    def _summarise(self, operator, x, added, v, scale):
        """The mean of the repeats ``x`` [r, p, k], held against what is known of it, and two bounds
        of the smallest eigenvalue; ``added`` [p, k] is what the second half has added to it."""
        r, p, k = x.shape
        hx = product(operator, x.transpose(1, 0, 2).reshape(p, r * k)).reshape(p, r, k)
        mean, hmean = x.mean(axis=0), hx.mean(axis=1)
        error = x.std(axis=0, ddof=1) / np.sqrt(r)
        size, length = np.linalg.norm(v, axis=0), np.linalg.norm(mean, axis=0)
        added, hidden = np.linalg.norm(added, axis=0), _hidden(mean, error)
        bias, (below, above) = self._bias(operator, scale, added, hidden)
        indefinite = ((np.sum(mean * hmean, axis=0) <= 0) & (size > 0)) | (above < 0)
        missing = np.linalg.norm(hmean - v, axis=0)
        noise = np.linalg.norm(hx.std(axis=1, ddof=1), axis=0) / np.sqrt(r)
        explained = (missing <= 3 * noise + BIAS * size) & ~_biased(mean, hx, v)
        solution = Solution(
            x=mean,
            residual=missing / np.where(size == 0, 1.0, size),
            iterations=np.full(k, self.recursion_depth * r),
            converged=explained & (bias <= hidden) & ~indefinite,
            negative_curvature=indefinite,
            standard_error=error,
            bias=bias / np.where(length == 0, 1.0, length),
            scale=scale,
        )
        return solution, (below, above)

    def _reason(self, operator, solution, below, above) -> str:
        """Why it has not converged, and what to do; the smallest eigenvalue is between the two."""
        residual = f"its relative residual is {np.max(solution.residual):.2g}"
        if np.any(solution.negative_curvature):
            return (
                f"Lissa met negative curvature: the operator is not positive definite"
                f"{remedy_of(operator, min(above, 0.0))}"
            )
        length = np.linalg.norm(solution.x, axis=0)
        if (solution.bias * length <= _hidden(solution.x, solution.standard_error)).all():
            return (
                f"Lissa has not converged: {residual}, which is more than the spread between its "
                f"{self.repeats} repeats explains; raise the scale (now {solution.scale:.3g}), or "
                f"sample with replacement=True, as few points without it make a bias."
            )
        if below <= 0:
            return (
                f"Lissa cannot tell whether its recursion was long enough ({residual}), as the "
                f"smallest eigenvalue of the operator, {above:.2g} at most, may be 0: add damping, "
                f"or use ConjugateGradient()."
            )
        return (
            f"Lissa's recursion is too short: it would still change the answer by up to "
            f"{np.max(solution.bias):.2g} of its norm ({residual}); a recursion_depth of "
            f"{math.ceil(math.log(2 / BIAS) * solution.scale / below)} (now "
            f"{self.recursion_depth}) would do, or ConjugateGradient()."
        )

    def _bias(self, operator, scale, added, hidden):
        """A bound of what the recursion would still add to each column, and two bounds of the
        smallest eigenvalue."""
        known = operator.eigenvalue_bound() if hasattr(operator, "eigenvalue_bound") else -np.inf
        bias = self._to_come(added, known / scale)
        if (bias <= hidden).all():
            return bias, (known, np.inf)
        if operator not in self._smallest:
            rounding = 10 * np.finfo(operator.dtype).eps
            bounds = smallest_eigenvalue(operator, operator.shape[0], rounding)
            self._smallest[operator] = bounds
        below, above = self._smallest[operator]
        below = max(below, known)
        return self._to_come(added, below / scale), (below, above)

    def _to_come(self, added, ratio):
        """The geometric series that begins with what the second half has ``added``; ``ratio`` is
        μ/σ."""
        if ratio <= 0:
            return np.where(added > 0, np.inf, 0.0)
        steps = self.recursion_depth - self.recursion_depth // 2
        exponent = steps * np.log1p(-min(ratio, 1 - 1e-12))
        return added * np.exp(exponent) / -np.expm1(exponent)


def _hidden(x, error):
    """The bias that is let pass, for each column of an answer and its standard errors: [k]."""
    return 2 * np.linalg.norm(error, axis=0) + BIAS * np.linalg.norm(x, axis=0)


def _biased(mean, hx, v):
    """Whether the residuals Hx_r − v lean to one side along the answer, by more than 5% and than
    chance has it (once in a thousand), for each column of ``hx`` [p, r, k]: [k].

    Along the answer there is least noise. A recursion that goes over the same few rows again and
    again, each once before any comes back, ends beside H⁻¹v, as its rows depend on each other.
    """
    r = hx.shape[1]
    along = np.sum(mean[:, np.newaxis] * (hx - v[:, np.newaxis]), axis=0)
    chance = scipy.stats.t.isf(5e-4, r - 1) * along.std(axis=0, ddof=1) / np.sqrt(r)
    return np.abs(along.mean(axis=0)) > np.maximum(chance, 0.05 * np.abs(np.sum(mean * v, axis=0)))


def _bounded(h: np.ndarray, v: np.ndarray, steps: int) -> bool:
    """Whether ‖h‖ ≤ (steps + 1)‖v‖, which holds as long as no step expands on the whole."""
    limit = (steps + 1.001) * np.linalg.norm(v, axis=0)
    return bool((np.linalg.norm(h, axis=1) <= limit).all())  # False for NaN, too


def _compile_recursion(operator):
    """The recursion as one compiled function (v, rows, scale, steps) -> h halfway and at its end,
    [r, p, k]."""
    # The operator keys the cache of these functions, so they must not keep it alive.
    reference: Callable[[], Any] = weakref.ref(operator)
    dtype = tf.as_dtype(operator.dtype)

    @tf.function(
        autograph=False,
        jit_compile=operator.jit_compile,
        input_signature=[
            tf.TensorSpec([operator.shape[0], None], dtype),
            tf.TensorSpec([None, None, None], tf.int32),
            tf.TensorSpec([], dtype),
            tf.TensorSpec([], tf.int32),
        ],
    )
    def run(v, rows, scale, steps):
        start = tf.repeat(v[tf.newaxis], tf.shape(rows)[1], axis=0)

        def step(t, h):
            return t + 1, v + h - (reference().on(rows[t]) @ h) / scale

        def until(end, t, h):
            return tf.while_loop(lambda t, h: t < end, step, (t, h), parallel_iterations=1)

        half = until(steps // 2, 0, start)
        return half[1], until(steps, *half)[1]

    return run
