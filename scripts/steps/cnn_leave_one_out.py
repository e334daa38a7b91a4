"""The network of Figure 2: it is not at an optimum, and its retraining stops early."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from influence import Adam, AllCNNC, ConjugateGradient, GradientFlow, Proximal
from influence.curvature.operator import HessianOperator, MatrixOperator
from influence.data.files import fingerprint, saved_arrays, write_atomically
from influence.fitting.adam import continue_without
from influence.objective.sweeps import in_order, sweep
from influence.solvers.preconditioners import InverseMatrix
from influence.solvers.solution import SolverError, SolverWarning
from scripts.loaders.mnist import Mnist
from scripts.report.experiment import Results
from scripts.steps.cnn_keras import as_keras
from scripts.steps.cnn_training import SEED, first_images, trained
from scripts.steps.processes import processes

# The stand-in has fewer images, with as many passes over them, and fewer points. With 275 images
# a removal was too large a change for first order; with 1,000 R is .92, and all else is as with
# MNIST: λ, δ and the retraining.
_STAND_IN_IMAGES, _STAND_IN_POINTS = 1000, 20
# The last learning rate of the paper's schedule, which its retraining goes on with.
_RETRAINING_RATE = 1e-6
_PROXIMAL_TOLERANCE = 1e-5
# Of products in float32 by sums over thousands of images: rounding leaves a millionth.
_EIGENVALUE_TOLERANCE, _SOLVER_TOLERANCE = 5e-6, 1e-5


def add_network(results: Results, config, mnist: Mnist, folder: Path) -> None:
    """Train, predict, retrain: adds the arrays and metrics whose names start with ``cnn_``.

    Args:
        results: of the experiment.
        config: a ``Fig2Config``.
        mnist: the data.
        folder: where finished parts are kept until the experiment ends.
    """
    real = mnist.provenance.data == "paper"
    images, points = config.cnn_images, config.cnn_points
    if not real:
        images, points = min(images, _STAND_IN_IMAGES), min(points, _STAND_IN_POINTS)
    model, state = trained(config, first_images(mnist.train, images), real, folder)
    test_index = config.cnn_test_index
    if not real:
        test_index = int((model.predict(mnist.test.x) != mnist.test.labels).argmax())
    test = mnist.test.x[[test_index]], mnist.test.labels[[test_index]]

    hessian, gauss_newton, near = curvatures(model, config.cnn_damping)
    smallest, largest = ends(model, near)
    # Twice what makes the Hessian positive definite: its smallest eigenvalue changes its sign.
    chosen = max(-2 * smallest, config.cnn_damping)
    # The paper's panel is of the damped Hessian; where that is indefinite, conjugate gradients end
    # at the first negative curvature, and what they have by then is no influence.
    panel = "hessian" if smallest + config.cnn_damping > 0 else "gauss_newton"
    solver = ConjugateGradient(_SOLVER_TOLERANCE, preconditioner=near)
    predicted = {}
    for name, operator in (("hessian", hessian), ("gauss_newton", gauss_newton)):
        for suffix, damping in (("", config.cnn_damping), ("_chosen", chosen)):
            if suffix and chosen == config.cnn_damping:
                predicted[name + suffix] = predicted[name]
                continue
            with warnings.catch_warnings():
                if operator is hessian and smallest + damping <= 0:
                    warnings.simplefilter("ignore", SolverWarning)  # said below
                predicted[name + suffix] = model.influence_on_loss(
                    *test, solver=solver, curvature=operator + damping
                )[0]
    # What does without solves, and without what crosses layers.
    predicted["ekfac"] = model.influence_on_loss(
        *test, curvature=as_keras(model).ekfac() + config.cnn_damping
    )[0]
    if panel != "hessian":
        print(
            f"The network's Hessian + {config.cnn_damping:g} is not positive definite (smallest "
            f"eigenvalue {smallest + config.cnn_damping:.2g}): the panel is Gauss-Newton's."
        )
    order = np.argsort(-np.abs(predicted[panel]), kind="stable")
    indices = order[:points]
    retrained = retrain(config, model, state, gauss_newton.dense(), indices, test, folder)

    results.arrays |= {f"cnn_{name}": values[indices] for name, values in predicted.items()}
    results.arrays |= {f"cnn_{name}": values for name, values in retrained.items()}
    results.arrays["cnn_indices"] = indices
    # With these the retraining of single points can be repeated.
    results.arrays["cnn_images"] = np.array(len(model.train))
    results.arrays |= {f"cnn_adam_{name}": value for name, value in vars(state).items()}
    accuracy = (model.predict(mnist.test.x) == mnist.test.labels).mean()
    results.add("cnn_test_accuracy", accuracy, 0.9746)
    accuracy = (model.predict(model.train.x) == model.train.labels).mean()
    results.add("cnn_train_accuracy", accuracy, 0.9996)
    results.add("cnn_test_index", test_index, 6558)
    results.add("cnn_training_images", len(model.train))
    results.add("cnn_points", len(indices))
    results.add("cnn_scale", config.scale)
    results.add("cnn_steps", state.step, 500_000)
    results.add("cnn_gradient_norm", np.linalg.norm(model.gradient()))
    results.add("cnn_smallest_eigenvalue", smallest)
    results.add("cnn_largest_eigenvalue", largest)
    results.add("cnn_damping", config.cnn_damping, 0.01)
    results.add("cnn_chosen_damping", chosen)
    results.add("cnn_panel", panel)
    results.add("cnn_drift", retrained["drift"])
    predictions = {name: values[indices] for name, values in predicted.items()}
    predictions["one_step"] = retrained["one_step"]
    for target, prefix in (("actual", ""), ("proximal", "_proximal")):
        for name, values in predictions.items():
            correlation, slope = agreement(retrained[target], values)
            results.add(f"cnn_{name}{prefix}_pearson_r", correlation)
            results.add(f"cnn_{name}{prefix}_slope", slope)
    results.add("cnn_pearson_r", results.metrics[f"cnn_{panel}_pearson_r"]["ours"], 0.86)
    results.add("cnn_slope", results.metrics[f"cnn_{panel}_slope"]["ours"])


def curvatures(
    model: AllCNNC, damping: float
) -> tuple[HessianOperator, MatrixOperator, InverseMatrix]:
    """The Hessian by its products, the Gauss-Newton matrix, and the inverse of the latter with
    ``damping``: at a trained network it is near to that of the damped Hessian, so that conjugate
    gradients take tens of products instead of hundreds."""
    # In float64, so that conjugate gradients reach their tolerance.
    matrix = model.gauss_newton().dense().astype(np.float64)
    gauss_newton = MatrixOperator(matrix, len(model.train))
    return model.hessian(), gauss_newton, InverseMatrix((gauss_newton + damping).dense())


def ends(model: AllCNNC, near: InverseMatrix) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of the Hessian."""
    try:
        return model.hessian().extreme_eigenvalues(_EIGENVALUE_TOLERANCE, near)
    except SolverError:
        # Far from a minimum the Gauss-Newton matrix says little of it: by its own matrix, in
        # minutes, and in float64: beside a largest eigenvalue of hundreds float32 has few digits
        # for the smallest.
        exact = AllCNNC(model.train, model.weight_decay, seed=SEED, dtype="float64")
        exact.parameters = model.parameters.astype(np.float64)
        eigenvalues = np.linalg.eigvalsh(exact.hessian().dense())
        return float(eigenvalues[0]), float(eigenvalues[-1])


def agreement(actual: np.ndarray, predicted: np.ndarray) -> tuple[float | None, float | None]:
    """Pearson's R and the slope of the predictions over the changes; None where one of the two
    does not vary."""
    if not (np.ptp(actual) and np.ptp(predicted)):
        return None, None
    return np.corrcoef(actual, predicted)[0, 1], np.polyfit(actual, predicted, 1)[0]


def retrain(config, model, state, gauss_newton, indices, test, folder) -> dict[str, np.ndarray]:
    """Changes of the test loss without each point: after plain and after proximal retraining, and
    after the first step of the latter.

    ``actual``, ``proximal`` and ``one_step`` [k], the ``drift`` of the flow that removes nothing,
    and the gradient norms of the proximal objective.
    """
    stepped = {}
    if config.scale == "paper":
        steps = config.cnn_retraining_steps
        stepped = dict(zip(indices, after_steps(model, state, indices, steps, folder, config.jobs)))

    retraining = _Retraining(config, model, state, gauss_newton, test)
    settings = config.scale, retraining.time, config.cnn_flow_steps, config.cnn_damping
    key = _key(repr(settings), state.parameters, model.train.x, *test)
    paths = {index: folder / f"without_{key}_{index}.npz" for index in indices.tolist()}
    found = {index: saved_arrays(path) for index, path in paths.items()}
    rows = {index: saved["array"] for index, saved in found.items() if saved is not None}
    todo = [(index, stepped.get(index)) for index in paths if index not in rows]
    with tqdm(total=len(paths), initial=len(rows), desc="retraining", disable=None) as bar:
        for number, row in sweep(retraining, todo):
            index, _ = todo[number]
            rows[index] = row
            write_atomically(paths[index], functools.partial(np.savez, array=row))
            bar.update()
    names = "actual", "proximal", "one_step", "proximal_gradient_norms"
    columns = np.transpose([rows[index] for index in paths])
    return dict(zip(names, columns)) | {"drift": np.array(retraining.drift())}


class _Retraining:
    """Changes of the test loss, and the norm of the proximal gradient, without an index and where
    plain retraining ends, (index, θ or None); what is computed once for all is made where it is
    needed."""

    def __init__(self, config, model, state, gauss_newton, test):
        self._config, self._model, self._state = config, model, state
        self._gauss_newton, self._test = gauss_newton, test
        self.time = config.cnn_retraining_steps * _RETRAINING_RATE

    def __call__(self, unit):
        index, plain = unit
        plain = self._flow.without(index) if plain is None else plain
        near, norm = self._proximal.without(index, _PROXIMAL_TOLERANCE)
        step = self._proximal.one_step(index)
        return np.array([*map(self._change, (plain, near, step)), norm])

    def drift(self) -> float:
        """The change by the flow that removes nothing."""
        return self._change(self._flow.without(None))

    def _change(self, theta):
        self._moved.parameters = theta
        return float(self._moved.losses(*self._test)[0]) - self._before

    @functools.cached_property
    def _flow(self):
        steps = self._config.cnn_flow_steps
        return GradientFlow(self._model, self._state, self.time, steps, self._gauss_newton)

    @functools.cached_property
    def _proximal(self):
        return Proximal(self._model, self._config.cnn_damping, self._gauss_newton)

    @functools.cached_property
    def _moved(self):
        return self._model.with_parameters(self._model.parameters)

    @functools.cached_property
    def _before(self):
        return float(self._model.losses(*self._test)[0])


def after_steps(model, state, indices, steps: int, folder: Path, jobs: int) -> list[np.ndarray]:
    """θ [p] after so many more steps of Adam without each of ``indices``, each kept in ``folder``.

    The retrainings are spread over ``jobs`` processes of one thread each, so that the numbers are
    the same for any number of processes.
    """
    task = functools.partial(_without, model.train, model.weight_decay, state, steps, folder)
    with processes(jobs):
        work = in_order(sweep(task, [int(index) for index in indices]))
        return list(tqdm(work, total=len(indices), desc=f"{steps} more steps", disable=None))


def _without(train, weight_decay, state, steps, folder, index):
    tf.config.experimental.enable_op_determinism()
    model = AllCNNC(train, weight_decay, seed=SEED)
    path = folder / f"without_{index}_{steps}.adam.npz"
    return continue_without(Adam(seed=SEED), model, state, index, steps, checkpoint=path).parameters


def agreement_after_flow(
    model, state, test, points: int, damping: float, steps: int, flow_steps: int
) -> np.ndarray:
    """How influence with the damped Hessian and with the damped Gauss-Newton matrix agrees with the
    flow of ``steps`` more steps without each of the most influential ``points``.

    [smallest eigenvalue of the Hessian, R, slope (Hessian), R, slope (Gauss-Newton)], with NaN for
    the Hessian where it is indefinite: there is no influence then.
    """
    hessian, gauss_newton, near = curvatures(model, damping)
    smallest, _ = ends(model, near)
    solver = ConjugateGradient(_SOLVER_TOLERANCE, preconditioner=near)
    by_hessian, by_gauss_newton = (
        model.influence_on_loss(*test, solver=solver, curvature=operator + damping)[0]
        if operator is gauss_newton or smallest + damping > 0
        else None
        for operator in (hessian, gauss_newton)
    )
    ranking = by_gauss_newton if by_hessian is None else by_hessian
    indices = np.argsort(-np.abs(ranking), kind="stable")[:points]
    flow = GradientFlow(model, state, steps * _RETRAINING_RATE, flow_steps, gauss_newton.dense())
    moved, before = model.with_parameters(model.parameters), model.losses(*test)[0]
    actual = []
    for index in indices:
        moved.parameters = flow.without(index)
        actual.append(moved.losses(*test)[0] - before)
    agreements = [
        (None, None) if scores is None else agreement(np.array(actual), scores[indices])
        for scores in (by_hessian, by_gauss_newton)
    ]
    return np.array([smallest, *agreements[0], *agreements[1]], np.float64)


def _key(*parts) -> str:
    return fingerprint(*parts)[:16]
