"""Whether a linear classifier has a minimum: against what is known of the data by construction."""

import warnings

import numpy as np
import pytest
import scipy.sparse

from influence import BinaryLogisticRegression, Dataset, LogisticRegression, SmoothHinge
from influence.linear import model as linear_model
from influence.objective.minimum import ConvergenceWarning


def data(kind, seed):
    """(x [60, 4], classes [60] of three), separated by a known direction or not at all."""
    random = np.random.default_rng(seed)
    x, weights = random.normal(size=(60, 4)), random.normal(size=(4, 3))
    logits = x @ weights
    labels = logits.argmax(axis=1)
    if kind == "quasi":  # all but ties at the origin, with every class there
        x[:6], labels[:6] = 0.0, [0, 1, 2, 0, 1, 2]
    if kind == "overlap":  # the same points with two classes, and their mirror images
        x = np.concatenate([x[:15], x[:15], -x[:15], -x[:15]])
        labels = np.repeat([0, 1, 0, 1], 15)
        labels[[0, 20, 40]] = 2
    return x, labels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["separable", "quasi", "overlap"])
@pytest.mark.parametrize("units", [1.0, 1e-6, 1e6])
def test_separability_is_seen_whatever_the_units(kind, seed, sparse, units):
    x, labels = data(kind, seed)
    x = x * np.array([units, 1, 1, 1 / units])
    x = scipy.sparse.csr_array(x) if sparse else x
    expected = kind == "overlap"
    assert LogisticRegression(Dataset(x, labels), 0.0).has_minimum() is expected
    assert LogisticRegression(Dataset(x, labels), 1e-9).has_minimum()


def two_classes(kind, other=0):
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    labels = np.where(x[:, 0] > 0, 1, other)
    if kind == "overlap":
        labels[:8] = np.where(x[:8, 0] > 0, other, 1)
    return Dataset(x, labels)


MODELS = {
    "binary": lambda kind: BinaryLogisticRegression(two_classes(kind), 0.0, dtype="float64"),
    "softmax": lambda kind: LogisticRegression(two_classes(kind), 0.0, dtype="float64"),
    "float32": lambda kind: BinaryLogisticRegression(two_classes(kind), 0.0),
    "hinge": lambda kind: SmoothHinge(two_classes(kind, -1), 0.0, 0.5, True, "float64"),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_fit_without_a_minimum_says_so(make):
    with pytest.warns(ConvergenceWarning, match="has no single minimum: .* use weight_decay > 0"):
        make("separable").fit()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        make("overlap").fit()


@pytest.mark.filterwarnings("ignore::influence.objective.minimum.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["separable", "overlap"])
def test_more_points_are_judged_by_what_is_seen(kind, monkeypatch):
    monkeypatch.setattr(linear_model, "LP_SIZE", 10)
    model = MODELS["binary"](kind)
    assert model.has_minimum()  # nothing is seen before the fit
    assert model.fit().has_minimum() is (kind == "overlap")
