"""An objective, said once: losses, gradients and directional derivatives follow from it."""

from __future__ import annotations

import abc
import functools

import numpy as np
import scipy.sparse
import tensorflow as tf

from influence.data.batches import (
    default_batch_size,
    map_over_batches,
    number_of_rows,
    spec_of,
    sum_over_batches,
)
from influence.data.dataset import (
    Dataset,
    check_dataset,
    check_indices,
    check_inputs,
    check_points,
)
from influence.data.vectors import flatten, split


class Objective(abc.ABC):
    """R(θ) = (1/n) Σ L(z_i, θ) + regularization(θ) on a training set, and its derivatives.

    A subclass says ``logits``, ``example_losses``, ``regularization`` and ``fit``, how an unfitted
    model with the same settings is made (``_clone``), and which labels it takes
    (``_check_labels``). Derivatives are compiled scans of the data, traced once.

    Args:
        train: the training points.
        variables: the ``tf.Variable``s of the model; θ is all of them, flattened, in this order.
        dtype: "float32" or "float64".
        batch_size: points that are held as floating-point numbers at a time.
    """

    def __init__(self, train: Dataset, variables, dtype="float32", batch_size: int | None = None):
        self._check_train(train)
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, not {dtype!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size!r}.")
        self.train = train
        self.dtype = np.dtype(dtype)
        self.variables = list(variables)
        self.batch_size = batch_size or default_batch_size(int(np.prod(train.x.shape[1:])))
        self._compiled = {}
        # What was computed at the present θ; new parameters empty it.
        self._at_theta = {}

    # What a subclass says.

    label_dtype = np.int64

    @abc.abstractmethod
    def logits(self, x: tf.Tensor) -> tf.Tensor:
        """The outputs for converted points ``x`` [m, ...]."""

    @abc.abstractmethod
    def example_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """L of each point, without the regulariser: [m]."""

    @abc.abstractmethod
    def regularization(self) -> tf.Tensor:
        """The part of the objective that does not depend on the data: a scalar."""

    @abc.abstractmethod
    def fit(self) -> Objective:
        """Minimise the objective from the present parameters; returns the model."""

    @abc.abstractmethod
    def _clone(self, train: Dataset) -> Objective:
        """An unfitted model with the same settings on other points."""

    @abc.abstractmethod
    def _check_labels(self, labels: np.ndarray, name: str) -> None:
        """Raise a ValueError for labels that the model cannot take."""

    def _check_train(self, train) -> None:
        """Raise a ValueError for training points that the model cannot take."""
        check_dataset(train)
        self._check_labels(train.labels, "train.labels")

    def output_jacobians(self, x: tf.Tensor) -> tf.Tensor:
        """∂logits/∂θ of converted points ``x`` [m, ...]: [m, c, p], traceable.

        One point at a time; a subclass may know how to do it for a batch.
        """

        def of_point(point):
            alone = tf.nest.map_structure(lambda array: array[tf.newaxis], point)
            with tf.GradientTape(persistent=True) as tape:
                outputs = tf.unstack(tf.reshape(self.logits(alone), [-1]))
            rows = [
                tape.gradient(output, self.variables, unconnected_gradients="zero")
                for output in outputs
            ]
            return tf.stack([flatten(row) for row in rows])

        return tf.map_fn(of_point, x, fn_output_signature=self.dtype)

    def sum_gradient(self, x: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Σ ∇L(z_i, θ) of a batch of points, not yet converted: [p], traceable.

        By automatic differentiation; a subclass may know a faster way.
        """
        return self._sum_gradient("normal", x, labels)

    def adversarial_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """log of the probability of a wrong answer, [m]; only for models with probabilities."""
        raise ValueError(f"{type(self).__name__} defines no adversarial loss.")

    # Parameters.

    @property
    def num_parameters(self) -> int:
        """p."""
        return sum(variable.shape.num_elements() for variable in self.variables)

    @property
    def parameters(self) -> np.ndarray:
        """θ [p], a copy."""
        return flatten(self.variables).numpy()

    @parameters.setter
    def parameters(self, theta) -> None:
        theta = np.asarray(theta)
        if theta.shape != (self.num_parameters,) or not np.isfinite(theta).all():
            raise ValueError(
                f"parameters must be {self.num_parameters} finite numbers; got an array of shape "
                f"{theta.shape}."
            )
        for variable, value in zip(self.variables, split(theta, self.variables)):
            variable.assign(tf.cast(value, variable.dtype))
        self._at_theta.clear()

    def with_parameters(self, theta) -> Objective:
        """A model with the same settings and data at parameters ``theta`` [p]."""
        model = self._clone(self.train)
        model.parameters = theta
        return model

    def refit(self, without) -> Objective:
        """A model fitted without the training points at these indices, from the present θ."""
        model = self._clone(self.train.without(without))
        model.parameters = self.parameters
        return model.fit()

    # The objective and its derivatives.

    @functools.cached_property
    def num_outputs(self) -> int:
        """c, the numbers that the model puts out for a point."""
        with tf.init_scope():
            return max(1, self.outputs(self.train.x[:1]).size)

    @functools.cached_property
    def tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The training points (x, labels) as tensors in the data's own dtype."""
        # Outside any function that is being traced.
        with tf.init_scope():
            return self._input_tensor(self.train.x), self._label_tensor(self.train.labels)

    def convert(self, x: tf.Tensor) -> tf.Tensor:
        """A batch of points as the model sees them: its dtype, times the data set's scale."""
        x = tf.cast(x, self.dtype)
        return x if self.train.scale == 1 else x * tf.constant(self.train.scale, self.dtype)

    def outputs(self, x) -> np.ndarray:
        """The logits of points ``x`` [m, ...], in the units of ``train.x``."""
        x = check_inputs(x, self.train.x.shape[1:], "x")
        return self._outputs(self._input_tensor(x)).numpy()

    def losses(self, x, labels, loss: str = "normal") -> np.ndarray:
        """The loss of each point, [m]; ``loss`` as in ``influence_on_loss``."""
        x, labels = self._points(x, labels, "x", "labels")
        return self._call("_traced_losses", loss, x, labels).numpy()

    def objective(self) -> float:
        """R(θ), the regulariser included."""
        losses = self._call("_traced_losses", "normal", *self.tensors).numpy()
        return float(losses.mean(dtype=np.float64)) + float(self.regularization())

    def gradient(self) -> np.ndarray:
        """∇R(θ) [p], the regulariser included."""
        mean = self._call("_traced_mean_gradient", "normal", *self.tensors).numpy()
        return mean + self._regularization_gradient()

    def test_gradient(self, x_test, y_test, loss="normal", reduction=None) -> np.ndarray:
        """∇_θ of each test loss, [p, m], or with ``reduction="mean"`` of their mean, [p]."""
        if reduction not in (None, "mean"):
            raise ValueError(f'reduction must be None or "mean", not {reduction!r}.')
        points = self._points(x_test, y_test, "x_test", "y_test")
        if reduction == "mean":
            return self._mean_gradient(loss, *points)
        return self._gradients(loss, *points).T

    # How it is done.

    def _directional_derivatives(self, points, block: tf.Tensor) -> tf.Tensor:
        """∇L(z_i)ᵀ of every column of ``block`` [p, k], forward-mode: [q, k]."""
        return self._call("_traced_directional_derivatives", "normal", *points, block=block)

    def _outputs(self, x) -> tf.Tensor:
        return self.logits(self.convert(x))

    def _gradients(self, loss, x, labels) -> np.ndarray:
        """∇L of every one of these points, [m, p]."""
        return self._call("_traced_gradients", loss, x, labels).numpy()

    def _mean_gradient(self, loss, x, labels) -> np.ndarray:
        """The mean of ∇L of these points, [p]."""
        return self._call("_traced_mean_gradient", loss, x, labels).numpy()

    def _input_logits(self, x):
        """``logits`` of the points that ``_raw_points`` gives."""
        return self.logits(x)

    def _raw_points(self, indices):
        """Training points as they came, where ``_train_points`` gives something made of them."""
        return self._train_points(indices)

    def _input_gradients(self, x, labels, direction: tf.Tensor) -> np.ndarray:
        """∇_x of ∇L(z_i)ᵀ ``direction`` [p, 1] of these points, in converted units: [q, ...]."""
        gradients = self._call("_traced_input_gradient", "normal", x, labels, block=direction)
        return tf.nest.map_structure(lambda gradient: gradient.numpy(), gradients)

    def _regularization_gradient(self) -> np.ndarray:
        return self._regularization_slope().numpy()

    def _regularization_slope(self) -> tf.Tensor:
        """∇regularization(θ) [p], traceable."""
        with tf.GradientTape() as tape:
            value = tf.convert_to_tensor(self.regularization(), self.dtype)
        gradient = tape.gradient(value, self.variables, unconnected_gradients="zero")
        return flatten(gradient)

    def _train_points(self, indices):
        if indices is None:
            return self.tensors
        indices = check_indices(indices, len(self.train), "train_indices")
        x = self._input_tensor(self.train.x[indices])
        return x, self._label_tensor(self.train.labels[indices])

    def _points(self, x, labels, x_name, labels_name) -> tuple[tf.Tensor, tf.Tensor]:
        x, labels = check_points(x, labels, self.train.x.shape[1:], x_name, labels_name)
        self._check_labels(labels, labels_name)
        return self._input_tensor(x.astype(self.dtype)), self._label_tensor(labels)

    def _input_tensor(self, x):
        """Points as the compiled functions take them, in the points' own dtype."""
        if scipy.sparse.issparse(x):
            raise ValueError(f"{type(self).__name__} takes no sparse points: use x.toarray().")
        # identity lets go of the second copy that the conversion makes
        return tf.identity(x)

    def _label_tensor(self, labels) -> tf.Tensor:
        return tf.constant(labels.astype(self.label_dtype))

    def _call(self, function: str, loss: str, *points, block=None):
        """The compiled ``function(loss, points)`` or ``function(loss, points, block)``."""
        traced = functools.partial(getattr(self, function), loss)
        blocks = [] if block is None else [block]
        return self.compiled((function, loss), traced, points, len(blocks))(points, *blocks)

    def compiled(self, name, function, points, blocks: int = 0):
        """``function(points, *blocks)``, traced once for each ``name`` and kind of points.

        ``points`` are as in ``batches``, a block is [p, k].
        """
        spec = spec_of(points)
        key = (name, repr(spec))
        if key not in self._compiled:
            block = tf.TensorSpec([self.num_parameters, None], self.dtype)
            signature = [spec, *[block] * blocks]
            self._compiled[key] = tf.function(function, input_signature=signature)
        return self._compiled[key]

    def _losses_of(self, loss):
        functions = {"normal": self.example_losses, "adversarial": self.adversarial_losses}
        if loss not in functions:
            raise ValueError(f'loss must be "normal" or "adversarial", not {loss!r}.')
        return functions[loss]

    def _batch_losses(self, loss, x, labels):
        return self._losses_of(loss)(self.logits(self.convert(x)), labels)

    def _traced_losses(self, loss, points):
        return map_over_batches(
            functools.partial(self._batch_losses, loss),
            points,
            self.batch_size,
            tf.TensorSpec([None], self.dtype),
        )

    def _traced_mean_gradient(self, loss, points):
        automatic = functools.partial(self._sum_gradient, loss)
        gradient = self.sum_gradient if loss == "normal" else automatic

        def of_batch(x, labels):
            return gradient(x, labels), number_of_rows(labels)

        zero = tf.zeros(self.num_parameters, self.dtype)
        total, number = sum_over_batches(of_batch, points, self.batch_size, (zero, 0))
        return total / tf.cast(number, self.dtype)

    def _sum_gradient(self, loss, x, labels):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(self._batch_losses(loss, x, labels))
        return flatten(tape.gradient(value, self.variables, unconnected_gradients="zero"))

    def _traced_gradients(self, loss, points):
        """∇L of every point, [m, p]."""

        def of_point(point):
            alone = tf.nest.map_structure(lambda array: array[tf.newaxis], point)
            return self._sum_gradient(loss, *alone)

        return tf.map_fn(of_point, points, fn_output_signature=self.dtype)

    def _along(self, loss, x, labels, vector):
        """Directional derivatives of the losses along ``vector`` [p]: [b]."""
        tangents = split(vector, self.variables)
        with tf.autodiff.ForwardAccumulator(self.variables, tangents) as forward:
            losses = self._batch_losses(loss, x, labels)
        return forward.jvp(losses, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _traced_directional_derivatives(self, loss, points, block):
        def of_batch(x, labels):
            columns = tf.map_fn(
                lambda vector: self._along(loss, x, labels, vector), tf.transpose(block)
            )
            return tf.transpose(columns)

        like = tf.TensorSpec([None, None], self.dtype)
        return map_over_batches(of_batch, points, self.batch_size, like)

    def _traced_input_gradient(self, loss, points, block):
        """∇_x of the directional derivatives along the one column of ``block``: [k, ...]."""

        def of_batch(x, labels):
            x = self.convert(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                tangents = split(block[:, 0], self.variables)
                with tf.autodiff.ForwardAccumulator(self.variables, tangents) as forward:
                    losses = self.example_losses(self._input_logits(x), labels)
                along = forward.jvp(losses, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return tape.gradient(along, x, unconnected_gradients="zero")

        like = tf.nest.map_structure(
            lambda array: tf.TensorSpec([None, *array.shape[1:]], self.dtype), points[0]
        )
        return map_over_batches(of_batch, points, self.batch_size, like)
