"""The parts of the network's experiment: its images, its schedule, how agreement is counted."""

import dataclasses

import numpy as np
import pytest

from influence import Adam, Dataset
from scripts.fig2_leave_one_out import Fig2Config
from scripts.steps import cnn_leave_one_out as cnn


def test_images_are_drawn_as_in_2017():
    train = Dataset(np.arange(55_000, dtype=np.uint8)[:, np.newaxis], np.arange(55_000), 1 / 255)
    np.random.seed(0)
    order = np.arange(55_000)
    np.random.shuffle(order)
    drawn = cnn.first_images(train, 5500)
    np.testing.assert_array_equal(drawn.labels, order[:5500])
    np.testing.assert_array_equal(drawn.x[:, 0], order[:5500] % 256)
    assert drawn.scale == train.scale


@pytest.mark.parametrize(
    ("scale", "settings", "images", "expected"),
    [
        ("paper", Fig2Config.PAPER, 5500, (500_000, 1e-4, Adam().decays)),
        ("laptop", {}, 5500, (10_000, 1e-3, ((6000, 0.1), (8500, 0.01)))),
        ("laptop", {}, 550, (909, 1e-3, ((545, 0.1), (772, 0.01)))),
    ],
)
def test_the_schedule(monkeypatch, tmp_path, scale, settings, images, expected):
    seen = {}

    def run(adam, model, steps, **_):
        seen.update(steps=steps, adam=adam, model=model)

    monkeypatch.setattr(Adam, "run", run)
    data = Dataset(np.zeros((images, 784), np.uint8), np.zeros(images, np.int64), 1 / 255)
    config = dataclasses.replace(Fig2Config(scale=scale), **settings)
    cnn.train(config, data, tmp_path)
    adam = seen["adam"]
    assert (seen["steps"], adam.learning_rate, adam.decays) == expected
    assert adam.batch_size == 500
    assert seen["model"].num_parameters == cnn.PARAMETERS


def test_agreement():
    actual = np.array([-1.0, 0.0, 2.0])
    assert cnn.agreement(actual, 0.5 * actual) == pytest.approx((1, 0.5))
    assert cnn.agreement(actual, np.zeros(3)) == (None, None)
