"""The network of Figure 2: it is not at an optimum, and its retraining stops early."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

from influence import Adam, AllCNNC, ConjugateGradient, Dataset, GradientFlow, Proximal
from influence.curvature.operator import MatrixOperator
from influence.data.files import fingerprint, kept
from influence.fitting.adam import AdamState, continue_without
from influence.solvers.solution import SolverWarning
from scripts.loaders.mnist import Mnist
from scripts.report.experiment import Results

PARAMETERS = 2616
# The stand-in has fewer images, with as many passes over them, and fewer points.
_STAND_IN_IMAGES, _STAND_IN_POINTS = 275, 10
_SEED = 0
# The last learning rate of the paper's schedule, which its retraining goes on with.
_RETRAINING_RATE = 1e-6
_PROXIMAL_TOLERANCE = 1e-5


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
    model, state = train(config, first_images(mnist.train, images), folder)
    test_index = config.cnn_test_index
    if not real:
        test_index = int((model.predict(mnist.test.x) != mnist.test.labels).argmax())
    test = mnist.test.x[[test_index]], mnist.test.labels[[test_index]]

    hessian, gauss_newton = curvatures(model, state, folder)
    smallest, largest = hessian.extreme_eigenvalues()
    # Twice what makes the Hessian positive definite: its smallest eigenvalue changes its sign.
    chosen = max(-2 * smallest, config.cnn_damping)
    # The paper's panel is of the damped Hessian; where that is indefinite, conjugate gradients end
    # at the first negative curvature, and what they have by then is no influence.
    panel = "hessian" if smallest + config.cnn_damping > 0 else "gauss_newton"
    predicted = {}
    for name, operator in (("hessian", hessian), ("gauss_newton", gauss_newton)):
        for suffix, damping in (("", config.cnn_damping), ("_chosen", chosen)):
            with warnings.catch_warnings():
                if operator is hessian and smallest + damping <= 0:
                    warnings.simplefilter("ignore", SolverWarning)  # said below
                predicted[name + suffix] = model.influence_on_loss(
                    *test, solver=ConjugateGradient(), curvature=operator + damping
                )[0]
    if panel != "hessian":
        print(
            f"The network's Hessian + {config.cnn_damping:g} is not positive definite (smallest "
            f"eigenvalue {smallest + config.cnn_damping:.2g}): the panel is Gauss-Newton's."
        )
    order = np.argsort(-np.abs(predicted["gauss_newton"]), kind="stable")
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
    results.add("cnn_scale", config.scale)
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


def agreement(actual: np.ndarray, predicted: np.ndarray) -> tuple[float | None, float | None]:
    """Pearson's R and the slope of the predictions over the changes; None where one of the two
    does not vary."""
    if not (np.ptp(actual) and np.ptp(predicted)):
        return None, None
    return np.corrcoef(actual, predicted)[0, 1], np.polyfit(actual, predicted, 1)[0]


def first_images(train: Dataset, number: int) -> Dataset:
    """Some of the training images, drawn as in the 2017 code."""
    order = np.arange(len(train))
    np.random.RandomState(0).shuffle(order)
    chosen = order[:number]
    return Dataset(train.x[chosen], train.labels[chosen], train.scale)


def train(config, data: Dataset, folder: Path) -> tuple[AllCNNC, AdamState]:
    """The network after Adam, and Adam's state there."""
    model = AllCNNC(data, config.cnn_weight_decay, seed=_SEED)
    assert model.num_parameters == PARAMETERS
    per_pass = max(1, len(data) // Adam.batch_size)
    steps = config.cnn_steps * per_pass // (config.cnn_images // Adam.batch_size or 1)
    # The paper's schedule, or the same with a larger rate where there are fewer steps.
    decays = ((110_000, 0.1), (220_000, 0.01))
    if config.scale != "paper":
        decays = ((int(0.6 * steps), 0.1), (int(0.85 * steps), 0.01))
    adam = Adam(config.cnn_rate, decays, seed=_SEED)
    state = adam.run(model, steps, checkpoint=folder / "adam.npz", progress=True)
    return model, state


def curvatures(model: AllCNNC, state: AdamState, folder: Path):
    """The Hessian and the Gauss-Newton matrix at the trained parameters, as matrices."""
    path = folder / f"hessian_{_key(state.parameters, model.train.x)}.npz"
    hessian = model.hessian()
    hessian.progress = True
    matrices = kept(path, hessian.dense), model.gauss_newton().dense()
    # In float64, so that conjugate gradients reach their tolerance.
    return [MatrixOperator(matrix.astype(np.float64), len(model.train)) for matrix in matrices]


def retrain(config, model, state, gauss_newton, indices, test, folder) -> dict[str, np.ndarray]:
    """Changes of the test loss without each point: after plain and after proximal retraining, and
    after the first step of the latter.

    ``actual``, ``proximal`` and ``one_step`` [k], the ``drift`` of the flow that removes nothing,
    and the gradient norms of the proximal objective.
    """
    time = config.cnn_retraining_steps * _RETRAINING_RATE
    flow = GradientFlow(model, state, time, config.cnn_flow_steps, gauss_newton)
    proximal = Proximal(model, config.cnn_damping, gauss_newton)
    moved = model.with_parameters(model.parameters)
    before = float(model.losses(*test)[0])

    def change(theta):
        moved.parameters = theta
        return float(moved.losses(*test)[0]) - before

    def plain(index):
        if config.scale == "paper":
            adam = Adam(seed=_SEED)
            checkpoint = folder / f"without_{index}.adam.npz"
            longer = continue_without(
                adam, model, state, index, config.cnn_retraining_steps, checkpoint=checkpoint
            )
            return longer.parameters
        return flow.without(index)

    def unit(index):
        near, norm = proximal.without(index, _PROXIMAL_TOLERANCE)
        step = proximal.one_step(index)
        return np.array([change(plain(index)), change(near), change(step), norm])

    settings = config.scale, time, config.cnn_flow_steps, config.cnn_damping
    key = _key(repr(settings), state.parameters, model.train.x, *test)
    rows = [
        kept(folder / f"without_{key}_{index}.npz", lambda index=index: unit(index))
        for index in tqdm(indices, desc="retraining", disable=None)
    ]
    names = "actual", "proximal", "one_step", "proximal_gradient_norms"
    return dict(zip(names, np.transpose(rows))) | {"drift": np.array(change(flow.without(None)))}


def _key(*parts) -> str:
    return fingerprint(*parts)[:16]
