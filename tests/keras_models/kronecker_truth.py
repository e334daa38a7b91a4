"""EK-FAC of a chain of Keras layers, written out point by point in float64."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import tensorflow as tf

from tests.oracles import softmax


class KroneckerTruth:
    """K-FAC, EK-FAC and the Gauss-Newton matrix of every layer of a chain.

    Args:
        stages: its layers, called one after the other, some maybe several times.
        x: the training points.
        curvature: outputs [c] -> Λ [c, c].
    """

    def __init__(self, stages, x, curvature):
        self.stages, self.curvature = stages, curvature
        self.linear = [_without_activation(stage) for stage in stages]
        self.layers = list({id(stage): stage for stage in stages if stage.weights}.values())
        points = [self._of_point(x[i : i + 1]) for i in range(len(x))]
        self.n = len(x)
        # Of every layer: a [t, a] and g [k, t, b] of every point.
        self.pieces = [[point[j] for point in points] for j in range(len(self.layers))]

    def gauss_newton(self, layer):
        """[ab, ab] of a layer, by its number."""
        rows = [np.ravel(m) for a, g in self.pieces[layer] for m in _gradients(a, g)]
        return np.transpose(rows) @ rows / self.n

    def factors(self, layer):
        """Means over the points of Σ_t a aᵀ and Σ_t g gᵀ."""
        left = sum(a.T @ a for a, _ in self.pieces[layer]) / self.n
        right = sum(np.einsum("kti,ktj->ij", g, g) for _, g in self.pieces[layer]) / self.n
        return left, right

    def kfac(self, layer):
        """A ⊗ G, with G the mean over the positions, too (Grosse & Martens 2016)."""
        left, right = self.factors(layer)
        return np.kron(left, right / len(self.pieces[layer][0][0]))

    def ekfac(self, layer):
        """The diagonal of the Gauss-Newton matrix in the eigenvectors of A ⊗ G."""
        basis = np.kron(*(scipy.linalg.eigh(factor)[1] for factor in self.factors(layer)))
        values = np.diag(basis.T @ self.gauss_newton(layer) @ basis)
        return basis * values @ basis.T

    def _of_point(self, x):
        """(a, g) of every layer."""
        inputs, shifts, places = [], [], []
        with tf.GradientTape(persistent=True) as tape:
            out = tf.constant(x)
            for place, (stage, linear) in enumerate(zip(self.stages, self.linear)):
                if not stage.weights:
                    out = stage(out)
                    continue
                inputs.append(out)
                places.append(place)
                sums = linear(out)
                shifts.append(tf.zeros_like(sums))
                tape.watch(shifts[-1])
                out = sums + shifts[-1]
                if getattr(stage, "activation", None) is not None:
                    out = stage.activation(out)
            numbers = tf.unstack(out[0])
        jacobian = [tape.gradient(number, shifts) for number in numbers]
        values, vectors = np.linalg.eigh(self.curvature(out[0].numpy()))
        roots = vectors * np.sqrt(np.maximum(values, 0))
        found = {id(layer): ([], []) for layer in self.layers}
        for call, place in enumerate(places):
            slopes = np.stack([row[call].numpy() for row in jacobian])
            slopes = slopes.reshape(len(numbers), -1, slopes.shape[-1])
            a, g = found[id(self.stages[place])]
            a.append(_multiplied(self.linear[place], inputs[call]))
            g.append(np.einsum("ck,ctb->ktb", roots, slopes))
        return [(np.concatenate(a), np.concatenate(g, axis=1)) for a, g in map(found.get, found)]


def _multiplied(linear, x):
    """What each position's first sum is the product with: its Jacobian in the first column of the
    parameters, [t, a]."""
    with tf.GradientTape(persistent=True) as tape:
        first = tf.unstack(tf.reshape(linear(x)[..., 0], [-1]))
    rows = []
    for number in first:
        gradients = tape.gradient(number, [v.value for v in linear.weights])
        columns = [tf.convert_to_tensor(gradient)[..., 0] for gradient in gradients]
        rows.append(np.concatenate([np.ravel(column) for column in columns]))
    return np.array(rows)


def _gradients(a, g):
    return np.einsum("ta,ktb->kab", a, g)


def _without_activation(layer):
    if not layer.weights or not hasattr(layer, "activation"):
        return layer
    settings = layer.get_config() | {"activation": None}
    linear = type(layer).from_config(settings)
    linear.build(layer.get_build_config()["input_shape"])
    linear.set_weights(layer.get_weights())
    return linear


def cross_entropy(outputs):
    """Λ of the softmax's."""
    [p] = softmax(outputs[np.newaxis])
    return np.diag(p) - np.outer(p, p)


def binary_cross_entropy(outputs):
    """Of the mean over the outputs."""
    p = 1 / (1 + np.exp(-outputs))
    return np.diag(p * (1 - p)) / len(outputs)


def squared_error(outputs):
    """Of the mean over the outputs."""
    return 2 * np.eye(len(outputs)) / len(outputs)
