"""The linear datamodeling score: do scores foresee what training on a random part does?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike

from influence.curvature.operator import HessianOperator
from influence.data.frames import Framed
from influence.data.types import File, Inputs
from influence.objective.retraining import Recipe, Refits, retrained
from influence.solvers.solution import Solver

_LEVEL = 0.95


@dataclass(frozen=True, repr=False)
class DatamodelingScore(Framed):
    """How well scores rank random subsets of the training points by what training on them does.

    How to read it:

    - ``score`` near 1: sums of scores say which of two random subsets makes the better model of a
      test point. It is no number of any single training point, and it is of subsets as large as
      these: half of the points is no small removal, where first-order scores lose their scale, and
      may lose their order.
    - ``ceiling``: what the true mean losses would score. The rest is chance, which trainings of the
      same points differ by; only more trainings a subset raise it.
    - ``interval`` says how much of the score is due to the test points at hand, not to the subsets.

    Attributes:
        score: the mean of ``per_test``.
        interval: its 95% confidence interval for other test points of the kind (Student's t).
        per_test: [m] Spearman's correlation over the subsets of the predicted and the actual loss;
            NaN where one of the two is the same for all subsets.
        ceiling: of ``score``, from how trainings of the same points agree; NaN with one training a
            subset.
        predicted: [m, k] change of each test loss, by the scores of the points that are removed.
        actual: [m, k] loss after training without them, mean of the trainings.

    Examples:
        Means of numbers, and the loss (mean − 3)²/2 of a test point at 3. Scores of small removals
        rank the halves of the points as their losses do:

        >>> import numpy as np
        >>> from influence import retrain_on_subsets
        >>> y = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 9.0, 9.5, 11.0])
        >>> loss = lambda kept, seed: [(y[kept].mean() - 3) ** 2 / 2]
        >>> retrainings = retrain_on_subsets(loss, len(y), subsets=20)
        >>> scores = (y.mean() - 3) * (y.mean() - y) / len(y)  # of one test point, [1, n]
        >>> round(retrainings.score(scores[np.newaxis]).score, 2)
        1.0
    """

    score: float
    interval: tuple[float, float]
    per_test: np.ndarray
    ceiling: float
    predicted: np.ndarray
    actual: np.ndarray

    def __repr__(self) -> str:
        low, high = self.interval
        m, k = self.predicted.shape
        return (
            f"DatamodelingScore(score={self.score:.3f}, interval=({low:.3f}, {high:.3f}), "
            f"ceiling={self.ceiling:.3f}, test points={m}, subsets={k})"
        )

    def to_frame(self) -> pd.DataFrame:
        """``per_test`` as "score", by test point."""
        index = pd.RangeIndex(len(self.per_test), name="test point")
        return pd.DataFrame({"score": self.per_test}, index)

    @property
    def heading(self) -> str:
        """As it is printed."""
        return repr(self)


@dataclass(frozen=True, repr=False)
class Retrainings:
    """What trainings on random subsets of the training points gave; scores are held against it.

    Attributes:
        size: n, the number of all training points.
        kept: [k, s] the training points of each subset, ascending.
        values: [k, r, m] of each test point after each of r trainings on each subset, with seeds of
            their own.

    Examples:
        Three draws of two points of four:

        >>> from influence import retrain_on_subsets
        >>> retrainings = retrain_on_subsets(lambda kept, seed: [kept.sum()], 4, subsets=3)
        >>> retrainings.kept.tolist(), retrainings.values.tolist()
        ([[0, 2], [0, 3], [1, 2]], [[[2.0]], [[3.0]], [[3.0]]])
        >>> retrainings.removed.tolist()
        [[1, 3], [1, 2], [0, 3]]
    """

    size: int
    kept: np.ndarray
    values: np.ndarray

    def __repr__(self) -> str:
        k, r, m = self.values.shape
        return (
            f"Retrainings(subsets={k} of {self.kept.shape[1]} of {self.size} points, "
            f"trainings of each={r}, test points={m})"
        )

    @property
    def removed(self) -> np.ndarray:
        """[k, n − s] the training points that are in none of the subsets' trainings, ascending."""
        is_removed = np.ones((len(self.kept), self.size), bool)
        np.put_along_axis(is_removed, self.kept, False, axis=1)
        return np.nonzero(is_removed)[1].reshape(len(self.kept), -1)

    def score(self, scores: ArrayLike) -> DatamodelingScore:
        """The linear datamodeling score (Park et al. 2023, arXiv 2303.14186): Spearman's
        correlation of Σ ``scores`` over the points that a subset lacks with the loss after
        training on it.

        Args:
            scores: [m, n], positive where the loss rises without the point, as of
                ``influence_on_loss``; only their order of magnitude beside each other matters.

        Raises:
            ValueError: another shape, numbers that are not finite, or no test point with a
                correlation.

        Warns:
            UserWarning: test points without a correlation, which are left out.
        """
        scores = np.asarray(scores, np.float64)
        shape = self.values.shape[2], self.size
        if scores.shape != shape or not np.isfinite(scores).all():
            raise ValueError(
                f"scores must be finite and {list(shape)}, a row a test point and a column a "
                f"training point; their shape is {list(scores.shape)}."
            )
        removed = np.ones((self.size, len(self.kept)))
        np.put_along_axis(removed, self.kept.T, 0.0, axis=0)
        return self.score_of(scores @ removed)

    def score_of(self, predicted: ArrayLike) -> DatamodelingScore:
        """The same of predictions that are no sums of scores: ``predicted`` [m, k] as of
        ``influence_of_sets(retrainings.removed, …)``."""
        predicted = np.asarray(predicted, np.float64)
        actual = self.values.mean(axis=1).T
        if predicted.shape != actual.shape or not np.isfinite(predicted).all():
            raise ValueError(
                f"predicted must be finite and {list(actual.shape)}, a row a test point and a "
                f"column a subset; its shape is {list(predicted.shape)}."
            )
        per_test = _spearman(predicted, actual)
        defined = per_test[~np.isnan(per_test)]
        if not len(defined):
            raise ValueError(
                "There is nothing to correlate: for every test point the predictions, or the "
                "losses, are the same for all subsets."
            )
        if len(defined) < len(per_test):
            warnings.warn(
                f"{len(per_test) - len(defined)} of {len(per_test)} test points are left out of "
                f"the datamodeling score: their predictions, or losses, are the same for all "
                f"subsets.",
                stacklevel=2,
            )
        mean = float(defined.mean())
        half = np.nan
        if len(defined) > 1:
            quantile = scipy.stats.t.ppf((1 + _LEVEL) / 2, len(defined) - 1)
            half = float(quantile * defined.std(ddof=1) / np.sqrt(len(defined)))
        return DatamodelingScore(
            score=mean,
            interval=(mean - half, mean + half),
            per_test=per_test,
            ceiling=self.ceiling(),
            predicted=predicted,
            actual=actual,
        )

    def ceiling(self, trainings: int | None = None) -> float:
        """What the true mean losses would score against the mean of so many ``trainings`` of each
        subset (None: of all that there are); NaN where each was trained on once.

        The square root of the reliability, r ρ/(1 + (r − 1) ρ) of r trainings (Spearman and Brown),
        where ρ is the rank correlation between two trainings, mean over test points and pairs. As
        it is of their mean it is, if anything, a little high.
        """
        number = self.values.shape[1]
        if number == 1:
            return float("nan")
        trainings = number if trainings is None else trainings
        pairs = [
            np.nanmean(_spearman(self.values[:, a].T, self.values[:, b].T))
            for a in range(number)
            for b in range(a)
        ]
        rho = max(float(np.mean(pairs)), 0.0)
        return float(np.sqrt(trainings * rho / (1 + (trainings - 1) * rho)))


def retrain_on_subsets(
    recipe: Recipe,
    size: int,
    *,
    subsets: int = 100,
    fraction: float = 0.5,
    trainings: int = 1,
    seed: int = 0,
    jobs: int | None = None,
    checkpoint: File | None = None,
    progress: bool = False,
) -> Retrainings:
    """Train your own recipe on random subsets of the training points.

    This is what a datamodeling score costs; every score of the same model is then held against the
    same trainings (``Retrainings.score``).

    Args:
        recipe: ``recipe(kept, seed)`` trains a new model on the training points at these indices
            [s], ascending, and gives the loss of each test point, [m]. The seed is for all that is
            random in it: the first weights, the order of the points, dropout. (Its text ``key``, if
            it has one, says what it depends on.)
        size: n, the number of training points.
        subsets: k, how many are drawn.
        fraction: of the points that each has; a half is the rule.
        trainings: r, of each subset; two or more give a ceiling.
        seed: of the subsets and of the seeds.
        jobs: None asks joblib's ambient backend (see ``objective.sweeps``), and without one trains
            here. A number is of processes that train side by side with a thread each,
            −1 for one a core; the answer is the same for any number.
        checkpoint: a file that every finished training is saved to, and read from after a kill or
            for more ``subsets`` or ``trainings``; the numbers are the same. Where the recipe has no
            ``key``, the first training is then done again, to see that the file is of this recipe.
        progress: show a progress bar.

    Raises:
        ValueError: numbers that are not at least 1, or a fraction without points on either side; a
            recipe that does not give a vector of finite numbers; a file of another recipe.

    Examples:
        A ridge regression of scikit-learn:

        >>> import numpy as np
        >>> from sklearn.linear_model import Ridge
        >>> from influence import from_sklearn, retrain_on_subsets
        >>> x = np.linspace(-1, 1, 40)[:, np.newaxis]
        >>> y = np.sin(3 * x[:, 0]) + np.cos(40 * x[:, 0])
        >>> x_test, y_test = np.array([[0.5], [-0.2]]), np.array([1.0, 2.0])
        >>> def losses(kept, seed):
        ...     return (Ridge().fit(x[kept], y[kept]).predict(x_test) - y_test) ** 2 / 2
        >>> retrainings = retrain_on_subsets(losses, len(x), subsets=30)
        >>> model = from_sklearn(Ridge().fit(x, y), x, y)
        >>> scores = model.influence_on_loss(x_test, y_test)
        >>> retrainings.score(scores).score > 0.9
        True
    """
    smallest = min(subsets, trainings)
    kept_number = round(fraction * size)
    if smallest < 1 or not 1 <= kept_number < size:
        raise ValueError(
            f"subsets and trainings must be at least 1, and a fraction of the {size} points leave "
            f"some on both sides; they are {subsets!r}, {trainings!r} and {fraction!r}."
        )
    # Of its number alone, so that more subsets are these and others.
    kept = np.stack(
        [
            np.sort(np.random.default_rng([seed, j]).permutation(size)[:kept_number])
            for j in range(subsets)
        ]
    )
    units = [
        (kept[j], int(np.random.default_rng([seed, j, r]).integers(2**31)))
        for j in range(subsets)
        for r in range(trainings)
    ]
    values = retrained(recipe, units, jobs=jobs, checkpoint=checkpoint, progress=progress)
    return Retrainings(size, kept, values.reshape(subsets, trainings, -1))


def validate_on_subsets(
    model: Any,
    x_test: Inputs,
    y_test: ArrayLike,
    subsets: int,
    *,
    order: Literal["first", "newton"] = "first",
    solver: Solver | None = None,
    curvature: HessianOperator | None = None,
    checkpoint: File | None = None,
    progress: bool = False,
) -> DatamodelingScore:
    """Refit ``model`` to random halves of its training points, and hold the scores of the others
    against it: their sums, or with ``order="newton"`` a Newton step without all of them.

    Args:
        model: a ``GenericNeuralNet``, fitted.
        x_test, y_test: [m] test points.
        subsets: k, each of which costs a refit.
        order, solver, curvature: as in ``influence_on_loss``.
        checkpoint, progress: as for ``retrain_on_subsets``.
    """
    if order not in ("first", "newton"):
        raise ValueError(f'order must be "first" or "newton", not {order!r}.')
    how: dict[str, Any] = {"solver": solver, "curvature": curvature}
    retrainings = retrain_on_subsets(
        Refits(model, x_test, y_test),
        len(model.train),
        subsets=subsets,
        checkpoint=checkpoint,
        progress=progress,
    )
    if order == "first":
        return retrainings.score(model.influence_on_loss(x_test, y_test, **how))
    removed = list(retrainings.removed)
    predicted = model.influence_of_sets(removed, x_test, y_test, order=order, **how)
    return retrainings.score_of(predicted)


def _spearman(predicted, actual):
    """Spearman's correlation of the rows of two arrays [m, k]: [m], NaN where one is constant."""
    ranks = [scipy.stats.rankdata(each, axis=1) for each in (predicted, actual)]
    first, second = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    sizes = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    products = (first * second).sum(axis=1)
    return np.divide(products, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)
