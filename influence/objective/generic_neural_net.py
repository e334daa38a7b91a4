"""A model: its objective, said once, and everything that follows from it for free."""

from __future__ import annotations

import abc
import functools
import numbers
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, Literal, Self, overload

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from influence.curvature.autodiff import AutodiffHessian
from influence.curvature.gauss_newton import GaussNewton
from influence.curvature.modes import FORWARD, Mode
from influence.curvature.operator import HessianOperator
from influence.data.batches import default_batch_size
from influence.data.dataset import Dataset, check_dataset, check_indices
from influence.data.types import DType, File, Inputs, Loss, Order, PointTensors, Reduction
from influence.data.vectors import flatten, split
from influence.objective.datamodeling import DatamodelingScore, validate_on_subsets
from influence.objective.large_scores import large_influence
from influence.objective.minimum import warn_unless_at_minimum
from influence.objective.points import Points
from influence.objective.removal import Removal, influence_of_sets, influence_without
from influence.objective.scans import Scans
from influence.objective.sets import Sets
from influence.objective.sharded import ShardedPoints, ShardedScans, ShardedTrain
from influence.objective.targets import Target, influence_on
from influence.objective.tiles import Tiles
from influence.objective.validation import Validation, validate
from influence.sharding.rows import Folder
from influence.sharding.sharding import Sharding, check_executor, described
from influence.sharding.shards import file_shards
from influence.sharding.worker import Recipe
from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.exact import Exact
from influence.solvers.own_inverse import OwnInverse
from influence.solvers.solution import Solution, Solver

# Up to this many parameters the whole matrix is cheaper than an iteration.
EXACT_SIZE = 2000


class GenericNeuralNet(abc.ABC):
    """A model with objective R(θ) = (1/n) Σ L(z_i, θ) + regularization(θ), and its influences.

    A subclass says ``logits``, ``example_losses``, ``regularization`` and ``fit``, how an unfitted
    model with the same settings is made (``_clone``), and which labels it takes
    (``_check_labels``). Derivatives are compiled scans of the data, traced once. One convention for
    every influence: the predicted change of a test loss if the training point is **removed** and
    the model refitted on the n − 1 others with the same regulariser, already divided by n, so
    positive means that the point was helpful:

        (1/n) s_testᵀ (∇L(z_i, θ̂) + ∇regularization(θ̂)),   s_test = H⁻¹ ∇L(z_test, θ̂).

    Args:
        train: the training points.
        variables: the ``tf.Variable``s of the model; θ is all of them, flattened, in this order.
        dtype: "float32" or "float64".
        batch_size: points that are held as floating-point numbers at a time.

    Attributes:
        points: how points come in (``Points``).
        scans: what is computed point by point (``Scans``).
        mode: how derivatives along a vector are computed.

    Raises:
        ValueError: training points or settings that the model cannot take.

    Examples:
        Points on a line, the last with the wrong label: without it the loss at 1.5 would fall.

        >>> from influence import BinaryLogisticRegression, Dataset
        >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
        >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
        >>> model.influence_on_loss([[1.5]], [1]).round(2).tolist()  # [m, n]
        [[0.09, 0.05, 0.05, 0.09, -0.27]]
        >>> refitted = model.refit(without=4)
        >>> (refitted.losses([[1.5]], [1]) - model.losses([[1.5]], [1])).round(2).tolist()
        [-0.39]
        >>> int(model.self_influence().argmax())
        4
    """

    label_dtype: Any = np.int64
    mode: Mode = FORWARD
    # A Dataset, or what else a subclass lets through ``_check_train``.
    train: Any
    # Who has the training points, where they are in shards.
    sharding: Sharding | None = None

    def __init__(
        self,
        train: Any,
        variables: Iterable[tf.Variable],
        dtype: DType = "float32",
        batch_size: int | None = None,
    ) -> None:
        self._check_train(train)
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, not {dtype!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size!r}.")
        self.train = train
        self.dtype = np.dtype(dtype)
        self.variables = list(variables)
        self.batch_size = batch_size or default_batch_size(int(np.prod(train.x.shape[1:])))
        self.scans: Any = self._make_scans()
        self.points: Any = self._make_points()
        # What was computed at the present θ; new parameters empty it.
        self._at_theta: dict[str, Any] = {}

    # What a subclass says.

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
    def fit(self) -> Self:
        """Minimise the objective from the present parameters; returns the model."""

    @abc.abstractmethod
    def _clone(self, train: Dataset) -> Self:
        """An unfitted model with the same settings on other points."""

    @abc.abstractmethod
    def _check_labels(self, labels: np.ndarray, name: str) -> None:
        """Raise a ValueError for labels that the model cannot take."""

    def _check_train(self, train: Any) -> None:
        """Raise a ValueError for training points that the model cannot take."""
        check_dataset(train)
        self._check_labels(train.labels, "train.labels")

    # To another process a model goes as its data, its settings and θ, and is made anew there.

    def __getstate__(self) -> dict[str, Any]:
        made = {"scans", "points", "_at_theta", "_exact"}
        return {name: value for name, value in vars(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._at_theta = {}
        self.scans, self.points = self._make_scans(), self._make_points()

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
    def parameters(self, theta: ArrayLike) -> None:
        self._assign(theta)

    def _assign(self, theta: ArrayLike) -> None:
        """Put θ into the variables."""
        theta = np.asarray(theta)
        if theta.shape != (self.num_parameters,) or not np.isfinite(theta).all():
            raise ValueError(
                f"parameters must be {self.num_parameters} finite numbers; got an array of shape "
                f"{theta.shape}."
            )
        for variable, value in zip(self.variables, split(theta, self.variables)):
            variable.assign(tf.cast(value, variable.dtype))
        self._at_theta.clear()

    def with_parameters(self, theta: ArrayLike) -> Self:
        """A model with the same settings and data at parameters ``theta`` [p].

        Examples:
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> model = BinaryLogisticRegression(Dataset([[1], [-1]], [1, 0]), weight_decay=0.25)
            >>> moved = model.with_parameters([0.5])
            >>> moved.parameters.tolist(), model.parameters.tolist()
            ([0.5], [0.0])
        """
        model = self._again()
        model.parameters = theta
        return model

    def refit(self, without: ArrayLike) -> Self:
        """A model fitted without the training points at these indices, from the present θ."""
        if self.sharding is None:
            model = self._clone(self.train.without(without))
        else:
            model = self._again(self.sharding.without(without))
        model.parameters = self.parameters
        return model.fit()

    def sharded(self, executor: Executor, shards: int | Sequence[Any] = 8) -> Self:
        """The same model with its training points in shards, over which the workers of ``executor``
        scan: gradients, Hessian and Gauss-Newton products, scores, self-influence and fits are sums
        that they compute where the rows are, and that are added here.

        A shard is how its rows are loaded: a worker loads it, keeps it, and can be replaced by any
        other. Sums are in float64, in the order of the shards, so that the same shards have the
        same bits by any processes and any number of them.

        Args:
            executor: of ``concurrent.futures``: a ``ProcessPoolExecutor`` whose processes are
                spawned, ``client.get_executor()`` of Dask, threads of this process.
            shards: into how many blocks the model's own rows are cut: those of a memory-mapped
                array stay in their file, others are written to a temporary folder (``TMPDIR``),
                which all workers must see. Or the shards of rows that nobody has in memory, then
                those of the model only say what a row looks like: ``npy_shards``,
                ``parquet_shards``, or functions () -> (x, labels), each of which loads one: arrays,
                for a ``KerasModel`` with sample weights as a third, or a ``tf.data.Dataset``.

        Raises:
            ValueError: no executor, or one that forks; rows that cannot be cut, or loaded, or are
                not like those of the model; a model that is neither linear nor a ``KerasModel``.
                And of every later call, when a file of rows is gone or has changed.
            RuntimeError: of every later call, when the executor is closed or broken.

        Examples:
            >>> from concurrent.futures import ThreadPoolExecutor
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64")
            >>> with ThreadPoolExecutor(1) as executor:
            ...     sharded = model.sharded(executor, shards=2).fit()
            ...     sharded.influence_on_loss([[1.5]], [1]).round(2).tolist()
            [[0.09, 0.05, 0.05, 0.09, -0.27]]
        """
        check_executor(executor)
        if self.sharding is not None:
            raise ValueError("The model is sharded already: shard the one it was made from.")
        if isinstance(shards, numbers.Real):
            folder, recipe = Folder(), self._recipe(own=True)
            files = tf.nest.map_structure(folder.kept, self._rows())
            pieces = file_shards(files, shards)
            sharding = Sharding(executor, pieces, recipe, [len(each) for each in pieces], folder)
            train = self.train
        else:
            sharding = described(executor, shards, self._recipe(own=False), self._check_labels)
            train = ShardedTrain(self.train, len(sharding))
        model = self._clone(self.train)._with_shards(sharding, train, self.train)
        model.parameters = self.parameters
        return model

    # The objective and its derivatives.

    @functools.cached_property
    def num_outputs(self) -> int:
        """c, the numbers that the model puts out for a point."""
        with tf.init_scope():
            return max(1, self.outputs(self.train.x[:1]).size)

    @property
    def tensors(self) -> PointTensors:
        """The training points, as scans take them: (x, labels) in the data's own dtype."""
        return self.points.tensors

    def convert(self, x: tf.Tensor) -> tf.Tensor:
        """A batch of points as the model sees them: its dtype, times the data set's scale."""
        return self.points.convert(x)

    def input_logits(self, x: tf.Tensor) -> tf.Tensor:
        """``logits`` of converted points as they came, where the scans take something made of
        them."""
        return self.logits(x)

    def sum_gradient(
        self, x: tf.Tensor, labels: tf.Tensor, slopes: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Σ ∇L of a batch, traceable: [p]; with ``slopes`` s [m, ...] in the outputs f,
        Σ ∇(L_i − s_iᵀ f_i). By automatic differentiation; a subclass may know how to do it faster.
        """
        with tf.GradientTape() as tape:
            outputs = self.logits(self.convert(x))
            value = tf.reduce_sum(self.example_losses(outputs, labels))
            if slopes is not None:
                value -= tf.reduce_sum(slopes * outputs)
        return flatten(tape.gradient(value, self.variables, unconnected_gradients="zero"))

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

    def adversarial_losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """log of the probability of a wrong answer, [m]; only for models with probabilities."""
        raise ValueError(f"{type(self).__name__} defines no adversarial loss.")

    def outputs(self, x: Inputs) -> np.ndarray:
        """The logits of points ``x`` [m, ...], in the units of ``train.x``."""
        return self.scans.outputs(self.points.inputs(x, "x")).numpy()

    def losses(self, x: Inputs, labels: ArrayLike, loss: Loss = "normal") -> np.ndarray:
        """The loss of each point, [m]; ``loss`` as in ``influence_on_loss``.

        Examples:
            At θ = 0 both classes are as probable: −log ½, and log(1 − ½).

            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[1], [-1]], [1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.25, dtype="float64")
            >>> model.losses([[3], [5]], [1, 0]).round(3).tolist()
            [0.693, 0.693]
            >>> model.losses([[3], [5]], [1, 0], loss="adversarial").round(3).tolist()
            [-0.693, -0.693]
        """
        return self.scans.losses(loss, self.points.checked(x, labels, "x", "labels")).numpy()

    def outputs_at(self, thetas: np.ndarray, x: Inputs) -> np.ndarray:
        """The logits of points ``x`` at each column of ``thetas`` [p, k], in float64: [k, m, c]."""
        points = self.points.embedded(self.points.inputs(x, "x"))
        outputs = self._at_each(thetas, lambda model: model.scans.outputs(points))
        return outputs.reshape(len(outputs), outputs.shape[1], -1)

    def losses_at(self, thetas: np.ndarray, x: Inputs, labels: ArrayLike) -> np.ndarray:
        """The loss of each point at each column of ``thetas`` [p, k], in float64: [m, k]."""
        return self._losses_of(thetas, self.points.checked(x, labels, "x", "labels"), "normal")

    def _losses_of(self, thetas, points, loss):
        """Those of checked ``points``: [m, k]."""
        return self._at_each(thetas, lambda model: model.scans.losses(loss, points)).T

    def _at_each(self, thetas, function):
        """``function`` of a model at each column of ``thetas`` [p, k]: [k, ...]."""
        if "moved" not in self._at_theta:
            # A copy whose parameters may change: it is traced once for all.
            self._at_theta["moved"] = self.with_parameters(self.parameters)
        moved, results = self._at_theta["moved"], []
        for theta in np.asarray(thetas).T:
            moved.parameters = theta
            results.append(function(moved).numpy().astype(np.float64))
        return np.stack(results)

    def class_position(self, class_: Any) -> int:
        """Where a class stands among the model's; of one logit the second is the positive one.

        Raises:
            ValueError: there is no such class.
        """
        classes = max(2, self.num_outputs)
        if class_ not in range(classes):
            raise ValueError(f"class_ must be one of the classes 0..{classes - 1}, not {class_!r}.")
        return int(class_)

    def class_probabilities(self, logits: tf.Tensor) -> tf.Tensor | None:
        """p(class | x) of logits [..., c], for all classes; None for a model without them."""
        return None

    def coefficient(self, index: Any) -> tuple[int, float]:
        """(position in θ, what the parameter there is multiplied by) of a coefficient.

        Raises:
            ValueError: there is no such coefficient.
        """
        [position] = check_indices([index], self.num_parameters, "index")
        return int(position), 1.0

    def objective(self) -> float:
        """R(θ), the regulariser included."""
        losses = self.scans.losses("normal", self.tensors).numpy()
        return float(losses.mean(dtype=np.float64)) + float(self.regularization())

    def gradient(self) -> np.ndarray:
        """∇R(θ) [p], the regulariser included.

        Examples:
            How far a model is from its optimum; influences are meant for a small norm.

            >>> import numpy as np
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[1], [-1]], [1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.25, dtype="float64")
            >>> model.gradient().tolist()
            [-0.5]
            >>> bool(np.linalg.norm(model.fit().gradient()) < 1e-8)
            True
        """
        return self.scans.mean_gradient("normal", self.tensors) + self.regularization_gradient()

    def regularization_gradient(self) -> np.ndarray:
        """∇regularization(θ) [p]."""
        return self.regularization_slope().numpy()

    def regularization_slope(self) -> tf.Tensor:
        """The same, traceable."""
        with tf.GradientTape() as tape:
            value = tf.convert_to_tensor(self.regularization(), self.dtype)
        return flatten(tape.gradient(value, self.variables, unconnected_gradients="zero"))

    def test_gradient(
        self,
        x_test: Inputs,
        y_test: ArrayLike,
        loss: Loss = "normal",
        reduction: Reduction | None = None,
    ) -> np.ndarray:
        """∇_θ of each test loss, [p, m], or with ``reduction="mean"`` of their mean, [p].

        Examples:
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> model = BinaryLogisticRegression(Dataset([[1], [-1]], [1, 0]), weight_decay=0.25)
            >>> model.test_gradient([[1], [3]], [1, 1]).tolist()  # (p − 1) x at p = ½
            [[-0.5, -1.5]]
            >>> model.test_gradient([[1], [3]], [1, 1], reduction="mean").tolist()
            [-1.0]
        """
        check_reduction(reduction)
        points = self.points.checked(x_test, y_test, "x_test", "y_test")
        if reduction == "mean":
            return self.scans.mean_gradient(loss, points)
        return self.scans.gradients(loss, points).T

    # Curvature.

    def hessian(self) -> HessianOperator:
        """∇²R(θ) as an operator; the same object until the parameters change.

        Examples:
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> model = BinaryLogisticRegression(Dataset([[1], [-1]], [1, 0]), weight_decay=0.25)
            >>> model.hessian().dense().tolist()  # p(1 − p) + λ at p = ½
            [[0.5]]
            >>> model.hessian() is model.hessian()
            True
        """
        if "hessian" not in self._at_theta:
            self._at_theta["hessian"] = self._make_hessian()
        return self._at_theta["hessian"]

    def gauss_newton(self) -> HessianOperator:
        """The Gauss-Newton matrix as an operator: positive semi-definite wherever the loss is
        convex in the logits, even where the Hessian is not; the same object until the parameters
        change."""
        if "gauss_newton" not in self._at_theta:
            self._at_theta["gauss_newton"] = self._make_gauss_newton()
        return self._at_theta["gauss_newton"]

    def inverse_hvp(
        self,
        v: ArrayLike,
        solver: Solver | None = None,
        strict: bool = False,
        curvature: HessianOperator | None = None,
    ) -> Solution:
        """H⁻¹ v for v [p] or [p, k], with how the solve went; the rest as elsewhere.

        Examples:
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[1], [-1]], [1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.25, dtype="float64")
            >>> solution = model.inverse_hvp([1.0])  # H = ½
            >>> solution.x.round(6).tolist(), solution.converged
            ([2.0], True)
            >>> model.inverse_hvp([1.0], curvature=model.hessian() + 0.5).x.round(6).tolist()
            [1.0]
        """
        operator = self._default_curvature() if curvature is None else curvature
        if operator.shape[0] != self.num_parameters:
            raise ValueError(
                f"curvature must be an operator on {self.num_parameters} parameters, not "
                f"{operator.shape[0]}."
            )
        solver = self._default_solver(curvature) if solver is None else solver
        return solver.solve(operator, v, strict=strict)

    # Influences.

    def influence_on_loss(
        self,
        x_test: Inputs,
        y_test: ArrayLike,
        *,
        order: Literal["first", "newton"] = "first",
        reduction: Reduction | None = None,
        loss: Loss = "normal",
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        train_indices: ArrayLike | None = None,
        strict: bool = False,
        out: File | None = None,
        top: int | None = None,
    ) -> np.ndarray:
        """Predicted change of each test loss if a training point is removed: > 0 is helpful.

        To first order (1/n) s_testᵀ (∇L(z_i, θ̂) + ∇regularization(θ̂)), which is −I_up,loss/n of
        the paper with the term that makes it the change of refitting on n − 1 points with the same
        regulariser. With ``order="newton"`` the loss at the parameters after one Newton step
        without the point, as of ``parameter_changes``, minus the loss now: a point with leverage
        takes its own curvature along, which the first order neglects.

        Args:
            x_test: [m, ...] in the units of ``train.x``, or one point [...].
            y_test: [m] labels.
            order: "first", or "newton", which costs a model of many parameters a solve for every
                output of every training point.
            reduction: None for every test point, [m, n]; "mean" for their mean loss, [n].
            loss: "normal", the model's own; "adversarial", the log-probability of a wrong answer,
                log(1 − p(y|x)), which rises, like the loss, as the model gets less sure of y.
            solver: ``Exact()``, ``ConjugateGradient()``, ``Lissa()``; None is ``Exact()`` up to
                2,000 parameters and conjugate gradients above, and for a curvature that knows its
                inverse, as EK-FAC, that one.
            curvature: the operator that stands for H; None is ``hessian()``, with its damping
                where a model has one. Away from an optimum
                ``hessian() + δ`` or ``gauss_newton() + δ`` (δ is the paper's damping).
            train_indices: only these training points, in this order, instead of all n.
            strict: an unconverged or indefinite solve is an error instead of a warning.
            out: a .npy file that the scores [m, n] are written to as they are ready, where they
                would not fit into memory; the answer is that file, memory-mapped. After a kill the
                same call goes on where it was, and the file is the same to the last bit.
            top: k; the answer is for each test point the k largest and the k smallest scores,
                most helpful first and most harmful last, [m, 2k] with the fields "index" (of the
                training point) and "score"; the others are never kept.

        Raises:
            ValueError: shapes, labels or indices that do not fit; for "newton" a loss that is not
                convex in the outputs; ``out`` or ``top`` with each other or with a reduction.
            SolverError: the system cannot be solved; for "newton" also where the parameters are
                not determined without some point.

        Warns:
            ConvergenceWarning: the model is not at a minimum (its gradient norm is above 1% of
                the mean norm of a training point's), once at these parameters. Not with a damped
                curvature: those scores are meant for a model as it is (Bae et al. 2022).

        Examples:
            The mean loss of two test points, two of the training points, and a damped curvature:

            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
            >>> model.influence_on_loss(
            ...     [[1.5], [-1.5]], [1, 0], reduction="mean", train_indices=[4, 0]
            ... ).round(2).tolist()
            [-0.27, 0.09]
            >>> damped = model.hessian() + 0.5
            >>> model.influence_on_loss([[1.5]], [1], curvature=damped).round(2).tolist()
            [[0.06, 0.03, 0.03, 0.06, -0.18]]

            The most helpful training point, and the most harmful one:

            >>> top = model.influence_on_loss([[1.5]], [1], top=1)
            >>> top["index"].tolist(), top["score"].round(2).tolist()
            ([[0, 4]], [[0.09, -0.27]])

            After refits the loss changes by 0.11, 0.05, 0.05, 0.11 and −0.39:

            >>> model.influence_on_loss([[1.5]], [1], order="newton").round(2).tolist()
            [[0.12, 0.06, 0.06, 0.12, -0.32]]
        """
        check_reduction(reduction)
        if order not in ("first", "newton"):
            raise ValueError(f'order must be "first" or "newton", not {order!r}.')
        how: dict[str, Any] = {"solver": solver, "curvature": curvature, "strict": strict}
        if out is not None or top is not None:
            if reduction is not None:
                raise ValueError("out and top are for the scores of each test point: no reduction.")
            tiles = Tiles(self, x_test, y_test, order, loss, train_indices, how)
            return large_influence(tiles, out, top)
        if order == "newton":
            sets = Sets.of_points(train_indices, len(self.train))
            return influence_without(self, sets, order, x_test, y_test, reduction, loss, how)
        gradient = self.test_gradient(x_test, y_test, loss, reduction)
        s_test = self.inverse_hvp(gradient, solver, strict, curvature).x
        scores = self._removal(self.points.scanned(train_indices), s_test, curvature)
        self._warn_unless_at_minimum(curvature)
        return scores

    def influence_of_sets(
        self,
        sets: Any,
        x_test: Inputs,
        y_test: ArrayLike,
        *,
        order: Order = "newton",
        reduction: Reduction | None = None,
        loss: Loss = "normal",
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        strict: bool = False,
    ) -> np.ndarray:
        """Change of each test loss if all points of a set are removed at once: [m, k] or [k].

        Args:
            sets: k arrays of training indices; or one array of n group labels (patients, sites,
                batches), whose groups are then the sets: ``np.unique(sets)`` are their names, in
                the order of the answer.
            order: "first", the sum of the scores of the points; "newton", as for
                ``influence_on_loss``, one Newton step without the set; "refit", what really
                happens, by refits here or on joblib's ambient backend (``objective.sweeps``).
            x_test, y_test, reduction, loss, solver, curvature, strict: as for
                ``influence_on_loss``.

        Raises, Warns:
            As ``influence_on_loss``. A set that is refused is named by its number.

        Examples:
            Two patients' points (the third's go unnamed), and what really happens:

            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
            >>> for order in ("first", "newton", "refit"):
            ...     scores = model.influence_of_sets([[0, 4], [1, 2]], [[1.5]], [1], order=order)
            ...     print(order, scores.round(2).tolist())
            first [[-0.18, 0.1]]
            newton [[-0.33, 0.13]]
            refit [[-0.4, 0.12]]
            >>> patients = ["b", "a", "a", "c", "b"]
            >>> model.influence_of_sets(patients, [[1.5]], [1]).round(2).tolist()
            [[0.13, -0.33, 0.12]]
        """
        check_reduction(reduction)
        how = {"solver": solver, "curvature": curvature, "strict": strict}
        return influence_of_sets(self, sets, x_test, y_test, order, reduction, loss, how)

    def parameter_changes(
        self,
        sets: Any,
        order: Order = "newton",
        *,
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        strict: bool = False,
    ) -> np.ndarray:
        """Δθ when the training points of each set are removed, as ``Removal`` has it: [p, k].

        Args:
            sets, order: as for ``influence_of_sets``; ``np.arange(n)[:, np.newaxis]`` are single
                points.
            solver, curvature, strict: as for ``influence_on_loss``.

        Examples:
            >>> import numpy as np
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
            >>> [model.parameter_changes([[4]], order).round(2).tolist()
            ...  for order in ("first", "newton", "refit")]
            [[[0.46]], [[0.79]], [[1.16]]]
        """
        checked = Sets.of(sets, len(self.train))
        return self._make_removal(solver, curvature, strict).changes(checked, order)

    def influence_on(
        self,
        target: Target,
        order: Order = "first",
        *,
        train_indices: ArrayLike | None = None,
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        strict: bool = False,
    ) -> np.ndarray:
        """Change of any target if a training point is removed, after minus before: [m, n], or [n]
        for a target that is one number.

        Args:
            target: of ``influence.targets``, such as ``Probability`` or ``Metric``.
            order: "first", as ``influence_on_loss``: the change of the parameters to first order,
                and of the target along it (a ``Metric``, which has no gradient, is taken *at* the
                changed parameters). "newton": the target at one Newton step of the objective
                without the point. "refit": the target after a refit.
            train_indices, solver, curvature, strict: as for ``influence_on_loss``; "refit" has no
                use for the others.

        Raises:
            ValueError: points, classes or indices that do not fit; another order.
            SolverError: the system cannot be solved.

        Warns:
            ConvergenceWarning: as for ``influence_on_loss``.

        Examples:
            How the probability of class 1 would move:

            >>> from influence import BinaryLogisticRegression, Dataset
            >>> from influence.targets import Probability
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
            >>> model.influence_on(Probability([[1.5]], class_=1), "newton").round(2).tolist()
            [[-0.07, -0.03, -0.03, -0.07, 0.23]]
        """
        how = {"solver": solver, "curvature": curvature, "strict": strict}
        changes = influence_on(self, target, order, train_indices, how)
        self._warn_unless_at_minimum(curvature)
        return changes

    def influence_of_points(
        self,
        x: Inputs,
        labels: ArrayLike,
        x_test: Inputs,
        y_test: ArrayLike,
        *,
        reduction: Reduction | None = None,
        loss: Loss = "normal",
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        strict: bool = False,
    ) -> np.ndarray:
        """The same quantity for points that need not be in the training set: [m, q] or [q].

        For a point that is not there it is minus the predicted change if it were added.

        Examples:
            With one more point like the others, the loss at 1.5 would fall by about 0.11:

            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
            >>> model.influence_of_points([[3]], [1], [[1.5]], [1]).round(2).tolist()
            [[0.11]]
        """
        points = self.points.checked(x, labels, "x", "labels")
        gradient = self.test_gradient(x_test, y_test, loss, reduction)
        s_test = self.inverse_hvp(gradient, solver, strict, curvature).x
        self._warn_unless_at_minimum(curvature)
        return self._removal(points, s_test, curvature)

    def influence_input_gradient(
        self,
        train_indices: ArrayLike,
        x_test: Inputs,
        y_test: ArrayLike,
        *,
        loss: Loss = "normal",
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        strict: bool = False,
    ) -> Any:
        """∇_x of ``influence_on_loss(..., reduction="mean")`` at training points: [k, ...].

        This is −I_pert,loss/n of the paper. The derivative is with respect to the converted input
        (after the data set's ``scale``).

        Examples:
            The point with the wrong label does more harm the farther it moves to the right:

            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
            >>> model.influence_input_gradient([4], [[1.5]], [1]).round(2).tolist()
            [[-0.11]]
        """
        gradient = self.test_gradient(x_test, y_test, loss, "mean")
        s_test = self.inverse_hvp(gradient, solver, strict, curvature).x
        points = self.points.raw(check_indices(train_indices, len(self.train)))
        self._warn_unless_at_minimum(curvature)
        s_test = tf.constant(s_test[:, np.newaxis] / len(self.train), self.dtype)
        return self.scans.input_gradients(points, s_test)

    def self_influence(
        self,
        *,
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        train_indices: ArrayLike | None = None,
        strict: bool = False,
    ) -> np.ndarray:
        """∇L(z_i)ᵀ H⁻¹ ∇L(z_i) of every training point, [n]: how far it holds up its own label."""
        every, parts = [], []
        for places, rows in self.scans.gradient_blocks(self.points.scanned(train_indices)):
            gradients = rows.T
            solved = self.inverse_hvp(gradients, solver, strict, curvature).x
            every.append(places)
            parts.append(np.sum(gradients * solved, axis=0))
        self._warn_unless_at_minimum(curvature)
        scores = np.concatenate(parts)
        scores[np.concatenate(every)] = scores.copy()
        return scores

    @overload
    def validate(
        self,
        x_test: Inputs,
        y_test: ArrayLike,
        points: int = 20,
        *,
        measure: Literal["leave-one-out"] = "leave-one-out",
        subsets: int = 30,
        order: Literal["first", "newton"] = "first",
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        checkpoint: File | None = None,
        progress: bool = False,
    ) -> Validation: ...

    @overload
    def validate(
        self,
        x_test: Inputs,
        y_test: ArrayLike,
        points: int = 20,
        *,
        measure: Literal["datamodeling"],
        subsets: int = 30,
        order: Literal["first", "newton"] = "first",
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        checkpoint: File | None = None,
        progress: bool = False,
    ) -> DatamodelingScore: ...

    def validate(
        self,
        x_test: Inputs,
        y_test: ArrayLike,
        points: int = 20,
        *,
        measure: Literal["leave-one-out", "datamodeling"] = "leave-one-out",
        subsets: int = 30,
        order: Literal["first", "newton"] = "first",
        solver: Solver | None = None,
        curvature: HessianOperator | None = None,
        checkpoint: File | None = None,
        progress: bool = False,
    ) -> Validation | DatamodelingScore:
        """Refit without the most influential points: can the scores be trusted on this model?

        See ``Validation`` for how to read the answer. Where the model cannot be refitted without a
        point (the only one of its class), the next most influential takes its place. Under
        ``joblib.parallel_config("loky", n_jobs=4)``, "dask" or "ray" the refits go to its workers
        (``objective.sweeps``).

        With ``measure="datamodeling"`` it is refitted to random halves of the training points
        instead, and the scores of the others are held against the test losses: the answer is a
        ``DatamodelingScore``. (``linear_datamodeling_score`` trains by your own recipe.)

        Args:
            x_test, y_test: [m] test points; what is predicted is the change of their mean loss,
                or, for halves, of each.
            points: k, those with the largest |influence|; every one costs a refit.
            measure: "leave-one-out", or "datamodeling".
            subsets: of "datamodeling"; every one costs a refit.
            order, solver, curvature: as in ``influence_on_loss``; half of the points is no small
                removal, so that with "datamodeling" "newton" is one step without all of them.
            checkpoint: a file that every finished refit is saved to, and read from after a kill or
                for more ``points`` or ``subsets``; the numbers are the same.
            progress: show a progress bar.

        Raises:
            ValueError: ``points`` is not in 2..n, all predicted changes are the same, or fewer than
                two refits can be done; for halves, the model cannot be refitted to one.

        Warns:
            UserWarning: which refits cannot be done, and why; where there is no correlation, why.

        Examples:
            >>> from influence import BinaryLogisticRegression, Dataset
            >>> train = Dataset([[-2], [-1], [1], [2], [3]], [0, 0, 1, 1, 0])
            >>> model = BinaryLogisticRegression(train, weight_decay=0.1, dtype="float64").fit()
            >>> validation = model.validate([[1.5]], [1], points=3)
            >>> int(validation.indices[0]), round(validation.pearson_r, 2)
            (4, 1.0)
            >>> validation.predicted.round(2).tolist(), validation.actual.round(2).tolist()
            ([-0.27, 0.09, 0.09], [-0.39, 0.11, 0.11])
        """
        settings: dict[str, Any] = {
            "order": order,
            "solver": solver,
            "curvature": curvature,
            "checkpoint": checkpoint,
            "progress": progress,
        }
        if measure == "datamodeling":
            return validate_on_subsets(self, x_test, y_test, subsets, **settings)
        if measure != "leave-one-out":
            raise ValueError(f'measure must be "leave-one-out" or "datamodeling", not {measure!r}.')
        return validate(self, x_test, y_test, points, **settings)

    # How it is done.

    def _again(self, sharding: Sharding | None = None) -> Self:
        """An unfitted model with the same settings and points, or with those of a sharding."""
        if self.sharding is None:
            return self._clone(self.train)
        train = self.train
        if sharding is not None:
            train = ShardedTrain(self._like, len(sharding))
        return self._clone(self._like)._with_shards(sharding or self.sharding, train, self._like)

    def _with_shards(self, sharding: Sharding, train: Any, like: Any) -> Self:
        """This model, just made, with its points in shards."""
        self.sharding, self.train, self._like = sharding, train, like
        self.points = ShardedPoints(self.points, sharding)
        self.scans = self._make_sharded_scans(sharding)
        return self

    def _recipe(self, own: bool) -> Recipe:
        """How models of a shard's rows are made, of the model's ``own`` or of others.

        Raises:
            ValueError: there are no such models.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be sharded: linear models, those of from_sklearn and "
            f"KerasModel can."
        )

    def _rows(self) -> Any:
        """The training rows as the recipe takes those of a shard: arrays in a structure."""
        raise NotImplementedError

    def _make_sharded_scans(self, sharding: Sharding) -> Any:
        return ShardedScans(self.scans, self, sharding)

    def _make_scans(self) -> Scans:
        return Scans(self)

    def _make_points(self) -> Points:
        return Points(self.train, self.dtype, self.label_dtype, self._check_labels)

    def _make_hessian(self) -> HessianOperator:
        return AutodiffHessian(self)

    def _make_gauss_newton(self) -> HessianOperator:
        return GaussNewton(self)

    def _make_removal(self, solver=None, curvature=None, strict=False) -> Removal:
        return Removal(self, solver, curvature, strict)

    def _default_curvature(self) -> HessianOperator:
        return self.hessian()

    def _newton_curvature(self) -> HessianOperator:
        """The default where points take their own curvature along."""
        return self._default_curvature()

    def _warn_unless_at_minimum(self, curvature: HessianOperator | None) -> None:
        """Say once at each θ that influences are asked for away from a minimum.

        Not with a damped curvature. Such scores are for a model as it is: they predict how it moves
        in a neighbourhood that the damping keeps it in, the proximal Bregman response of Bae et al.
        (*If influence functions are the answer, then what is the question?*, 2022).
        """
        operator = self._default_curvature() if curvature is None else curvature
        if getattr(operator, "damping", 0.0) > 0 or "at_minimum" in self._at_theta:
            return
        self._at_theta["at_minimum"] = True
        warn_unless_at_minimum(self, stacklevel=3)

    def preconditioner(self) -> Any:
        """An operator that approximates H⁻¹ for conjugate gradients, or None."""
        return None

    def _default_solver(self, curvature: HessianOperator | None) -> Solver:
        """The solver where none was asked for: an operator's own inverse, if it has one."""
        return OwnInverse() if hasattr(curvature, "inverse") else self._solver_for(curvature)

    def _solver_for(self, curvature):
        """The solver for an operator without an inverse of its own."""
        if self.num_parameters <= EXACT_SIZE:
            return self._exact
        # The preconditioner is of the model's own Hessian.
        preconditioner = self.preconditioner() if curvature is None else None
        return ConjugateGradient(preconditioner=preconditioner)

    @functools.cached_property
    def _exact(self) -> Exact:
        return Exact()

    def _removal(self, points, s_test, curvature=None) -> np.ndarray:
        """(1/n)(s_testᵀ∇L(z) + s_testᵀ∇regularization) for s_test [p] or [p, m]: [q] or [m, q]."""
        block = s_test.reshape(len(s_test), -1)
        columns = tf.constant(block, self.dtype)
        along = self._scans_for(curvature).directional_derivatives(points, columns).T
        regularizer = self._removed_regularizer(block) * self._removed_shares(points)
        if np.any(regularizer):
            along = along + regularizer
        influence = along / len(self.train)
        return influence.astype(self.dtype, copy=False).reshape(s_test.shape[1:] + (-1,))

    def _scans_for(self, curvature: HessianOperator | None) -> Any:
        """What has the fastest ``directional_derivatives``, of scores by a curvature."""
        return self.scans

    def _removed_regularizer(self, block):
        """The regulariser's share of a removal along each column of ``block`` [p, m]: [m, 1]."""
        return (block.T @ self._removed_slope())[:, np.newaxis]

    def _removed_slope(self) -> np.ndarray:
        """ρ, the gradient of what goes of n times the regulariser with a point: [p]."""
        return self.regularization_gradient()

    def _removed_shares(self, points: PointTensors) -> np.ndarray | float:
        """How many times that goes with each of ``points``: [q], or 1 for all."""
        return 1.0


def check_reduction(reduction: object) -> None:
    """Raise a ValueError unless ``reduction`` is None or "mean"."""
    if reduction not in (None, "mean"):
        raise ValueError(f'reduction must be None or "mean", not {reduction!r}.')
