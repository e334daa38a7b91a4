"""Has a scikit-learn estimator reached its optimum, and is there one?"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from influence.fitting.newton import newton_direction
from influence.linear.separability import no_minimum
from influence.objective.minimum import ConvergenceWarning

# How far a Newton step may lower the objective, relative to its value at θ = 0. There the scores
# were 1–2% off; a gradient norm says much less, because it depends on the features' units.
_CONVERGED = 1e-5
# The same, relative to its present value.
_OF_PRESENT_VALUE = 0.01


def warn_unless_converged(model: Any) -> None:
    """Hold what a Newton step would still gain against the objective.

    Args:
        model: a ``SklearnModel``; its Hessian at the estimator's parameters is made here.

    Warns:
        ConvergenceWarning: see ``from_sklearn``.
    """
    if not model.has_minimum():
        message = no_minimum(type(model.estimator).__name__, "give it a penalty")
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return
    theta = model.parameters
    value, gradient = model.value_and_gradient(theta)
    fall = -gradient @ newton_direction(model.hessian(), gradient, 1e-4) / 2
    if fall <= _CONVERGED * value:  # which the value at 0 can only be below by this fall
        return
    at_zero = model.value_at_zero()
    if not np.isfinite(at_zero):
        at_zero = value  # a mean of 0, where it is the output, has no deviance
    allowed = _CONVERGED * at_zero
    if model.loss.falls_with_margins:
        # Where classes are separable and the penalty next to nothing, the minimum is as low.
        allowed = min(allowed, max(_OF_PRESENT_VALUE * value, 1e-14 * at_zero))
    # A smooth loss is up to its slack above the one that was minimised.
    if fall > allowed + model._terms.slack * model.example_weights.mean():
        warnings.warn(
            f"{type(model.estimator).__name__} has not converged: its gradient norm is "
            f"{np.linalg.norm(gradient):.1e}, "
            f"from which Newton's method foresees its objective to fall by {fall / at_zero:.1e} of "
            f"the value at 0. The scores are not those of its optimum; fit it with a smaller tol "
            f"and a larger max_iter (or give X, y and sample_weight as it was fitted on them).",
            ConvergenceWarning,
            stacklevel=3,
        )
