"""The photographs of Figure 5: what was changed, and what the model says before and after."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from influence.studies.poisoning import GREY_LEVEL
from scripts.report.experiment import Results
from scripts.steps.training_attacks import Problem

CLASSES = ("dog", "fish")
# Test images whose photographs are kept.
SHOWN = 4


def photographs(problem: Problem, chosen, units, group, multi) -> dict[str, np.ndarray]:
    """What the pictures need of the first attacks: the image that ranks first of each set."""
    train, test = problem.data.train, problem.data.test
    shown = [*zip(chosen, units)][:SHOWN]
    firsts = [unit["indices"][0] for _, unit in shown] + [multi["indices"][0]]
    probabilities = [[unit["before"][0], unit["after"][0]] for _, unit in shown]
    return {
        "tests": test.x[[test for test, _ in shown]],
        "test_labels": test.labels[[test for test, _ in shown]],
        "test_probabilities": np.array(probabilities),
        "counts": np.array([len(unit["indices"]) for _, unit in shown]),
        "originals": train.x[firsts],
        "train_labels": train.labels[firsts],
        "attacked": np.stack([unit["images"][0] for _, unit in shown] + [multi["images"][0]]),
        "group": test.x[group],
        "group_label": test.labels[group[0]],
        "group_probabilities": np.stack([multi["before"], multi["after"]], axis=1),
    }


def draw_photographs(results: Results) -> dict[str, plt.Figure]:
    """Triptychs of the changed training images, and the test images of the joint attack."""
    return {"single": _triptychs(results.arrays), "multi": _group(results.arrays)}


def _triptychs(arrays):
    """A row an attack: a test image, and original, noise and attacked image of one training image.

    The last row is the attack on many test images, of which the first is shown.
    """
    rows = len(arrays["originals"])
    tests = np.concatenate([arrays["tests"], arrays["group"][:1]])
    labels = np.append(arrays["test_labels"], arrays["group_label"])
    probabilities = np.concatenate(
        [arrays["test_probabilities"], arrays["group_probabilities"][:1]]
    )
    figure, axes = plt.subplots(
        rows, 4, figsize=(8.6, 2.3 * rows), squeeze=False, layout="constrained"
    )
    for i, row in enumerate(axes):
        attacked = arrays["attacked"][i].astype(np.float64)
        original = arrays["originals"][i] / 127.5 - 1
        label = CLASSES[arrays["train_labels"][i]]
        others = f" (1 of {arrays['counts'][i]})" if i < len(arrays["counts"]) else ""
        _show(row[0], tests[i], "test: " + _verdict(labels[i], probabilities[i]))
        _show(row[1], arrays["originals"][i], f"training {label}{others}")
        # From −½ to +½ grey level.
        _show(row[2], (attacked - original) / GREY_LEVEL + 0.5, "noise × 255")
        _show(row[3], (attacked + 1) / 2, "attacked")
    return figure


def _group(arrays):
    images, columns = arrays["group"], 6
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(9.5, 1.9 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, pair in zip(axes.flat, images, arrays["group_probabilities"]):
        _show(axis, image, _verdict(arrays["group_label"], pair))
    return figure


def _verdict(label, probabilities):
    """The predicted class, and its probability, before and after."""
    texts = []
    for fish in probabilities:
        predicted = int(fish > 0.5)
        texts.append(f"{CLASSES[predicted]} {fish if predicted else 1 - fish:.2f}")
    return f"{CLASSES[label]}\n{texts[0]} → {texts[1]}"


def _show(axis, image, title):
    axis.imshow(image if image.dtype == np.uint8 else np.clip(image, 0, 1))
    axis.set_title(title, fontsize="x-small")
    axis.set_axis_off()
