"""The network of Figure 2, trained: the published state, or trained anew."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from influence import Adam, AdamState, AllCNNC, Dataset
from scripts.loaders.registry import DATA_FOLDER

PARAMETERS = 2616
SEED = 0
# The state after the paper's 500,000 steps on MNIST, which `scripts.fig2_training` makes; it is
# part of the repository.
PUBLISHED_STATE = DATA_FOLDER / "all_cnn_c_500000.npz"


def first_images(train: Dataset, number: int) -> Dataset:
    """Some of the training images, drawn as in the 2017 code."""
    order = np.arange(len(train))
    np.random.RandomState(0).shuffle(order)
    chosen = order[:number]
    return Dataset(train.x[chosen], train.labels[chosen], train.scale)


def trained(config, data: Dataset, real: bool, folder: Path) -> tuple[AllCNNC, AdamState]:
    """The network after Adam, and Adam's state there: the published one on the paper's data, unless
    the settings ask for another training."""
    model = AllCNNC(data, config.cnn_weight_decay, seed=SEED)
    assert model.num_parameters == PARAMETERS
    if real and config.scale == "laptop" and not config.train:
        state = AdamState.load(PUBLISHED_STATE)
        if state is None:
            sys.exit(
                f"{PUBLISHED_STATE} is missing or damaged: take it from the repository, or train "
                f"the network with --train."
            )
        model.parameters = state.parameters
        return model, state
    per_pass = max(1, len(data) // Adam.batch_size)
    steps = config.cnn_steps * per_pass // (config.cnn_images // Adam.batch_size or 1)
    # The paper's schedule, or the same with a larger rate where there are fewer steps.
    decays = Adam.decays
    if config.scale != "paper":
        decays = ((int(0.6 * steps), 0.1), (int(0.85 * steps), 0.01))
    adam = Adam(config.cnn_rate, decays, seed=SEED)
    state = adam.run(model, steps, checkpoint=folder / "adam.npz", progress=True)
    return model, state
