"""What scores are worth: datamodeling scores, removal curves and counterfactual brittleness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from influence.data.dataset import check_indices
from influence.data.frames import Framed
from influence.data.types import File, Inputs
from influence.objective.datamodeling import DatamodelingScore, retrain_on_subsets
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.objective.retraining import Recipe, Refits, retrained

RANDOM = "random"


def linear_datamodeling_score(
    model: GenericNeuralNet | Recipe,
    scores: ArrayLike,
    x_test: Inputs = None,
    y_test: ArrayLike | None = None,
    **settings: Any,
) -> DatamodelingScore:
    """Train on random halves of the training points, and see whether the scores foresee the losses.

    Park et al. 2023 (arXiv 2303.14186); ``DatamodelingScore`` says how to read it. For a second
    score of the same model, or predictions that are no sums, call ``retrain_on_subsets`` once and
    ``Retrainings.score`` for each.

    Args:
        model: your own recipe, as for ``retrain_on_subsets``; or a fitted model of the library,
            which is refitted from its present θ.
        scores: [m, n], positive where the loss rises without the point, as of
            ``influence_on_loss``.
        x_test, y_test: [m] test points, where ``model`` is of the library; a recipe has its own.
        settings: ``subsets``, ``fraction``, ``trainings``, ``seed``, ``jobs``, ``checkpoint`` and
            ``progress`` of ``retrain_on_subsets``.

    Raises, Warns:
        As ``retrain_on_subsets`` and ``Retrainings.score``.

    Examples:
        >>> import numpy as np
        >>> from influence import BinaryLogisticRegression, Dataset, linear_datamodeling_score
        >>> x = np.linspace(-2, 2, 100)
        >>> train = Dataset(x[:, np.newaxis], x + np.sin(9 * x) > 0)
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> x_test, y_test = [[0.5], [-1.0]], [1, 0]
        >>> scores = model.influence_on_loss(x_test, y_test)
        >>> result = linear_datamodeling_score(model, scores, x_test, y_test, subsets=20)
        >>> result.score > 0.9
        True
    """
    if isinstance(model, GenericNeuralNet):
        if y_test is None:
            raise ValueError("A model of the library needs test points: give x_test and y_test.")
        recipe: Recipe = Refits(model, x_test, y_test)
        size = len(model.train)
    else:
        recipe, size = model, np.shape(scores)[-1]
    return retrain_on_subsets(recipe, size, **settings).score(scores)


@dataclass(frozen=True)
class RemovalCurve(Framed):
    """Test losses after trainings without more and more points, those first that a ranking names.

    A ranking is worth something where its curve is above that of random removals, by more than
    these differ among themselves.

    Attributes:
        sizes: [k] how many points are removed; 0 is in front.
        losses: by ranking, and of random removals: [k, r, m] of each test point after each of r
            trainings.

    Examples:
        >>> import numpy as np
        >>> from influence import removal_curve
        >>> y = np.array([0.0, 1.0, 2.0, 9.0])
        >>> loss = lambda kept, seed: [abs(y[kept].mean() - 1)]
        >>> curve = removal_curve(loss, {"large": -y, "small": y}, [1, 2])
        >>> curve.sizes.tolist(), sorted(curve.losses)
        ([0, 1, 2], ['large', 'random', 'small'])
        >>> curve.losses["small"].mean(axis=(1, 2)).tolist()  # without 9, then without 2
        [2.0, 0.0, 0.5]
    """

    sizes: np.ndarray
    losses: dict[str, np.ndarray]

    def to_frame(self) -> pd.DataFrame:
        """The mean losses, a row for each size, a column for each ranking."""
        means = {name: losses.mean(axis=(1, 2)) for name, losses in self.losses.items()}
        return pd.DataFrame(means, pd.Index(self.sizes, name="points removed"))


def removal_curve(
    recipe: Recipe,
    rankings: Mapping[str, ArrayLike],
    sizes: ArrayLike,
    *,
    trainings: int = 3,
    seed: int = 0,
    jobs: int | None = None,
    checkpoint: File | None = None,
    progress: bool = False,
) -> RemovalCurve:
    """Remove the points that rankings put first, train again, and see what the test losses do.

    Args:
        recipe: as for ``retrain_on_subsets``.
        rankings: by name, numbers [n]; the points with the largest go first. ``influence_on_loss(
            …, reduction="mean")`` removes the most helpful ones; beside it belong the training
            losses, ``model.losses(x, y)``, which need no influence. Removals at random are always
            there.
        sizes: how many points to remove, each in 1..n − 1.
        trainings: r, at each size, with seeds that all rankings share; of random removals each is
            of other points.
        seed: of the random removals and of the seeds.
        jobs, checkpoint, progress: as for ``retrain_on_subsets``.

    Raises:
        ValueError: rankings of different lengths or not finite, or sizes out of range; and as
            ``retrain_on_subsets``.

    Examples:
        Without the largest number the mean is nearer to 1:

        >>> import numpy as np
        >>> from influence import removal_curve
        >>> y = np.array([0.0, 1.0, 2.0, 9.0])
        >>> loss = lambda kept, seed: [abs(y[kept].mean() - 1)]
        >>> curve = removal_curve(loss, {"value": y}, [1], trainings=1)
        >>> curve.losses["value"].ravel().tolist()  # of all, and without 9
        [2.0, 0.0]
    """
    orders = _orders(rankings)
    n = len(next(iter(orders.values())))
    removed = _sizes(sizes, n)
    seeds = [int(np.random.default_rng([seed, r]).integers(2**31)) for r in range(trainings)]
    shuffled = [np.random.default_rng([seed, r, 1]).permutation(n) for r in range(trainings)]
    # The first is with all points, for every ranking.
    units = [(np.arange(n), each) for each in seeds]
    for name in (*orders, RANDOM):
        for size in removed:
            for r in range(trainings):
                order = shuffled[r] if name == RANDOM else orders[name]
                units.append((np.sort(order[size:]), seeds[r]))
    values = retrained(recipe, units, jobs=jobs, checkpoint=checkpoint, progress=progress)
    whole, rest = values[:trainings], values[trainings:]
    rest = rest.reshape(len(orders) + 1, len(removed), trainings, -1)
    return RemovalCurve(
        np.concatenate([[0], removed]),
        {
            name: np.concatenate([whole[np.newaxis], part])
            for name, part in zip((*orders, RANDOM), rest)
        },
    )


@dataclass(frozen=True)
class Brittleness(Framed):
    """How few training points a prediction hangs on, by a ranking and the trainings without them.

    Attributes:
        sizes: [k] how many of the highest-ranked points were removed.
        flipped: [m, k] whether the prediction of a test point is another after training without so
            many; False, too, for test points that were wrong with all points.
        right: [m] whether it was right with all points.

    Examples:
        >>> import numpy as np
        >>> from influence.studies.datamodeling import Brittleness
        >>> right, flipped = np.array([True, True]), np.array([[False, True], [False, False]])
        >>> Brittleness(np.array([1, 2]), flipped, right).share.tolist()
        [0.0, 0.5]
    """

    sizes: np.ndarray
    flipped: np.ndarray
    right: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """[k] of the test points that were right, the share whose prediction flips."""
        return self.flipped[self.right].mean(axis=0)

    def to_frame(self) -> pd.DataFrame:
        """``share`` by size."""
        return pd.DataFrame({"share": self.share}, pd.Index(self.sizes, name="points removed"))


def counterfactual_brittleness(
    recipe: Recipe,
    scores: ArrayLike,
    sizes: ArrayLike,
    *,
    seed: int = 0,
    jobs: int | None = None,
    checkpoint: File | None = None,
    progress: bool = False,
) -> Brittleness:
    """Remove the points that help a prediction most, train again, and see whether it flips.

    Of two scores the one that flips more predictions with fewer points knows better what they hang
    on (Ilyas et al. 2022, arXiv 2202.00622; Park et al. 2023). Each test point takes a training at
    each size, as it has points of its own.

    Args:
        recipe: ``recipe(kept, seed)`` as for ``retrain_on_subsets``, but with the *margin* of each
            test point: above 0 where its label is predicted.
        scores: [m, n] of the loss, positive where it rises without the point; largest first.
        sizes: how many points to remove, each in 1..n − 1.
        seed: of all trainings.
        jobs, checkpoint, progress: as for ``retrain_on_subsets``.

    Raises:
        ValueError: scores of another shape or not finite, or sizes out of range; and as
            ``retrain_on_subsets``.

    Examples:
        The nearest mean of two classes; a test point that leans on one training point:

        >>> import numpy as np
        >>> from influence import counterfactual_brittleness
        >>> x = np.array([0.0, 0.5, 1.0, 4.0, 4.5])
        >>> y = np.array([0, 0, 1, 1, 1])
        >>> def margin(kept, seed):
        ...     far = [abs(1.8 - x[kept][y[kept] == c].mean()) for c in (0, 1)]
        ...     return [far[0] - far[1]]  # positive: class 1
        >>> counterfactual_brittleness(margin, [[0, 0, 9, 1, 1]], [1]).flipped.tolist()
        [[True]]
    """
    array = np.asarray(scores, np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError(f"scores must be finite and [m, n]; their shape is {list(array.shape)}.")
    m, n = array.shape
    removed = _sizes(sizes, n)
    orders = np.argsort(-array, axis=1, kind="stable")
    how: dict[str, Any] = {"jobs": jobs, "checkpoint": checkpoint, "progress": progress}
    before = retrained(recipe, [(np.arange(n), seed)], **how)[0]
    if len(before) != m:
        raise ValueError(f"The recipe has {len(before)} test points, and scores {m} rows.")
    right = before > 0
    units = [(np.sort(orders[j, size:]), seed) for j in np.flatnonzero(right) for size in removed]
    flipped = np.zeros((m, len(removed)), bool)
    if units:
        margins = retrained(recipe, units, **how).reshape(-1, len(removed), m)
        own = np.take_along_axis(margins, np.flatnonzero(right)[:, np.newaxis, np.newaxis], axis=2)
        flipped[right] = own[:, :, 0] <= 0
    return Brittleness(removed, flipped, right)


def _orders(rankings):
    """The points of each ranking, those with the largest numbers first."""
    arrays = {name: np.asarray(each, np.float64) for name, each in rankings.items()}
    shapes = {each.shape for each in arrays.values()}
    finite = all(np.isfinite(each).all() for each in arrays.values())
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not finite or RANDOM in arrays:
        raise ValueError(
            f"rankings must be finite numbers of the same n points, [n] each, under other names "
            f"than {RANDOM!r}; their shapes are {[list(each.shape) for each in arrays.values()]}."
        )
    return {name: np.argsort(-each, kind="stable") for name, each in arrays.items()}


def _sizes(sizes, n):
    checked = np.sort(check_indices(sizes, n, "sizes"))
    if not len(checked) or checked[0] == 0:
        raise ValueError(f"sizes must lie in 1..{n - 1}, and there must be one.")
    return checked
