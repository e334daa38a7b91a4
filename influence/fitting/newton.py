"""Minimise a smooth objective to a gradient norm that is really small."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import scipy.optimize

from influence.curvature.operator import HessianOperator
from influence.objective.minimum import ConvergenceWarning
from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.exact import Exact
from influence.solvers.solution import Operator, SolverError, SolverWarning

# Newton's method factors the Hessian up to this many parameters; above, conjugate gradients.
# (On 1,800 words they took half the time of the factor.)
EXACT_NEWTON_SIZE = 1000
MAX_LBFGS_ITERATIONS = 200
MAX_NEWTON_STEPS = 100


def minimize(
    value_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]],
    hessian: Callable[[np.ndarray], HessianOperator],
    theta: np.ndarray,
    tolerance: float,
    preconditioner: Callable[[HessianOperator], Operator | None] | None = None,
    lbfgs: bool = True,
    rounding: float = 1e-13,
) -> np.ndarray:
    """The minimiser [p], float64: L-BFGS while it is cheap, then Newton with a line search.

    Args:
        value_and_gradient: θ [p] -> (float, [p]), in float64.
        hessian: θ [p] -> HessianOperator at θ, in float64.
        theta: where to start, [p].
        tolerance: the gradient norm to reach.
        preconditioner: operator -> approximate inverse, for the conjugate gradients.
        lbfgs: False for Newton's method at once: where a product with the Hessian costs no more
            than a gradient, or where ``theta`` is near the minimiser.
        rounding: of the value, relative; more than float64's where it is computed in float32.

    Warns:
        ConvergenceWarning: the gradient norm was not reached.
    """
    if lbfgs:
        theta = _lbfgs(value_and_gradient, theta, tolerance)
    value, gradient = value_and_gradient(theta)
    norm = before = float(np.linalg.norm(gradient))
    for _ in range(MAX_NEWTON_STEPS):
        if norm <= tolerance:
            return theta
        # Eisenstat and Walker's forcing term (SIAM J. Sci. Comput. 17, 1996, choice 2): as exact
        # as the last step's success warrants, and no more exact than the fit asks for.
        forcing = np.clip(0.9 * (norm / before) ** 1.5, max(0.1 * tolerance / norm, 1e-4), 0.5)
        direction = newton_direction(hessian(theta), gradient, forcing, preconditioner)
        step = _line_search(value_and_gradient, theta, value, gradient, direction, rounding)
        if step is None:
            break
        theta, value, gradient = step
        norm, before = float(np.linalg.norm(gradient)), norm
    if norm > tolerance:
        warnings.warn(
            f"The fit stopped at a gradient norm of {norm:.2g}, above {tolerance:.2g}: the "
            f"objective may have no minimum (separable classes need weight_decay > 0).",
            ConvergenceWarning,
            stacklevel=3,
        )
    return theta


def _lbfgs(value_and_gradient, theta, tolerance):
    _, at_start = value_and_gradient(theta)
    # Newton converges quadratically from here; L-BFGS would crawl.
    target = max(tolerance, 1e-4 * np.linalg.norm(at_start))
    result = scipy.optimize.minimize(
        value_and_gradient,
        theta,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_LBFGS_ITERATIONS, "maxcor": 20, "gtol": target, "ftol": 1e-12},
    )
    return result.x


def newton_direction(
    operator: HessianOperator,
    gradient: np.ndarray,
    forcing: float,
    preconditioner: Callable[[HessianOperator], Operator | None] | None = None,
) -> np.ndarray:
    """−H⁻¹ times ``gradient`` [p]: exact for few parameters, above by conjugate gradients to a
    relative residual of ``forcing``. Where H, in float64, is not positive definite it is a
    direction of descent all the same."""
    with warnings.catch_warnings():
        # A direction that is only roughly Newton's still goes downhill.
        warnings.simplefilter("ignore", SolverWarning)
        if len(gradient) <= EXACT_NEWTON_SIZE:
            return -_exact_solution(operator, gradient)
        solver = ConjugateGradient(
            tolerance=float(forcing),
            preconditioner=None if preconditioner is None else preconditioner(operator),
        )
        # The last iterate before negative curvature; steepest descent where there is none
        # (line-search Newton-CG: Nocedal and Wright, Numerical Optimization, algorithm 7.1).
        solution = solver.solve(operator, gradient).x
    return -solution if gradient @ solution > 0 else -gradient


def _exact_solution(operator, gradient):
    """H⁻¹ ``gradient``; with a ridge where rounding or negative curvature forbid it (Nocedal and
    Wright, section 3.4)."""
    try:
        return Exact().solve(operator, gradient, strict=True).x
    except SolverError:
        smallest, largest = operator.extreme_eigenvalues()
        # Twice: the most negative eigenvalue counts as positive and as large. The rest is for flat
        # directions (no regulariser), clear of rounding, and vanishes with the gradient.
        ridge = 2 * max(-smallest, 0) + 1e-10 * max(-smallest, largest)
        ridge += 1e-3 * np.linalg.norm(gradient)
        return Exact().solve(operator + ridge, gradient).x


def _line_search(value_and_gradient, theta, value, gradient, direction, rounding):
    """Halve the step until the value falls (or, where it is lost in rounding, the gradient)."""
    slope = gradient @ direction
    rounding = rounding * max(abs(value), 1e-300)
    step = 1.0
    for _ in range(40):
        candidate = theta + step * direction
        new_value, new_gradient = value_and_gradient(candidate)
        enough = new_value <= value + 1e-4 * step * slope
        level = abs(new_value - value) <= rounding
        if enough or (level and np.linalg.norm(new_gradient) < np.linalg.norm(gradient)):
            return candidate, new_value, new_gradient
        step /= 2
    return None
