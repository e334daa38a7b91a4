"""The parts of the network's experiment: its images, its schedule, how agreement is counted."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from influence import Adam, AdamState, AllCNNC, Dataset
from scripts.fig2_leave_one_out import Fig2Config
from scripts.loaders.mnist import load_mnist
from scripts.steps import cnn_leave_one_out as cnn
from scripts.steps import cnn_training


def test_images_are_drawn_as_in_2017():
    train = Dataset(np.arange(55_000, dtype=np.uint8)[:, np.newaxis], np.arange(55_000), 1 / 255)
    np.random.seed(0)
    order = np.arange(55_000)
    np.random.shuffle(order)
    drawn = cnn_training.first_images(train, 5500)
    np.testing.assert_array_equal(drawn.labels, order[:5500])
    np.testing.assert_array_equal(drawn.x[:, 0], order[:5500] % 256)
    assert drawn.scale == train.scale


@pytest.mark.parametrize(
    ("scale", "settings", "images", "expected"),
    [
        ("paper", Fig2Config.PAPER, 5500, (500_000, 1e-4, Adam().decays)),
        ("laptop", {"train": True}, 5500, (10_000, 1e-3, ((6000, 0.1), (8500, 0.01)))),
        ("laptop", {"train": True}, 550, (909, 1e-3, ((545, 0.1), (772, 0.01)))),
    ],
)
def test_the_schedule(monkeypatch, tmp_path, scale, settings, images, expected):
    seen = {}

    def run(adam, model, steps, **_):
        seen.update(steps=steps, adam=adam, model=model)

    monkeypatch.setattr(Adam, "run", run)
    data = Dataset(np.zeros((images, 784), np.uint8), np.zeros(images, np.int64), 1 / 255)
    config = dataclasses.replace(Fig2Config(scale=scale), **settings)
    cnn_training.trained(config, data, True, tmp_path)
    adam = seen["adam"]
    assert (seen["steps"], adam.learning_rate, adam.decays) == expected
    assert adam.batch_size == 500
    assert seen["model"].num_parameters == cnn_training.PARAMETERS


def test_agreement():
    actual = np.array([-1.0, 0.0, 2.0])
    assert cnn.agreement(actual, 0.5 * actual) == pytest.approx((1, 0.5))
    assert cnn.agreement(actual, np.zeros(3)) == (None, None)


def tiny_training(folder, jobs):
    """θ after 12 more steps without points 0 and 3, by so many processes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (40, 784)).astype(np.uint8)
    model = AllCNNC(Dataset(images, random.integers(0, 10, 40), 1 / 255), seed=cnn_training.SEED)
    state = Adam(seed=cnn_training.SEED).run(model, 8)
    return model, state, cnn.after_steps(model, state, [0, 3], 12, folder, jobs)


@pytest.mark.slow
def test_retraining_by_steps_is_the_same_in_any_number_of_processes(tmp_path):
    model, state, alone = tiny_training(tmp_path / "alone", 1)
    _, _, two = tiny_training(tmp_path / "two", 2)
    np.testing.assert_array_equal(alone, two)
    assert not np.array_equal(alone[0], alone[1])
    saved = AdamState.load(tmp_path / "two" / "without_3_12.adam.npz")
    assert saved.step == state.step + 12
    # What is finished is not computed again.
    again = cnn.after_steps(model, state, [0, 3], 12, tmp_path / "two", 1)
    np.testing.assert_array_equal(again, two)


def test_the_published_state_is_where_the_paper_s_data_start_from(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    monkeypatch.setattr(cnn_training, "PUBLISHED_STATE", path)
    monkeypatch.setattr(Adam, "run", lambda self, model, steps, **_: f"trained for {steps}")
    data = Dataset(np.zeros((5, 784), np.uint8), np.zeros(5, np.int64), 1 / 255)

    def start(config, real=True):
        return cnn_training.trained(config, data, real, tmp_path)

    with pytest.raises(SystemExit, match=r"state.npz is missing or damaged: .*--train"):
        start(Fig2Config())
    vectors = np.random.default_rng(0).standard_normal((3, 2616)).astype(np.float32)
    AdamState(7, *vectors).save(path)
    model, state = start(Fig2Config())
    assert state.step == 7
    np.testing.assert_array_equal(model.parameters, vectors[0])
    assert start(Fig2Config(train=True))[1] == "trained for 909"
    assert start(Fig2Config(), real=False)[1] == "trained for 909"
    assert start(Fig2Config(scale="paper", cnn_steps=500_000))[1].startswith("trained for")


def test_the_published_state_is_the_one_that_is_listed():
    """data/README.md has its hash."""
    content = cnn_training.PUBLISHED_STATE.read_bytes()
    listing = (cnn_training.DATA_FOLDER / "README.md").read_text()
    assert hashlib.sha256(content).hexdigest() in listing
    state = AdamState.load(cnn_training.PUBLISHED_STATE)
    assert state.step == 500_000
    assert state.parameters.shape == (cnn_training.PARAMETERS,)


@pytest.mark.slow
@pytest.mark.realdata
def test_the_published_training_begins_as_automatic_differentiation_began_it():
    """all_cnn_c_500.npz: 500 steps on MNIST by ``GenericNeuralNet.sum_gradient``; the state after
    all 500,000 has the accuracies of the paper within .001, and a small gradient."""
    mnist = load_mnist("real")
    train = cnn_training.first_images(mnist.train, 5500)
    model = AllCNNC(train, 0.001, seed=cnn_training.SEED)
    state = Adam(seed=cnn_training.SEED).run(model, 500)
    with np.load(Path(__file__).with_name("all_cnn_c_500.npz")) as began:
        np.testing.assert_allclose(state.parameters, began["parameters"], rtol=0, atol=1e-4)
    model.parameters = AdamState.load(cnn_training.PUBLISHED_STATE).parameters
    assert np.linalg.norm(model.gradient()) < 0.005
    accuracies = [(model.predict(data.x) == data.labels).mean() for data in (train, mnist.test)]
    np.testing.assert_allclose(accuracies, [0.9996, 0.9746], rtol=0, atol=1e-3)
