"""The stochastic solver of the paper, LiSSA, as one compiled recursion."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.solvers.solution import (
    SampledOperator,
    Solution,
    SolverError,
    as_block,
    complain,
    finish,
    product,
)


@dataclass(frozen=True)
class Lissa:
    """LiSSA (Agarwal et al. 2016; paper, section 3): h ← v + (I − H_s/σ) h, answer h/σ.

    H_s is the curvature, damping included, of ``batch_size`` sampled rows. The repeats advance
    together, each on its own rows, in one compiled loop.

    Args:
        scale: σ. None finds it: from a power-iteration estimate of the largest eigenvalue,
            doubled until a short run stays bounded.
        recursion_depth: steps of one repeat (the paper's t).
        repeats: independent runs that are averaged (the paper's r); their spread is the standard
            error, so at least two.
        batch_size: rows a step.
        seed: of the legacy NumPy generator, as in the 2017 code.
        replacement: False takes consecutive rows of a shuffled data set, reshuffled when used up;
            True draws every row independently.

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

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < np.inf:
            raise ValueError(f"scale must be a positive number or None, not {self.scale!r}.")
        for name, least in (("recursion_depth", 1), ("repeats", 2), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)!r}.")

    def solve(self, operator: SampledOperator, rhs: ArrayLike, strict: bool = False) -> Solution:
        """Solve for ``rhs`` [p] or [p, k].

        Converged means that the residual of the average is explained by the spread between the
        repeats; if it is larger, the recursion was too short.

        Raises:
            SolverError: the recursion diverges at the given ``scale``.
        """
        v, vector = as_block(rhs)
        rows = self.sample(operator.num_examples)
        scale = self.scale
        if scale is None:
            scale = self._bounded_scale(operator, v, rows)
        h = self._run(operator, v, rows, scale)
        # What stays bounded in a short run can still diverge in a long one.
        while self.scale is None and scale < np.inf and not _bounded(h, v, self.recursion_depth):
            scale *= 2
            h = self._run(operator, v, rows, scale)
        if not _bounded(h, v, self.recursion_depth):
            raise SolverError(
                f"Lissa diverges at scale {scale:g}: raise it (scale=None finds one), or add "
                f"damping if the operator may be indefinite."
            )
        x = h / scale
        solution = self._summarise(operator, x, v, scale)
        if not np.all(solution.converged):
            complain(
                f"Lissa's relative residual, {np.max(solution.residual):.2g}, is more than "
                f"sampling noise explains: raise recursion_depth (now {self.recursion_depth}), "
                f"lower the scale (now {scale:g}), or add damping.",
                strict,
            )
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

    def _run(self, operator, v, rows, scale, steps=None) -> np.ndarray:
        """h after ``steps`` steps of every repeat: [repeats, p, k] float64."""
        if operator not in self._compiled:
            self._compiled[operator] = _compile_recursion(operator)
        h = self._compiled[operator](
            tf.constant(v, operator.dtype),
            tf.constant(rows),
            tf.constant(scale, operator.dtype),
            tf.constant(self.recursion_depth if steps is None else steps),
        )
        return h.numpy().astype(np.float64)

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
        while scale < np.inf and not _bounded(self._run(operator, v, rows, scale, steps), v, steps):
            scale *= 2
        return scale

    def _summarise(self, operator, x, v, scale) -> Solution:
        """Average the repeats ``x`` [r, p, k]; hold the residual against their spread."""
        r, p, k = x.shape
        flat = x.transpose(1, 0, 2).reshape(p, r * k)
        hx = product(operator, flat).reshape(p, r, k)
        spread = hx.std(axis=1, ddof=1) / np.sqrt(r)
        mean, hmean = x.mean(axis=0), hx.mean(axis=1)
        size = np.linalg.norm(v, axis=0)
        missing = np.linalg.norm(hmean - v, axis=0)
        curvature = np.sum(mean * hmean, axis=0)
        indefinite = (curvature <= 0) & (size > 0)
        # Rounding leaves a residual, too, where there is hardly any noise.
        noise = 3 * np.linalg.norm(spread, axis=0) + 1e-3 * size
        return Solution(
            x=mean,
            residual=missing / np.where(size == 0, 1.0, size),
            iterations=np.full(k, self.recursion_depth * r),
            converged=(missing <= noise) & ~indefinite,
            negative_curvature=indefinite,
            standard_error=x.std(axis=0, ddof=1) / np.sqrt(r),
            scale=scale,
        )


def _bounded(h: np.ndarray, v: np.ndarray, steps: int) -> bool:
    """Whether ‖h‖ ≤ (steps + 1)‖v‖, which holds as long as no step expands on the whole."""
    limit = (steps + 1.001) * np.linalg.norm(v, axis=0)
    return bool((np.linalg.norm(h, axis=1) <= limit).all())  # False for NaN, too


def _compile_recursion(operator):
    """The whole recursion as one compiled function (v, rows, scale, steps) -> h [r, p, k]."""
    # The operator keys the cache of these functions, so they must not keep it alive.
    reference: Callable[[], Any] = weakref.ref(operator)
    dtype = tf.as_dtype(operator.dtype)

    @tf.function(
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

        return tf.while_loop(lambda t, h: t < steps, step, (0, start), parallel_iterations=1)[1]

    return run
