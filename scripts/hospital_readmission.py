"""Section 5.3: four children decide what the model says of a child in hospital."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from influence import BinaryLogisticRegression, Dataset
from scripts.loaders.hospital import CHILD, Hospital, load_hospital
from scripts.report.experiment import Config, Results, run

NAME = "hospital_readmission"
FITS = {"optimum": "true optimum", "early_stopped": "L-BFGS stopped at 1,000 (2017)"}
BARS = 10


@dataclass(frozen=True)
class HospitalConfig(Config):
    """Section 5.3 of the paper: debugging domain mismatch.

    Attributes:
        test_index: the child whose prediction is explained (the paper's data only; the stand-in
            takes the child whose loss the removal of the others raises most).
        weight_decay: λ.
        early_iterations: where the 2017 code stopped scikit-learn's L-BFGS.
    """

    test_index: int = 1742
    weight_decay: float = 1e-4
    early_iterations: int = 1000

    QUICK: ClassVar[dict] = {}


def compute(config: HospitalConfig) -> Results:
    """Fit before and after the children are dropped; explain one test child."""
    hospital = load_hospital(config.data)
    kept = keep_last_healthy_child(hospital)
    modified = hospital.train.where(kept)
    children = hospital.children(hospital.test)
    before = fits(hospital.train, config)
    after = fits(modified, config)
    test_index = config.test_index
    if hospital.provenance.data != "paper":
        test_index = most_harmed_child(hospital, before["optimum"], after["optimum"])
    x_test, y_test = hospital.test.x[test_index], hospital.test.labels[test_index]

    results = Results(hospital.provenance)
    results.arrays["features"] = np.array(hospital.features)
    train_children = np.flatnonzero(hospital.children(modified))
    results.arrays["train_children"] = train_children
    results.add("rows", hospital.rows, 101_766)
    results.add("features", len(hospital.features), 127)
    for name, points, paper in (
        ("children_train_before", hospital.train, [3, 24]),
        ("children_train_after", modified, [3, 4]),
    ):
        chosen = hospital.children(points)
        results.add(name, [int(points.labels[chosen].sum()), int(chosen.sum())], paper)
    results.add("children_test", int(children.sum()), 137)
    results.add("test_index", test_index, 1742)
    for fit, model in after.items():
        influence = model.influence_on_loss(x_test, y_test)[0]
        order = np.argsort(influence, kind="stable")
        ends = np.concatenate([order[:BARS], order[-BARS:]])
        helpful_child = train_children[influence[train_children].argmax()]
        gradient = model.influence_input_gradient(helpful_child, x_test, y_test)[0]
        results.arrays |= {
            f"bars_{fit}": influence[ends],
            f"bar_indices_{fit}": ends,
            f"input_gradient_{fit}": gradient,
        }
        others = np.delete(np.abs(influence), train_children)
        top = ends[np.argsort(-np.abs(influence[ends]), kind="stable")]
        suffix = "" if fit == "optimum" else f"_{fit}"
        published = [-0.1189, -0.1175, -0.0826, 0.0794, -0.0029, 0.0014]
        results.add(f"top_indices{suffix}", top)
        results.add(f"top_influences{suffix}", influence[top], published)
        ratios = np.sort(np.abs(influence[train_children]) / others.max())
        results.add(f"children_over_next{suffix}", ratios, [27, 41])
        coefficients = np.abs(model.parameters)
        larger = coefficients > coefficients[hospital.features.index(CHILD)]
        results.add(f"coefficients_larger_than_child{suffix}", int(larger.sum()), 14)
        norm = np.linalg.norm(model.gradient())
        results.add(f"gradient_norm{suffix}", norm, None if fit == "optimum" else 2e-3)
        points = hospital.test.where(children)
        changed = before[fit].predict(points.x) != model.predict(points.x)
        paper = None if fit == "optimum" else 13
        results.add(f"flips_{'at_' if fit == 'optimum' else ''}{fit}", int(changed.sum()), paper)
    return results


def keep_last_healthy_child(hospital: Hospital) -> np.ndarray:
    """Which training rows stay: [n]. Of the children not readmitted, only the last one."""
    train = hospital.train
    healthy = np.flatnonzero(hospital.children(train) & (train.labels == 0))
    kept = np.ones(len(train), bool)
    kept[healthy[:-1]] = False
    return kept


def fits(train: Dataset, config: HospitalConfig) -> dict[str, BinaryLogisticRegression]:
    """The model at its true optimum, and where the 2017 code stopped."""
    optimum = BinaryLogisticRegression(train, config.weight_decay, dtype="float64").fit()
    early = LogisticRegression(
        C=1 / (len(train) * config.weight_decay),
        tol=1e-8,
        fit_intercept=False,
        max_iter=config.early_iterations,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the point of this fit
        early.fit(train.x.astype(np.float64), train.labels)
    return {"optimum": optimum, "early_stopped": optimum.with_parameters(early.coef_[0])}


def most_harmed_child(hospital, before, after) -> int:
    """The test child, not readmitted, whose loss the removal of the other children raises most."""
    test = hospital.test
    candidates = np.flatnonzero(hospital.children(test) & (test.labels == 0))
    x, labels = test.x[candidates], test.labels[candidates]
    return int(candidates[(after.losses(x, labels) - before.losses(x, labels)).argmax()])


def plot(results: Results) -> dict[str, plt.Figure]:
    """For both fits: the most influential training points, and the helpful child's gradient."""
    arrays = results.arrays
    figure, axes = plt.subplots(
        2, 2, figsize=(10, 7.6), layout="constrained", height_ratios=(1, 1.25)
    )
    for (fit, title), (top, bottom) in zip(FITS.items(), axes.T):
        child = np.isin(arrays[f"bar_indices_{fit}"], arrays["train_children"])
        positions = np.arange(len(child))
        colours = np.where(child, "tab:orange", "tab:blue")
        top.bar(positions, arrays[f"bars_{fit}"], color=colours)
        for colour, label in (("tab:orange", "children"), ("tab:blue", "others")):
            top.bar(0, 0, color=colour, label=label)
        top.legend(loc="upper left", fontsize="small")
        top.xaxis.label.set_fontsize("small")
        top.axhline(0, color="0.3", linewidth=0.8)
        top.set_xticks([])
        top.set_xlabel("training patients: 10 most harmful, 10 most helpful")
        top.set_ylabel("predicted change of loss")
        top.set_title(title)

        gradient = arrays[f"input_gradient_{fit}"]
        order = np.argsort(gradient, kind="stable")
        shown = np.concatenate([order[:BARS], order[-BARS:]])
        bottom.bar(positions, gradient[shown], color="tab:blue")
        bottom.axhline(0, color="0.3", linewidth=0.8)
        bottom.set_xticks(positions, arrays["features"][shown], rotation=90, fontsize="x-small")
        bottom.set_ylabel("input gradient of the\nhelpful child's influence")
    return {NAME: figure}


if __name__ == "__main__":
    run(NAME, HospitalConfig, compute, plot)
