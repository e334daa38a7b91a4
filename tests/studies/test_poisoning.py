"""Training-set attacks: the step's direction, the box, the refits, flips, and resuming."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from influence import BinaryLogisticRegression, Dataset, SolverError
from influence.fitting import newton
from influence.solvers.preconditioners import KeptInverse
from influence.studies import poisoning, refits
from influence.studies.poisoning import (
    GREY_LEVEL,
    attack,
    box,
    eight_bits,
    hopeless,
    preselect,
    rank,
)
from influence.studies.refits import MovedInverse, refit, refit_from_scratch
from tests.networks import make, network, photographs


@pytest.fixture(scope="module")
def fitted():
    return make(batch_size=4).fit()


@pytest.fixture(scope="module")
def unsure(fitted):
    """Features and label of a test image that is classified rightly, by a margin of just 0.05."""
    x, labels = photographs(500, seed=1)
    features = fitted.features(x)
    margins = (2 * labels - 1) * fitted.top.outputs(features)[:, 0]
    index = np.where(margins > 0.05, margins, np.inf).argmin()
    return features[index : index + 1], labels[index : index + 1]


def test_a_small_move_changes_the_refitted_loss_as_predicted(fitted, unsure):
    index, step = 7, 1e-4
    [gradient] = fitted.top.influence_input_gradient([index], *unsure)
    [pixels] = fitted.pixel_gradient(fitted.train.x[[index]], gradient[np.newaxis])
    direction = np.random.default_rng(0).standard_normal(pixels.shape)
    image = fitted.train.x[[index]] / 127.5 - 1
    direction[np.abs(image[0]) == 1] = 0  # pixels that can move one way only

    def loss(shift):
        moved = image + shift * direction
        return refit_from_scratch(fitted, [index], moved).losses(*unsure)[0]

    slope = (loss(step) - loss(-step)) / (2 * step)
    # The gradient is of the effect of removal, hence the minus; 1/n is in it already.
    assert slope == pytest.approx(-(pixels * direction).sum(), rel=1e-4)


@given(
    arrays(np.uint8, (1, 2, 2, 3)),
    arrays(np.float32, (1, 2, 2, 3), elements=st.floats(-3, 3, width=32)),
)
def test_the_projection_never_leaves_the_box(originals, moved):
    low, high = (edge.astype(np.float32) for edge in box(originals))
    images = np.clip(moved, low, high)
    assert np.abs(images).max() <= 1
    assert np.abs(images - (originals / 127.5 - 1)).max() < GREY_LEVEL / 2
    np.testing.assert_array_equal(eight_bits(images), originals)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_corners_of_every_box_round_back(dtype):
    originals = np.arange(256, dtype=np.uint8)
    for edge in box(originals):
        np.testing.assert_array_equal(eight_bits(edge.astype(dtype)), originals)


def test_the_box_is_of_eight_bit_images():
    with pytest.raises(ValueError, match="needs eight-bit training images .* float32"):
        box(np.zeros((1, 2, 2, 3), np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_flips_and_is_what_a_fit_from_scratch_says(unsure, dtype):
    model = make(backbone=network(dtype), batch_size=4).fit()
    features, label = unsure
    indices, _ = rank(model, range(30), *unsure)
    found = attack(model, indices, *unsure, step_size=0.1, steps=40)
    steps = len(found.wrong) - 1
    assert found.wrong.tolist() == [0] * steps + [1]
    assert found.best == steps > 0
    assert (np.diff(found.losses) > 0).all()
    assert found.losses[0] == pytest.approx(model.top.losses(*unsure)[0])
    assert found.images.dtype == dtype
    originals = model.train.x[indices]
    np.testing.assert_array_equal(eight_bits(found.images), originals)
    shifts = np.abs(found.images - (originals / 127.5 - 1)) / GREY_LEVEL
    assert 0 < shifts.max() <= min(0.5, 0.1 * steps + 1e-4)
    again = refit_from_scratch(model, indices, found.images)
    assert again.predict(features) != label
    assert again.losses(*unsure)[0] == pytest.approx(found.losses[-1], rel=1e-6)
    assert found.seconds.keys() == {"forward", "refit", "backward"}


def test_against_several_test_images_the_best_step_is_kept(fitted):
    x, labels = photographs(8, seed=2)
    found = attack(fitted, [3], fitted.features(x), labels, step_size=0.2, steps=6)
    assert len(found.losses) == 7
    assert found.losses[found.best] == max(found.losses[found.wrong == found.wrong.max()])
    again = refit_from_scratch(fitted, [3], found.images)
    losses = again.losses(fitted.features(x), labels)
    assert losses.mean() == pytest.approx(found.losses[found.best], rel=1e-6)


def test_a_step_is_one_pass_and_nothing_is_traced_twice(fitted, unsure, monkeypatch):
    model = make(batch_size=4).fit()
    passes = []
    whole = model.features_and_pullback
    monkeypatch.setattr(
        model, "features_and_pullback", lambda images: passes.append(len(images)) or whole(images)
    )
    functions = [
        f
        for f in vars(model.top.scans.functions("float64")).values()
        if hasattr(f, "get_concrete_function")
    ]
    attack(model, [1, 5, 2, 8, 9, 11], *unsure, steps=1)
    traces = [f.experimental_get_tracing_count() for f in functions]
    passes.clear()
    attack(model, [4, 0], *unsure, steps=3)
    assert passes == [2] * 4
    assert traces == [f.experimental_get_tracing_count() for f in functions]
    assert model._forward.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("patience", [15, 10**9])
def test_a_bad_inverse_costs_products_and_no_digits(monkeypatch, patience):
    # Conjugate gradients, as for the 2,048 features of Inception.
    monkeypatch.setattr(newton, "EXACT_NEWTON_SIZE", 10)
    random = np.random.default_rng(0)
    x = random.standard_normal((80, 60)) * np.geomspace(1, 0.03, 60)
    labels = (x[:, 0] > 0).astype(int)
    top = BinaryLogisticRegression(Dataset(x, labels), 1e-3, "float64").fit()
    kept = KeptInverse(patience=patience)
    kept(BinaryLogisticRegression(Dataset(x[:, ::-1], labels), 1e-3).hessian())  # it misleads
    moved = top.train.moved([3, 7], -2 * x[[3, 7]])
    found = refit(moved, top, top.parameters, kept)
    assert np.linalg.norm(found.gradient()) <= 1e-8
    scratch = BinaryLogisticRegression(moved, 1e-3, "float64").fit()
    np.testing.assert_allclose(found.parameters, scratch.parameters, atol=1e-5)
    assert (kept.made > 1) == (patience == 15)


def test_a_refit_that_does_not_get_there_is_an_error(fitted, unsure, monkeypatch):
    monkeypatch.setattr(refits, "GRADIENT_NORM", 1e-30)
    with pytest.raises(SolverError, match="stopped at a gradient norm of .* above 1e-30"):
        attack(fitted, [0], *unsure, steps=2)


def test_moved_points_are_exchanged_in_the_inverse(fitted):
    top, random = fitted.top, np.random.default_rng(0)
    indices = np.array([4, 11, 2])
    x = top.train.x[indices] + 0.3 * random.standard_normal((3, top.train.x.shape[1]))
    near = MovedInverse(top).at(indices, x, top.parameters)
    moved = top._clone(top.train.moved(indices, x))
    moved.parameters = top.parameters
    wanted = np.linalg.inv(moved.hessian().dense())
    np.testing.assert_allclose(near @ np.eye(len(wanted)), wanted, rtol=1e-9, atol=1e-9)
    assert (near @ wanted[0]).shape == (len(wanted),)


def test_the_inverse_is_made_once_for_many_attacks(fitted, unsure, monkeypatch):
    made, whole = [], refits.InverseMatrix
    monkeypatch.setattr(refits, "InverseMatrix", lambda matrix: made.append(1) or whole(matrix))
    inverse = MovedInverse(fitted.top)
    shared = [attack(fitted, [i], *unsure, steps=3, inverse=inverse) for i in (2, 5)]
    assert made == [1]
    same(attack(fitted, [5], *unsure, steps=3), shared[1])


def test_a_hopeless_attack_ends_early_and_no_other_does(fitted, unsure):
    # From the fifth step on nothing but a few pixels moves.
    settings = {"step_size": 0.1, "steps": 40}
    whole = attack(fitted, [2], *unsure, **settings)
    assert whole.wrong[-1] == 0
    ended = attack(fitted, [2], *unsure, **settings, pace=3)
    last = len(ended.margins) - 1
    assert 5 + 3 <= last < 20
    for name in ("losses", "margins", "wrong"):
        np.testing.assert_array_equal(getattr(ended, name), getattr(whole, name)[: last + 1])
    assert hopeless(whole.margins[: last + 1], **settings, pace=3)
    assert not hopeless(whole.margins[:last], **settings, pace=3)

    indices, _ = rank(fitted, range(30), *unsure)
    flips = attack(fitted, indices, *unsure, **settings)
    same(attack(fitted, indices, *unsure, **settings, pace=3), flips)


def test_margins_are_of_the_last_test_image_to_flip(fitted):
    x, labels = photographs(8, seed=2)
    features = fitted.features(x)
    found = attack(fitted, [3], features, labels, step_size=0.2, steps=2)
    signs = 2 * labels.astype(int) - 1
    first = (signs * fitted.top.outputs(features)[:, 0]).max()
    assert found.margins[0] == pytest.approx(first, abs=1e-6)
    assert len(found.margins) == len(found.losses) == 3


@pytest.mark.parametrize(("last", "ends"), [(1, True), (2, True), (0.9, False)])
def test_hopeless_is_a_straight_line_beyond_the_edge(last, ends):
    # Two steps to the edge, one more, and ten that are left.
    margins, settings = [2, 2, 1, last], {"step_size": 0.25, "steps": 13}
    assert hopeless(margins, **settings, pace=1) == ends
    assert not hopeless(margins[:3], **settings, pace=1)
    assert not hopeless(margins, **settings, pace=2)
    assert not hopeless(margins, **settings, pace=0)


def same(one, other):
    assert one.best == other.best
    for name in ("indices", "images", "losses", "wrong"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_killed_and_taken_up_again(fitted, unsure, monkeypatch, tmp_path):
    monkeypatch.setattr(poisoning, "CHECKPOINT_STEPS", 4)
    path = tmp_path / "attack.npz"
    undisturbed = attack(fitted, [2, 5], *unsure, steps=10)
    whole, calls = fitted.features_and_pullback, itertools.count()

    def dies(images):
        if next(calls) == 6:
            raise KeyboardInterrupt
        return whole(images)

    monkeypatch.setattr(fitted, "features_and_pullback", dies)
    with pytest.raises(KeyboardInterrupt):
        attack(fitted, [2, 5], *unsure, steps=10, checkpoint=path)
    begun = next(calls)
    same(attack(fitted, [2, 5], *unsure, steps=10, checkpoint=path), undisturbed)
    assert next(calls) - begun - 1 == 11 - 4  # the first four steps were not made again

    # A damaged file and one of another attack are not used.
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.warns(UserWarning, match="not a readable checkpoint"):
        same(attack(fitted, [2, 5], *unsure, steps=10, checkpoint=path), undisturbed)
    other = attack(fitted, [2, 5], *unsure, step_size=0.03, steps=10, checkpoint=path)
    assert not np.array_equal(other.losses, undisturbed.losses)


def test_ranking_is_by_the_gradients_of_the_pixels(fitted, unsure):
    gradients = np.stack(
        [fitted.pixel_gradient(fitted.train.x[[i]],
                               fitted.top.influence_input_gradient([i], *unsure))[0]
         for i in range(30)]
    )  # fmt: skip
    norms = np.abs(gradients).sum(axis=(1, 2, 3))
    indices, found = rank(fitted, np.arange(30), *unsure)
    np.testing.assert_array_equal(indices, np.argsort(-norms))
    np.testing.assert_allclose(found, norms[indices], rtol=1e-9)


def test_preselection_is_by_the_gradients_of_the_features(fitted, unsure):
    gradients = fitted.top.influence_input_gradient(range(30), *unsure)
    chosen = preselect(fitted, *unsure, 5)
    np.testing.assert_array_equal(chosen, np.argsort(-np.linalg.norm(gradients, axis=1))[:5])


def test_eight_bits_of_every_grey_level():
    grey = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(eight_bits((grey / 127.5 - 1).astype(np.float32)), grey)
