"""Figure 2, the network: its training as published, and what convergence does to influence.

Not part of `make figures`: 500,000 steps take two to three hours, and may be killed and taken up
again. It leaves the trained state, `all_cnn_c_500000.npz`, in the output folder;
`scripts.fig2_leave_one_out` starts from one in `data/`.
"""

from __future__ import annotations

import csv
import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from influence import Adam, AdamState, AllCNNC
from influence.data.files import fingerprint, kept, write_atomically
from scripts.fig2_leave_one_out import Fig2Config
from scripts.loaders.mnist import load_mnist
from scripts.report.experiment import Config, Results, run
from scripts.steps.cnn_leave_one_out import agreement_after_flow
from scripts.steps.cnn_training import SEED, first_images

NAME = "fig2_training"
TRACE = ("step", "objective", "gradient_norm", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class TrainingConfig(Config):
    """Train the network of Figure 2 for 500,000 steps of Adam, and look at it on the way.

    Attributes:
        steps: of Adam, with the paper's rate: 1e-4, a tenth of it after 110,000 steps, a hundredth
            after 220,000.
        every: steps between two rows of the trace, each of which is kept.
        milestones: steps, separated by commas, where influence is compared with retraining.
        points: of the figure's, those with the largest |influence|, for that comparison.
    """

    steps: int = 500_000
    every: int = 10_000
    milestones: str = "110000,150000,220000,500000"
    points: int = 25

    QUICK: ClassVar[dict] = {"steps": 40, "every": 10, "milestones": "20,40", "points": 2}


def compute(config: TrainingConfig) -> Results:
    """The trace of the training, and the comparison at the milestones."""
    figure, mnist = Fig2Config(), load_mnist(config.data, config.scale)
    real = mnist.provenance.data == "paper"
    train = first_images(mnist.train, figure.cnn_images if real else 100)
    model = AllCNNC(train, figure.cnn_weight_decay, seed=SEED)
    test_index = figure.cnn_test_index if real else 0
    test = mnist.test.x[[test_index]], mnist.test.labels[[test_index]]
    milestones = [int(step) for step in config.milestones.split(",")]
    folder = Path(config.output_dir) / f"{NAME}.states"

    trace, found = [], []
    for state in states(model, config.steps, config.every, folder):
        trace.append(
            [
                state.step,
                model.objective(),
                np.linalg.norm(model.gradient()),
                (model.predict(train.x) == train.labels).mean(),
                (model.predict(mnist.test.x) == mnist.test.labels).mean(),
            ]
        )
        if state.step in milestones:
            path = folder / f"milestone_{state.step}_{config.points}.npz"
            compare = functools.partial(
                agreement_after_flow,
                model,
                state,
                test,
                config.points,
                figure.cnn_damping,
                figure.cnn_retraining_steps,
                figure.cnn_flow_steps,
            )
            found.append(kept(path, compare))
    state.save(Path(config.output_dir) / f"all_cnn_c_{config.steps}.npz")

    results = Results(mnist.provenance)
    results.arrays = {"trace": np.array(trace), "milestones": np.array(found)}
    write_atomically(
        Path(config.output_dir) / f"{NAME}.csv", lambda file: file.write(as_csv(trace).encode())
    )
    for name, values in zip(TRACE[1:], trace[-1][1:]):
        paper = {"train_accuracy": 0.9996, "test_accuracy": 0.9746}.get(name)
        results.add(name, values, paper)
    results.add("milestones", milestones)
    names = "smallest_eigenvalue", "hessian_r", "hessian_slope", "gauss_newton_r"
    for name, values in zip([*names, "gauss_newton_slope"], np.transpose(found)):
        # Conjugate gradients may end in negative curvature at once, which predicts nothing.
        results.add(name, [float(value) if np.isfinite(value) else None for value in values])
    return results


def states(model: AllCNNC, steps: int, every: int, folder: Path):
    """The states of the training, ``every`` so many steps, each with the model at it; read from
    ``folder`` where an earlier run left them."""
    adam, state = Adam(seed=SEED), None
    key = fingerprint(repr(adam), model.parameters, model.train.x, model.train.labels)
    for step in tqdm(range(every, steps + 1, every), desc="training", disable=None):
        path = folder / f"step_{step:06d}.npz"
        saved = AdamState.load(path, key)
        if saved is None:
            state = adam.run(model, step, state)
            state.save(path, key)
        else:
            state, model.parameters = saved, saved.parameters
        yield state


def as_csv(trace) -> str:
    """The trace as a table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TRACE)
    writer.writerows([int(step), *(f"{value:.6g}" for value in row)] for step, *row in trace)
    return text.getvalue()


def plot(results: Results) -> dict[str, plt.Figure]:
    """Objective, gradient norm and error rates over the steps, and where the rate falls."""
    step, objective, norm, train, test = results.arrays["trace"].T
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    axes[0].plot(step, objective)
    axes[0].set(title="Objective", yscale="log")
    axes[1].plot(step, norm)
    axes[1].set(title="Norm of its gradient", yscale="log")
    axes[2].plot(step, 100 * (1 - train), label="training")
    axes[2].plot(step, 100 * (1 - test), label="test")
    axes[2].axhline(100 * (1 - 0.9746), color="0.5", linestyle=":", label="test, paper")
    axes[2].set(title="Error [%]", yscale="symlog")
    axes[2].legend(frameon=False)
    for axis in axes:
        axis.set_xlabel("Steps of Adam")
        for start, _ in Adam.decays:
            if start < step[-1]:
                axis.axvline(start, color="0.8", linewidth=1, zorder=0)
    return {NAME: figure}


if __name__ == "__main__":
    run(NAME, TrainingConfig, compute, plot)
