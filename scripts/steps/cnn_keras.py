"""The network of Figure 2 as a Keras model, for what only those have: EK-FAC."""

from __future__ import annotations

import keras

from influence import AllCNNC, Dataset, KerasModel

_FILTER = 3


def as_keras(model: AllCNNC) -> KerasModel:
    """The same objective of the same parameters, in the same order, at those of ``model``.

    An operator of the one is one of the other: ``curvature=as_keras(model).ekfac() + δ``.
    """
    # Keras' L2(l) is l‖W‖², without a half.
    settings = {"kernel_regularizer": keras.regularizers.L2(model.weight_decay / 2)}
    channels = model.weights[0].shape[-1]
    layers = [keras.Input((model.side, model.side, 1))]
    layers += [
        keras.layers.Conv2D(channels, _FILTER, stride, activation="tanh", **settings)
        for stride in model.strides
    ]
    layers += [
        keras.layers.Conv2D(model.classes, 1, activation="tanh", **settings),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(model.classes, **settings),
    ]
    network = keras.Sequential(layers)
    network.set_weights([variable.numpy() for variable in model.variables])
    images = model.train.x.reshape(-1, model.side, model.side, 1)
    data = Dataset(images, model.train.labels, model.train.scale)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return KerasModel(network, data, loss)
