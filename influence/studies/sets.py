"""The training points that matter most together, and how few of them overturn what a model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from influence.data.frames import Framed
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.objective.targets import Target
from influence.solvers.solution import SolverError

# Points are exchanged in sets of at most so many: a round of exchanges takes a refit for each.
_EXCHANGED = 20
# Of the points of a larger set so many are picked, and dropped, at a time: 1/8.
_PART = 8
# Points that are tried, the least missed first, before a set is said to need all of its points.
_TRIED = 3
# A gain below this part of the target's change is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, repr=False)
class InfluentialSet(Framed):
    """Training points, and what their removal does to a target.

    Printed, it is a table of the target before and after.

    Attributes:
        indices: [k] training points, in the order in which they were found.
        predicted: the change of the target, after minus before, by one Newton step of the objective
            without the set.
        actual: the same by the refit without the set, which is always done.
        before: the target with all points.
        size: n, the number of all points.

    Examples:
        >>> from influence.studies.sets import InfluentialSet
        >>> InfluentialSet([4, 1], predicted=-0.5, actual=-0.52, before=0.4, size=50)
        without 2 of 50 training points: 4, 1
                      change      target
        all points                   0.4
        predicted       -0.5        -0.1
        refitted       -0.52       -0.12
    """

    indices: np.ndarray
    predicted: float
    actual: float
    before: float
    size: int

    def __repr__(self) -> str:
        rows = [
            f"without {len(self.indices)} of {self.size} training points: "
            f"{', '.join(map(str, self.indices))}",
            f"{'':12}{'change':>8}{'target':>12}",
            f"{'all points':12}{'':8}{self.before:12.4g}",
        ]
        for name, change in (("predicted", self.predicted), ("refitted", self.actual)):
            rows.append(f"{name:12}{change:8.3g}{self.before + change:12.4g}")
        return "\n".join(rows)

    def to_frame(self) -> pd.DataFrame:
        """The change and the target with all points, as predicted, and after the refit."""
        changes = np.array([0.0, self.predicted, self.actual])
        columns = {"change": changes, "target": self.before + changes}
        return pd.DataFrame(columns, ["all points", "predicted", "refitted"])

    @property
    def heading(self) -> str:
        """Which points they are."""
        return repr(self).splitlines()[0]


def most_influential_set(
    model: GenericNeuralNet,
    target: Target,
    size: int,
    sign: Literal[1, -1] | None = None,
    method: Literal["greedy", "additive"] = "greedy",
) -> InfluentialSet:
    """The ``size`` training points whose removal together changes a target most.

    "additive" takes the points with the largest first-order scores, as if these added up. They do
    not where points stand in for each other: of several that say the same none has a large score,
    and all of them together do (Huang et al., arXiv 2409.18153). "greedy" removes the point with
    the largest effect (``order="newton"``), refits, computes the effects of all others without it,
    and so on; of more than 15 points an eighth of those that are missing is picked at a time. Then
    (in sets of up to 20) it exchanges single points of this set, and of the additive one, as long
    as refits say that this is better, and takes the better end. There is no guarantee of the best
    set: that takes all of them.

    Args:
        model: fitted.
        target: one number; of ``influence.targets``.
        size: k, in 1..n − 1.
        sign: 1 for the largest rise, −1 for the largest fall; None for the larger of the two.
        method: see above.

    Raises:
        ValueError: a target of several numbers, another size, sign or method, or no set that the
            model can be refitted without.

    Examples:
        Two outliers at the same place, each of which hides the other:

        >>> from sklearn.linear_model import LinearRegression
        >>> from influence import from_sklearn
        >>> from influence.studies.sets import most_influential_set
        >>> from influence.targets import Coefficient
        >>> X, y = [[0], [1], [2], [3], [4], [8], [8]], [0, 1, 2, 3, 4, 0, 0]
        >>> model = from_sklearn(LinearRegression().fit(X, y), X, y)
        >>> most_influential_set(model, Coefficient(0), size=2)
        without 2 of 7 training points: 5, 6
                      change      target
        all points               -0.1163
        predicted       1.12           1
        refitted        1.12           1
    """
    search = _Search(model, target, "most_influential_set")
    if not 1 <= size < search.size:
        raise ValueError(f"size must be in 1..{search.size - 1}, not {size!r}.")
    if sign not in (1, -1, None):
        raise ValueError(f"sign must be 1, -1 or None, not {sign!r}.")
    if method not in ("greedy", "additive"):
        raise ValueError(f'method must be "greedy" or "additive", not {method!r}.')
    find = {"greedy": _greedy, "additive": _additive}[method]
    found = [find(search, size, one) for one in ((1, -1) if sign is None else (sign,))]
    found = [one for one in found if len(one) == size and search.refits(one)]
    if not found:
        raise ValueError(
            f"The model cannot be refitted without the {size} points that matter most: choose a "
            f"smaller size."
        )
    return search.certified(max(found, key=lambda one: abs(search.change(one))))


def smallest_set(
    model: GenericNeuralNet,
    target: Target,
    *,
    below: float | None = None,
    above: float | None = None,
) -> InfluentialSet:
    """The fewest training points whose removal takes a target past a value, after the refit.

    How few points a conclusion rests on (Broderick, Giordano & Meager, arXiv 2011.14999). The set
    grows as in ``most_influential_set`` until the *refit* has passed the value, not until a
    prediction has; then points that are not needed are put back, and of up to 20 it is tried
    whether one fewer will do, by exchanges. The answer is certified by its refit. That there is no
    smaller one is not proven.

    Args:
        model: fitted.
        target: one number; of ``influence.targets``.
        below, above: the value to pass, one of the two.

    Returns:
        The set; without any point where the target has passed the value with all of them.

    Raises:
        ValueError: a target of several numbers, not one of ``below`` and ``above``, or no set of up
            to half of the points does it.

    Examples:
        How many points hold the sign of this slope?

        >>> from sklearn.linear_model import LinearRegression
        >>> from influence import from_sklearn
        >>> from influence.studies.sets import smallest_set
        >>> from influence.targets import Coefficient
        >>> X, y = [[0], [1], [2], [3], [4], [9], [9]], [4, 3, 2, 1, 0, 9, 9]
        >>> model = from_sklearn(LinearRegression().fit(X, y), X, y)
        >>> smallest_set(model, Coefficient(0), below=0)
        without 2 of 7 training points: 5, 6
                      change      target
        all points                  0.75
        predicted      -1.75          -1
        refitted       -1.75          -1
    """
    search = _Search(model, target, "smallest_set")
    if below is not None and above is None:
        goal = _Goal(below, -1)
    elif above is not None and below is None:
        goal = _Goal(above, 1)
    else:
        raise ValueError("smallest_set takes one value to pass: below= or above=.")
    removed = _grown(search, goal)
    while True:
        removed, rest = _dropped(search, goal, removed)
        if not 1 < len(removed) <= _EXCHANGED:
            return search.certified(removed)
        fewer = _exchanged(search, rest, goal.sign, goal)
        if not goal.passed(search.value(fewer)):
            return search.certified(removed)
        removed = fewer


@dataclass(frozen=True)
class _Goal:
    """To take a target below (sign −1) or above (1) a value."""

    bound: float
    sign: int

    def passed(self, value: float) -> bool:
        return self.sign * (value - self.bound) > 0


class _Search:
    """Refits of a model without sets, and what every other point would do there.

    A set is a tuple of indices.
    """

    def __init__(self, model: GenericNeuralNet, target: Target, name: str) -> None:
        self._model, self._target = model, target
        self.size = len(model.train)
        values = np.asarray(target.values(model, model.parameters))
        if values.size != 1:
            raise ValueError(
                f"{name} is about one number and this {type(target).__name__} has {values.size}: "
                f'give it one point, or reduction="mean".'
            )
        self.before = float(values.item())
        self._values: dict[frozenset[int], float] = {frozenset(): self.before}
        self._last: tuple[frozenset[int], GenericNeuralNet | None] = (frozenset(), model)

    def value(self, removed: tuple[int, ...]) -> float:
        """The target after the refit; NaN where the model cannot be refitted."""
        key = frozenset(removed)
        if key not in self._values:
            moved = self._without(removed)
            value = np.nan if moved is None else self._target.values(moved, moved.parameters)
            self._values[key] = float(np.asarray(value).item())
        return self._values[key]

    def refits(self, removed: tuple[int, ...]) -> bool:
        """Whether the model can be refitted without the set."""
        return not np.isnan(self.value(removed))

    def change(self, removed: tuple[int, ...]) -> float:
        """After the refit minus before."""
        return self.value(removed) - self.before

    def effects(self, removed: tuple[int, ...]) -> np.ndarray:
        """The change from there if one more point is removed, [n]; NaN for those of the set."""
        effects, moved = np.full(self.size, np.nan), self._without(removed)
        if moved is not None:
            left = np.delete(np.arange(self.size), np.array(removed, int))
            effects[left] = np.ravel(moved.influence_on(self._target, "newton"))
        return effects

    def scores(self) -> np.ndarray:
        """The first-order scores of all points, [n]."""
        return np.ravel(self._model.influence_on(self._target))

    def predicted(self, sets: list[tuple[int, ...]]) -> np.ndarray:
        """The change that one Newton step of the model without each set foresees: [k]."""
        theta = self._model.parameters.astype(np.float64)[:, np.newaxis]
        thetas = theta + self._model.parameter_changes(sets, "newton")
        return np.ravel(self._target.values(self._model, thetas)) - self.before

    def certified(self, removed: tuple[int, ...]) -> InfluentialSet:
        """What is said of the set in the end."""
        predicted = float(self.predicted([removed])[0]) if removed else 0.0
        indices = np.array(removed, int)
        return InfluentialSet(indices, predicted, self.change(removed), self.before, self.size)

    def _without(self, removed):
        key = frozenset(removed)
        if self._last[0] != key:
            try:
                moved = self._model.refit(sorted(removed)) if removed else self._model
            except (ValueError, SolverError):  # such as the last points of a class
                moved = None
            self._last = key, moved
        return self._last[1]


def _additive(search, size, sign):
    order = np.argsort(-sign * search.scores(), kind="stable")
    return tuple(order[:size].tolist())


def _greedy(search, size, sign):
    removed: tuple[int, ...] = ()
    while len(removed) < size:
        effects = sign * search.effects(removed)
        more = _next(search, removed, effects, max(1, (size - len(removed)) // _PART))
        if more is None:
            break  # there is none of that size
        removed = more
    if size > _EXCHANGED:
        return removed
    # From a second start, as exchanges of one point can end at a set that only two would better.
    starts = removed, _additive(search, size, sign)
    ends = [_exchanged(search, start, sign) for start in starts if search.refits(start)]
    return max(ends, key=lambda one: sign * search.change(one), default=removed)


def _next(search, removed, effects, number):
    """The set with ``number`` more points, those with the largest effects; one where the model
    cannot be refitted without so many, the best that it can be; None where there is none."""
    order = [i for i in np.argsort(-effects, kind="stable").tolist() if not np.isnan(effects[i])]
    candidates = [(i,) for i in order]
    if number > 1:
        candidates.insert(0, tuple(order[:number]))
    for more in candidates:
        if search.refits(removed + more):
            return removed + more
    return None


def _exchanged(search, removed, sign, goal=None):
    """The set after exchanges of one point, as long as a refit says that they better it (or until
    the goal is reached)."""
    while goal is None or not goal.passed(search.value(removed)):
        better = _best_exchange(search, removed, sign)
        if better is None:
            break
        removed = better
    return removed


def _best_exchange(search, removed, sign):
    offers = []
    for place, point in enumerate(removed):
        rest = removed[:place] + removed[place + 1 :]
        effects = sign * search.effects(rest)
        gains = effects - effects[point]
        gains[point] = -np.inf
        other = int(np.nanargmax(gains))
        offers.append((gains[other], (*rest, other)))
    change = search.change(removed)
    rounding = _ROUNDING * abs(change)
    for gain, offer in sorted(offers, reverse=True):
        if gain <= rounding:
            break
        if sign * (search.change(offer) - change) > rounding:
            return offer
    return None


def _grown(search, goal):
    """A set whose refit has passed the goal."""
    removed: tuple[int, ...] = ()
    while not goal.passed(search.value(removed)):
        effects = goal.sign * search.effects(removed)
        useful = np.sort(effects[effects > 0])[::-1]
        gap = goal.sign * (goal.bound - search.value(removed))
        # As if effects added up; and as this is optimistic, never few beside those that are out.
        needed = max(np.searchsorted(np.cumsum(useful), gap) + 1, len(removed))
        number = min(max(1, needed // _PART), len(useful))
        more = _next(search, removed, effects, number) if len(useful) else None
        if more is None or len(more) > search.size // 2:
            raise ValueError(
                f"No set of up to half of the {search.size} training points was found that takes "
                f"the target {'above' if goal.sign > 0 else 'below'} {goal.bound:g}: it is "
                f"{search.before:.4g} with all of them and {search.value(removed):.4g} without "
                f"{len(removed)}; choose a value nearer to it."
            )
        removed = more
    return removed


def _dropped(search, goal, removed):
    """(the set without the points that it does not need, the same without the point that it would
    miss least)."""
    while removed:
        rests = [removed[:i] + removed[i + 1 :] for i in range(len(removed))]
        promised = goal.sign * search.predicted(rests) if len(removed) > 1 else np.zeros(1)
        tried = [rests[i] for i in np.argsort(-promised, kind="stable")[:_TRIED]]
        fewer = next((rest for rest in tried if goal.passed(search.value(rest))), None)
        if fewer is None:
            return removed, tried[0]
        removed = fewer
    return removed, removed
