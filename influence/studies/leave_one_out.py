"""What really happens when a training point is removed and the model is fitted again."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm import tqdm

from influence.data.dataset import check_indices, check_points
from influence.data.files import fingerprint, load_checkpoint, save_checkpoint
from influence.data.frames import Framed
from influence.data.types import File, Inputs
from influence.linear.model import LinearModel
from influence.objective.minimum import ConvergenceWarning
from influence.objective.sweeps import sweep
from influence.solvers.exact import Exact

# A fixed factor must shrink the gradient at least this much a step, or the point is refitted alone.
_CONTRACTION = 0.7
_MAX_STEPS = 50


@dataclass(frozen=True)
class LeaveOneOut(Framed):
    """Refits without one training point each.

    Attributes:
        indices: [k] training points that were removed.
        changes: [k, m] loss of each test point after the refit minus before: > 0 is helpful.
        gradient_norms: [k] of the n − 1 objective at each refit.
        steps: [k] gradients that each refit took (0 where the point was refitted alone).

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset, leave_one_out
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> result = leave_one_out(model, [0, 4], [[1.5], [-0.5]], [1, 0])
        >>> result.indices.tolist(), result.changes.shape
        ([0, 4], (2, 2))
        >>> bool((result.gradient_norms <= 1e-8).all())
        True
    """

    indices: np.ndarray
    changes: np.ndarray
    gradient_norms: np.ndarray
    steps: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """``changes``, a row for each training point, a column for each test point."""
        columns = pd.RangeIndex(self.changes.shape[1], name="test point")
        return pd.DataFrame(self.changes, pd.Index(self.indices, name="training point"), columns)


def leave_one_out(
    model: LinearModel,
    indices: ArrayLike,
    x_test: Inputs,
    y_test: ArrayLike,
    *,
    gradient_tolerance: float = 1e-8,
    block_size: int = 32,
    checkpoint: File | None = None,
    progress: bool = False,
) -> LeaveOneOut:
    """Refit a fitted linear model without each of ``indices``, from θ̂ to the true optimum.

    Every column iterates θ ← θ − H⁻¹∇R₋ᵢ(θ) in float64, where H is the Hessian of the *full*
    objective, factored once and corrected by what the last step taught of the point's own
    curvature, and ∇R₋ᵢ the exact gradient of the n − 1 objective, until its norm is
    ``gradient_tolerance``. A point with so much leverage that this does not contract is refitted
    alone by ``model.refit``. The blocks are a sweep: see ``objective.sweeps``.

    Args:
        model: fitted.
        indices: [k] training points.
        x_test, y_test: [m] test points.
        gradient_tolerance: the norm of ∇R₋ᵢ to reach.
        block_size: refits that travel together through one scan of the data.
        checkpoint: a file that every finished block is saved to, and read from after a kill.
        progress: show a progress bar.

    Warns:
        ConvergenceWarning: some refit stopped above the tolerance (see ``gradient_norms``).

    Examples:
        What the first-order scores predict of every refit, and what it does:

        >>> from influence import BinaryLogisticRegression, Dataset, leave_one_out
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> model.influence_on_loss([[1.5]], [1]).round(2).tolist()
        [[0.09, 0.05, 0.05, 0.09, -0.27]]
        >>> leave_one_out(model, range(5), [[1.5]], [1]).changes.T.round(2).tolist()
        [[0.11, 0.05, 0.05, 0.11, -0.39]]
    """
    indices = check_indices(indices, len(model.train))
    shape, targets = model.train.x.shape[1:], model.train.labels.shape[1:]
    x_test, y_test = check_points(x_test, y_test, shape, "x_test", "y_test", targets)
    theta = model.parameters.astype(np.float64)
    own = type(model).__name__, model.loss, model.penalty, model.keeps_sum
    settings = *own, gradient_tolerance, block_size
    data = model.train.x, model.train.labels, x_test, y_test
    key = fingerprint(repr(settings), theta, indices, *data)
    done = _load(checkpoint, key)
    blocks = np.split(indices, range(block_size, len(indices), block_size))
    todo = [number for number in range(len(blocks)) if number not in done]
    with tqdm(total=len(indices), desc="leave-one-out", disable=None if progress else True) as bar:
        bar.update(sum(len(blocks[number]) for number in done))
        if todo:
            task = _Refits(model, theta, gradient_tolerance, (x_test, y_test))
            for place, result in sweep(task, [blocks[number] for number in todo]):
                done[todo[place]] = result
                _save(checkpoint, key, done)
                bar.update(len(result[0]))
    parts = [done[number] for number in range(len(blocks))]
    changes, norms, steps = (np.concatenate(part) for part in zip(*parts))
    if (norms > gradient_tolerance).any():
        warnings.warn(
            f"{int((norms > gradient_tolerance).sum())} of {len(norms)} refits stopped above a "
            f"gradient norm of {gradient_tolerance:g} (the largest: {norms.max():.2g}).",
            ConvergenceWarning,
            stacklevel=2,
        )
    return LeaveOneOut(indices, changes, norms, steps)


def _factor(model):
    # Rounding in the factor only slows the contraction, never moves its fixed point; above a few
    # hundred parameters half the memory and twice the speed are worth it.
    dtype = np.float64 if model.num_parameters <= 500 else np.float32
    return Exact().factor(model.hessian(dtype))


@dataclass(frozen=True)
class _Refits:
    """(changes [b, m], gradient norms [b], steps [b]) of the refits without a block of points.

    What they share is computed where they are, because its last bits depend on the threads there.
    """

    model: LinearModel
    theta: np.ndarray
    tolerance: float
    test: tuple[Any, Any]

    def __call__(self, indices):
        thetas, norms, steps = _refit_block(
            self.model, self._factor, self.theta, indices, self.tolerance
        )
        return (self.model.losses_at(thetas, *self.test) - self._before).T, norms, steps

    @functools.cached_property
    def _factor(self):
        return _factor(self.model)

    @functools.cached_property
    def _before(self):
        return self.model.losses_at(self.theta[:, np.newaxis], *self.test)


def _refit_block(model, factor, theta, indices, tolerance):
    """(thetas [p, k], gradient norms [k], steps [k]) of the refits without ``indices``."""
    thetas = np.repeat(theta[:, np.newaxis], len(indices), axis=1)
    norms, steps = np.full(len(indices), np.inf), np.zeros(len(indices), int)
    todo, alone, last = np.arange(len(indices)), [], None
    taught = np.zeros(len(indices), bool)
    for _ in range(_MAX_STEPS):
        gradients = model.gradients_without(thetas[:, todo], indices[todo])
        steps[todo] += 1
        reached = np.linalg.norm(gradients, axis=0)
        worse = ~(reached <= np.maximum(_CONTRACTION * norms[todo], tolerance))
        # Near rounding what the last step taught can be noise: then once more without it.
        stuck = worse & ~taught[todo]
        alone.extend(todo[stuck])
        norms[todo] = reached
        keep = ~stuck & (reached > tolerance)
        todo, gradients, worse = todo[keep], gradients[:, keep], worse[keep]
        if not len(todo):
            break
        step = solved = factor @ gradients
        if last is not None:
            taught[todo] = ~worse
            learned = _secant(gradients, solved, *(a[:, keep] for a in last))
            step = np.where(worse, solved, learned)
        thetas[:, todo] -= step
        last = gradients, solved, step
    for column in [*alone, *todo]:
        alone_model = model.refit(int(indices[column]))
        thetas[:, column] = alone_model.parameters
        norms[column] = np.linalg.norm(alone_model.gradient())
        steps[column] = 0
    return thetas, norms, steps


def _secant(gradients, solved, last_gradients, last_solved, last_step):
    """The next step of each column, ``solved`` = H⁻¹ ``gradients`` with what the last one taught of
    the curvature: the symmetric rank-one update of H⁻¹ (Nocedal and Wright, equation 6.25, and 6.26
    for where to leave it out). What H lacks is the curvature of one point."""
    change = gradients - last_gradients
    missed = -last_step - (solved - last_solved)
    along = np.sum(missed * change, axis=0)
    sizes = np.linalg.norm(missed, axis=0) * np.linalg.norm(change, axis=0)
    weight = np.sum(missed * gradients, axis=0) / np.where(along == 0, 1.0, along)
    return solved + np.where(np.abs(along) > 1e-8 * sizes, weight, 0.0) * missed


def _load(path, key):
    saved = load_checkpoint(path, key)
    if saved is None or "numbers" not in saved:
        return {}
    numbers = saved["numbers"].tolist()
    return {number: tuple(saved[f"{name}_{number}"] for name in _SAVED) for number in numbers}


_SAVED = ("changes", "norms", "steps")


def _save(path, key, done) -> None:
    arrays = {
        f"{name}_{number}": part
        for number, block in done.items()
        for name, part in zip(_SAVED, block)
    }
    save_checkpoint(path, key, numbers=list(done), **arrays)
