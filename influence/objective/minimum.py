"""Is a model at a minimum of its objective? Influences are meant for one that is."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

# Of the gradient norm, relative to that of the loss of a training point. A fit ends far below it;
# one that was left early, or minimised something else, far above.
SMALL_GRADIENT = 0.01
# Training points whose mean stands for all.
_SAMPLE = 32


class ConvergenceWarning(UserWarning):
    """Parameters are not at a minimum, or there is none; the message says what to do."""


def point_gradient_norm(model: Any) -> float:
    """The mean norm of the loss gradient of a training point: what gradients are measured by.

    Args:
        model: a ``GenericNeuralNet``; 32 of its points are looked at.
    """
    return float(model.scans.gradient_norms(model.points.sample(_SAMPLE)).mean())


def warn_unless_at_minimum(model: Any, stacklevel: int) -> None:
    """Compare the norm of ∇R(θ) to that of a training point's ∇L.

    Args:
        model: a ``GenericNeuralNet``; costs one gradient of its objective.
        stacklevel: of the warning, counted from the caller.

    Warns:
        ConvergenceWarning: it is above 1% of it; says both.
    """
    norm, of_point = float(np.linalg.norm(model.gradient())), point_gradient_norm(model)
    if norm > SMALL_GRADIENT * of_point:
        warnings.warn(
            f"{type(model).__name__} is not at a minimum of its objective: its gradient norm is "
            f"{norm:.2g}, where the mean norm of a training point's loss gradient is "
            f"{of_point:.2g}. The scores are not those of a minimum: call fit() first, or, for a "
            f"model as it was trained, give a damped curvature, as in "
            f"curvature=model.gauss_newton() + δ.",
            ConvergenceWarning,
            stacklevel=stacklevel + 1,
        )
