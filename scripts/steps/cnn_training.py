"""The network of Figure 2, trained: the published state, or trained anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from influence import Adam, AdamState, AllCNNC, Dataset
from influence.curvature.operator import MatrixOperator
from influence.data.files import fingerprint, kept
from scripts.loaders.registry import DATA_FOLDER

PARAMETERS = 2616
SEED = 0
# The state after the paper's 500,000 steps on MNIST, which `scripts.fig2_training` makes.
PUBLISHED_STATE = DATA_FOLDER / "all_cnn_c_500000.npz"


def first_images(train: Dataset, number: int) -> Dataset:
    """Some of the training images, drawn as in the 2017 code."""
    order = np.arange(len(train))
    np.random.RandomState(0).shuffle(order)
    chosen = order[:number]
    return Dataset(train.x[chosen], train.labels[chosen], train.scale)


def trained(config, data: Dataset, real: bool, folder: Path) -> tuple[AllCNNC, AdamState]:
    """The network after Adam, and Adam's state there: the published one on the paper's data, where
    there is one, unless the settings ask for another training."""
    model = AllCNNC(data, config.cnn_weight_decay, seed=SEED)
    assert model.num_parameters == PARAMETERS
    if real and config.scale == "laptop" and not config.train:
        state = AdamState.load(PUBLISHED_STATE)
        if state is not None:
            model.parameters = state.parameters
            return model, state
        print(
            f"There is no trained network in {PUBLISHED_STATE.name}: it is trained here, for less."
        )
    per_pass = max(1, len(data) // Adam.batch_size)
    steps = config.cnn_steps * per_pass // (config.cnn_images // Adam.batch_size or 1)
    # The paper's schedule, or the same with a larger rate where there are fewer steps.
    decays = Adam.decays
    if config.scale != "paper":
        decays = ((int(0.6 * steps), 0.1), (int(0.85 * steps), 0.01))
    adam = Adam(config.cnn_rate, decays, seed=SEED)
    state = adam.run(model, steps, checkpoint=folder / "adam.npz", progress=True)
    return model, state


def curvatures(model: AllCNNC, folder: Path) -> tuple[MatrixOperator, MatrixOperator]:
    """The Hessian and the Gauss-Newton matrix at the trained parameters, as matrices."""
    key = fingerprint(model.parameters, model.train.x)[:16]
    hessian = model.hessian()
    hessian.progress = True
    matrices = kept(folder / f"hessian_{key}.npz", hessian.dense), model.gauss_newton().dense()
    # In float64, so that conjugate gradients reach their tolerance.
    one, other = (MatrixOperator(each.astype(np.float64), len(model.train)) for each in matrices)
    return one, other
