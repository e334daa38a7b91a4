"""A Keras model as a function of some of its variables, in inference mode, on copies of them."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from influence.data.types import File, Tensors
from influence.keras_models.formulas import differentiable


class KerasNetwork:
    """outputs = f(x; θ): θ are the chosen variables, everything else stays as it is now.

    The Keras model is called with ``training=False`` (no dropout, batch normalisation by its moving
    statistics) in a stateless scope where copies stand for all of its variables, so neither a
    computation nor a refit changes it, nor does training it further change this network.

    Where the chosen variables are those of the last layers of a functional or sequential chain, the
    layers below are the ``body``: what they make of a point does not depend on θ.

    Args:
        model: built, float32 or float64.
        variables: layers and variables of the model; None chooses all trainable variables.
        split: look for a body.

    Attributes:
        variables: ``tf.Variable``s that hold θ.
        body: the layers below the chosen ones, or None.
        top: the rest of the model.
        owner: whose θ they hold at the moment (see ``KerasModel``).
        share: of the regularisers in the objective, which is its owner's, too.
    """

    def __init__(self, model: keras.Model, variables: Any = None, split: bool = True) -> None:
        _check_model(model)
        self.model = model
        self.chosen = _chosen(model, variables)
        self._make(split, [v.value for v in model.variables])

    def _make(self, split, values):
        model = self.model
        self.body: keras.Model | None
        self.body, self.top = _split(model, self.chosen) if split else (None, model)
        chosen = {id(v) for v in self.chosen}
        self._values = [
            (v, tf.Variable(value, trainable=id(v) in chosen, name=v.name))
            for v, value in zip(model.variables, values)
        ]
        own = {id(v): copy for v, copy in self._values}
        self.variables = [own[id(v)] for v in self.chosen]
        self.owner: Any = None
        self.share = tf.Variable(1.0, trainable=False, dtype=self.variables[0].dtype)

    # To another process it goes as the configuration of the Keras model and what stands for its
    # variables. It is made anew there, and not compiled: losses have been read.

    def __getstate__(self) -> dict[str, Any]:
        layers = self.model._flatten_layers()
        own = {type(layer) for layer in layers if not type(layer).__module__.startswith("keras.")}
        config = keras.saving.serialize_keras_object(self.model)
        places = {id(v): place for place, v in enumerate(self.model.trainable_variables)}
        return {
            "config": config | {"compile_config": None},
            "classes": {keras.saving.get_registered_name(each): each for each in own},
            "values": [copy.numpy() for _, copy in self._values],
            "chosen": [places[id(v)] for v in self.chosen],
            "split": self.body is not None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.model = keras.saving.deserialize_keras_object(
            state["config"], state["classes"], safe_mode=False
        )
        trainable = self.model.trainable_variables
        self.chosen = [trainable[place] for place in state["chosen"]]
        self._make(state["split"], state["values"])

    def with_values(self) -> keras.Model:
        """The Keras model itself, which takes over the values of what stands for its variables:
        for a network that was made again, whose model is nobody's."""
        for variable, copy in self._values:
            variable.assign(copy)
        return self.model

    def whole(self, x: Tensors) -> Tensors:
        """The outputs for points ``x``."""
        return self._run(self.model, x)[0]

    def head(self, features: Tensors) -> Tensors:
        """The outputs for what the body makes of points, or for points where there is no body."""
        return self._run(self.top, features)[0]

    def features(self, x: Tensors) -> tf.Tensor:
        """What the body makes of points: [m, f]."""
        return self._run(self.body, x)[0]

    def twice(self, x: Tensors) -> tuple[Tensors, Tensors]:
        """The outputs of a call and of the next one, which may have moved seeds and counters."""
        first, state = self._run(self.model, x)
        return first, self._run(self.model, x, state)[0]

    def regularization(self) -> tf.Tensor:
        """The sum of the weight regularisers of the model, as Keras adds it to the loss, times
        their share."""
        values = {id(v): copy for v, copy in self._values}
        penalties = [
            v.regularizer(tf.convert_to_tensor(values[id(v)]))
            for v in self.model.trainable_variables
            if v.regularizer is not None
        ]
        if not penalties:
            return tf.zeros([], self.share.dtype)
        return self.share * tf.cast(tf.add_n(penalties), self.share.dtype)

    def losses_of_data(self, x: Tensors) -> int:
        """How many losses the model adds that depend on its inputs, such as activity penalties."""
        with keras.StatelessScope(self.state(), collect_losses=True):
            self.model(x, training=False)
            regularised = [v for v in self.model.trainable_variables if v.regularizer is not None]
            return len(self.model.losses) - len(regularised)

    def state(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """The model's variables, and what stands for them in a stateless scope."""
        # Without stop_gradient a tape would go back through everything that is not chosen.
        return [
            (v, tf.convert_to_tensor(copy) if copy.trainable else tf.stop_gradient(copy))
            for v, copy in self._values
        ]

    def chosen_in(self, file: File) -> list[np.ndarray]:
        """The values of the chosen variables in a file of Keras of the same model.

        Raises:
            ValueError: it is of another model, or other variables have other values in it.
        """
        other = self._loaded(os.fspath(file))
        shapes = [[tuple(v.shape) for v in model.weights] for model in (self.model, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{file} is not of the model {self.model.name!r}: it has other shapes."
            )
        there = {id(mine): its.numpy() for mine, its in zip(self.model.weights, other.weights)}
        chosen = {id(v) for v in self.chosen}
        for v, copy in self._values:
            if (
                id(v) in there
                and id(v) not in chosen
                and not np.array_equal(there[id(v)], copy.numpy())
            ):
                raise ValueError(
                    f"{file} has other values of {v.path}, which is not among the variables of "
                    f"this model: make a KerasModel of keras.saving.load_model({str(file)!r})."
                )
        return [there[id(v)] for v in self.chosen]

    def _loaded(self, file):
        if not file.endswith(".weights.h5"):
            return keras.saving.load_model(file, compile=False)
        clone = keras.models.clone_model(self.model)
        clone.load_weights(file)
        return clone

    def _run(self, model, x, state=None):
        """(outputs, state afterwards)."""
        state = self.state() if state is None else state
        with differentiable(), keras.StatelessScope(state) as scope:
            outputs = model(x, training=False)
        return outputs, [(v, scope.get_current_value(v)) for v, _ in state]


def _check_model(model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow before it is "
            f"imported."
        )
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a Keras model, not {type(model).__name__}.")
    if not model.built or not model.variables:
        raise ValueError(
            f"The model {model.name!r} is not built: call it once on some points, or give it an "
            f"Input, before its influences are asked for."
        )


def _chosen(model, variables) -> list[keras.Variable]:
    """The chosen variables, in the order of the model's trainable ones."""
    trainable = model.trainable_variables
    if variables is None:
        if not trainable:
            raise ValueError(f"The model {model.name!r} has no trainable variables.")
        return list(trainable)
    wanted = set()
    for item in variables if isinstance(variables, (list, tuple)) else [variables]:
        mine = item.trainable_variables if isinstance(item, keras.Layer) else [item]
        name = getattr(item, "name", item)
        if not mine:
            raise ValueError(f"The layer {name!r} in variables has no trainable variables.")
        if not {id(v) for v in mine} <= {id(v) for v in trainable}:
            raise ValueError(
                f"{name!r} in variables is not a layer or trainable variable of the model "
                f"{model.name!r}."
            )
        wanted |= {id(v) for v in mine}
    if not wanted:
        raise ValueError("variables is empty: name at least one layer, or leave it out.")
    return [v for v in trainable if id(v) in wanted]


def _split(model, chosen):
    """(body, head) of a chain of layers whose last ones hold all chosen variables, else
    (None, model)."""
    # What the body makes of points is kept without the mask that Keras gives to the layers above.
    if len(getattr(model, "outputs", None) or ()) != 1 or _masks(model):
        return None, model
    missing, tensor = {id(v) for v in chosen}, model.outputs[0]
    while missing:
        layer = next((layer for layer in model.layers if _end(layer) is tensor), None)
        if layer is None:
            return None, model
        tensor = layer.input
        missing -= {id(v) for v in layer.variables}
    if not isinstance(tensor, keras.KerasTensor) or any(tensor is one for one in model.inputs):
        return None, model
    body, head = keras.Model(model.inputs, tensor), keras.Model(tensor, model.outputs[0])
    shared = {id(v) for v in body.variables} & {id(v) for v in chosen}
    return (None, model) if shared else (body, head)


def _masks(model) -> bool:
    """Whether a layer of the model makes a mask of its inputs."""
    return any(
        isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False)
        for layer in model._flatten_layers()
    )


def _end(layer):
    """The output of a layer that is used once, with one input and one output; else None."""
    try:
        single = isinstance(layer.input, keras.KerasTensor)
        return layer.output if single else None
    except (AttributeError, ValueError):
        return None
