"""The Gauss-Newton matrix of a network, by its layers: what makes products of wide blocks cheap."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from influence.curvature.gauss_newton import GaussNewton
from influence.curvature.loss_curvature import loss_matrices
from influence.data.batches import is_stream, number_of_rows, sum_over_batches
from influence.data.types import PointTensors
from influence.keras_models.layer_factors import LayerFactors, LinearFactors

# Numbers that the derivatives of a batch may have (32 MB in float32), and those of a point in one
# layer that are multiplied out.
_NUMBERS, _MULTIPLIED_OUT = 2**23, 2**20


class LayerGaussNewton(GaussNewton):
    """``GaussNewton`` whose products with wide blocks share all derivatives.

    The Jacobian of a point's outputs in a layer's parameters is Σ_t a_t g_tᵀ, of the layer's inputs
    a and of the slopes g of the outputs, at its positions t. Both are computed once a batch, the
    slopes by a backward pass for each of c outputs, and each column of a block then costs products
    of matrices, where alone it costs derivatives forward and back through the network. So c/2
    columns are enough for it to pay.

    Args:
        model: a ``KerasModel``. Networks with parameters elsewhere, or too many to multiply out,
            are served as by ``GaussNewton``.
    """

    _model: Any  # a ``KerasModel``

    def product_of(self, points: PointTensors, block: tf.Tensor) -> tf.Tensor:
        if not self._shares(block.shape[1]):
            return super().product_of(points, block)
        self._check_parameters()
        return self._compile("_traced_wide_product", points, blocks=1)(points, block)

    def _shares(self, columns):
        """Whether that pays, and all parameters are in layers of which it is known how."""
        outputs = self._model.num_outputs
        if outputs is None or columns < max(2, outputs / 2):
            return False
        capture = self._model.layer_scans.capture
        return not capture.rest and all(
            isinstance(layer, LinearFactors) or _multiplied_out(layer, outputs) <= _MULTIPLIED_OUT
            for layer in capture.layers
        )

    def _traced_wide_product(self, points, block):
        layers = self._model.layer_scans.capture.layers
        directions = [
            tf.reshape(
                tf.concat([block[place] for place in layer.places], axis=0), [*layer.shape, -1]
            )
            for layer in layers
        ]
        zeros = [tf.zeros_like(each) for each in directions], 0

        def of_points(x, labels):
            captured = self._model.layer_scans.capture.captured(x)  # for its shapes
            forms = [
                _form(layer, inputs.shape[1], len(self._directions()))
                for layer, inputs in zip(layers, captured.inputs)
            ]
            numbers = sum(form.numbers for form in forms)
            size = max(1, min(self._model.batch_size, _NUMBERS // numbers))

            def of_batch(x, labels):
                return self._batch_product(forms, directions, x, labels), number_of_rows(labels)

            # Few at a time: what one adds is as large as the block.
            return sum_over_batches(of_batch, (x, labels), size, zeros, parallel=2)

        if is_stream(points):
            total, number = sum_over_batches(of_points, points, self._model.batch_size, zeros)
        else:
            total, number = of_points(*points)
        mean = self._joined(layers, total) / tf.cast(number, block.dtype)
        return mean + tf.transpose(tf.map_fn(self._regularizer_product, tf.transpose(block)))

    def _batch_product(self, forms, directions, x, labels):
        """Σ J_iᵀ Λ_i J_i V over a batch, for V [a, b, k] of each layer."""
        captured = self._model.layer_scans.capture.captured(x)
        logits, inputs = captured.logits, captured.inputs

        def of_output(unit):
            along = tf.broadcast_to(tf.reshape(unit, logits.shape[1:]), tf.shape(logits))
            slopes = captured.slopes(along)
            return [form.part(*each) for form, *each in zip(forms, inputs, slopes)]

        units = self._directions()
        parts = tf.map_fn(
            of_output, tf.constant(units, self.dtype), fn_output_signature=[self.dtype] * len(forms)
        )
        along = tf.add_n(
            [form.along(*each) for form, *each in zip(forms, inputs, parts, directions)]
        )
        curvatures = loss_matrices(self._model, logits, labels)[:, : len(units), : len(units)]
        weights = tf.transpose(curvatures @ tf.transpose(along, [1, 0, 2]), [1, 0, 2])
        return [form.against(*each, weights) for form, *each in zip(forms, inputs, parts)]

    def _directions(self):
        """D [r, c] of the logits with Λ = DᵀΛ'D, where Λ' are the first r rows and columns of Λ.

        Of a softmax only the differences to the last logit count, Λ1 = 0, which saves one of c.
        """
        units = np.eye(self._model.num_outputs)
        if not self._model._loss.of_differences:
            return units
        return (units - units[-1])[:-1]

    def _joined(self, layers, products):
        """Blocks [a, b, k] of the layers as one [p, k]."""
        found: dict[int, tf.Tensor] = {}
        for layer, product in zip(layers, products):
            rows = tf.reshape(product, [layer.shape[0] * layer.shape[1], -1])
            sizes = [place.stop - place.start for place in layer.places]
            found |= zip([place.start for place in layer.places], tf.split(rows, sizes))
        return tf.concat([found[start] for start in sorted(found)], axis=0)


def _form(layer, positions, outputs):
    """The form of a layer's Jacobians that takes fewer operations, and fits."""
    if isinstance(layer, LinearFactors):
        fits = _multiplied_out(layer, outputs) <= _MULTIPLIED_OUT
        if positions <= 2 * outputs or not fits:
            return _Positions(layer, positions, outputs)
    return _Whole(layer, positions, outputs)


def _multiplied_out(layer, outputs):
    return outputs * layer.shape[0] * layer.shape[1]


class _Whole:
    """Jacobians multiplied out: [c, m, a, b]."""

    def __init__(self, layer: LayerFactors, positions: int, outputs: int) -> None:
        self._layer = layer
        self._size = layer.shape[0] * layer.shape[1]
        self.numbers = _multiplied_out(layer, outputs) + positions * sum(layer.shape)

    def part(self, inputs, slopes):
        """Of one output, [m, a, b]."""
        return self._layer.gradients(inputs, slopes)

    def along(self, _, parts, directions):
        """[c, m, k]"""
        return tf.tensordot(parts, directions, 2)

    def against(self, _, parts, weights):
        """[a, b, k] of weights [c, m, k]."""
        rows, columns = tf.reshape(parts, [-1, self._size]), tf.shape(weights)[2]
        product = tf.matmul(rows, tf.reshape(weights, [-1, columns]), transpose_a=True)
        return tf.reshape(product, [*self._layer.shape, columns])


class _Positions:
    """Jacobians as inputs and slopes: [m, t, a] and [c, m, t, b]."""

    def __init__(self, layer: LayerFactors, positions: int, outputs: int) -> None:
        self.numbers = positions * (layer.shape[0] + outputs * layer.shape[1])

    def part(self, _, slopes):
        """Of one output, [m, t, b]."""
        return slopes

    def along(self, inputs, parts, directions):
        """[c, m, k]"""
        return tf.einsum("cmtb,mtbk->cmk", parts, tf.tensordot(inputs, directions, 1))

    def against(self, inputs, parts, weights):
        """[a, b, k] of weights [c, m, k]."""
        return tf.tensordot(inputs, tf.einsum("cmtb,cmk->mtbk", parts, weights), [[0, 1], [0, 1]])
