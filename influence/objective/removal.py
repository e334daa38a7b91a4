"""What a model becomes without sets of training points: to first order, by a step, by a refit."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from influence.curvature.gauss_newton import GaussNewton
from influence.curvature.operator import MAX_DENSE_SIZE, HessianOperator
from influence.data.types import Inputs, Loss, Order, PointTensors, Reduction
from influence.objective.sets import Sets
from influence.objective.sweeps import in_order, sweep
from influence.solvers.downdate import Downdated, rows_of_gram, scaled_rows
from influence.solvers.exact import Exact
from influence.solvers.own_inverse import OwnInverse
from influence.solvers.semidefinite import RangeInverse
from influence.solvers.solution import Solver, SolverError, SolverWarning

# Columns that are solved for together, and points whose Jacobians are held at a time.
_COLUMNS = 512
# A relative error of a step that is worth a word.
_ERROR = 0.01


class Removal:
    """The change of θ when sets of training points are removed, in one of three orders.

    With C the curvature, Σ over the k points of a set S, and ρ the gradient of what goes of the
    regulariser with each point (all of it, or where it stands beside a sum, nothing):

    - "first": (nC)⁻¹ (Σ ∇L + kρ), as the influence functions have it;
    - "newton": (nC − Σ JᵀΛJ)⁻¹ (Σ ∇L + kρ): the set takes its own curvature along, of which
      Gauss-Newton's part is taken, with J the Jacobians of the outputs and Λ the losses' second
      derivatives in them. With C the Hessian of a linear model, or any Gauss-Newton matrix, it is
      one step of the Newton method of that name without the set. What the regulariser's curvature
      loses, k/n of it, is left there; linear models, which know it in closed form, take it away.
    - "refit": the model is fitted again.

    Args:
        model: a ``GenericNeuralNet``, fitted.
        solver, curvature, strict: as for ``influence_on_loss``. By default "newton" factors the
            curvature where the model would do so, and where there are as many columns to solve for
            as parameters.
    """

    def __init__(
        self,
        model: Any,
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        strict: bool = False,
    ) -> None:
        self._model, self._n = model, len(model.train)
        self._asked_solver, self._asked, self._strict = solver, curvature, strict

    def changes(self, sets: Sets, order: Order) -> np.ndarray:
        """Δθ without each of ``sets``: [p, k], in float64."""
        return np.concatenate(list(self.blocks(sets, order)), axis=1)

    def blocks(self, sets: Sets, order: Order) -> Iterator[np.ndarray]:
        """The same, a few columns at a time: [p, b].

        Raises:
            ValueError: another order; for "newton" a loss that is not convex in the outputs; for
                "refit" a set without which the model cannot be fitted.
            SolverError: a set without which the parameters are not determined.
        """
        ways = {"first": self._first, "newton": self._newton, "refit": self._refits}
        if order not in ways:
            raise ValueError(f'order must be "first", "newton" or "refit", not {order!r}.')
        if order == "newton":
            self._model._warn_unless_at_minimum(self._operator)
        return ways[order](sets)

    def loss_changes(
        self, sets: Sets, order: Order, points: PointTensors, loss: Loss
    ) -> Iterator[np.ndarray]:
        """The losses of ``points`` [m] at the new parameters minus those at the present ones, a few
        sets at a time: [m, b]."""
        if order == "newton":
            self._check_determined(sets, points, loss)
        theta = self._model.parameters.astype(np.float64)[:, np.newaxis]
        before = self._model._losses_of(theta, points, loss)
        for block in self.blocks(sets, order):
            yield self._model._losses_of(theta + block, points, loss) - before

    # The three orders.

    def _first(self, sets):
        for first in range(0, len(sets), _COLUMNS):
            gradients = self._gradients(sets.members[first : first + _COLUMNS])
            how = self._asked_solver, self._strict, self._asked
            yield self._model.inverse_hvp(gradients, *how).x.astype(np.float64) / self._n

    def _newton(self, sets):
        solver, told = self._solver_for(sets), False
        for chunk in self._chunks(sets):
            members = sets.members[chunk]
            rows = [self._rows(each) for each in members]
            columns = [self._gradients(members), *[each.T for each in rows]]
            ends = np.cumsum([each.shape[1] for each in columns])[:-1]
            mass = self._masses(sets)[chunk.start]
            solved = self._solve(np.concatenate(columns, axis=1), mass, solver)
            first, *others = np.split(solved, ends, axis=1)
            steps = np.empty_like(first)
            for j, (own, through) in enumerate(zip(rows, others)):
                left = Downdated(own, through)
                if left.left == 0:
                    raise undetermined(sets.name(chunk.start + j))
                if not told:
                    told = self._tell_error(left.left, solver, sets.name(chunk.start + j))
                steps[:, j] = left.correct(first[:, j])
            yield steps

    def _tell_error(self, left, solver, name):
        """Warn where an iterative solver's tolerance is too much for what is ``left`` of 1 beside a
        leverage; whether it did."""
        tolerance = getattr(solver, "tolerance", 0.0)
        error = tolerance / left
        if error <= _ERROR:
            return False
        message = (
            f"The leverage of {name} is {1 - left:.6g}: a solution to a tolerance of {tolerance:g} "
            f"may be wrong by {min(error, 1.0):.0%} after it is divided by 1 minus that. Give "
            f"solver={type(solver).__name__}(tolerance={_ERROR * left:.0e}), or a larger damping."
        )
        if self._strict:
            raise SolverError(message)
        warnings.warn(message, SolverWarning, stacklevel=2)
        return True

    def _refits(self, sets):
        theta = self._model.parameters.astype(np.float64)
        units = [(members, sets.name(j)) for j, members in enumerate(sets.members)]
        for refitted in in_order(sweep(functools.partial(_refitted, self._model), units)):
            yield (refitted - theta)[:, np.newaxis]

    # What a subclass may know better.

    @functools.cached_property
    def _operator(self) -> HessianOperator:
        """C, for "newton"."""
        return self._model._newton_curvature() if self._asked is None else self._asked

    def _gradients(self, members):
        """Σ ∇L + kρ of each set: [p, b]."""
        model, slope = self._model, self._model._removed_slope().astype(np.float64)
        if isinstance(members, np.ndarray):
            gradients = model.scans.gradients("normal", model.points.chosen(members[:, 0]))
            return gradients.T.astype(np.float64) + slope[:, np.newaxis]
        columns = [
            len(each) * (model.scans.mean_gradient("normal", model.points.chosen(each)) + slope)
            for each in members
        ]
        return np.stack(columns, axis=1).astype(np.float64)

    def _row_blocks(self, members):
        """F with FᵀF = Σ JᵀΛJ over a set, a few points at a time: [s, p]."""
        matrix = GaussNewton(self._model)
        for first in range(0, len(members), _COLUMNS):
            points = self._model.points.chosen(members[first : first + _COLUMNS])
            yield scaled_rows(*matrix.factors(points))

    def _solve(self, block, k, solver):
        """(nC)⁻¹ ``block``, C without what k points take of the regulariser where it is known."""
        solution = self._model.inverse_hvp(block, solver, self._strict, self._operator)
        return solution.x.astype(np.float64) / self._n

    # How it is done.

    def _rows(self, members):
        """F of a whole set, [s, p], or of no more than p rows with the same FᵀF."""
        blocks, size = self._row_blocks(members), self._model.num_parameters
        if len(members) * self._model.num_outputs <= size:
            return np.concatenate(list(blocks))
        gram = np.zeros((size, size))
        for block in blocks:
            gram += block.T @ block
        return rows_of_gram(gram)

    def _masses(self, sets):
        """How many times the regulariser goes with each set, [k]."""
        return sets.sizes.astype(float)

    def _widths(self, sets):
        """The columns that each set needs solved, [k]."""
        size = self._model.num_parameters
        return 1 + np.minimum(sets.sizes * self._model.num_outputs, size)

    def _chunks(self, sets):
        """Slices of sets of one size, some columns together."""
        widths, sizes, masses = self._widths(sets), sets.sizes, self._masses(sets)
        start = 0
        while start < len(sets):
            fits = np.cumsum(widths[start : start + _COLUMNS]) <= _COLUMNS
            fits &= sizes[start : start + _COLUMNS] == sizes[start]
            fits &= masses[start : start + _COLUMNS] == masses[start]
            # Up to the first that does not, but one at least.
            number = max(1, int(np.argmin(fits)) if not fits.all() else len(fits))
            yield slice(start, start + number)
            start += number

    def _solver_for(self, sets):
        if self._asked_solver is not None:
            return self._asked_solver
        model = self._model
        solver = model._default_solver(self._asked)
        if isinstance(solver, OwnInverse):
            return solver
        many = self._widths(sets).sum() >= model.num_parameters
        return model._exact if many and model.num_parameters <= MAX_DENSE_SIZE else solver

    def _check_determined(self, sets, points, loss):
        """Raise a SolverError where the training points do not determine the test losses."""
        solver = self._solver_for(sets)
        if isinstance(solver, Exact):
            factor = solver.factor(self._operator)
            if isinstance(factor, RangeInverse):
                factor.check_range(self._model.scans.gradients(loss, points).T)


def _refitted(model, unit):
    """θ of the refit without a set, (its members, its name)."""
    members, name = unit
    try:
        return model.refit(members).parameters
    except (ValueError, SolverError) as error:
        raise ValueError(f"The model cannot be refitted without {name}: {error}") from error


def undetermined(name: str) -> SolverError:
    """What to say of a set, or a point, of leverage 1."""
    return SolverError(
        f"The leverage of {name} is at least 1: the points that are left do not determine the "
        f"parameters. Leave it out, or add a penalty or a damping."
    )


def influence_without(
    model: Any,
    sets: Sets,
    order: Order,
    x_test: Inputs,
    y_test: ArrayLike,
    reduction: Reduction | None,
    loss: Loss,
    how: dict[str, Any],
) -> np.ndarray:
    """The change of each test loss, [m, k], or of their mean, [k], without each of ``sets``: the
    losses are taken at the new parameters.

    Args:
        how: ``solver``, ``curvature`` and ``strict``, as for ``influence_on_loss``.
    """
    points = model.points.checked(x_test, y_test, "x_test", "y_test")
    changes = model._make_removal(**how).loss_changes(sets, order, points, loss)
    parts = [each if reduction is None else each.mean(axis=0) for each in changes]
    return np.concatenate(parts, axis=-1).astype(model.dtype)


def influence_of_sets(
    model: Any,
    sets: Any,
    x_test: Inputs,
    y_test: ArrayLike,
    order: Order,
    reduction: Reduction | None,
    loss: Loss,
    how: dict[str, Any],
) -> np.ndarray:
    """See ``GenericNeuralNet.influence_of_sets``."""
    checked = Sets.of(sets, len(model.train))
    if order != "first":
        return influence_without(model, checked, order, x_test, y_test, reduction, loss, how)
    members, place = np.unique(np.concatenate(list(checked.members)), return_inverse=True)
    scores = model.influence_on_loss(
        x_test, y_test, reduction=reduction, loss=loss, train_indices=members, **how
    )
    parts = np.split(place, np.cumsum(checked.sizes)[:-1])
    return np.stack([scores[..., part].sum(axis=-1) for part in parts], axis=-1)
