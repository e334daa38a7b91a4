"""Training-set attacks: photographs that look the same and make a refitted model go wrong.

Section 5.2 of the paper. Every pixel of a few training images stays within half a grey level, so
that eight-bit copies do not change at all; the images move up the gradient of the test loss after
refitting, as influence predicts it:

    x̃ ← Π(x̃ − α·sign(∇_x̃ influence_on_loss(z̃, z_test))),   then refit, then again.

The minus is there because ``influence_on_loss`` is the effect of *removing* the image; its gradient
is −I_pert,loss/n of the paper.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from influence.data.dataset import check_indices
from influence.data.files import fingerprint, load_checkpoint, save_checkpoint
from influence.data.types import File
from influence.models.inception_model import BinaryInceptionModel
from influence.solvers.conjugate_gradient import ConjugateGradient
from influence.solvers.solution import Operator
from influence.studies.refits import MovedInverse, refit

# One grey level of eight, in the network's units, where pixels go from −1 to 1.
GREY_LEVEL = 2 / 255
# Of Π, in grey levels: less than a half by ten times what rounding to float32 can add.
HALF_WIDTH = 0.4999
# Relative residual of H⁻¹∇L(z_test): a step goes by the signs of what is made of it.
S_TEST_TOLERANCE = 1e-4
CHECKPOINT_STEPS = 25


@dataclass(frozen=True)
class Attack:
    """Moved training images, and what models that are refitted to them make of the test images.

    Attributes:
        indices: [k] training images that moved.
        images: [k, side, side, 3] in [−1, 1], as they were after ``best`` steps.
        best: the step after which most test images were wrong; of several, the one with the
            largest mean loss.
        losses: [t + 1] mean test loss after 0, 1 … t steps.
        wrong: [t + 1] test images that are predicted wrongly then.
        margins: [t + 1] the logit, in favour of its own label, of the test image furthest from a
            wrong prediction.
        seconds: in all, of the "forward" passes, the "refit" with its inverse product, and the
            "backward" passes.
    """

    indices: np.ndarray
    images: np.ndarray
    best: int
    losses: np.ndarray
    wrong: np.ndarray
    margins: np.ndarray
    seconds: dict[str, float]


def attack(
    model: BinaryInceptionModel,
    indices: ArrayLike,
    test_features: ArrayLike,
    y_test: ArrayLike,
    *,
    step_size: float = 0.02,
    steps: int = 100,
    pace: int = 0,
    inverse: MovedInverse | None = None,
    checkpoint: File | None = None,
    progress: bool = False,
) -> Attack:
    """Move training images until all test images are predicted wrongly, for ``steps`` at most.

    Each step is one forward pass of the moved images, an exact refit on their features, and one
    backward pass with the direction of the new optimum.

    Args:
        model: fitted, on eight-bit images, with a regression in float64.
        indices: [k] training images to move.
        test_features: φ of the test images, [m, f].
        y_test: [m] their labels; the attack raises the mean of their losses.
        step_size: α in grey levels.
        steps: the most.
        pace: end when the steps that are left would not do at the pace of the last ``pace`` ones
            (``hopeless``); 0 makes them all.
        inverse: that of ``model.top``, for attacks on the same model to share; None makes one.
        checkpoint: a file that the state is saved to every 25 steps, and read from after a kill;
            what follows is then the same to the last bit.
        progress: show a progress bar.

    Raises:
        ValueError: indices or arrays that do not fit, or training images that are not eight-bit.
        SolverError: a refit stopped above a gradient norm of 1e-8.

    Examples:
        Grey images, and their mean colour in place of Inception's features. The test loss rises,
        and the eight-bit images are still the same:

        >>> import keras
        >>> import numpy as np
        >>> from influence import BinaryInceptionModel, Dataset
        >>> from influence.studies.poisoning import attack, eight_bits
        >>> images = np.repeat(np.uint8([40, 90, 160, 200]), 12).reshape(4, 2, 2, 3)
        >>> mean = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.GlobalAveragePooling2D()])
        >>> model = BinaryInceptionModel(Dataset(images, [0, 0, 1, 1]), 2, backbone=mean).fit()
        >>> result = attack(model, [1, 2], model.features(images[:1]), [0], step_size=0.2, steps=3)
        >>> result.images.shape, bool((np.diff(result.losses) > 0).all())
        ((2, 2, 2, 3), True)
        >>> bool((eight_bits(result.images) == images[[1, 2]]).all())
        True
    """
    indices = check_indices(indices, len(model.train))
    y_test = np.asarray(y_test)
    originals = model.train.x[indices]
    low, high = (edge.astype(model.backbone.inputs[0].dtype) for edge in box(originals))
    top = model.top
    inverse = MovedInverse(top) if inverse is None else inverse
    settings = repr((step_size, steps, pace, top.weight_decay, top.dtype.str, indices.tolist()))
    data = top.train.x, top.train.labels, top.parameters, originals, test_features, y_test
    key = fingerprint(settings, *data)
    saved: dict[str, Any] | None = load_checkpoint(checkpoint, key)
    if saved is not None:
        state = _State(**saved)
    else:
        none = np.empty(0)
        images = np.clip((originals / 127.5 - 1).astype(low.dtype), low, high)
        state = _State(images, images, top.parameters, none, none, np.empty(0, int), 0)
    seconds: defaultdict[str, float] = defaultdict(float)
    bar = tqdm(
        total=steps, initial=len(state.losses), desc="steps", disable=None if progress else True
    )
    with bar:
        while True:
            step = len(state.losses)
            if step and step % CHECKPOINT_STEPS == 0:
                save_checkpoint(checkpoint, key, **vars(state))
            with _timed(seconds, "forward"):
                features, pullback = model.features_and_pullback(state.images)
            with _timed(seconds, "refit"):
                near = inverse.at(indices, features, state.theta)
                moved = top.train.moved(indices, features)
                refitted = refit(moved, top, state.theta, _always(near))
            _record(state, refitted, test_features, y_test)
            if state.wrong[-1] == len(y_test) or step >= steps:
                break
            if hopeless(state.margins, step_size=step_size, steps=steps, pace=pace):
                break
            with _timed(seconds, "refit"):
                solver = ConjugateGradient(S_TEST_TOLERANCE, preconditioner=near)
                gradients = refitted.influence_input_gradient(
                    indices, test_features, y_test, solver=solver
                )
            with _timed(seconds, "backward"):
                uphill = -np.sign(pullback(gradients))
            stepped = state.images + low.dtype.type(step_size * GREY_LEVEL) * uphill
            state.images = np.clip(stepped, low, high)
            bar.update()
    seen = state.losses, state.wrong, state.margins
    return Attack(indices, state.best_images, int(state.best), *seen, dict(seconds))


def hopeless(margins: ArrayLike, *, step_size: float, steps: int, pace: int) -> bool:
    """Whether, at the pace of the last ``pace`` steps, the last of ``steps`` would leave a margin.

    ``margins`` [t + 1] are those after 0, 1 … t steps of ``step_size`` grey levels. An attack
    gathers speed until its pixels are at the edges of their box, and slows down from there on, so
    that its pace promises more than it keeps: nothing is hopeless until ``pace`` steps were made
    beyond that. ``pace`` 0 hopes to the end.

    Examples:
        Three steps of ten are made, and one takes a pixel to the edge. The seven that are left
        would do at the pace of the last, or would not:

        >>> from influence.studies.poisoning import hopeless
        >>> hopeless([4.0, 2.5, 1.5, 1.25], step_size=0.5, steps=10, pace=1)
        False
        >>> hopeless([4.0, 2.5, 2.25, 2.0], step_size=0.5, steps=10, pace=1)
        True
    """
    margins = np.asarray(margins, np.float64)
    step = len(margins) - 1
    if not pace or step < pace + math.ceil(HALF_WIDTH / step_size):
        return False
    gained = float(margins[-1 - pace] - margins[-1]) / pace
    return bool(margins[-1] > (steps - step) * max(gained, 0.0))


def preselect(
    model: BinaryInceptionModel, test_features: ArrayLike, y_test: ArrayLike, count: int
) -> np.ndarray:
    """The ``count`` training images with the largest gradient of the influence on the mean test
    loss with respect to their *features*, by its Euclidean norm, the largest first.

    A stand-in for ``rank`` that needs no pass through the network.

    Examples:
        >>> import keras
        >>> import numpy as np
        >>> from influence import BinaryInceptionModel, Dataset
        >>> from influence.studies.poisoning import preselect
        >>> images = np.repeat(np.uint8([40, 90, 160, 200]), 12).reshape(4, 2, 2, 3)
        >>> mean = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.GlobalAveragePooling2D()])
        >>> model = BinaryInceptionModel(Dataset(images, [0, 0, 1, 1]), 2, backbone=mean).fit()
        >>> preselect(model, model.features(images[:1]), [0], count=2).tolist()
        [2, 1]
    """
    everybody = np.arange(len(model.train))
    gradients = model.top.influence_input_gradient(everybody, test_features, y_test)
    return np.argsort(-np.linalg.norm(gradients, axis=1), kind="stable")[:count]


def rank(
    model: BinaryInceptionModel,
    indices: ArrayLike,
    test_features: ArrayLike,
    y_test: ArrayLike,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Training images in the paper's order of attack, and what it goes by, [k] each.

    The L1 norm of ∇_pixels ``influence_on_loss(..., reduction="mean")``, largest first: the rise
    of the test loss that a small sign step promises, but for the step's size.

    Examples:
        >>> import keras
        >>> import numpy as np
        >>> from influence import BinaryInceptionModel, Dataset
        >>> from influence.studies.poisoning import rank
        >>> images = np.repeat(np.uint8([40, 90, 160, 200]), 12).reshape(4, 2, 2, 3)
        >>> mean = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.GlobalAveragePooling2D()])
        >>> model = BinaryInceptionModel(Dataset(images, [0, 0, 1, 1]), 2, backbone=mean).fit()
        >>> indices, norms = rank(model, [0, 1, 2, 3], model.features(images[:1]), [0])
        >>> indices.tolist(), norms.shape
        ([2, 1, 3, 0], (4,))
    """
    indices = check_indices(indices, len(model.train))
    gradients = model.top.influence_input_gradient(indices, test_features, y_test)
    norms = np.empty(len(indices))
    for first in tqdm(
        range(0, len(indices), model.batch_size), desc="rank", disable=None if progress else True
    ):
        batch = slice(first, first + model.batch_size)
        pixels = model.pixel_gradient(model.train.x[indices[batch]], gradients[batch])
        norms[batch] = np.abs(pixels).sum(axis=(1, 2, 3), dtype=np.float64)
    order = np.argsort(-norms, kind="stable")
    return indices[order], norms[order]


def box(originals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest pixels of Π around eight-bit images, in [−1, 1], float64.

    Raises:
        ValueError: the images are not eight-bit.

    Examples:
        >>> import numpy as np
        >>> from influence.studies.poisoning import box, eight_bits
        >>> low, high = box(np.uint8([[0, 128, 255]]))
        >>> ((low + 1) * 127.5).round(4).tolist(), ((high + 1) * 127.5).round(4).tolist()
        ([[0.0, 127.5001, 254.5001]], [[0.4999, 128.4999, 255.0]])
        >>> eight_bits(high).tolist()
        [[0, 128, 255]]
    """
    if originals.dtype != np.uint8:
        raise ValueError(
            f"The attack needs eight-bit training images (uint8), to come back to when rounded; "
            f"their dtype is {originals.dtype}."
        )
    grey = originals.astype(np.float64)
    low, high = ((grey + edge) / 127.5 - 1 for edge in (-HALF_WIDTH, HALF_WIDTH))
    return np.maximum(low, -1), np.minimum(high, 1)


def eight_bits(images: np.ndarray) -> np.ndarray:
    """Images in [−1, 1] as they are stored: rounded to 0..255, uint8.

    Examples:
        >>> from influence.studies.poisoning import eight_bits
        >>> eight_bits([-1.0, 0.001, 1.0]).tolist()
        [0, 128, 255]
    """
    return np.rint((np.asarray(images, np.float64) + 1) * 127.5).astype(np.uint8)


# How it is done.


@dataclass
class _State:
    """What a step starts from, and what was seen so far."""

    images: np.ndarray
    best_images: np.ndarray
    theta: np.ndarray
    losses: np.ndarray
    margins: np.ndarray
    wrong: np.ndarray
    best: int


def _record(state: _State, refitted, test_features, y_test) -> None:
    """Take down what the model refitted to the present images makes of the test images."""
    state.theta = refitted.parameters
    losses = refitted.losses_at(state.theta[:, np.newaxis], test_features, y_test)
    wrong = (refitted.predict(test_features) != y_test).sum()
    logits = refitted.outputs(test_features)[:, 0]
    margins = np.where(np.asarray(y_test) == 1, logits, -logits)
    state.losses = np.append(state.losses, losses.mean())
    state.margins = np.append(state.margins, margins.max())
    state.wrong = np.append(state.wrong, wrong)
    step = len(state.losses) - 1
    if (wrong, state.losses[step]) >= (state.wrong[state.best], state.losses[state.best]):
        state.best, state.best_images = step, state.images


def _always(inverse: Operator) -> Callable[[Any], Operator]:
    return lambda operator: inverse


@contextmanager
def _timed(seconds: dict[str, float], part: str):
    start = time.perf_counter()
    yield
    seconds[part] += time.perf_counter() - start
