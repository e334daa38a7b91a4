"""The whole Hessian of a network whose stages follow one another, at a fraction of p products."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from influence.curvature.autodiff import AutodiffHessian
from influence.data.batches import map_over_batches, sum_over_batches
from influence.data.types import Model

# Columns that one compiled call computes.
_COLUMNS_AT_ONCE = 32
# Points at a time. A convolution sums over all of them and their pixels in one go: with 2,750
# images of 28 pixels a side float32 kept but three digits of some entries, with these it keeps
# five, for a twentieth more time.
_POINTS_AT_ONCE = 250


class SequentialHessian(AutodiffHessian):
    """The Hessian of a model that is a sequence of stages, each with variables of its own.

    H is symmetric, so the columns of a stage's parameters are needed only from that stage's rows
    on; and the input of a stage does not depend on its parameters, nor on those after it. So a
    column costs a forward and a backward pass of the stages from its own on, and the parameters of
    the last stages, where a convolutional network has most of them, cost next to nothing.

    Args:
        model: as for ``AutodiffHessian``, with ``stages``: (variables, function) of each stage, in
            the order of ``model.variables``; the functions, one after the other, make the logits.
        progress: show a progress bar while the matrix is computed.
    """

    _model: Any  # with ``stages``

    def __init__(self, model: Model, progress: bool = False) -> None:
        super().__init__(model)
        self.progress = progress

    def _dense(self):
        self._check_parameters()
        model, size = self._model, self.shape[0]
        matrix = np.zeros((size, size), self.dtype)
        inputs, labels = model.tensors
        inputs = tf.function(model.convert, autograph=False)(inputs)
        first = 0
        with tqdm(total=size, desc="Hessian", disable=None if self.progress else True) as bar:
            for stage, (variables, function) in enumerate(model.stages):
                here = sum(variable.shape.num_elements() for variable in variables)
                columns = self._columns_from(stage, inputs, here)
                for start in range(0, here, _COLUMNS_AT_ONCE):
                    stop = min(start + _COLUMNS_AT_ONCE, here)
                    block = columns(inputs, labels, tf.range(start, stop)).numpy()
                    matrix[first + start : first + stop, first:] = block
                    bar.update(stop - start)
                inputs = self._through(function, inputs)
                first += here
        matrix /= self.num_examples
        # Rows from the diagonal block on were computed; the others are their mirror image.
        matrix = np.triu(matrix) + np.triu(matrix, 1).T
        return matrix + self._regularizer_matrix()

    def _columns_from(self, stage, inputs, here):
        """A compiled (inputs, labels, columns [k]) -> Σ ∇²L of those columns, rows from here on."""
        model = self._model
        functions = [function for _, function in model.stages[stage:]]
        variables = [variable for group, _ in model.stages[stage:] for variable in group]
        size = sum(variable.shape.num_elements() for variable in variables)
        own = list(model.stages[stage][0])

        def of_column(inputs, labels, vector):
            def of_batch(inputs, labels):
                def loss():
                    outputs = inputs
                    for function in functions:
                        outputs = function(outputs)
                    return tf.reduce_sum(model.example_losses(outputs, labels))

                return self._second_derivative(loss, variables, own)(vector)

            like = tf.zeros(size, self.dtype)
            return sum_over_batches(of_batch, (inputs, labels), _POINTS_AT_ONCE, like)

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, *inputs.shape[1:]], self.dtype),
                tf.TensorSpec([None], model.tensors[1].dtype),
                tf.TensorSpec([None], tf.int32),
            ],
        )
        def columns(inputs, labels, chosen):
            vectors = tf.one_hot(chosen, here, dtype=self.dtype)
            return tf.map_fn(
                lambda vector: of_column(inputs, labels, vector), vectors, parallel_iterations=1
            )

        # One graph a stage; a bare function would pass for one that is traced again and again.
        return columns.get_concrete_function()

    def _through(self, function, inputs):
        """The outputs of a stage for all points."""
        signature = [tf.TensorSpec([None, *inputs.shape[1:]], self.dtype)]
        like = tf.TensorSpec([None, *function(inputs[:1]).shape[1:]], self.dtype)

        @tf.function(autograph=False, input_signature=signature)
        def outputs(inputs):
            return map_over_batches(function, (inputs,), self._model.batch_size, like)

        return outputs.get_concrete_function()(inputs)
