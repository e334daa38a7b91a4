"""Keras models that are linear in their parameters: those of one dense layer, the last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.curvature.loss_curvature import loss_matrices
from influence.data.batches import number_of_rows, take_rows
from influence.data.types import Tensors
from influence.keras_models.layer_gauss_newton import LayerGaussNewton
from influence.linear.leverage import single_steps
from influence.linear.terms import PointTerms
from influence.objective.removal import Removal
from influence.solvers.exact import Exact

# Numbers that the matrices of a block of points may have: 32 MB.
_NUMBERS = 2**22


def is_last_layer(model: Any, features: Tensors) -> bool:
    """Whether the logits of a ``KerasModel`` are features·W, or features·W + b, in its variables W
    and b: for these ``features`` of a few points [m, f], at any parameters."""
    shapes = [tuple(variable.shape) for variable in model.variables]
    like = getattr(features, "shape", [])
    if len(like) != 2 or len(model.logits(features).shape) != 2:
        return False
    f, c = like[1], model.num_outputs
    if shapes not in ([(f, c)], [(f, c), (c,)]):
        return False
    theta = model.parameters
    model.parameters = np.random.default_rng(0).standard_normal(len(theta))
    try:
        kernel, *bias = model.variables
        linear = features @ kernel + sum(bias)
        error = tf.reduce_max(tf.abs(model.logits(features) - linear))
        size = tf.reduce_max(tf.abs(linear))
    finally:
        model.parameters = theta
    return bool(error <= np.sqrt(np.finfo(model.dtype).eps) * size)


class LastLayerHessian(LayerGaussNewton):
    """∇²R of a model whose logits are x̃W, which is its Gauss-Newton matrix: (1/n) Σ x̃x̃ᵀ ⊗ Λ and
    the regulariser's. x̃ [d] are what the frozen layers make of a point, and 1 for biases.

    The matrix is in float64 and in closed form; products are those of ``LayerGaussNewton``.

    Args:
        model: a ``KerasModel`` that ``is_last_layer``.
    """

    _model: Any

    def terms(self, indices: ArrayLike | None = None) -> Iterator[PointTerms]:
        """Those of the training points at ``indices``, or of all (None), a few at a time."""
        self._check_parameters()
        model = self._model
        points = model.points.chosen(indices)
        compiled = self._compile("_traced_terms", points)
        size = max(1, min(_NUMBERS // self.shape[0], model.batch_size))
        for first in range(0, int(number_of_rows(points)), size):
            few = take_rows(points, slice(first, first + size))
            *rest, curvatures = (part.numpy() for part in compiled(few))
            rows, outputs, slopes = (part.astype(np.float64) for part in rest)
            # In the model's own dtype, which says what of them is rounding.
            yield PointTerms(rows, outputs, slopes, curvatures)

    def _traced_terms(self, points):
        x, labels = points
        model = self._model
        features = model.convert(x)
        logits = model.logits(features)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = model.example_losses(logits, labels)
        slopes = tape.gradient(losses, logits)
        if len(model.variables) == 2:
            features = tf.concat([features, tf.ones_like(features[:, :1])], axis=1)
        return features, logits, slopes, loss_matrices(self._model, logits, labels)

    def _dense(self):
        c = self._model.num_outputs
        d = self.shape[0] // c
        total = np.zeros((d, c, d, c))
        for terms in self.terms():
            for a in range(c):
                for b in range(a, c):
                    weighted = terms.rows * terms.curvatures[:, a, b, np.newaxis]
                    total[:, a, :, b] += terms.rows.T @ weighted
        for a in range(c):
            for b in range(a):
                total[:, a, :, b] = total[:, b, :, a]
        return total.reshape(self.shape) / self.num_examples + self._regularizer_matrix()


class LastLayerRemoval(Removal):
    """``Removal`` of single points in closed form, where the curvature's matrix is inverted."""

    def _newton(self, sets):
        solver = self._solver_for(sets)
        if not (sets.single and isinstance(solver, Exact)):
            yield from super()._newton(sets)
            return
        inverse = solver.inverse(self._operator, self._strict) / self._n
        terms = self._model.hessian().terms(sets.members[:, 0])
        yield from single_steps(terms, inverse, self._model, sets)
