"""Figure 4 on small images and a small network: the choice of the fish, the caches, the photos."""

import dataclasses

import matplotlib as mpl
import numpy as np
import pytest

from influence import BinaryInceptionModel
from influence.models import backbones
from scripts import fig4_rbf_vs_inception as fig4
from scripts.loaders.archive import DataError
from scripts.loaders.dogfish import load_dogfish
from scripts.loaders.registry import Provenance
from scripts.report.experiment import run
from scripts.steps import dogs_and_fish
from tests.networks import SIDE, network

mpl.use("Agg")


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """Instead of Inception."""
    monkeypatch.setattr(backbones, "inception", lambda side, weights: network("float32"))


@pytest.fixture
def config(tmp_path):
    return fig4.Fig4Config(data="stand-in", output_dir=str(tmp_path), image_side=SIDE)


FISH = [
    # labels, RBF margins, Inception margins, the chosen one
    ([1, 1, 1], [0.5, 0.5, 0.5], [1.0, 2.0, 9.0], 1),
    # Dogs, and fish that one of the two gets wrong, are none; nor are those beyond the margin.
    ([0, 1, 1, 1, 1], [0.5, -0.1, 0.5, 1.2, 0.9], [2.0, 2.0, -2.0, 2.0, 7.0], 4),
    # The median is of the candidates (1, 2, 3), and not of all fish.
    ([1, 1, 1, 1, 1], [0.2, 0.2, 0.2, 2.0, 2.0], [3.0, 2.0, 1.0, 50.0, 60.0], 1),
    # Of two that are equally near, the first.
    ([1, 1], [0.2, 0.2], [3.0, 1.0], 0),
]


@pytest.mark.parametrize(("labels", "rbf", "inception", "chosen"), FISH)
def test_the_typical_fish(labels, rbf, inception, chosen):
    assert fig4.typical_fish(*map(np.array, (labels, rbf, inception))) == chosen


def test_no_fish_that_will_do_is_said():
    with pytest.raises(DataError, match="No test fish is right in both"):
        fig4.typical_fish(np.array([1, 0]), np.array([1.5, 0.5]), np.array([1.0, 1.0]))


def test_the_papers_fish_on_the_papers_images(config, monkeypatch):
    data = load_dogfish("stand-in", SIDE)
    paper = dataclasses.replace(data, provenance=Provenance("paper", {}))
    monkeypatch.setattr(dogs_and_fish, "load_dogfish", lambda *_: paper)
    asked = []
    load = dogs_and_fish.load_inception
    monkeypatch.setattr(
        dogs_and_fish, "load_inception", lambda choice: asked.append(choice) or load("stand-in")
    )
    results = fig4.compute(dataclasses.replace(config, data="real", test_index=33))
    assert results.metrics["test_index"]["ours"] == 33
    assert asked == ["real"]
    np.testing.assert_array_equal(results.arrays["test_image"], data.test.x[33])


def test_numbers_are_what_they_say(config):
    results = fig4.compute(config)
    arrays, index = results.arrays, results.metrics["test_index"]["ours"]
    data = load_dogfish("stand-in", SIDE)
    train, fish = data.train.x / 127.5 - 1, data.test.x[index] / 127.5 - 1
    distances = np.linalg.norm((train - fish).reshape(len(train), -1), axis=1)
    np.testing.assert_allclose(arrays["distances"], distances, rtol=1e-12)
    top = np.sort(arrays["inception"])[-fig4.TOP]
    dogs = (arrays["inception"] >= top) & (arrays["labels"] == 0)
    assert results.metrics["dogs_among_top_50"]["ours"] == dogs.sum()
    correlation = np.corrcoef(np.abs(arrays["rbf"]), distances)[0, 1]
    assert results.metrics["distance_correlation_rbf"]["ours"] == pytest.approx(correlation)
    nearest = np.argsort(distances, kind="stable")[: fig4.TOP]
    follows = (arrays["rbf"][nearest] > 0) == (arrays["labels"][nearest] == 1)
    metrics = {name: value["ours"] for name, value in results.metrics.items()}
    assert metrics["sign_follows_class_nearest_50_rbf"] == follows.mean()
    for row, model in enumerate(("rbf", "inception")):
        best = arrays[model][arrays["shown"][row]]
        np.testing.assert_array_equal(best, np.sort(arrays[model])[::-1][: fig4.COLUMNS])
    assert (arrays["labels"][arrays["shown"][2]] == 0).all()
    np.testing.assert_array_equal(arrays["shown_images"], data.train.x[arrays["shown"]])
    assert results.metrics["inception_weights"] == {"paper": "official", "ours": "random"}


def test_a_second_run_computes_neither_distances_nor_features(config, monkeypatch, tmp_path):
    first = fig4.compute(config)
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "dogfish").iterdir())
    assert names == ["distances", "features", "features"]
    with monkeypatch.context() as patch:
        patch.setattr(fig4, "squared_distances", lambda *_: pytest.fail("distances"))
        patch.setattr(BinaryInceptionModel, "_computed", lambda *_: pytest.fail("features"))
        second = fig4.compute(config)
    assert second.metrics == first.metrics
    for path in (tmp_path / "dogfish").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    third = fig4.compute(config)
    assert third.metrics == first.metrics
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array)
        np.testing.assert_array_equal(third.arrays[name], array)


@pytest.mark.slow
def test_photographs_stay_in_their_folder_and_are_drawn_again(config, tmp_path):
    figures = tmp_path / "figures"
    options = ["--data", "stand-in", "--output-dir", str(tmp_path), "--figures-dir", str(figures)]
    arguments = [fig4.NAME, fig4.Fig4Config, fig4.compute, fig4.plot]
    run(*arguments, [*options, "--image-side", str(SIDE)])
    drawn = {path: path.read_bytes() for path in figures.rglob("*.png")}
    names = {str(path.relative_to(figures)) for path in drawn}
    assert names == {f"{fig4.NAME}.png", f"photos/{fig4.NAME}.png"}
    for path in drawn:
        path.unlink()
    run(*arguments, [*options, "--plot-only"])
    assert {path: path.read_bytes() for path in figures.rglob("*.png")} == drawn
