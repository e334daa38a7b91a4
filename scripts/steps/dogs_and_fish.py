"""What Figures 4 and 5 share: the photographs, and Inception with its regression fitted to them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from influence import BinaryInceptionModel
from scripts.loaders.dogfish import Dogfish, load_dogfish
from scripts.loaders.inception import InceptionWeights, load_inception
from scripts.report.experiment import Config, Results

# Pixels of a side of the stand-in's photographs, as its crops have; of Inception's least, too.
STAND_IN_SIDE = 75


@dataclass(frozen=True)
class DogsAndFish:
    """Photographs, the fitted model, and its features of the test photographs [m, f]."""

    data: Dogfish
    weights: InceptionWeights
    model: BinaryInceptionModel
    features: np.ndarray

    def describe(self, results: Results) -> None:
        """Name what the numbers come from."""
        results.add("images", self.data.source)
        results.add("inception_weights", self.weights.kind, "official")
        results.add("inception_checksum", self.weights.checksum)


def fit_inception(config: Config) -> DogsAndFish:
    """Load and fit with the ``image_side`` and the ``weight_decay`` of an experiment's config."""
    side = config.image_side
    data = load_dogfish(config.data, side, min(side, STAND_IN_SIDE))
    stand_in = data.provenance.data == "stand-in"
    weights = load_inception("stand-in" if stand_in else config.data)
    with warnings.catch_warnings():
        # load_inception has said it.
        warnings.filterwarnings("ignore", "Inception v3 has RANDOM WEIGHTS")
        model = BinaryInceptionModel(
            data.train,
            data.train.x.shape[1],
            config.weight_decay,
            weights.path,
            cache_folder=cache_folder(config),
            progress=True,
        )
    model.fit()
    return DogsAndFish(data, weights, model, model.features(data.test.x, progress=True))


def cache_folder(config: Config) -> Path:
    """Where features and distances are kept, named by content: experiments share them."""
    return Path(config.output_dir) / "dogfish"
