"""Damping chosen, not guessed: by what the scores foresee of a few trainings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from influence.curvature.operator import HessianOperator
from influence.data.frames import Framed
from influence.data.types import Inputs
from influence.objective.datamodeling import DatamodelingScore, Retrainings
from influence.objective.generic_neural_net import GenericNeuralNet
from influence.solvers.solution import Solver


@dataclass(frozen=True, repr=False)
class DampingChoice(Framed):
    """Datamodeling scores by damping.

    Attributes:
        damping: the one with the best score.
        dampings: [d] all that were tried, ascending.
        results: the ``DatamodelingScore`` of each.

    Examples:
        >>> from influence import DampingChoice
        >>> DampingChoice(0.1, dampings=(0.1,), results=()).damping
        0.1
    """

    damping: float
    dampings: tuple[float, ...]
    results: tuple[DatamodelingScore, ...]

    def __repr__(self) -> str:
        curve = ", ".join(
            f"{damping:g}: {result.score:.3f}"
            for damping, result in zip(self.dampings, self.results)
        )
        return f"DampingChoice(damping={self.damping:g}, scores={{{curve}}})"

    def to_frame(self) -> pd.DataFrame:
        """The score, its interval and its ceiling, by damping."""
        rows = [(r.score, *r.interval, r.ceiling) for r in self.results]
        index = pd.Index(self.dampings, name="damping")
        return pd.DataFrame(rows, index, ["score", "low", "high", "ceiling"])

    @property
    def heading(self) -> str:
        """As it is printed."""
        return repr(self)


def choose_damping(
    model: GenericNeuralNet,
    retrainings: Retrainings,
    x_test: Inputs,
    y_test: ArrayLike,
    dampings: ArrayLike = (1e-3, 1e-2, 1e-1, 1.0),
    *,
    curvature: HessianOperator | None = None,
    solver: Solver | None = None,
) -> DampingChoice:
    """The damping δ whose scores with ``curvature + δ`` foresee the trainings best.

    A few trainings do (ten halves and some tens of test points): the curve is flat near its top.
    They should not be those that the scores are then judged by. A network that is far from its
    minimum, or that stops early, has the training time in its damping: steps of rate η over T steps
    move little in directions of curvature below 1/(ηT).

    Args:
        model: fitted or trained.
        retrainings: by the recipe that made the model, with the losses of these test points, from
            ``retrain_on_subsets``.
        x_test, y_test: [m] test points.
        dampings: to try.
        curvature: the operator C; None is ``model.gauss_newton()``.
        solver: as for ``influence_on_loss``.

    Raises:
        ValueError: dampings that are not positive; and as ``Retrainings.score``.

    Warns:
        UserWarning: the best is at an end of ``dampings``.

    Examples:
        Ten steps of gradient descent, which stop long before the minimum of a flat direction:

        >>> import numpy as np
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence import choose_damping, retrain_on_subsets
        >>> random = np.random.default_rng(0)
        >>> x = random.standard_normal((60, 2)) * [1.0, 0.1]
        >>> y = (x @ [1.0, 8.0] + random.standard_normal(60) > 0).astype(int)
        >>> x_test, y_test = x[::6] + 0.1, y[::6]
        >>> def trained(kept):
        ...     model = BinaryLogisticRegression(Dataset(x[kept], y[kept]), 0.0, dtype="float64")
        ...     for _ in range(10):
        ...         model.parameters = model.parameters - model.gradient()
        ...     return model
        >>> recipe = lambda kept, seed: trained(kept).losses(x_test, y_test)
        >>> retrainings = retrain_on_subsets(recipe, 60, subsets=10)
        >>> model = trained(np.arange(60))
        >>> choice = choose_damping(model, retrainings, x_test, y_test, (1e-4, 0.1, 100.0))
        >>> choice.damping
        0.1
    """
    tried = np.unique(np.asarray(dampings, np.float64))
    if not (len(tried) and np.isfinite(tried).all() and tried[0] > 0):
        raise ValueError(f"dampings must be finite and above 0; they are {dampings!r}.")
    operator = model.gauss_newton() if curvature is None else curvature
    results = [
        retrainings.score(
            model.influence_on_loss(
                x_test, y_test, curvature=operator + float(damping), solver=solver
            )
        )
        for damping in tried
    ]
    best = int(np.argmax([result.score for result in results]))
    if len(tried) > 1 and best in (0, len(tried) - 1):
        side = "smallest" if best == 0 else "largest"
        warnings.warn(
            f"The best damping, {tried[best]:g}, is the {side} that was tried: try others beyond.",
            stacklevel=2,
        )
    return DampingChoice(float(tried[best]), tuple(tried.tolist()), tuple(results))
