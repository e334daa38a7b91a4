"""Removals from linear models: the points' own curvature goes, too, in closed form."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from influence.curvature.operator import HessianOperator
from influence.linear.forms import OutputForms
from influence.linear.penalty import Penalty
from influence.linear.terms import PointTerms, point_terms
from influence.objective.generic_neural_net import EXACT_SIZE
from influence.objective.removal import Removal, undetermined
from influence.objective.sets import Sets
from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.downdate import inner_inverses
from influence.solvers.exact import Exact
from influence.solvers.solution import SolverError

# To which conjugate gradients solve for a step without a point.
_TOLERANCE = 1e-10


def one_newton_step(
    terms: PointTerms, inverse: np.ndarray, forms: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(M − ∇²ℓ_i)⁻¹(∇ℓ_i + ρ) of each of b points, [p, b], and where there is none, [b].

    By Woodbury's identity it is M⁻¹(X_i (s_i + a_i) + ρ) with a = R (I − RᵀKR)⁻¹ Rᵀ u,
    K = XᵀM⁻¹X and u = K s + XᵀM⁻¹ρ. For c = 1 and ρ = 0 that is the step M⁻¹∇ℓ_i of the influence
    function over 1 − h_i, with the leverage h_i = A_i K_i.

    Args:
        terms: of the points.
        inverse: M⁻¹, [p, p].
        forms: K of each, [b, c, c].
        slope: ρ, [p].
    """
    beside = inverse @ slope
    transposed = np.swapaxes(terms.roots, 1, 2)
    outputs = np.einsum("bij,bj->bi", forms, terms.slopes)
    outputs += terms.rows @ beside.reshape(terms.rows.shape[1], -1)
    inner, left = inner_inverses(transposed @ forms @ terms.roots)
    correction = terms.roots @ (inner @ (transposed @ outputs[:, :, np.newaxis]))
    gradients = terms.along(terms.slopes + correction[:, :, 0])
    return inverse @ gradients.T + beside[:, np.newaxis], left == 0


def single_steps(
    points: Iterable[PointTerms], inverse: np.ndarray, model: Any, sets: Sets
) -> Iterator[np.ndarray]:
    """The steps without each of ``sets``, which are the single ``points``: [p, b].

    Args:
        points: their terms, a few at a time.
        inverse: M⁻¹, [p, p].
        model: a ``GenericNeuralNet`` with linear logits.

    Raises:
        SolverError: a point's leverage is 1.
    """
    slope, forms, first = model._removed_slope(), OutputForms(inverse, model.num_outputs), 0
    for terms in points:
        steps, full = one_newton_step(terms, inverse, forms(terms.rows), slope)
        if full.any():
            raise undetermined(sets.name(first + int(np.argmax(full))))
        yield steps
        first += len(full)


class LinearRemoval(Removal):
    """``Removal`` with the closed forms of a ``LinearModel``, in float64 whatever its dtype.

    "newton" is the step of the whole objective without the set: where the regulariser stands beside
    a mean, what it loses with k points, k∇²pen, goes too. Single points are a scan of the data, if
    the inverse is a matrix. For least squares the step is the refit.
    """

    def _newton(self, sets):
        self._check_classes(sets)
        solver = self._solver_for(sets)
        if self._large(sets):
            yield from self._newton_of_large(sets, solver)
            return
        if not (sets.single and isinstance(solver, Exact)) or np.ptp(self._masses(sets)):
            yield from super()._newton(sets)
            return
        terms = point_terms(self._model, sets.members[:, 0])
        yield from single_steps(terms, self._inverse(1.0, solver), self._model, sets)

    def _large(self, sets):
        """Whether each set has as many rows as there are parameters, and these are many: then its
        curvature is no update of low rank, and conjugate gradients take far less than a factor."""
        model = self._model
        size = model.num_parameters
        rows = sets.sizes.min() * model.num_outputs
        return self._asked_solver is None and size > EXACT_SIZE and rows >= size

    def _solver_for(self, sets):
        if self._large(sets):
            return self._model._solver_for(self._asked)
        solver = self._model._solver_for(None) if self._flat() else super()._solver_for(sets)
        if self._asked_solver is not None or not isinstance(solver, ConjugateGradient):
            return solver
        # What goes with a point is divided by 1 − its leverage, which may be 1e-5. A curvature in
        # float32, which somebody gave, has no more digits than the solver asks for.
        exact = self._operator.dtype == np.float64
        return replace(solver, tolerance=_TOLERANCE) if exact else solver

    def _flat(self):
        """Whether there are so many more parameters than points that a solve for each of them takes
        less than a matrix of all parameters."""
        if self._asked_solver is not None or self._asked is not None:
            return False
        n, d = len(self._model.train), self._model.weights.shape[0]
        return 2 * n <= d and self._model._wide_forms() is not None

    def _newton_of_large(self, sets, solver):
        for members, mass in zip(sets.members, self._masses(sets)):
            operator = _LessPoints(self._without(mass), list(point_terms(self._model, members)))
            gradient = self._gradients([members])
            yield solver.solve(operator, gradient, self._strict).x / self._n

    def _gradients(self, members):
        slope = self._model._removed_slope().astype(np.float64)
        if isinstance(members, np.ndarray):
            blocks = [terms.gradients for terms in point_terms(self._model, members[:, 0])]
            return np.concatenate(blocks).T + np.outer(slope, self._shares[members[:, 0]])
        columns = [
            sum(terms.gradients.sum(axis=0) for terms in point_terms(self._model, each))
            + self._shares[each].sum() * slope
            for each in members
        ]
        return np.stack(columns, axis=1)

    @functools.cached_property
    def _shares(self):
        """How many times the regulariser goes with each training point, [n]."""
        shares = self._model._removed_shares(self._model.tensors)
        return np.broadcast_to(np.asarray(shares, np.float64), self._n)

    def _masses(self, sets):
        if self._model.keeps_sum:
            return np.zeros(len(sets))
        if sets.single:
            return self._shares[sets.members[:, 0]]
        return np.array([self._shares[each].sum() for each in sets.members])

    def _row_blocks(self, members):
        for terms in point_terms(self._model, members):
            rows = np.einsum("bj,bik->bkji", terms.rows, terms.roots)
            yield rows.reshape(-1, self._model.num_parameters)

    def _solve(self, block, k, solver):
        if isinstance(solver, Exact):
            return self._inverse(k, solver) @ block
        solution = self._model.inverse_hvp(block, solver, self._strict, self._without(k))
        return solution.x.astype(np.float64) / self._n

    def _without(self, k):
        """C without what k points take of the regulariser."""
        if self._model.keeps_sum:
            return self._operator
        return _LessPenalty(self._operator, self._model.penalty, k / self._n)

    def _inverse(self, k, solver):
        """The inverse of n times that, on its range: [p, p]; kept until another k is asked for."""
        k = 0 if self._model.keeps_sum else k
        if self._kept[0] != k:
            self._kept = k, solver.inverse(self._without(k), self._strict) / self._n
        return self._kept[1]

    _kept: tuple[float, np.ndarray] = -1, np.empty(0)

    def _check_classes(self, sets):
        """Raise a SolverError where a set leaves a class without points, so that the parameters
        have no optimum."""
        model = self._model
        if not model.loss.falls_with_margins:
            return
        # Of the points, which may be in shards; those of weight 0 make no class.
        labels = model.points.labels.numpy()
        counted = labels[:, -1] > 0 if labels.ndim == 2 else np.ones(len(labels), bool)
        _, classes = np.unique(labels.reshape(len(labels), -1)[:, 0], return_inverse=True)
        counts = np.bincount(classes[counted], minlength=classes.max() + 1)
        if len(counts) > 2 and not model.penalty.free(model.weights.shape[0]).any():
            return
        if sets.single:
            single = sets.members[:, 0]
            gone = counted[single] & (counts[classes[single]] == 1)
        else:
            of_sets = [
                np.bincount(classes[each[counted[each]]], minlength=len(counts))
                for each in sets.members
            ]
            gone = np.array([(each == counts)[counts > 0].any() for each in of_sets])
        if gone.any():
            raise SolverError(
                f"Without {sets.name(int(np.argmax(gone)))} a class has no training points: the "
                f"parameters are not determined. Leave it out."
            )


class _LessPenalty(HessianOperator):
    """C without a share of the regulariser's curvature."""

    def __init__(self, operator: HessianOperator, penalty: Penalty, share: float) -> None:
        super().__init__(operator.shape[0], np.float64, operator.num_examples)
        self._operator, self._penalty, self._share = operator, penalty, share

    def _product(self, block):
        product = self._operator @ np.asarray(block)
        return tf.constant(product - self._share * np.asarray(self._penalty.product(block)))

    def _dense(self):
        matrix = np.zeros(self.shape)
        self._penalty.add_to(matrix)
        return self._operator.dense().astype(np.float64) - self._share * matrix


class _LessPoints(HessianOperator):
    """C without the points of ``terms``: C − (1/n) Σ X_i A_i X_iᵀ."""

    def __init__(self, operator: HessianOperator, terms: list[PointTerms]) -> None:
        super().__init__(operator.shape[0], np.float64, operator.num_examples)
        self._operator, self._terms = operator, terms

    def _product(self, block):
        block = np.asarray(block)
        total = np.zeros_like(block)
        for terms in self._terms:
            d, c = terms.rows.shape[1], terms.slopes.shape[1]
            outputs = (terms.rows @ block.reshape(d, -1)).reshape(len(terms.rows), c, -1)
            weighted = (terms.curvatures @ outputs).reshape(len(terms.rows), -1)
            total += (terms.rows.T @ weighted).reshape(total.shape)
        return tf.constant(self._operator @ block - total / self.num_examples)
