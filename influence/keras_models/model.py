"""Influences for any Keras model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.curvature.ekfac import EKFAC
from influence.curvature.modes import FORWARD
from influence.curvature.operator import MAX_DENSE_SIZE, HessianOperator, MatrixOperator
from influence.curvature.sharded import ShardedHessian
from influence.data.batches import (
    default_batch_size,
    number_of_rows,
)
from influence.data.types import File, Inputs, Tensors
from influence.data.vectors import flatten, split
from influence.fitting.newton import EXACT_NEWTON_SIZE, minimize
from influence.keras_models.checks import (
    check_made_again,
    check_penalties,
    checked_outputs,
    warn_if_endless,
)
from influence.keras_models.data import Examples, Stream, range_of, training_points
from influence.keras_models.derivatives import check_input_gradient, checked_derivatives
from influence.keras_models.ekfac import make_ekfac
from influence.keras_models.last_layer import LastLayerHessian, LastLayerRemoval, is_last_layer
from influence.keras_models.layer_gauss_newton import LayerGaussNewton
from influence.keras_models.layer_scans import LayerScans
from influence.keras_models.network import KerasNetwork
from influence.keras_models.outputs import KerasLoss, numpy
from influence.keras_models.points import KerasPoints
from influence.keras_models.scans import KerasScans
from influence.keras_models.shards import (
    KerasRecipe,
    KerasRegularizer,
    ShardedKerasScans,
    ShardedLayerScans,
)
from influence.linear.forms import OutputForms, inverse_for_forms, own_terms
from influence.objective.generic_neural_net import EXACT_SIZE, GenericNeuralNet
from influence.objective.minimum import point_gradient_norm
from influence.objective.removal import Removal
from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.exact import Exact
from influence.solvers.nystrom import NystromSolver
from influence.solvers.solution import Solution, Solver

# fit() stops at this gradient norm relative to that of the loss of a training point.
FIT_TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
# Of the residual of default solves.
SOLVE_TOLERANCE = {"float32": 1e-4, "float64": 1e-6}
# Relative rounding of the objective, for the line search.
_ROUNDING = {"float32": 1e-7, "float64": 1e-13}
# A layer's outputs and their derivatives take about this many times the room of its inputs.
_ACTIVATIONS = 16
# Training points that are looked at when a model is made.
_PROBED = 32


class KerasModel(GenericNeuralNet):
    """A Keras 3 model, sequential, functional or subclassed, and its influences.

    The objective is (1/n) Σ w_i L(z_i, θ) + regularization(θ), with θ the chosen variables: the
    model's compiled loss, one number a point (over several outputs the sum of their losses times
    ``loss_weights``), and the weight regularisers of its layers (``kernel_regularizer`` and so on;
    Keras' ``L2(l)`` is l‖W‖², without a half). The model should be at a minimum of it: ``fit`` goes
    on to one, ``gradient`` says how far away it is. Outputs are those of inference, without dropout
    and with batch normalisation by its moving statistics, which are no parameters. The Keras model
    itself is never changed, and training it further changes nothing here: all computations run on
    copies of its variables.

    A point can be a sequence: its loss is the mean over its entries, over those that count where
    there is a mask (``mask_zero``, ``Masking``) or an ``ignore_class``. Keras takes one mean over
    all entries of a batch, in which long sequences weigh more; weights w_i ∝ length say the same.

    A loss with ``reduction="sum"`` stands beside the regularisers as a sum, as Keras has it for a
    batch of all points: the objective is (Σ w_i L + regularization)/n, and a removal leaves the
    regularisers as they are.

    With ``variables=model.layers[-1]`` (the usual choice for large networks) θ is that layer alone,
    and the outputs of the layers below are computed once for training points in memory.

    Where the outputs are a softmax or sigmoid of Keras, ``outputs`` and the Gauss-Newton matrix use
    what goes into it, the logits; ``predict`` gives what the Keras model gives.

    Args:
        model: built, float32 or float64 (which is then the ``dtype`` here).
        train: an ``influence.Dataset``, or (x, labels) with arrays [n, ...], x a dict, tuple or
            list of them for several inputs, and labels for several outputs; or a
            ``tf.data.Dataset`` of batches of such pairs, in the same order at every pass, which
            need not fit into memory. Integer inputs stay so. A third entry is ``sample_weight``.
        loss: (labels, outputs) -> [m], or a name or loss of Keras; a dict or list of them for
            several outputs; None is what was compiled.
        regularization: a function of the list of chosen variables to use instead of the layers'
            regularisers. It also stands for penalties that depend on the data (``activity_
            regularizer``, ``add_loss``), which are no sum over points and are refused without it.
        damping: δ ≥ 0, a ridge: solves without a ``curvature`` of their own use hessian() + δ.
        variables: layers or trainable variables of the model; None is all trainable variables.
        batch_size: points that are in the network at a time; None is chosen by their size. A
            ``tf.data.Dataset`` keeps its own batches.
        sample_weight: w [n] as for ``keras.Model.fit``, or [n, t] with one for each entry of a
            point's loss. Scores and refits are of the weighted points; test points, and those of
            ``influence_of_points``, weigh 1.
        class_weight: class -> weight, as for ``keras.Model.fit``, instead of ``sample_weight``.
        smoothing: t, for losses of Keras without curvature (mean absolute and absolute percentage
            error, hinge and categorical hinge): each kink max(s, 0) becomes t log(1 + exp(s/t)).

    Raises:
        ValueError: a model that is not built, not compiled and without ``loss``, of another number
            type, with outputs that change from call to call or that depend on the other points of a
            batch, with variables that no gradient reaches; a loss that is not one number a point,
            or without curvature; training points, labels or weights that do not fit.

    Examples:
        The line y = 2x with a point off it, at x = 1. (Points are arrays here: a list of them would
        be several inputs.)

        >>> import keras
        >>> import numpy as np
        >>> from influence import KerasModel
        >>> x = np.arange(5.0).reshape(-1, 1)
        >>> y = 2 * x
        >>> y[1] = 17
        >>> network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> network.compile(loss="mse")
        >>> model = KerasModel(network, (x, y)).fit()
        >>> scores = model.influence_on_loss(x[3:], y[3:], reduction="mean")
        >>> scores.shape, str(scores.dtype), int(scores.argmin())
        ((5,), 'float32', 1)
        >>> model.parameters.round(2).tolist(), model.refit(without=1).parameters.round(2).tolist()
        ([2.5], [2.0])
    """

    train: Examples | Stream
    points: KerasPoints

    def __init__(
        self,
        model: keras.Model,
        train: Any,
        loss: Any = None,
        regularization: Callable[[list[tf.Variable]], Any] | None = None,
        damping: float = 0.0,
        variables: Any = None,
        batch_size: int | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | None = None,
        smoothing: float | None = None,
    ) -> None:
        if not 0 <= damping < np.inf:
            raise ValueError(f"damping must be at least 0 and finite, not {damping!r}.")
        if smoothing is not None and not 0 < smoothing < np.inf:
            raise ValueError(f"smoothing must be above 0 and finite, not {smoothing!r}.")
        self.damping = float(damping)
        self._settings = {"loss": loss, "smoothing": smoothing}
        self._class_weight = class_weight
        train = training_points(train, sample_weight, class_weight)
        self._network = KerasNetwork(model, variables, split=not isinstance(train, Stream))
        self._regularization = regularization
        if batch_size is None:
            leaves = keras.tree.flatten(train.spec[0])
            numbers = sum(leaf.shape[1:].num_elements() for leaf in leaves)
            batch_size = default_batch_size(_ACTIVATIONS * numbers)
        # What a look at the first points needs.
        self.train, self.dtype = train, np.dtype(self._network.variables[0].dtype.as_numpy_dtype)
        x, labels = train.first(_PROBED)
        self.points = self._make_points()
        few, labels = self.points.input_tensor(x), self.points.label_tensor(labels)
        x = self.convert(few)
        outputs = checked_outputs(self._network, x)
        self._loss = KerasLoss(model, loss, outputs, train.spec[1], smoothing)
        super().__init__(train, self._network.variables, self.dtype, batch_size)
        self._theta = self._start = flatten(self.variables).numpy()
        self._own_variables()
        if regularization is None:
            check_penalties(self._network, x)
        self._loss.check(labels, self.input_logits(x))
        # Of a few points: what the frozen layers make of all is computed when it is needed.
        self._is_last_layer = not isinstance(train, Stream) and is_last_layer(
            self, self.convert(self.points.embedded(few))
        )
        self.mode, self._no_second = checked_derivatives(
            self, self._network, self._loss, self._is_last_layer
        )
        self._input_gradient_checked = False
        # Made when they are asked for, once for all that share the network.
        self._make_layer_scans = functools.cache(functools.partial(LayerScans, self, self._network))

    # The objective.

    def logits(self, x: Tensors) -> tf.Tensor:
        """The outputs [m, ...], before a softmax or sigmoid of Keras at their end."""
        return self._loss.logits(self._network.head(x))

    def example_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The loss of each point, [m]."""
        return self._loss(labels, logits)

    def regularization(self) -> tf.Tensor:
        """The weight regularisers' sum, or what was given for it."""
        self._load()
        if self._regularization is None:
            return tf.cast(self._network.regularization(), self.dtype)
        return tf.cast(self._regularization(self.variables), self.dtype)

    def fit(self, gradient_norm: float | None = None) -> Self:
        """Minimise the objective from the present parameters; returns the model.

        L-BFGS, then Newton's method with the Gauss-Newton matrix, whose steps go downhill even
        where the Hessian is indefinite.

        Args:
            gradient_norm: to reach; None is 1e-9 (1e-5 in float32) of the gradient norm of the
                loss of a training point.

        Warns:
            ConvergenceWarning: the gradient norm was not reached, or there is no minimum: the loss
                falls towards 0 as the parameters grow.
        """
        if gradient_norm is None:
            gradient_norm = FIT_TOLERANCE[self.dtype.name] * point_gradient_norm(self)
        self.parameters = minimize(
            self._value_and_gradient,
            self._newton_matrix,
            self.parameters.astype(np.float64),
            gradient_norm,
            rounding=_ROUNDING[self.dtype.name],
        )
        warn_if_endless(self)
        return self

    def predict(self, x: Inputs) -> Inputs:
        """What the Keras model puts out for points ``x``, at the parameters here: [m, ...], in the
        structure of its outputs."""
        return numpy(self._loss.activate(self._logits_of(x)))

    def outputs(self, x: Inputs) -> Inputs:
        """The logits of points ``x`` in the structure of the training points: [m, ...], in that of
        the model's outputs."""
        return numpy(self._loss.split(self._logits_of(x)))

    def class_probabilities(self, logits: tf.Tensor) -> tf.Tensor | None:
        """Where the model ends in a softmax or sigmoid, or its cross-entropy takes logits."""
        return self._loss.probabilities(logits)

    def class_position(self, class_: Any) -> int:
        """As for every model; one output whose loss is not known to be of classes has none."""
        if self.num_outputs == 1 and not self._loss.classifies:
            raise ValueError(
                f"The model {self._network.model.name!r} has one output and, as far as its loss "
                f"says, no classes: leave class_ out, and take Logit."
            )
        return super().class_position(class_)

    def _logits_of(self, x):
        return self.scans.outputs(self.points.embedded(self.points.inputs(x, "x")))

    def objective(self) -> float:
        """R(θ), the regulariser included, accumulated in float64."""
        return self.scans.value_and_gradient(self.tensors)[0]

    def gradient(self) -> np.ndarray:
        """∇R(θ) [p], accumulated in float64 whatever the model's dtype."""
        return self.scans.value_and_gradient(self.tensors)[1]

    def influence_input_gradient(
        self, train_indices: ArrayLike, x_test: Inputs, y_test: ArrayLike, **settings: Any
    ) -> Inputs:
        """As for every model; in the structure of x, for floating-point inputs only.

        Raises:
            ValueError: an input is an integer, or TensorFlow has no right derivative of a layer.
        """
        self.points.check_floating()
        if self._no_second:
            raise ValueError(
                f"{self._no_second}. The gradient of an influence needs one: choose layers after "
                f"it with variables=."
            )
        if not self._input_gradient_checked:
            check_input_gradient(self, self._network)
            self._input_gradient_checked = True
        return super().influence_input_gradient(train_indices, x_test, y_test, **settings)

    def inverse_hvp(
        self,
        v: ArrayLike,
        solver: Solver | None = None,
        strict: bool = False,
        curvature: HessianOperator | None = None,
    ) -> Solution:
        """As for every model; without a ``curvature``, that is (hessian() + damping)⁻¹ v."""
        self._load()
        return super().inverse_hvp(v, solver, strict, curvature)

    def self_influence(
        self,
        *,
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        train_indices: ArrayLike | None = None,
        strict: bool = False,
    ) -> np.ndarray:
        """As for every model; up to 2,000 parameters the solves are with the matrix, because there
        are as many of them as training points. With ``ekfac() + δ`` it is one pass over them; of a
        dense layer that is the last, up to 10,000, one inverse and one pass."""
        by_layer = self._layers_of(curvature)
        if solver is None and by_layer is not None:
            assert isinstance(curvature, EKFAC)
            scores = by_layer.quadratic(self.points.scanned(train_indices), curvature.inverse())
            self._warn_unless_at_minimum(curvature)
            return scores
        exact = Exact() if solver is None else solver
        if self._is_last_layer and isinstance(exact, Exact):
            operator = self._default_curvature() if curvature is None else curvature
            if isinstance(operator, LastLayerHessian) and self.num_parameters <= MAX_DENSE_SIZE:
                self._warn_unless_at_minimum(curvature)
                inverse = inverse_for_forms(operator, exact, curvature is None, strict)
                if inverse is not None:
                    forms = OutputForms(inverse, self.num_outputs)
                    terms = operator.terms(train_indices)
                    return own_terms(terms, forms, len(self.train))[0].astype(self.dtype)
        if solver is None and self.num_parameters <= EXACT_SIZE:
            operator = self._default_curvature() if curvature is None else curvature
            curvature = operator.materialize()
        return super().self_influence(
            solver=solver, curvature=curvature, train_indices=train_indices, strict=strict
        )

    def ekfac(self, *, path: File | None = None, seed: int = 0) -> EKFAC:
        """The Gauss-Newton matrix by eigenvalue-corrected Kronecker factors, as an operator with an
        inverse: ``curvature=model.ekfac() + δ`` gives scores without iterations, and
        ``self_influence`` of all points in one pass (George et al. 2018, Grosse et al. 2023).

        It leaves out what crosses layers. With a_t what a layer's parameters are multiplied by at
        its position t (a pixel, a token, a call of the layer), with a 1 for the bias, and g_t the
        slope there of the sum before the activation, a point's gradient is Σ_t a_t g_tᵀ. The
        eigenvectors are those of the means over the (weighted) points of Σ_t a_t a_tᵀ and of
        Σ_t g_t g_tᵀ (Grosse & Martens 2016). The eigenvalues are the diagonal of the layer's
        Gauss-Newton matrix in their basis, the mean of the squares of the whole points' projected
        gradients, so that of all matrices with these eigenvectors it is the nearest. The slopes g
        are of all labels in expectation (all outputs) up to 32 outputs, in float32 but for 1e-4 of
        the trace; above, of four draws a point.

        Dense layers, convolutions without groups and embeddings have such factors, shared layers
        too; all other parameters, such as those of normalisations, have the diagonal of the
        Gauss-Newton matrix, which takes a pass for each point and output. The regulariser's Hessian
        must be diagonal, and adds its diagonal in the basis.

        Two passes over the data, in the memory of the layers' factors.

        Args:
            path: an HDF5 file that the passes are kept in, each as it ends, and read from later;
                for these parameters, data and seed alone.
            seed: of the draws.

        Returns:
            The same operator until the parameters change.

        Raises:
            ValueError: a loss that is not convex in the outputs or, of more than 32, neither a
                cross entropy nor a sum over the outputs; a regulariser in which parameters meet; a
                file of something else.

        Examples:
            >>> import keras
            >>> import numpy as np
            >>> from influence import KerasModel
            >>> relu, linear = keras.layers.Dense(3, "relu"), keras.layers.Dense(2)
            >>> network = keras.Sequential([keras.Input((4,)), relu, linear])
            >>> x, y = np.random.default_rng(0).random((20, 4)), np.arange(20) % 2
            >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            >>> model = KerasModel(network, (x, y), loss)
            >>> curvature = model.ekfac() + 0.1
            >>> model.influence_on_loss(x[:2], y[:2], curvature=curvature).shape
            (2, 20)
            >>> model.self_influence(curvature=curvature).shape
            (20,)
        """
        key = f"ekfac {seed}"
        if key not in self._at_theta or path is not None:
            self._at_theta[key] = make_ekfac(self, self.layer_scans, path, seed)
        return self._at_theta[key]

    # Parameters: the variables and the compiled functions are shared by refits, θ is not.

    @property
    def parameters(self) -> np.ndarray:
        """θ [p], a copy."""
        self._load()
        return self._theta.copy()

    @parameters.setter
    def parameters(self, theta: ArrayLike) -> None:
        self._assign(theta)
        self._theta = flatten(self.variables).numpy()
        self._own_variables()

    def parameters_in(self, file: File) -> np.ndarray:
        """θ [p] in a file of Keras of the same model: what ``keras.callbacks.ModelCheckpoint``
        saves, ``.keras`` or ``.weights.h5`` (that of a model which ``keras.models.clone_model``
        can clone).

        Raises:
            ValueError: it is of another model, or variables that are not in θ have other values.
        """
        return np.concatenate([value.ravel() for value in self._network.chosen_in(file)])

    def _own_variables(self) -> None:
        """Say that the variables hold this model's θ."""
        self._network.owner = self
        self._network.share.assign(1 / len(self.train) if self._keeps_sum else 1.0)

    @property
    def _keeps_sum(self) -> bool:
        """Whether the regularisers stand beside a sum of losses."""
        return self._loss.sums and self._regularization is None

    def _load(self) -> None:
        """Put this model's θ into the variables, if another's is there."""
        if self._network.owner is not self:
            with tf.init_scope():
                for variable, value in zip(self.variables, split(self._theta, self.variables)):
                    variable.assign(value)
                self._own_variables()

    def _clone(self, train: Any) -> Self:
        clone = object.__new__(type(self))
        vars(clone).update(vars(self))
        clone.train = train
        clone._theta, clone._at_theta = self._start, {}
        clone._scans = self._scans.of(clone)
        if train is not self.train:
            clone.points = clone._make_points()
        return clone

    def __getstate__(self) -> dict[str, Any]:
        self._load()
        made = {"_scans", "_make_layer_scans", "variables"}
        state = {name: v for name, v in super().__getstate__().items() if name not in made}
        return state | {"probe": self._probe()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        first, outputs = state.pop("probe")
        self.variables = state["_network"].variables
        super().__setstate__(state)
        self._make_layer_scans = functools.cache(functools.partial(LayerScans, self, self._network))
        check_made_again(self._network, self.predict(first), outputs)

    # How it is done.

    def _probe(self):
        """A few points, and what it puts out for them."""
        x, _ = self.train.first(_PROBED)
        return x, self.predict(x)

    @functools.cached_property
    def num_outputs(self) -> int:
        """c, the numbers that the model puts out for a point."""
        return self._loss.like.shape[1:].num_elements()

    @property
    def scans(self) -> KerasScans:
        """What is computed point by point, at this model's θ."""
        self._load()
        return self._scans

    @scans.setter
    def scans(self, scans: Any) -> None:
        self._scans = scans

    def _make_scans(self):
        return KerasScans(self, self._network, self._loss.like)

    def _make_points(self):
        # What the body makes of points does not depend on θ, so none is loaded.
        embed = (lambda x: self._scans.features(x)) if self._network.body is not None else None
        return KerasPoints(self.train, self.dtype, self._check_labels, embed)

    def _make_sharded_scans(self, sharding):
        return ShardedKerasScans(self._scans, self, sharding)

    def _recipe(self, own):
        settings = {**self._settings, "batch_size": self.batch_size}
        class_weight = None if own else self._class_weight
        self._load()
        return KerasRecipe(self, settings, class_weight, self._probe())

    def _rows(self):
        if isinstance(self.train, Stream):
            raise ValueError(
                "A tf.data.Dataset is cut into shards by you: give shards= a list of functions, "
                "each of which makes the tf.data.Dataset of one."
            )
        x, labels, weights = self.train.x, self.train.labels, self.train.weights
        return (x, labels) if weights is None else (x, labels, weights)

    def _with_shards(self, sharding, train, like):
        super()._with_shards(sharding, train, like)
        # Its matrix is a sum as others are; and n is known, by which regularisers may be divided.
        self._is_last_layer, self._network.owner = False, None
        return self

    def _sharded_curvature(self, kind):
        theta = self.parameters

        def unchanged():
            return np.array_equal(theta, self.parameters)

        assert self.sharding is not None
        regularizer = KerasRegularizer(self)
        return ShardedHessian(self.sharding, kind, theta, self.dtype, regularizer, unchanged)

    def _make_hessian(self):
        if self._is_last_layer:
            return LastLayerHessian(self)
        if self._no_second:
            raise ValueError(
                f"{self._no_second}. Give curvature=model.gauss_newton() + δ, which needs none, or "
                f"choose layers after it with variables=."
            )
        if self.sharding is not None:
            return self._sharded_curvature("hessian")
        return super()._make_hessian()

    def gauss_newton(self) -> HessianOperator:
        """As for every model; of a dense layer that is the last, the Hessian itself."""
        return self.hessian() if self._is_last_layer else super().gauss_newton()

    def _make_removal(self, solver=None, curvature=None, strict=False):
        removal = LastLayerRemoval if self._is_last_layer else Removal
        return removal(self, solver, curvature, strict)

    def _make_gauss_newton(self):
        if self.sharding is not None:
            return self._sharded_curvature("gauss_newton")
        return LayerGaussNewton(self)

    def _solver_for(self, curvature):
        # No factor: a softmax with free biases has a direction without curvature, which conjugate
        # gradients never enter.
        solver = ConjugateGradient if self.num_parameters <= EXACT_SIZE else NystromSolver
        return solver(SOLVE_TOLERANCE[self.dtype.name])

    @property
    def layer_scans(self) -> LayerScans | ShardedLayerScans:
        """What is computed layer by layer, at this model's θ."""
        self._load()
        scans = self._make_layer_scans()
        return scans if self.sharding is None else ShardedLayerScans(scans, self)

    def _scans_for(self, curvature):
        return self._layers_of(curvature) or self.scans

    def _layers_of(self, curvature) -> LayerScans | ShardedLayerScans | None:
        """The scans by layer, for an EK-FAC of these layers."""
        if not isinstance(curvature, EKFAC):
            return None
        by_layer = self.layer_scans
        return by_layer if by_layer.fits(curvature) else None

    def _default_curvature(self):
        if self.damping == 0:
            return self.hessian()
        if "damped" not in self._at_theta:
            self._at_theta["damped"] = self.hessian() + self.damping
        return self._at_theta["damped"]

    def input_logits(self, x: Tensors) -> tf.Tensor:
        return self._loss.logits(self._network.whole(x))

    def output_jacobians(self, x: Tensors) -> tf.Tensor:
        """As the generic one; in forward mode a batch at once, a pass for every parameter."""
        if self.mode is not FORWARD:
            return super().output_jacobians(x)
        linearized = self.mode.linearized(lambda: self.logits(x), self.variables)

        def of_parameter(direction):
            along = linearized(split(direction, self.variables))[1]
            return tf.reshape(along, [number_of_rows(x), self.num_outputs])

        columns = tf.map_fn(of_parameter, tf.eye(self.num_parameters, dtype=self.dtype))
        return tf.transpose(columns, [1, 2, 0])

    # Fitting.

    def _value_and_gradient(self, theta):
        self.parameters = theta
        return self.scans.value_and_gradient(self.tensors)

    def _newton_matrix(self, theta):
        self.parameters = theta
        matrix = self.gauss_newton()
        if self.num_parameters > EXACT_NEWTON_SIZE:
            return matrix
        return MatrixOperator(matrix.dense().astype(np.float64), len(self.train))

    # What the door refuses.

    def _check_train(self, train):
        shapes = [tuple(leaf.shape[1:]) for leaf in keras.tree.flatten(train.spec[1])]
        self._loss.check_labels(shapes, train.label_range, "train.labels")

    def _check_labels(self, labels, name):
        leaves = keras.tree.flatten(labels)
        shapes = [leaf.shape[1:] for leaf in leaves]
        ranges = lambda place, ignored: range_of(leaves[place], ignored)  # noqa: E731
        self._loss.check_labels(shapes, ranges, name)

    def _removed_slope(self):
        slope = super()._removed_slope()
        return np.zeros_like(slope) if self._keeps_sum else slope
