"""A Keras network from a file, and influences through its last layer."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import scipy.special
import tensorflow as tf

from influence.command.scoring import Rows, Scorer
from influence.command.tables import Kind, as_numbers
from influence.curvature.operator import MAX_DENSE_SIZE
from influence.data.files import DAMAGED
from influence.keras_models.model import KerasModel
from influence.objective.minimum import SMALL_GRADIENT, ConvergenceWarning, point_gradient_norm
from influence.objective.validation import Validation, agreement

# The paper's, of a network that is not at a minimum.
_DAMPING = 0.01
# What free biases of a softmax, a direction without curvature, have up to rounding in float32.
_FLOOR = 1e-7


def load_network(path: Path, trust: bool) -> keras.Model:
    """The Keras model in a .keras file, built and compiled, with one input.

    Args:
        path: the file.
        trust: whether code of the file (Lambda layers) may run.

    Raises:
        ValueError: there is no such file, it is not trusted, it cannot be read, or what it has is
            no model that the command can take.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with warnings.catch_warnings():
            # The optimizer is of no use here.
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            network = keras.saving.load_model(path, safe_mode=not trust)
    except (*DAMAGED, TypeError, AttributeError, ImportError, LookupError) as error:
        if "safe_mode" in str(error):
            raise ValueError(
                f"{path} has a program of its writer's in it (a Lambda layer), and to read it is "
                f"to run that: give --trust if you know who wrote it."
            ) from None
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"Keras cannot load {path} ({reason[0].rstrip('.')}); with layers or losses of your "
            f"own, use influence.KerasModel in Python."
        ) from None
    # A subclassed model does not say what it takes.
    ends = [getattr(network, name, None) or [] for name in ("inputs", "outputs")]
    if not isinstance(network, keras.Model) or list(map(len, ends)) != [1, 1]:
        raise ValueError(
            f"{path} is no model of one input and one output: use influence.KerasModel in Python."
        )
    if getattr(network, "loss", None) is None:
        raise ValueError(f"{path} was saved without a loss: compile() the model before save().")
    return network


def kind_of(network: keras.Model) -> Kind:
    """Whether it predicts classes, as far as its outputs and its loss say, or numbers."""
    named = any(part in _loss_name(network) for part in ("crossentropy", "hinge"))
    return "classes" if named or _outputs(network) > 1 else "numbers"


def point_shape(network: keras.Model) -> tuple[int | None, ...]:
    """Of one point that it takes; None for what may have any length."""
    return tuple(network.inputs[0].shape[1:])


def table_points(network: keras.Model, x: pd.DataFrame, path: Path) -> np.ndarray:
    """The columns of a table, in their order, as the points of a network: [n, ...].

    Raises:
        ValueError: they are text, or not as many as it takes.
    """
    shape = point_shape(network)
    open_axes = shape.count(None)
    known = math.prod(size for size in shape if size is not None)
    fits = x.shape[1] % known == 0 if open_axes == 1 else x.shape[1] == known and not open_axes
    if not fits:
        raise ValueError(
            f"The model takes points of the shape {_shown(shape)}, and {path} has {x.shape[1]} "
            f"columns beside the target: give it those that it was trained on, in their order."
        )
    values = np.column_stack([as_numbers(x[name], path).to_numpy() for name in x.columns])
    gaps = np.argwhere(np.isnan(values))
    if len(gaps):
        row, column = gaps[0]
        raise ValueError(
            f"Column {x.columns[column]!r} of {path} is empty in row {row} (counted from 0), and "
            f"the model takes numbers only: fill it in or delete the row."
        )
    sizes = [-1 if size is None else size for size in shape]
    return values.reshape(len(values), *sizes).astype(network.inputs[0].dtype)


def probabilities(network: keras.Model, points: np.ndarray) -> np.ndarray:
    """What a network says of points, before anything is asked of its loss: [m, c]."""
    outputs = network.predict(points, verbose=0).reshape(len(points), -1)
    one = outputs.shape[1] == 1
    if getattr(network.loss, "from_logits", False):
        outputs = scipy.special.expit(outputs) if one else scipy.special.softmax(outputs, axis=1)
    return np.hstack([1 - outputs, outputs]) if one else outputs


class Classes:
    """The classes of a network's outputs: the k-th of their names, or the whole number k.

    Args:
        network: whose outputs they are.
        y: labels of the training rows, for people.
        path: where they are from.

    Raises:
        ValueError: there are more or fewer names than outputs.
    """

    def __init__(self, network: keras.Model, y: np.ndarray, path: Path) -> None:
        outputs = _outputs(network)
        number = max(outputs, 2)
        self.names = list(range(number)) if y.dtype != object else sorted(set(y.tolist()))
        if len(self.names) != number:
            raise ValueError(
                f"The model has {outputs} output{'s' if outputs > 1 else ''}, for {number} "
                f"classes, and {path} has {len(self.names)}: {', '.join(map(str, self.names[:8]))}."
            )
        if y.dtype != object and not np.isin(y, self.names).all():
            wrong = y[~np.isin(y, self.names)][0]
            raise ValueError(
                f"The model has the classes 0..{number - 1}, and {path} has the label {wrong}: "
                f"give labels as it was trained on."
            )
        self._sparse, self._one = "sparse" in _loss_name(network), outputs == 1

    def places(self, y: np.ndarray) -> np.ndarray:
        """Where each label is among them, [m]."""
        codes, labels = pd.factorize(y)
        return np.array([self.names.index(label) for label in labels.tolist()], int)[codes]

    def labels(self, places: np.ndarray) -> np.ndarray:
        """As the loss of the network takes them: whole numbers, or [m, c]."""
        if self._sparse:
            return places
        if self._one:
            return places[:, np.newaxis].astype(np.float32)
        return np.eye(len(self.names), dtype=np.float32)[places]


class NetworkScorer(Scorer):
    """A network as it was saved, through the parameters of its last layer.

    Scores are by the Gauss-Newton matrix of that layer plus a damping: none where an L2 regulariser
    gives every weight its curvature, else the paper's 0.01. What is fitted again is that layer,
    with the damping as a ridge, from where it is.

    Args:
        network: of ``load_network``.
        train: the rows that it was trained on.
        classes: of its outputs; None where it predicts numbers.
    """

    def __init__(self, network: keras.Model, train: Rows, classes: Classes | None) -> None:
        self.layer = _last_layer(network)
        self.damping = 0.0 if _is_regularised(self.layer) else _DAMPING
        model = KerasModel(network, (train.given, train.labels), variables=self.layer)
        super().__init__(model, train, "numbers" if classes is None else "classes")
        self._network, self._classes = network, classes
        self._curvature = model.gauss_newton() + (self.damping or _FLOOR)
        if classes is not None and self.of_label(train.at(0)) is None and model.num_outputs == 1:
            raise ValueError(
                f"The loss of the model, {_loss_name(network)}, says no probability of a class: "
                f"compile() it with a cross-entropy before save()."
            )

    @property
    def sentence(self) -> str:
        """Which parameters the scores are of, and how well the network fits, in words."""
        size = sum(int(np.prod(v.shape)) for v in self._network.trainable_variables)
        text = (
            f"influences are through its last layer, {self.layer.name!r} "
            f"({self.model.num_parameters} of {size} parameters"
            f"{f', damping {self.damping:g}' if self.damping else ''})"
        )
        share = np.linalg.norm(self.model.gradient()) / point_gradient_norm(self.model)
        if share > SMALL_GRADIENT:
            text += (
                f", which is not at a minimum of its loss (the gradient's norm is {share:.2g} of a "
                f"row's): the size of the scores may be off"
            )
        return text

    def influences(self, rows: Rows) -> np.ndarray:
        how: Any = {"reduction": "mean", "curvature": self._curvature}
        with _as_it_is():
            return self.model.influence_on_loss(rows.given, rows.labels, **how)

    def rises(self) -> np.ndarray:
        with _as_it_is():
            return self._rises(self.model)

    def leverage(self) -> None:
        return None

    def validate(self, rows: Rows, points: int) -> Validation:
        """The scores of the network as it is, against refits of its last layer."""
        fitted = self._fitted(self._train.labels)
        found = fitted.validate(rows.given, rows.labels, points=points)
        predicted = self.influences(rows)[found.indices].astype(np.float64)
        r, slope = agreement(found.actual, predicted)
        return replace(found, predicted=predicted, pearson_r=r, slope=slope)

    def predict(self, rows: Rows) -> np.ndarray:
        outputs = np.asarray(self.model.outputs(rows.given)).reshape(len(rows), -1)
        if self._classes is None:
            return outputs[:, 0]
        if outputs.shape[1] == 1:
            probabilities = self.model.class_probabilities(tf.constant(outputs))
            outputs = probabilities.numpy()
        return np.array(self._classes.names, self._train.y.dtype)[outputs.argmax(axis=1)]

    def places(self, rows: Rows) -> np.ndarray:
        assert self._classes is not None
        return self._classes.places(rows.y)

    def rises_with(self, places: np.ndarray) -> np.ndarray:
        assert self._classes is not None
        return self._rises(self._fitted(self._classes.labels(places)))

    def _rises(self, model):
        own = model.self_influence(curvature=self._own_curvature(model))
        return own / len(own)

    def _fitted(self, labels):
        """The last layer at the minimum that the damping, as a ridge, gives its objective."""
        damping, ridge = self.damping, None
        if damping:
            ridge = lambda variables: damping / 2 * sum(map(_squares, variables))  # noqa: E731
        train = self._train.given, labels
        return KerasModel(self._network, train, regularization=ridge, variables=self.layer).fit()

    def _own_curvature(self, model) -> Any:
        """For a self-influence of every row: one that has, or is small enough to have, an inverse.
        The model's own objective, or that of ``_fitted``."""
        ridge = self.damping if model is self.model and self.damping else _FLOOR
        if model.num_parameters <= MAX_DENSE_SIZE:
            return model.gauss_newton() + ridge
        return model.ekfac() + ridge


@contextlib.contextmanager
def _as_it_is() -> Iterator[None]:
    """Without the library's warning of a model that is not at a minimum: ``sentence`` says it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _squares(variable):
    return tf.reduce_sum(tf.square(variable))


def _outputs(network) -> int:
    return int(math.prod(size or 1 for size in network.outputs[0].shape[1:]))


def _loss_name(network) -> str:
    loss = network.loss
    for name in ("name", "__name__"):
        loss = getattr(loss, name, loss)
    return str(loss).lower()


def _last_layer(network) -> keras.Layer:
    layers = [layer for layer in network.layers if layer.trainable_variables]
    if not layers:
        raise ValueError(f"The model {network.name!r} has no trainable variables.")
    return layers[-1]


def _is_regularised(layer) -> bool:
    """Whether all weights of the last layer have an L2 regulariser. With outputs that are linear in
    them that gives each curvature: a ridge beside it only makes the scores too small."""
    weights = [variable for variable in layer.trainable_variables if len(variable.shape) > 1]
    return bool(weights) and all(getattr(w.regularizer, "l2", 0) > 0 for w in weights)


def _shown(shape) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
