"""Figure 4: dogs against fish, and which photographs teach an RBF SVM and Inception a fish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from influence import Dataset, Exact
from influence.data.files import fingerprint, kept
from influence.models.smooth_hinge import SmoothHinge
from scripts.loaders.archive import DataError
from scripts.loaders.dogfish import Dogfish
from scripts.report.experiment import Config, Results, run
from scripts.steps.dogs_and_fish import cache_folder, fit_inception
from scripts.steps.rbf import rbf_features, squared_distances

NAME = "fig4_rbf_vs_inception"
# Where photographs go in the folder of figures: git ignores it.
PHOTOS_NAME = f"photos/{NAME}"
MODELS = {"rbf": "RBF SVM", "inception": "Inception"}
DOG, FISH = 0, 1
CLASSES = {FISH: ("fish", "tab:green"), DOG: ("dogs", "tab:red")}
# Of the most helpful images dogs are counted; of the nearest, signs that follow the class.
TOP = 50
# The rows of photographs, and how many there are in each.
ROWS = {
    "rbf": "most helpful\nfor the RBF SVM",
    "inception": "most helpful\nfor Inception",
    "dogs": "most helpful dogs\nfor Inception",
}
COLUMNS = 5


@dataclass(frozen=True)
class Fig4Config(Config):
    """Figure 4 of the paper: what two models have learnt from dogs and fish.

    Attributes:
        test_index: the fish of the paper, on the authors' images; on others the one of
            ``typical_fish``.
        image_side: pixels of a side.
        gamma: γ of the kernel exp(−(γ/n)‖x − x'‖²), pixels in [−1, 1].
        weight_decay: λ of both models.
        temperature: t of the smooth hinge that influences are taken of, at the hinge's weights.
    """

    test_index: int = 462
    image_side: int = 299
    gamma: float = 0.05
    weight_decay: float = 0.001
    temperature: float = 0.001

    QUICK: ClassVar[dict] = {"image_side": 75}


def compute(config: Fig4Config) -> Results:
    """Fit both models, choose a fish, and take every training image's influence on it."""
    found = fit_inception(config)
    data, top, features = found.data, found.model.top, found.features
    train, test = data.train, data.test

    squared = image_distances(data, cache_folder(config))
    hinge, svm, rbf_test = support_vector_machine(config, train.labels, squared)
    rbf_margins = signs(test.labels) * hinge.outputs(rbf_test)[:, 0]
    margins = signs(test.labels) * top.outputs(features)[:, 0]

    index = config.test_index
    if data.provenance.data != "paper":
        index = typical_fish(test.labels, rbf_margins, margins)
    y_test = test.labels[index]
    influence = {
        "rbf": svm.influence_on_loss(rbf_test[index], signs(y_test))[0],
        # One factor of 2,048 numbers a side is cheaper than preparing conjugate gradients.
        "inception": top.influence_on_loss(features[index], y_test, solver=Exact())[0],
    }
    distances = np.sqrt(squared[len(train) + index])

    results = Results(data.provenance)
    results.arrays = {"labels": train.labels, "distances": distances} | influence
    results.arrays |= photographs(data, index, influence)
    found.describe(results)
    results.add("training_images", len(train), 1800)
    results.add("test_images", len(test), 600)
    results.add("test_index", index, 462)
    for model, values in (("rbf", rbf_margins), ("inception", margins)):
        results.add(f"test_margin_{model}", values[index])
    results.add("rbf_train_accuracy", (hinge.predict(hinge.train.x) == hinge.train.labels).mean())
    results.add("rbf_test_accuracy", (rbf_margins > 0).mean())
    results.add("inception_train_accuracy", (top.predict(top.train.x) == train.labels).mean(), 1.0)
    results.add("inception_test_accuracy", (margins > 0).mean(), 0.985)
    results.add("inception_objective", top.objective(), 0.012129)
    results.add("inception_train_loss", top.objective() - float(top.regularization()), 0.003976)
    results.add("inception_test_loss", top.losses(features, test.labels).mean(), 0.048454)
    results.add("inception_parameter_norm", np.linalg.norm(top.parameters), 4.038)
    results.add("inception_gradient_norm", np.linalg.norm(top.gradient()))
    same = train.labels == y_test
    nearest = np.argsort(distances, kind="stable")[:TOP]
    for model, values in influence.items():
        correlation = np.corrcoef(np.abs(values), distances)[0, 1]
        results.add(f"distance_correlation_{model}", correlation)
        follows = ((values > 0) == same)[nearest]
        results.add(f"sign_follows_class_nearest_{TOP}_{model}", follows.mean())
    most_helpful = np.argsort(-influence["inception"], kind="stable")[:TOP]
    results.add(f"dogs_among_top_{TOP}", int((train.labels[most_helpful] == DOG).sum()))
    return results


def image_distances(data: Dogfish, folder: Path) -> np.ndarray:
    """‖x − x'‖² of all images, training images first, and the training images: [n + m, n]."""
    train, test = data.train.x, data.test.x

    def compute():
        parts = (squared_distances(images, train) for images in (train, test))
        # Half the range of a grey level: pixels lie in [−1, 1].
        return np.concatenate(list(parts)) / 127.5**2

    return kept(folder / f"distances-{fingerprint(train, test)[:32]}.npz", compute)


def support_vector_machine(config: Fig4Config, labels, squared):
    """The hinge at its optimum, its smooth version there, and the test features [m, n]."""
    n = len(labels)
    x, x_test = rbf_features(squared[:n], squared[n:], config.gamma / n)
    train = Dataset(x, signs(labels))
    hinge = SmoothHinge(train, config.weight_decay, 0, dtype="float64").fit()
    smooth = SmoothHinge(train, config.weight_decay, config.temperature, dtype="float64")
    return hinge, smooth.with_parameters(hinge.parameters), x_test


def signs(labels):
    """−1 for a dog, +1 for a fish."""
    return 2 * np.asarray(labels, np.int64) - 1


def typical_fish(labels, rbf_margins, inception_margins) -> int:
    """The test fish to explain, from labels and margins y·f(x) [m].

    Of the fish that both models get right, and whose RBF margin is below 1 (above it the smooth
    hinge has no gradient), the one whose Inception margin is nearest to the median of theirs.
    """
    right = (rbf_margins > 0) & (rbf_margins < 1) & (inception_margins > 0)
    candidates = np.flatnonzero(right & (labels == FISH))
    if not len(candidates):
        raise DataError("No test fish is right in both models with an RBF margin below 1.")
    margins = inception_margins[candidates]
    return int(candidates[np.abs(margins - np.median(margins)).argmin()])


def photographs(data: Dogfish, index: int, influence: dict) -> dict[str, np.ndarray]:
    """The test image [s, s, 3]; which training images are shown [rows, k], and they themselves."""
    dogs = np.flatnonzero(data.train.labels == DOG)
    helpful_dogs = dogs[np.argsort(-influence["inception"][dogs], kind="stable")]
    orders = {model: np.argsort(-values, kind="stable") for model, values in influence.items()}
    shown = np.array([order[:COLUMNS] for order in (*orders.values(), helpful_dogs)])
    return {"test_image": data.test.x[index], "shown": shown, "shown_images": data.train.x[shown]}


def plot(results: Results) -> dict[str, plt.Figure]:
    """Influence against distance for both models; and the photographs."""
    return {NAME: _scatters(results), PHOTOS_NAME: _photographs(results)}


def _names(results):
    """The models, with what is not the paper's."""
    weights = results.metrics["inception_weights"]["ours"]
    note = "" if weights == "official" else f" ({weights} weights, not the paper's)"
    return {"rbf": MODELS["rbf"], "inception": MODELS["inception"] + note}


def _scatters(results):
    arrays = results.arrays
    figure, axes = plt.subplots(2, 1, figsize=(6.4, 6.4), sharex=True, layout="constrained")
    for axis, (model, title) in zip(axes, _names(results).items()):
        axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        for label, (name, colour) in CLASSES.items():
            of_class = arrays["labels"] == label
            axis.scatter(
                arrays["distances"][of_class], arrays[model][of_class],
                s=9, linewidths=0, alpha=0.6, color=colour, label=name,
            )  # fmt: skip
        axis.set(title=title, ylabel="Influence on the loss\n(positive: helpful)")
        axis.ticklabel_format(axis="y", scilimits=(-2, 2))
    axes[0].legend(title="Training images", frameon=False, markerscale=2, loc="upper right")
    axes[1].set_xlabel("Euclidean distance to the test image")
    return figure


def _photographs(results):
    arrays = results.arrays
    figure, axes = plt.subplots(len(ROWS) + 1, COLUMNS, figsize=(8.6, 7.6), layout="constrained")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    axes[0, 0].imshow(arrays["test_image"])
    axes[0, 0].set_ylabel("test image\n(a fish)")
    rows = zip(axes[1:], ROWS.items(), arrays["shown"], arrays["shown_images"])
    for row, (name, label), indices, images in rows:
        row[0].set_ylabel(label)
        values = arrays["rbf" if name == "rbf" else "inception"][indices]
        for axis, index, image, value in zip(row, indices, images, values):
            kind = "fish" if arrays["labels"][index] == FISH else "dog"
            axis.imshow(image)
            axis.set_title(f"{kind}, {value:+.1e}", fontsize="small")
    figure.suptitle("; ".join(_names(results).values()), fontsize="small")
    return figure


if __name__ == "__main__":
    run(NAME, Fig4Config, compute, plot)
