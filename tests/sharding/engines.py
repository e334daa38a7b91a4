"""Executors for tests, and problems whose rows are cut into shards."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression as Estimator

from influence import (
    BinaryLogisticRegression,
    ConjugateGradient,
    Dataset,
    Exact,
    KerasModel,
    from_sklearn,
)
from tests.conftest import Problem

PROBLEM = Problem(n=90)
BINARY = (PROBLEM.labels == 0).astype(int)
X_TEST = PROBLEM.x_test[:3]


class Here(Executor):
    """Computes at once, in this process, and remembers what was asked for.

    Args:
        before: () -> None, called before every task.
    """

    def __init__(self, before=lambda: None):
        self.tasks, self._before = [], before

    def submit(self, function, *arguments):
        self._before()
        self.tasks.append(arguments)
        future = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


def spawned():
    """Two processes."""
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


def logistic(dtype="float64", x=PROBLEM.x):
    """Unfitted."""
    return BinaryLogisticRegression(Dataset(x, BINARY), 0.05, dtype)


def adapter():
    """Of weighted points of three classes, with an intercept."""
    weights = np.random.default_rng(1).uniform(0.5, 2, len(BINARY))
    fitted = Estimator(C=0.5, solver="newton-cholesky", tol=1e-12)
    fitted.fit(PROBLEM.x, PROBLEM.labels, weights)
    return from_sklearn(fitted, PROBLEM.x, PROBLEM.labels, weights)


def network():
    """A small network, and its compiled loss."""
    keras.utils.set_random_seed(0)
    settings = {"dtype": "float64", "kernel_regularizer": "l2", "bias_regularizer": "l2"}
    hidden = keras.layers.Dense(3, "tanh", **settings)
    model = keras.Sequential([keras.Input((5,), dtype="float64"), hidden])
    model.add(keras.layers.Dense(3, **settings))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def network_model():
    """Unfitted."""
    return KerasModel(network(), (PROBLEM.x, PROBLEM.labels))


def layer_model():
    """Unfitted, with a single minimum."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(3, dtype="float64", kernel_regularizer="l2", bias_regularizer="l2")
    model = keras.Sequential([keras.Input((5,), dtype="float64"), layer])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return KerasModel(model, (PROBLEM.x, PROBLEM.labels), loss)


# name -> (model, labels of the test points)
MODELS = {
    "logistic regression": (logistic, BINARY[:3]),
    "scikit-learn": (adapter, PROBLEM.labels[:3]),
    "Keras, one layer": (layer_model, PROBLEM.labels[:3]),
    "Keras": (network_model, PROBLEM.labels[:3]),
}


def fitted(model):
    """To the last digits, where there is one minimum; a network stays where it starts."""
    if not isinstance(model, KerasModel):
        return model.fit()
    return model.fit(gradient_norm=1e-13) if model.num_parameters == 18 else model


def answers(model, y_test):
    """What is asked of a fitted model."""
    curvature = model.gauss_newton() + 0.01
    exact = {"curvature": curvature, "solver": Exact()}
    v = np.linspace(-1, 1, model.num_parameters)
    return {
        "parameters": model.parameters,
        "objective": model.objective(),
        "scores": model.influence_on_loss(X_TEST, y_test, **exact),
        "some scores": model.influence_on_loss(X_TEST, y_test, train_indices=[70, 3, 40], **exact),
        "self-influence": model.self_influence(**exact),
        "solve": model.inverse_hvp(v, ConjugateGradient(1e-12), curvature=curvature).x,
        "Hessian": model.hessian() @ v,
    }
