"""Whether what TensorFlow gives for the derivatives of a network are its derivatives.

On a few points, when a model is made: gradients are held against finite differences where somebody
wrote one by hand, derivatives along a vector and products with the Hessian against gradients.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from influence.curvature.autodiff import AutodiffHessian
from influence.curvature.modes import FORWARD, REVERSE, Mode
from influence.data.batches import spec_of, take_rows
from influence.data.types import PointTensors
from influence.data.vectors import flatten, split
from influence.keras_models.checks import check_connected
from influence.keras_models.comparison import Comparison
from influence.keras_models.data import Stream
from influence.keras_models.errors import said
from influence.keras_models.handmade import contradicted, handmade, second_contradicted
from influence.keras_models.network import KerasNetwork
from influence.keras_models.outputs import KerasLoss
from influence.keras_models.parts import Part, layers_of

# Points that are tried.
_TRIED = 8


class Derivatives(NamedTuple):
    """How a model computes derivatives along a vector, and why it has no second ones, if so."""

    mode: Mode
    no_second: str | None


def checked_derivatives(
    model: Any, network: KerasNetwork, loss: KerasLoss, is_last_layer: bool = False
) -> Derivatives:
    """How a ``KerasModel`` can compute its derivatives; tries out its ``mode``.

    One that ``is_last_layer`` has its second derivatives in closed form, of the loss's alone.

    Raises:
        ValueError: there are no derivatives, or they are not those of what is computed.

    Warns:
        UserWarning: they can only be made of gradients.
    """
    trial = _Trial(model, network, loss)
    trial.check_loss()
    no_second = trial.check_handmade()
    first_only = None  # A mode with right derivatives along a vector, but no second ones.
    for mode in (FORWARD, REVERSE):
        if trial.first_problem(mode):
            continue
        if is_last_layer or no_second or not trial.second_problem(mode):
            return trial.chosen(mode, no_second)
        first_only = first_only or mode
    if first_only is None:
        part, problem = trial.culprit(functools.partial(_problem, mode=REVERSE))
        raise ValueError(_lack("derivative along a vector", part, problem, part.instead))
    part, problem = trial.culprit(functools.partial(_problem, mode=REVERSE, second=True))
    return trial.chosen(first_only, _lack("second derivative", part, problem))


def check_input_gradient(model: Any, network: KerasNetwork) -> None:
    """Raise a ValueError where the gradient of a ``KerasModel`` with respect to its points is not
    that of what is computed of them."""
    x, labels = model.points.raw(_spread(len(model.train)))
    x = model.convert(x)

    def losses(x, labels):
        return model.example_losses(model.input_logits(x), labels)

    graph = tf.function(losses, autograph=False).get_concrete_function(*spec_of((x, labels))).graph
    if handmade(graph.inputs[: len(tf.nest.flatten(x))]):
        _checked_gradients(layers_of(network, x, after_inputs=True))


class _Trial:
    """A model's derivatives at some points, computed in several ways.

    A point has the label of another one: where a model fits its points, there is nothing to
    differentiate but rounding.
    """

    def __init__(self, model: Any, network: KerasNetwork, loss: KerasLoss) -> None:
        self._model, self._network, self._loss_function = model, network, loss
        if isinstance(model.train, Stream):
            few = model.train.dataset.take(1).map(
                lambda *batch: _exchanged(*take_rows(batch, slice(_TRIED)))
            )
            self._points: PointTensors = (few,)
            self._batch = next(iter(few))
        else:
            x, labels = model.points.raw(_spread(len(model.train)))
            self._points = self._batch = _exchanged(model.points.embedded(x), labels)
        try:
            self._comparison = Comparison(self._objective, model.variables)
        except Exception as error:
            part, problem = self.culprit(_problem)
            raise ValueError(_lack("gradient", part, problem, part.instead)) from error
        check_connected(network, self._loss_gradients())
        self._column = flatten(self._comparison.vector)[:, tf.newaxis]

    def _loss_gradients(self):
        """Without the regulariser's, which reach what the loss may not depend on."""
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(self._losses(*self._batch))
        return tape.gradient(value, self._model.variables)

    def check_loss(self) -> None:
        """Raise a ValueError where loss or regulariser have no second derivatives, and there is no
        curvature of any kind."""
        for part in (self._loss, self._regularization):
            problem = Comparison(part.total, part.values).lack_of_second()
            if problem:
                raise ValueError(_lack("second derivative", part, problem, part.instead))

    def check_handmade(self) -> str | None:
        """Why gradients by hand leave no second derivatives, or None.

        Raises:
            ValueError: they are not those of what is computed.
        """
        try:
            graph = (
                tf.function(self._losses, autograph=False)
                .get_concrete_function(*spec_of(self._batch))
                .graph
            )
        except Exception as error:
            part, problem = self.culprit(_compilation_problem)
            raise ValueError(
                f"TensorFlow cannot compile {part.name}: {problem}. {_capitalised(part.instead)}."
            ) from error
        handles = {id(variable.handle) for variable in self._model.variables}
        if handmade(inner for outer, inner in graph.captures if id(outer) in handles):
            return _checked_gradients(self._parts)
        return None

    def first_problem(self, mode: Mode) -> str | None:
        """What is wrong with derivatives along a vector in a mode, or None."""
        model = self._model
        model.mode = mode

        def along():
            losses = model.scans.directional_derivatives(self._points, self._column)
            slope = tf.tensordot(model.regularization_slope(), self._column[:, 0], 1)
            return tf.reduce_mean(losses) + slope

        return self._comparison.first_problem(along)

    def second_problem(self, mode: Mode) -> str | None:
        """What is wrong with products with the Hessian in a mode, or None."""
        model = self._model
        model.mode = mode

        def product():
            products = AutodiffHessian(model).product_of(self._points, self._column)
            return split(products[:, 0], model.variables)

        return self._comparison.second_problem(product)

    def chosen(self, mode: Mode, no_second: str | None) -> Derivatives:
        """With a warning where forward mode will not do."""
        self._model.mode = mode
        if mode is REVERSE:
            part, _ = self.culprit(functools.partial(_problem, mode=FORWARD))
            if part is self._whole:
                part, _ = self.culprit(functools.partial(_problem, mode=FORWARD, second=True))
            warnings.warn(
                f"TensorFlow's forward mode has no right derivative of {part.name}: derivatives of "
                f"this model are made of gradients alone, which is right and can take two to three "
                f"times as long.",
                stacklevel=4,
            )
        return Derivatives(mode, no_second)

    def culprit(self, problem: Callable[[Part], str | None]) -> tuple[Part, str]:
        """The first part, innermost first, with a problem, and what that is."""
        for part in self._parts:
            found = problem(part)
            if found:
                return part, found
        return self._whole, "its layers have one, each for itself, and together they have not"

    @functools.cached_property
    def _parts(self) -> list[Part]:
        x = self._model.convert(self._batch[0])
        return [*layers_of(self._network, x), self._loss, self._regularization]

    @functools.cached_property
    def _whole(self) -> Part:
        name = f"the model {self._network.model.name!r}"
        instead = "choose other layers with variables="
        return Part(name, instead, self._model.variables, lambda values: [self._objective(values)])

    @functools.cached_property
    def _loss(self) -> Part:
        model, (x, labels) = self._model, self._batch
        return Part(
            f"the loss {self._loss_function.name}",
            "give another loss=",
            [model.logits(model.convert(x))],
            lambda values: [model.example_losses(values[0], labels)],
        )

    @functools.cached_property
    def _regularization(self) -> Part:
        model = self._model
        return Part(
            "the regularization",
            "give another regularization=",
            model.variables,
            lambda values: [model.regularization()],
        )

    def _losses(self, x, labels):
        return self._loss_function.of_outputs(labels, self._network.head(self._model.convert(x)))

    def _objective(self, variables):
        return tf.reduce_mean(self._losses(*self._batch)) + self._model.regularization()


def _spread(number):
    """A few indices, over all points: first ones are often of one class."""
    return np.unique(np.linspace(0, number - 1, _TRIED).astype(int))


def _exchanged(x, labels):
    return x, tf.nest.map_structure(lambda array: tf.roll(array, 1, axis=0), labels)


def _checked_gradients(parts: Iterable[Part]) -> str | None:
    """Why gradients by hand in some parts leave no second derivatives, or None.

    Raises:
        ValueError: they are not those of what is computed.
    """
    no_second, found = None, {id(part): _handmade(part) for part in parts}
    for part in parts:
        own = found[id(part)]
        for inner in part.inside:
            own = own - found[id(inner)]
        if not own:
            continue
        try:
            wrong = own["Quantised"] or contradicted(part.function, part.values)
            second = not wrong and (
                own["Stopped"] or second_contradicted(part.function, part.values)
            )
        except Exception as error:
            lack = "derivative along a vector"
            raise ValueError(_lack(lack, part, said(error), part.instead)) from error
        if wrong:
            raise ValueError(
                f"The gradient of {part.name} is not the derivative of what it computes, but "
                f"straight-through, clipped or partly stopped, and influences would be wrong: "
                f"{part.instead}."
            )
        if second:
            problem = "its gradient takes some of what it depends on for constant"
            no_second = no_second or _lack("second derivative", part, problem)
    return no_second


def _handmade(part):
    function = tf.function(part.function, autograph=False).get_concrete_function(part.values)
    # Not from what else it has captured, which is frozen.
    return handmade(function.inputs[: len(part.values)])


def _compilation_problem(part):
    try:
        _handmade(part)
    except Exception as error:
        return said(error)
    return None


def _problem(part, mode=None, second=False):
    """What is wrong with first or ``second`` derivatives in a mode, or the gradient; or None."""
    try:
        comparison = Comparison(part.total, part.values)
    except Exception as error:
        return said(error)
    return mode and comparison.problem_in(mode, second)


def _lack(what: str, part: Part, problem: str, instead: str | None = None) -> str:
    """A message without its end, unless it is known what to do."""
    end = "" if instead is None else f". {_capitalised(instead)}."
    return f"TensorFlow has no right {what} of {part.name}: {problem}{end}"


def _capitalised(text):
    return text[0].upper() + text[1:]
