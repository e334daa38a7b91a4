"""The Gauss-Newton matrix: the Hessian without the part that can make it indefinite."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from influence.curvature.autodiff import AutodiffHessian
from influence.curvature.loss_curvature import loss_matrices, loss_product, loss_scale
from influence.data.batches import sum_over_batches
from influence.data.types import PointTensors
from influence.data.vectors import flatten, split

# Numbers that the Jacobians of a batch may have: 128 MB in float32.
_JACOBIAN_NUMBERS = 2**25


class GaussNewton(AutodiffHessian):
    """G = (1/n) Σ J_iᵀ Λ_i J_i + ∇²(regulariser), J_i the Jacobian of the logits [c, p] and Λ_i
    the Hessian of the loss in the logits [c, c].

    For a loss that is convex in the logits it is positive semi-definite wherever the Hessian is
    not, which makes it the usual curvature for networks (Martens 2020, arXiv 1412.1193). It is the
    Hessian of the model linearised in its parameters, so for a model with linear logits the two
    are the same.

    Args:
        model: as for ``AutodiffHessian``.

    Examples:
        For (abx − y)² at a = b = x = 1 and y = 4, where the Hessian has a negative eigenvalue:

        >>> import keras
        >>> import numpy as np
        >>> from influence import KerasModel
        >>> layer = {"units": 1, "use_bias": False, "kernel_initializer": "ones"}
        >>> a, b = keras.layers.Dense(**layer), keras.layers.Dense(**layer)
        >>> network = keras.Sequential([keras.Input((1,)), a, b])
        >>> model = KerasModel(network, (np.ones((1, 1)), np.full((1, 1), 4.0)), loss="mse")
        >>> model.hessian().dense().tolist(), model.gauss_newton().dense().tolist()
        ([[2.0, -4.0], [-4.0, 2.0]], [[2.0, 2.0], [2.0, 2.0]])
    """

    def _loss_product(self, x, labels):
        """v -> Σ J_iᵀ Λ_i J_i v over a batch, [p]."""
        model = self._model
        linearized = model.mode.linearized(lambda: model.logits(model.convert(x)), model.variables)

        def product(vector):
            logits, along, transposed = linearized(split(vector, model.variables))
            curved = loss_product(model, logits, labels)(along)
            return flatten(transposed(tf.stop_gradient(curved)))

        return product

    def _dense(self):
        # Products of all the Jacobians at once, instead of p products with the operator.
        self._check_parameters()
        total = self._compile("_traced_dense", self._model.tensors)
        matrix = total(self._model.tensors).numpy() / self.num_examples
        matrix += self._regularizer_matrix()
        return (matrix + matrix.T) / 2

    def _traced_dense(self, points):
        """Σ J_iᵀ Λ_i J_i, [p, p]."""
        model = self._model
        outputs = model.num_outputs
        batch_size = max(1, _JACOBIAN_NUMBERS // (outputs * self.shape[0]))
        return sum_over_batches(
            self._jacobian_product,
            points,
            min(batch_size, model.batch_size),
            tf.zeros(self.shape, self.dtype),
        )

    def factors(self, points: PointTensors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """J_i [m, c, p] and Λ_i [m, c, c] of single ``points``, (x, labels) as tensors: what each
        of them has in n·G is J_iᵀ Λ_i J_i. And their ``loss_scale`` [m]."""
        self._check_parameters()
        jacobians, curvatures, scale = self._compile("_traced_factors", points)(points)
        return jacobians.numpy(), curvatures.numpy(), scale.numpy()

    def _traced_factors(self, points):
        x, labels = points
        model = self._model
        scale = loss_scale(model, model.logits(model.convert(x)), labels)
        return *self._jacobians_and_curvatures(x, labels), scale

    def _jacobians_and_curvatures(self, x, labels):
        model = self._model
        converted = model.convert(x)
        curvatures = loss_matrices(model, model.logits(converted), labels)
        return model.output_jacobians(converted), curvatures

    def _jacobian_product(self, x, labels):
        """Σ J_iᵀ Λ_i J_i over a batch, [p, p]."""
        jacobians, curvatures = self._jacobians_and_curvatures(x, labels)
        flat = [-1, self.shape[0]]
        return tf.matmul(
            tf.reshape(jacobians, flat),
            tf.reshape(curvatures @ jacobians, flat),
            transpose_a=True,
        )
