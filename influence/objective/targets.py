"""What an influence is on: a number, or one a test point, that a model says at its parameters.

Everything about a target follows from two things: its values at parameters θ, and where it has
one, its gradient there.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.data.types import Inputs, Order, Reduction
from influence.objective.sets import Sets

# Removals whose outputs are held at a time.
_COLUMNS = 128


class Target(abc.ABC):
    """What a model says, as a function of its parameters.

    Points, labels and classes are given as they are given to the model. A target is one number a
    test point, [m], or one number where it says so.
    """

    @abc.abstractmethod
    def values(self, model: Any, thetas: ArrayLike) -> np.ndarray:
        """The target at parameters ``thetas`` [p], or at each column of [p, k], in float64.

        Returns:
            [m], or [m, k]; of a target that is one number a scalar, or [k].
        """

    @abc.abstractmethod
    def gradient(self, model: Any) -> np.ndarray:
        """∇ of the target at the model's parameters: [p, m], or [p] where it is one number."""


def influence_on(
    model: Any,
    target: Target,
    order: Order,
    train_indices: ArrayLike | None,
    how: dict[str, Any],
) -> np.ndarray:
    """See ``GenericNeuralNet.influence_on``; ``how``: its solver, curvature and strict."""
    if order == "first" and not isinstance(target, Metric):
        solution = model.inverse_hvp(target.gradient(model), **how)
        points = model.points.scanned(train_indices)
        return model._removal(points, solution.x, how["curvature"])
    sets = Sets.of_points(train_indices, len(model.train))
    theta, parts = model.parameters.astype(np.float64), []
    before = np.asarray(target.values(model, theta))[..., np.newaxis]
    for changes in model._make_removal(**how).blocks(sets, order):
        thetas = theta[:, np.newaxis] + changes
        for column in range(0, thetas.shape[1], _COLUMNS):
            parts.append(target.values(model, thetas[:, column : column + _COLUMNS]) - before)
    return np.concatenate(parts, axis=-1)


@dataclass(frozen=True, eq=False)
class Loss(Target):
    """The loss of each test point, L(z, θ), without the regulariser.

    Args:
        x: [m, ...] test points, or one.
        y: [m] their labels.
        reduction: None for every point; "mean" for their mean, one number.

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.targets import Loss
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> loss = Loss([[1.5]], [1])
        >>> loss.values(model, [0.0]).round(3).tolist(), loss.values(model, [[0, 9]]).shape
        ([0.693], (1, 2))
        >>> model.influence_on(loss).round(2).tolist()  # as influence_on_loss
        [[0.09, 0.05, 0.05, 0.09, -0.27]]
        >>> model.influence_on(loss, "newton").round(2).tolist()
        [[0.12, 0.06, 0.06, 0.12, -0.32]]
        >>> model.influence_on(loss, "refit").round(2).tolist()
        [[0.11, 0.05, 0.05, 0.11, -0.39]]
    """

    x: Inputs = field(repr=False)
    y: ArrayLike = field(repr=False)
    reduction: Reduction | None = None

    def values(self, model: Any, thetas: ArrayLike) -> np.ndarray:
        thetas = np.asarray(thetas, np.float64)
        losses = model.losses_at(_columns(thetas), self.x, self.y)
        return _reduced(losses, self.reduction, thetas.ndim)

    def gradient(self, model: Any) -> np.ndarray:
        return model.test_gradient(self.x, self.y, reduction=self.reduction)


class _OfOutputs(Target):
    """A function of the outputs of each test point; its gradient is Jᵀ ∂g/∂z."""

    x: Inputs
    reduction: Reduction | None

    def values(self, model: Any, thetas: ArrayLike) -> np.ndarray:
        thetas = np.asarray(thetas, np.float64)
        function = self._function(model)
        outputs = model.outputs_at(_columns(thetas), self.x)
        return _reduced(function(tf.constant(outputs)).numpy().T, self.reduction, thetas.ndim)

    def gradient(self, model: Any) -> np.ndarray:
        function = self._function(model)
        x = model.points.embedded(model.points.inputs(self.x, "x"))
        outputs = model.scans.outputs(x)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            values = function(tf.reshape(outputs, [outputs.shape[0], -1]))
        gradients = model.scans.output_gradients(x, tape.gradient(values, outputs)).T
        return gradients if self.reduction is None else gradients.mean(axis=1)

    @abc.abstractmethod
    def _function(self, model: Any) -> Callable[[tf.Tensor], tf.Tensor]:
        """Outputs [..., m, c] -> the target [..., m]."""


@dataclass(frozen=True, eq=False)
class Logit(_OfOutputs):
    """The logit of a class at each test point, z_class; of two classes with one logit z of the
    second, −z for the first. Of a regression, its prediction.

    Args:
        x: [m, ...] test points, or one.
        class_: as labels are given to the model; None where there is one output, and it is meant.
        reduction: None for every point; "mean" for the mean of all, one number.

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.targets import Logit
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> Logit([[1.5], [3]], class_=1).gradient(model).tolist()  # [p, m]
        [[1.5, 3.0]]
        >>> model.influence_on(Logit([[1.5]], class_=0)).round(2).tolist()
        [[0.22, 0.13, 0.13, 0.22, -0.69]]
    """

    x: Inputs = field(repr=False)
    class_: Any = None
    reduction: Reduction | None = None

    def _function(self, model):
        if self.class_ is None:
            if model.num_outputs > 1:
                raise ValueError(
                    f"{type(model).__name__} has {model.num_outputs} outputs: say which with "
                    f"class_=."
                )
            return lambda outputs: outputs[..., 0]
        position = model.class_position(self.class_)
        if model.num_outputs == 1:
            return lambda outputs: outputs[..., 0] * (1.0 if position else -1.0)
        return lambda outputs: outputs[..., position]


@dataclass(frozen=True, eq=False)
class Probability(_OfOutputs):
    """The probability of a class at each test point, as ``predict_proba`` gives it: the softmax of
    the logits, or the sigmoid of one.

    Args:
        x: [m, ...] test points, or one.
        class_: as labels are given to the model.
        reduction: None for every point; "mean" for the mean of all, one number.

    Raises:
        ValueError: when it is used, with a model that has no probabilities, or no such class.

    Examples:
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.targets import Probability
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> probability = Probability([[1.5]], class_=1)
        >>> probability.values(model, model.parameters).round(2).tolist()
        [0.61]
        >>> model.influence_on(probability, "refit").round(2).tolist()
        [[-0.06, -0.03, -0.03, -0.06, 0.29]]
    """

    x: Inputs = field(repr=False)
    class_: Any
    reduction: Reduction | None = None

    def _function(self, model):
        position = model.class_position(self.class_)

        def function(outputs):
            probabilities = model.class_probabilities(outputs)
            if probabilities is None:
                raise ValueError(
                    f"{type(model).__name__} has no probabilities: use Logit or Margin."
                )
            return probabilities[..., position]

        return function


@dataclass(frozen=True, eq=False)
class Margin(_OfOutputs):
    """By how much the logit of its label leads at each test point, z_y − max_{k≠y} z_k; with one
    logit z, ± z. It is positive where the label is predicted.

    Args:
        x: [m, ...] test points, or one.
        y: [m] labels, as they are given to the model.
        reduction: None for every point; "mean" for the mean of all, one number.

    Examples:
        The point with the wrong label is the one that holds the margin down:

        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.targets import Margin
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> margin = Margin([[1.5], [-2]], [1, 0])
        >>> margin.values(model, model.parameters).round(2).tolist()
        [0.45, 0.59]
        >>> model.influence_on(margin).argmax(axis=1).tolist()
        [4, 4]
    """

    x: Inputs = field(repr=False)
    y: ArrayLike = field(repr=False)
    reduction: Reduction | None = None

    def _function(self, model):
        labels = np.atleast_1d(np.asarray(self.y)).tolist()
        positions = np.array([model.class_position(label) for label in labels])

        def function(outputs):
            m, c = outputs.shape[-2:]
            if len(positions) != m:
                raise ValueError(f"y has {len(positions)} labels for {m} points.")
            if c == 1:
                return outputs[..., 0] * tf.constant(2.0 * positions - 1, outputs.dtype)
            own = tf.one_hot(positions, c, dtype=outputs.dtype)
            others = tf.where(own > 0, tf.constant(-np.inf, outputs.dtype), outputs)
            return tf.reduce_sum(own * outputs, axis=-1) - tf.reduce_max(others, axis=-1)

        return function


@dataclass(frozen=True)
class Coefficient(Target):
    """One of the model's parameters: one number.

    Args:
        index: into θ. Of a scikit-learn estimator into its ``coef_``: a feature, or (class,
            feature) where there is a row for every class; a feature by its number, by its name
            where the estimator was fitted on a data frame, or "intercept".

    Raises:
        ValueError: when it is used, with a model that has no such parameter.

    Examples:
        >>> from sklearn.linear_model import LinearRegression
        >>> from influence import from_sklearn
        >>> from influence.targets import Coefficient
        >>> X, y = [[0], [1], [2], [3], [10]], [0, 1, 2, 3, 0]
        >>> model = from_sklearn(LinearRegression().fit(X, y), X, y)
        >>> Coefficient(0).values(model, model.parameters).round(2).tolist()
        -0.08
        >>> model.influence_on(Coefficient(0), "newton").round(2).tolist()
        [-0.12, -0.02, 0.02, 0.01, 1.08]
        >>> model.influence_on(Coefficient("intercept"), "newton").round(2).tolist()
        [0.84, 0.16, -0.24, -0.47, -1.46]
    """

    index: Any

    def values(self, model: Any, thetas: ArrayLike) -> np.ndarray:
        position, scale = model.coefficient(self.index)
        return scale * np.asarray(thetas, np.float64)[position]

    def gradient(self, model: Any) -> np.ndarray:
        position, scale = model.coefficient(self.index)
        gradient = np.zeros(model.num_parameters)
        gradient[position] = scale
        return gradient


@dataclass(frozen=True, eq=False)
class Metric(Target):
    """Any function of labels and outputs on a test set: one number.

    A metric has no derivative, so there is none to be had by first order: it is taken of the
    outputs at the changed parameters, whether these are of first order, one Newton step, or a
    refit. (For a model that is linear in its parameters the first are the first-order outputs.)

    Args:
        function: (y, outputs) -> a number, with ``outputs`` [m, c] as ``model.outputs`` gives them:
            logits, for two classes one, the predictions of a regression. What else it needs to
            know, such as the group of each point, it brings along.
        x: [m, ...] test points.
        y: [m] what ``function`` is given first, as an array; None where it needs no labels.

    Examples:
        The area under the ROC curve, and how much more often one group is accepted:

        >>> import numpy as np
        >>> from sklearn.metrics import roc_auc_score
        >>> from influence import BinaryLogisticRegression, Dataset
        >>> from influence.targets import Metric
        >>> train = Dataset([[-2, 1], [-1, 1], [1, 1], [2, 1], [3, 1]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> x, y, group = [[-1, 1], [2, 1], [1, 1]], [0, 0, 1], np.array([True, False, False])
        >>> auc = Metric(lambda y, outputs: roc_auc_score(y, outputs[:, 0]), x, y)
        >>> float(auc.values(model, model.parameters))
        0.5
        >>> def gap(_, outputs):
        ...     accepted = outputs[:, 0] > 0
        ...     return accepted[~group].mean() - accepted[group].mean()
        >>> model.influence_on(Metric(gap, x, None), "newton").round(2).tolist()
        [0.5, 0.5, -0.5, -0.5, 0.5]
    """

    function: Callable[[Any, np.ndarray], Any]
    x: Inputs = field(repr=False)
    y: ArrayLike | None = field(repr=False)

    def values(self, model: Any, thetas: ArrayLike) -> np.ndarray:
        thetas = np.asarray(thetas, np.float64)
        y = None if self.y is None else np.asarray(self.y)
        outputs = model.outputs_at(_columns(thetas), self.x)
        values = np.array([self.function(y, one) for one in outputs], np.float64)
        if values.shape != (len(outputs),) or not np.isfinite(values).all():
            raise ValueError(
                f"The function of a Metric must return one finite number; for {len(outputs)} "
                f"sets of outputs it gave {values}."
            )
        return values if thetas.ndim == 2 else values[0]

    def gradient(self, model: Any) -> np.ndarray:
        raise ValueError(
            "A Metric has no gradient: influence_on takes it of the outputs after each removal."
        )


def _columns(thetas):
    return thetas if thetas.ndim == 2 else thetas[:, np.newaxis]


def _reduced(values, reduction, ndim):
    """Values [m, k], or the mean over the points, at k parameters or (ndim 1) at one."""
    if reduction not in (None, "mean"):
        raise ValueError(f'reduction must be None or "mean", not {reduction!r}.')
    values = values if reduction is None else values.mean(axis=0)
    return values if ndim == 2 else values[..., 0]
