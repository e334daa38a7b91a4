"""The curvature of a loss in the outputs as a sum of outer products: Λ = Σ u uᵀ."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from influence.curvature.loss_curvature import at_zero, loss_matrices, loss_product, loss_scale
from influence.solvers.downdate import DIFFERENCE_ROUNDINGS

# Up to this many outputs a point's Λ is taken apart by its eigenvectors; above, u is drawn.
EXACT_OUTPUTS = 32
# Draws of a point where u is drawn.
DRAWS = 4
# Of the trace of the Λ of a batch: what may be left out of it, as each u takes a pass; where a
# network is sure of most points, many of them.
_LEFT_OUT = {"float32": 1e-4, "float64": 1e-14}
# How far a form of Λ may be from Λ on a few points, relative, to be taken for it; and the part of
# it that may be negative. Both are but rounding.
_ROUNDING = {"float32": 1e-3, "float64": 1e-9}


class LossRoots:
    """Vectors u [r, m, ...] with Λ_i = Σ_r u_ri u_riᵀ, the Hessian of each point's loss in its
    outputs, weights and masks included.

    Up to 32 outputs by the eigenvectors of Λ_i, for a cross entropy the expectation over all
    labels; in float32 without those that are less than 1e-4 of the trace together. Above, u is
    drawn, four times a point, with E[u uᵀ] = Λ_i: labels from a softmax, or signs where the outputs
    do not meet in the loss.

    Args:
        model: gives ``example_losses``, ``num_outputs`` and ``dtype``.
        logits, labels: of a few points.

    Raises:
        ValueError: more outputs, in a loss of another kind.
    """

    def __init__(self, model: Any, logits: tf.Tensor, labels: Any) -> None:
        self._model = model
        self._outputs = model.num_outputs
        if self._outputs <= EXACT_OUTPUTS:
            self._roots = self._exact
        elif self._is(self._diagonal_product, logits, labels):
            self._roots = self._signs
        elif self._is(self._softmax_product, logits, labels):
            self._roots = self._drawn_labels
        else:
            raise ValueError(
                f"EK-FAC takes losses of more than {EXACT_OUTPUTS} outputs only where they are a "
                f"cross entropy or a sum over the outputs; the model has {self._outputs}."
            )

    def __call__(
        self, logits: tf.Tensor, labels: Any, rows: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(u [r, k, ...], the k of the m points that count, the sums of Λ's [negative, absolute]
        eigenvalues as far as they are known), of a batch, traceable.

        Args:
            logits: [m, ...].
            labels: of the batch.
            rows: [m] numbers of the points, int32.
            seed: int32, of which and of their numbers the draws of the points are made.
        """
        return self._roots(logits, labels, rows, seed)

    def check(self, eigenvalues: np.ndarray) -> None:
        """Raise a ValueError where Λ is not positive semi-definite.

        Args:
            eigenvalues: [2], the sum over the points of what a call returns.
        """
        negative, total = eigenvalues
        if negative > _ROUNDING[self._model.dtype.name] * total:
            raise ValueError(
                "The loss is not convex in the outputs, so that there is no EK-FAC of it: give "
                "another loss=, or curvature=model.hessian() + δ."
            )

    def _exact(self, logits, labels, rows, seed):
        matrices = loss_matrices(self._model, logits, labels)
        values, vectors = tf.linalg.eigh((matrices + tf.linalg.matrix_transpose(matrices)) / 2)
        kept = tf.nn.relu(values)
        roots = tf.transpose(vectors * tf.sqrt(kept)[:, tf.newaxis], [2, 0, 1])
        # From the largest to the smallest; and not those, nor points, that add next to nothing.
        left_out = _LEFT_OUT[self._model.dtype.name] / 2
        number = _counted(tf.reduce_sum(kept, axis=0), left_out)
        masses = tf.reduce_sum(kept, axis=1)
        order = tf.argsort(masses, stable=True)
        chosen = tf.sort(order[-_counted(tf.gather(masses, order), left_out) :])
        roots = tf.gather(roots[::-1][:number], chosen, axis=1)
        roots = tf.reshape(roots, [number, tf.size(chosen), *logits.shape[1:]])
        unseen = DIFFERENCE_ROUNDINGS * np.finfo(self._model.dtype).eps
        unseen *= loss_scale(self._model, logits, labels)
        negative = tf.reduce_sum(tf.nn.relu(-values - unseen[:, tf.newaxis]))
        return roots, chosen, tf.stack([negative, tf.reduce_sum(tf.abs(values))])

    def _signs(self, logits, labels, rows, seed):
        diagonal = loss_product(self._model, logits, labels)(tf.ones_like(logits))
        uniform = self._uniform(seed, rows, self._outputs, logits.dtype)
        signs = tf.reshape(2 * tf.round(uniform) - 1, [DRAWS, *tf.unstack(tf.shape(logits))])
        roots = signs * tf.sqrt(tf.nn.relu(diagonal)) / np.sqrt(DRAWS)
        negative = tf.reduce_sum(tf.nn.relu(-diagonal))
        return roots, _all(rows), tf.stack([negative, tf.reduce_sum(tf.abs(diagonal))])

    def _drawn_labels(self, logits, labels, rows, seed):
        scale = self._softmax_scale(logits, labels)
        classes = logits.shape[-1]
        entries = logits.shape[1:-1].num_elements() or 1
        uniform = self._uniform(seed, rows, entries, logits.dtype)
        uniform = tf.reshape(uniform, [DRAWS, *tf.unstack(tf.shape(logits)[:-1])])
        probabilities = tf.nn.softmax(logits)
        below = tf.cumsum(probabilities, axis=-1) < uniform[..., tf.newaxis]
        drawn = tf.minimum(tf.reduce_sum(tf.cast(below, tf.int32), axis=-1), classes - 1)
        slopes = tf.one_hot(drawn, classes, dtype=logits.dtype) - probabilities
        roots = tf.sqrt(tf.nn.relu(scale)) * slopes / np.sqrt(DRAWS)
        negative = tf.reduce_sum(tf.nn.relu(-scale))
        return roots, _all(rows), tf.stack([negative, tf.reduce_sum(tf.abs(scale))])

    def _uniform(self, seed, rows, number, dtype):
        """[draws, m, number], of a point the same in every batch."""

        def of_point(row):
            pair = tf.stack([seed, row])
            return tf.random.stateless_uniform([DRAWS, number], pair, dtype=dtype)

        return tf.transpose(tf.map_fn(of_point, rows, fn_output_signature=dtype), [1, 0, 2])

    def _is(self, form, logits, labels):
        """Whether Λ is of a form."""
        along = _direction(logits)
        truth = loss_product(self._model, logits, labels)(along).numpy()
        error = np.linalg.norm(form(logits, labels, along).numpy() - truth)
        return error <= _ROUNDING[self._model.dtype.name] * np.linalg.norm(truth)

    def _diagonal_product(self, logits, labels, along):
        return along * loss_product(self._model, logits, labels)(tf.ones_like(logits))

    def _softmax_product(self, logits, labels, along):
        probabilities = tf.nn.softmax(logits)
        return self._softmax_scale(logits, labels) * _softmax_curvature(probabilities, along)

    def _softmax_scale(self, logits, labels):
        """s [m, ..., 1] with Λ = s (diag(p) − ppᵀ): it does not depend on the logits, and of those
        that are 0 it has all digits."""
        level = at_zero(logits)
        along = _direction(logits)
        unscaled = _softmax_curvature(tf.nn.softmax(level), along)
        product = loss_product(self._model, level, labels)(along)
        over = tf.reduce_sum(tf.square(unscaled), axis=-1, keepdims=True)
        return tf.reduce_sum(product * unscaled, axis=-1, keepdims=True) / over


def _counted(masses, left_out):
    """How many of the last of ``masses``, from the smallest to the largest, make up all but
    ``left_out``; one at least."""
    sums = tf.cumsum(masses)
    counted = tf.reduce_sum(tf.cast(sums > left_out * sums[-1], tf.int32))
    return tf.maximum(counted, 1)


def _all(rows):
    return tf.range(tf.size(rows))


def _softmax_curvature(probabilities, along):
    mean = tf.reduce_sum(probabilities * along, axis=-1, keepdims=True)
    return probabilities * (along - mean)


def _direction(logits):
    """Numbers with nothing in common, the same for every point."""
    numbers = np.random.default_rng(0).standard_normal(logits.shape[1:])
    return tf.broadcast_to(tf.constant(numbers, logits.dtype), tf.shape(logits))
