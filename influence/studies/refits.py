"""Exact refits of a regression to training points of which a few have moved."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.dataset import Dataset
from influence.models.inception_model import BinaryInceptionModel
from influence.models.logistic_regression import BinaryLogisticRegression
from influence.objective.minimum import ConvergenceWarning
from influence.solvers.preconditioners import InverseMatrix, UpdatedInverse
from influence.solvers.solution import Operator, SolverError

# Every refit reaches this norm of the gradient. (At 1e-6 a logit can be wrong by some 0.01.)
GRADIENT_NORM = 1e-8


class MovedInverse:
    """The inverse of the Hessian of a fitted regression, for refits with a few points moved.

    It is made once, when it is first asked for, and serves every set of moved points: their own
    terms are exchanged by an update of rank 2k. What is left of the change, the curvature of all
    others at the new θ, costs conjugate gradients a product or two, and no digits.

    Args:
        top: fitted; its θ is where the inverse is made.

    Examples:
        The Hessian of two points, and its inverse with the first of them moved and the curvature
        of the second as it was:

        >>> import numpy as np
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.studies.refits import MovedInverse
        >>> train = Dataset([[2.0], [-2.0]], [1, 0])
        >>> top = BinaryLogisticRegression(train, weight_decay=0.5, dtype="float64")
        >>> top.hessian().dense().tolist()
        [[1.5]]
        >>> inverse = MovedInverse(top).at([0], [[4.0]], top.parameters)
        >>> (1 / (inverse @ np.ones(1))).round(6).tolist()
        [3.0]
    """

    def __init__(self, top: BinaryLogisticRegression) -> None:
        self.top = top

    @functools.cached_property
    def _inverse(self) -> InverseMatrix:
        return InverseMatrix(self.top.hessian("float64").dense())

    def at(self, indices: ArrayLike, x: ArrayLike, theta: ArrayLike) -> UpdatedInverse:
        """With training points ``indices`` [k] at ``x`` [k, f], near ``theta`` [f]."""
        before, after = self.top.train.x[indices].astype(np.float64), np.asarray(x, np.float64)
        curvatures = [
            scipy.special.expit(z) * scipy.special.expit(-z)
            for z in (_products(before, self.top.parameters), _products(after, theta))
        ]
        weights = np.concatenate([-curvatures[0], curvatures[1]]) / len(self.top.train)
        return UpdatedInverse(self._inverse, np.concatenate([before, after]).T, weights)


def _products(x, theta):
    # Not NumPy's: its threads would wait for its next call, and slow down TensorFlow's.
    return tf.linalg.matvec(tf.constant(x), tf.constant(theta, tf.float64)).numpy()


def refit(
    train: Dataset,
    top: BinaryLogisticRegression,
    theta: ArrayLike,
    preconditioner: Callable[[Any], Operator | None],
) -> BinaryLogisticRegression:
    """The regression with the settings of ``top`` fitted to ``train``, from ``theta`` near by.

    ``preconditioner`` gives an approximate inverse of a Hessian, such as a ``KeptInverse``, or
    one that is known already, whatever it is asked for.

    Raises:
        SolverError: it stopped above a gradient norm of 1e-8.

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.solvers.preconditioners import KeptInverse
        >>> from influence.studies.refits import refit
        >>> train = Dataset([[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1])
        >>> top = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> moved = refit(train.moved([0], [[-2.5]]), top, top.parameters, KeptInverse())
        >>> bool(abs(moved.gradient()).max() <= 1e-8)
        True
    """
    model = top._clone(train)
    model.parameters = theta
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an error below
        model.fit(preconditioner, GRADIENT_NORM)
    norm = np.linalg.norm(model.gradient())
    if not norm <= GRADIENT_NORM:
        raise SolverError(
            f"A refit of the attack stopped at a gradient norm of {norm:.2g}, above "
            f"{GRADIENT_NORM:g}: use dtype float64 and a weight_decay above 0."
        )
    return model


def refit_from_scratch(
    model: BinaryInceptionModel, indices: ArrayLike, images: ArrayLike
) -> BinaryLogisticRegression:
    """An ordinary fit, from θ = 0, with training images ``indices`` replaced by ``images``.

    ``images`` [k, side, side, 3] are eight-bit, or in [−1, 1] and floating-point.

    Examples:
        >>> import keras
        >>> import numpy as np
        >>> from influence import BinaryInceptionModel, Dataset
        >>> from influence.studies.refits import refit_from_scratch
        >>> images = np.repeat(np.uint8([40, 90, 160, 200]), 12).reshape(4, 2, 2, 3)
        >>> mean = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.GlobalAveragePooling2D()])
        >>> model = BinaryInceptionModel(Dataset(images, [0, 0, 1, 1]), 2, backbone=mean).fit()
        >>> refitted = refit_from_scratch(model, [1], images[1:2] + np.uint8(30))
        >>> refitted.predict(model.features(images)).tolist()
        [0, 0, 1, 1]
    """
    features = model.features(images)
    return model.top._clone(model.top.train.moved(indices, features)).fit()
