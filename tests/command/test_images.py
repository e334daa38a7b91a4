"""Folders of images, and the Keras networks that were trained on them."""

import base64
import re

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from influence import KerasModel
from influence.command import images
from influence.command.main import main
from tests.command.running import refuse, run
from tests.command.shapes import as_keras_reads, layers, save_network, write_images

# Nor are those of most people; the command says it in its own words.
pytestmark = pytest.mark.filterwarnings("ignore:KerasModel is not at a minimum")
EXPLAIN = ["explain", "train", "--test", "test", "--model", "model.keras"]
NUMBER = r"[+-]\d\.\d+"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the folder, the names of its 4 images in the wrong folder)."""
    folder = tmp_path_factory.mktemp("images")
    wrong = write_images(folder / "train", 64, flipped=4)
    write_images(folder / "test", 10, seed=1)
    save_network(folder / "model.keras", folder / "train")
    return folder, wrong


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[0]


def points(folder):
    """(x, y) as Keras reads a folder."""
    x, y = zip(*as_keras_reads(folder).unbatch().as_numpy_iterator())
    return np.array(x), np.array(y)


def test_images_are_read_as_keras_reads_them(here):
    folder = images.list_images(here / "train")
    x, y = points(here / "train")
    np.testing.assert_allclose(images.load_images(folder, (8, 8, 3), "255"), x, rtol=1e-6)
    np.testing.assert_allclose(images.load_images(folder, (8, 8, 3), "1"), x / 255, rtol=1e-6)
    assert [["bottom", "top"].index(label) for label in folder.y] == y.tolist()
    assert images.load_images(folder, (None, None, 1), "255").shape == (64, 12, 10, 1)
    assert images.load_images(folder, (8, 8), "255").shape == (64, 8, 8)


@pytest.mark.slow
def test_the_scores_are_those_of_the_last_layer(here, capsys):
    printed = run(capsys, *EXPLAIN, "--row", "3", "--top", "3")
    network = keras.saving.load_model(here / "model.keras")
    model = KerasModel(network, points(here / "train"), variables=network.get_layer("top"))
    x, y = points(here / "test")
    scores = model.influence_on_loss(x[[3]], y[[3]])[0]
    assert "its last layer, 'top' (14 of 1172 parameters)" in printed
    found = re.findall(rf"^ *(\d+) .*?({NUMBER})  (\S+)$", printed, re.MULTILINE)
    listed, said = [int(row) for row, _, _ in found], [float(score) for _, score, _ in found]
    np.testing.assert_allclose(said, scores[listed], atol=1e-4)
    # Which of several with the same score comes first is chance.
    np.testing.assert_allclose(said, [*np.sort(scores)[:3], *np.sort(scores)[::-1][:3]], atol=1e-4)
    files = images.list_images(here / "train").files
    assert all(files[int(row)] == file for row, _, file in found)


@pytest.mark.slow
def test_the_page_has_the_images_in_it(here, capsys):
    printed = run(capsys, *EXPLAIN, "--top", "2", "--html", "out/report.html")
    text = (here / "out/report.html").read_text()
    row = int(re.search(r"Test image (\d+) is the most wrong", printed)[1])
    shown = re.findall(
        r'src="data:image/png;base64,([^"]+)" alt="(Test|Training) image (\d+)"', text
    )
    assert [kind for _, kind, _ in shown] == ["Test"] + ["Training"] * 4
    assert int(shown[0][2]) == row
    both = points(here / "train")[0], points(here / "test")[0]
    low, high = both[0].min(), both[0].max()
    for content, kind, number in shown:
        pixels = tf.io.decode_png(base64.b64decode(content)).numpy()
        image = both[kind == "Test"][int(number)]
        expected = np.clip((image - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(pixels[::12, ::12], expected, atol=0.51)
    assert "Trust" in text.split("What was checked")[1]


@pytest.mark.slow
def test_images_in_the_wrong_folder_are_found(here, made, capsys):
    arguments = ["train", "--model", "model.keras", "--csv", "out/s.csv", "--html", "out/s.html"]
    printed = run(capsys, "mislabelled", *arguments)
    suspects = pd.read_csv(here / "out/s.csv")
    assert suspects.columns.tolist() == [
        *("row", "score", "class", "predicted", "probability_of_label", "file")
    ]
    assert set(suspects["file"][:6]) >= set(made[1])
    assert "labels that were changed on purpose" in printed
    text = (here / "out/s.html").read_text()
    assert text.count("data:image/png") == 60
    assert re.search(r"<h2[^>]*>The first 60 of 64</h2>", text)


@pytest.mark.slow
def test_without_a_regulariser_scores_are_damped_and_checked_by_refits(here, capsys):
    save_network(here / "free.keras", here / "train", decay=0)
    arguments = ["train", "--test", "test", "--points", "8", "--model", "free.keras"]
    printed = run(capsys, "check", *arguments)
    assert "damping 0.01" in printed
    pairs = re.findall(r"^ *\d+ +(\S+) +(\S+)$", printed, re.MULTILINE)
    predicted, actual = np.array(pairs[-8:], float).T
    said = float(re.search(r"R = (\S+),", printed)[1])
    assert said == pytest.approx(np.corrcoef(predicted, actual)[0, 1], abs=2e-3)
    assert said > 0.9


@pytest.mark.slow
def test_a_network_that_knows_nothing_is_said(here, capsys):
    network = keras.saving.load_model(here / "model.keras")
    top = network.get_layer("top")
    # The classes in the other order.
    top.set_weights([weights[..., ::-1] for weights in top.get_weights()])
    network.save(here / "new.keras")
    assert main(["mislabelled", "train", "--model", "new.keras"]) == 0
    assert "are its outputs in the order bottom, top, and its pixels" in capsys.readouterr().err


@pytest.mark.parametrize("pixels", ["255", "1"])
def test_pixels_on_another_scale_are_asked_about_before_what_comes_of_them(pixels, here, capsys):
    network = keras.saving.load_model(here / "model.keras")
    top = network.get_layer("top")
    # As of inputs that are far too large.
    top.set_weights([1e6 * weights for weights in top.get_weights()])
    network.save(here / "sure.keras")
    arguments = ["mislabelled", "train", "--model", "sure.keras", "--pixels", pixels]
    sentence = refuse(capsys, *arguments)
    instead = {"255": "give --pixels 1", "1": "leave --pixels out"}[pixels]
    assert f"its pixels up to {pixels} (else {instead})? The loss" in sentence
    assert "has no curvature" in sentence


BAD_FOLDERS = {
    "--model model.skops": "the network that was trained on them is needed: give --model",
    "--target y": "names of their folders: leave --target and --as out",
    "--as numbers": "names of their folders: leave --target and --as out",
    "--model none.keras": r"There is no file none\.keras",
    "--model text.keras": r"Keras cannot load text\.keras",
    "--model lambda.keras": r"lambda\.keras has a program of its writer's in it .* --trust",
    "--model loss.keras": r"loss\.keras was saved without a loss: compile\(\)",
    "--model two.keras": r"two\.keras is no model of one input and one output",
    "--model flat.keras": r"takes points of the shape \[5\], no images",
    "--model three.keras": "has 3 outputs, for 3 classes, and train has 2: bottom, top",
    "--model mse.keras": "mean_squared_error, says no probability of a class",
}


def save_bad_networks(folder):
    layer, image = layers.Dense(2, "softmax"), (8, 8, 3)
    sparse = "sparse_categorical_crossentropy"
    (folder / "text.keras").write_text("no zip")
    program = layers.Lambda(lambda x: x / 255)
    of_code = keras.Sequential([layers.Input(image), program, layers.Flatten(), layer])
    flat = keras.Sequential([layers.Input((5,)), layers.Dense(2, "softmax")])
    ends = layers.Input((8, 8, 3)), layers.Input((8, 8, 3))
    two = keras.Model(ends, layers.Dense(2)(layers.Flatten()(layers.Add()(ends))))
    for name, network in {"lambda": of_code, "flat": flat, "two": two}.items():
        network.compile(loss=sparse)
        network.save(folder / f"{name}.keras")
    bare = keras.Sequential([layers.Input(image), layers.Flatten(), layers.Dense(2)])
    bare.save(folder / "loss.keras")
    save_network(folder / "three.keras", folder, loss=sparse, units=3)
    one = keras.Sequential([layers.Input(image), layers.Flatten(), layers.Dense(1)])
    one.compile(loss="mean_squared_error")
    one.save(folder / "mse.keras")


@pytest.fixture(scope="module")
def bad(made):
    save_bad_networks(made[0])


@pytest.mark.parametrize("options", BAD_FOLDERS)
def test_what_does_not_go_with_images_is_refused_in_a_sentence(options, here, bad, capsys):
    arguments = options.split()
    if "--model" not in options:
        arguments += ["--model", "model.keras"]
    sentence = refuse(capsys, "mislabelled", "train", "--csv", "none.csv", *arguments)
    assert re.search(BAD_FOLDERS[options], sentence), sentence
    assert not (here / "none.csv").exists()


@pytest.mark.slow
def test_a_program_in_a_network_runs_when_it_is_trusted(here, bad, capsys):
    assert "Read lambda.keras" in run(
        capsys, "mislabelled", "train", "--model", "lambda.keras", "--trust"
    )


@pytest.mark.slow
def test_folders_that_are_not_of_images_are_refused(tmp_path, made, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["mislabelled", "train", "--model", str(made[0] / "model.keras")]
    (tmp_path / "train").mkdir()
    assert "train has no images (.bmp, .gif, " in refuse(capsys, *command)
    write_images(tmp_path / "train", 6)
    (tmp_path / "train/top/notes.txt").write_text("left out, and said")
    assert main(command) == 0
    assert "are no images by their names and left out, such as top/notes.txt" in (
        capsys.readouterr().err
    )
    explain = ["explain", *command[1:], "--test"]
    assert "test.csv is not there: of images give folders" in refuse(capsys, *explain, "test.csv")
    write_images(tmp_path / "other", 6)
    (tmp_path / "other/top").rename(tmp_path / "other/left")
    assert "images of the class 'left', which is not in train" in refuse(capsys, *explain, "other")
    (tmp_path / "train/top/07.png").write_bytes(b"not a PNG")
    assert "train/top/07.png is not an image that can be read" in refuse(capsys, *command)
    (tmp_path / "train/top").rename(tmp_path / "top")
    assert "has images of one class, 'bottom', only" in refuse(capsys, *command)
