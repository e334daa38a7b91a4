"""The command line that explains a test point: its numbers, its picture, and what it refuses."""

import csv
import re

import keras
import numpy as np
import pytest
import scipy.stats
from sklearn.datasets import load_digits

from influence import Dataset, KerasModel, LogisticRegression
from scripts import explain
from scripts.report.explanation import Explanation, Point, picture, table

layers, L2 = keras.layers, keras.regularizers.L2
DECAY = 0.01


def arrays():
    """200 training and 40 test digits, images [n, 8, 8] in 0..1."""
    digits = load_digits()
    x, y = (digits.images / 16).astype(np.float32), digits.target
    return {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:240], "y_test": y[200:240]}


@pytest.fixture(scope="module")
def ours():
    """The library's logistic regression of the digits, its scores, and its losses."""
    data = arrays()
    model = LogisticRegression(Dataset(data["x_train"], data["y_train"]), DECAY).fit()
    test = data["x_test"], data["y_test"]
    return model, model.influence_on_loss(*test), model.losses(*test)


@pytest.fixture(scope="module")
def files(tmp_path_factory, ours):
    """The digits as a .npz, and the same logistic regression as a Keras file."""
    folder = tmp_path_factory.mktemp("explain")
    np.savez(folder / "digits.npz", **arrays())
    # The library's (λ/2)‖W‖² is Keras' L2(λ/2).
    dense = layers.Dense(
        10, "softmax", use_bias=False, kernel_regularizer=L2(DECAY / 2), name="top"
    )
    network = keras.Sequential([layers.Input((8, 8)), layers.Flatten(), dense])
    network.compile(loss="sparse_categorical_crossentropy")
    dense.kernel.assign(ours[0].parameters.reshape(64, 10))
    network.save(folder / "digits.keras")
    return folder


def run(files, *options, data="digits.npz"):
    explain.main([str(files / data), *map(str, options)])


def rows(path):
    """The CSV: a list of dicts."""
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_worst_test_point_and_its_training_points(files, ours, tmp_path, capsys):
    model, scores, losses = ours
    run(files, "--csv", tmp_path / "points.csv", "--top", 3)
    worst = losses.argmax()
    printed = capsys.readouterr().out
    assert f"Test point {worst}: label {arrays()['y_test'][worst]}, predicted " in printed
    assert f"{scores[worst].max():+.3e}" in printed
    written = rows(tmp_path / "points.csv")
    order = np.argsort(scores[worst])
    assert [row["effect"] for row in written] == ["helpful"] * 3 + ["harmful"] * 3
    chosen = [*order[::-1][:3], *order[:3]]
    assert [int(row["training_point"]) for row in written] == chosen
    numbers = [float(row["score"]) for row in written]
    np.testing.assert_allclose(numbers, scores[worst, chosen], rtol=1e-4)
    x, y = arrays()["x_train"][chosen], arrays()["y_train"][chosen]
    np.testing.assert_allclose([float(row["loss"]) for row in written], model.losses(x, y), 1e-4)
    assert [int(row["label"]) for row in written] == y.tolist()
    assert [int(row["predicted"]) for row in written] == model.predict(x).tolist()


def test_a_keras_file_of_the_same_model_has_the_same_scores(files, ours, tmp_path, capsys):
    scores = ours[1][7]
    path = tmp_path / "points.csv"
    run(files, "--model", files / "digits.keras", "--damping", 0, "--test-index", 7, "--csv", path)
    printed = capsys.readouterr().out
    assert "through all layers, 640 of 640 parameters, damping 0," in printed
    assert "not at a minimum" not in printed
    written = rows(path)
    assert len(written) == 10
    for row in written:
        expected = scores[int(row["training_point"])]
        assert float(row["score"]) == pytest.approx(expected, rel=1e-2)
    assert int(written[0]["training_point"]) == scores.argmax()
    assert int(written[5]["training_point"]) == scores.argmin()


def test_large_networks_through_their_last_layer(tmp_path, files, capsys):
    data, path = arrays(), tmp_path / "points.csv"
    train = data["x_train"], data["y_train"]
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            layers.Input((8, 8)),
            layers.Flatten(),
            layers.Dense(270, "relu"),
            layers.Dense(10, "softmax", name="top"),
        ]
    )
    network.compile(loss="sparse_categorical_crossentropy")
    network.save(tmp_path / "wide.keras")
    run(files, "--model", tmp_path / "wide.keras", "--test-index", 3, "--csv", path)
    printed = capsys.readouterr().out
    assert "the last layer, 'top', 2710 of 20260 parameters, damping 0.01," in printed
    assert "not at a minimum" in printed
    model = KerasModel(network, train, variables=network.get_layer("top"))
    scores = model.influence_on_loss(
        data["x_test"][3], data["y_test"][[3]], curvature=model.gauss_newton() + 0.01
    )[0]
    for row in rows(path):
        expected = scores[int(row["training_point"])]
        assert float(row["score"]) == pytest.approx(expected, rel=1e-3)


def test_a_small_network_through_its_last_layer_when_asked(files, capsys):
    run(files, "--model", files / "digits.keras", "--last-layer", "--top", 1)
    assert "the last layer, 'top', 640 of 640" in capsys.readouterr().out


def test_by_default_a_fitted_last_layer_predicts_its_refits(tmp_path):
    digits, path = load_digits(), tmp_path / "points.csv"
    x, y = (digits.images[:700, ..., np.newaxis] / 16).astype(np.float32), digits.target[:700]
    train, test = (x[:600], y[:600]), (x[600:], y[600:])
    arrays = dict(zip(explain.NAMES, (*train, *test)))
    np.savez(tmp_path / "digits.npz", **arrays)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, strides=2, activation="relu", kernel_regularizer=L2(1e-3)),
            layers.BatchNormalization(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(10, "softmax", kernel_regularizer=L2(1e-2)),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(*train, epochs=2, verbose=0)
    top = network.layers[-1]
    model = KerasModel(network, train, variables=top).fit()
    top.set_weights([variable.numpy() for variable in model.variables])
    network.save(tmp_path / "digits.keras")

    def agreement(*options):
        """(R, slope) of the scores of the ten points against their refits."""
        command = "--model", tmp_path / "digits.keras", "--last-layer", "--test-index", 92
        run(tmp_path, *command, "--csv", path, *options)
        points = [int(row["training_point"]) for row in rows(path)]
        scores = [float(row["score"]) for row in rows(path)]
        point = test[0][[92]], test[1][[92]]
        losses = np.array([model.refit(i).losses(*point)[0] for i in points])
        line = scipy.stats.linregress(losses - model.losses(*point)[0], scores)
        return line.rvalue, line.slope

    correlation, slope = agreement()
    assert correlation >= 0.99
    assert slope == pytest.approx(1, abs=0.1)
    # As large as the regulariser's own curvature, the paper's damping makes these scores too small.
    assert agreement("--damping", explain.NETWORK_DAMPING)[1] < 0.83


DAMPINGS = {
    "last layer": (1, L2(1e-3), True, 0),
    "L1 and L2": (1, keras.regularizers.L1L2(1e-3, 1e-4), True, 0),
    "only layer": (0, L2(1e-3), False, 0),
    "no curvature": (1, keras.regularizers.L1(1e-3), True, 0.01),
    "no regulariser": (1, None, True, 0.01),
    "all layers": (1, L2(1e-3), False, 0.01),
}


@pytest.mark.parametrize("kind", DAMPINGS)
def test_default_damping(kind):
    hidden, regularizer, last, expected = DAMPINGS[kind]
    stack = [layers.Dense(4, kernel_regularizer=regularizer) for _ in range(hidden + 1)]
    network = keras.Sequential([layers.Input((3,)), *stack])
    assert explain.default_damping(network, stack[-1] if last else None) == expected


def test_the_hint_is_code_that_validates(files, capsys):
    keras_model = ["--model", files / "digits.keras"]
    for options in ([], keras_model, [*keras_model, "--damping", 0.001]):
        run(files, *options, "--test-index", 7)
        hint = capsys.readouterr().out.split("scores.md:\n")[1]
        code = re.sub(r"^    ", "", hint, flags=re.MULTILINE)
        # Fewer refits than a user makes.
        code = code.replace("validate(*point", "validate(*point, points=4")
        exec(compile(code, "hint", "exec"), {})
        correlation = re.search(r"pearson_r=(\S+),", capsys.readouterr().out)[1]
        assert float(correlation) > 0.95


def test_one_hot_labels_and_numbers_are_shown_as_such(files, tmp_path, capsys):
    data = arrays()
    eye = np.eye(10, dtype=np.float32)
    one_hot = {name: eye[data[name]] if name[0] == "y" else data[name] for name in data}
    np.savez(tmp_path / "one_hot.npz", **one_hot)
    network = keras.saving.load_model(files / "digits.keras")
    network.compile(loss="categorical_crossentropy")
    network.save(tmp_path / "one_hot.keras")
    run(tmp_path, "--model", tmp_path / "one_hot.keras", "--test-index", 7, data="one_hot.npz")
    assert f"Test point 7: label {data['y_test'][7]}, predicted " in capsys.readouterr().out


def test_eight_bit_pixels_are_divided_by_255(files, tmp_path, capsys):
    data = arrays()
    pixels = {
        name: np.round(255 * data[name]).astype(np.uint8) if name[0] == "x" else data[name]
        for name in data
    }
    np.savez(tmp_path / "pixels.npz", **pixels)
    run(tmp_path, "--test-index", 7, "--csv", tmp_path / "pixels.csv", data="pixels.npz")
    run(files, "--test-index", 7, "--csv", tmp_path / "floats.csv")
    assert "pixels divided by 255" in capsys.readouterr().out
    eight, floats = (float(rows(tmp_path / f"{n}.csv")[0]["score"]) for n in ("pixels", "floats"))
    assert eight == pytest.approx(floats, rel=0.05)


def test_picture(files, tmp_path):
    run(files, "--figure", tmp_path / "digits.png", "--top", 2)
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3)])
def test_picture_has_the_images_their_labels_and_scores(shape):
    random = np.random.default_rng(0)
    x_train, x_test = random.uniform(0, 255, (9, *shape)), random.uniform(0, 255, (4, *shape))
    helpful = [Point(5, "1", "1", 0.1, 2e-3), Point(6, "1", "2", 0.2, 1e-3)]
    harmful = [Point(8, "0", "1", 0.3, -4e-3)]
    explanation = Explanation(Point(2, "1", "0", 3.0), helpful, harmful)
    axes = np.reshape(picture(explanation, x_train, x_test).axes, (2, 3))
    shown = {(i, j): axes[i, j].get_title() for i in range(2) for j in range(3)}
    assert shown[0, 0] == "test 2\nlabel 1, pred. 0"
    assert shown[0, 2] == "6: +1.0e-03\nlabel 1, pred. 2"
    assert shown[1, 1] == "8: -4.0e-03\nlabel 0, pred. 1"
    assert shown[1, 2] == ""
    low, high = x_train.min(), x_train.max()
    drawn = np.asarray(axes[1, 1].images[0].get_array()) * (high - low) + low
    np.testing.assert_allclose(drawn.reshape(shape), x_train[8], rtol=1e-6, atol=1e-6)


def test_points_without_effect_are_neither_helpful_nor_harmful():
    class Model:
        def losses(self, x, labels):
            return np.ones(len(labels))

        def predict(self, x):
            return np.zeros(len(x))

    points = np.zeros((3, 1)), np.zeros(3, int)
    explanation = explain.explain(Model(), points, points, 0, 3, np.array([0.0, 0.5, 0.2]))
    assert [point.index for point in explanation.helpful] == [1, 2]
    assert explanation.harmful == []
    assert "+5.000e-01" in table(explanation)


def changed(**arrays_of_another_kind):
    """A function that writes the digits with other arrays, or without those that are None."""

    def write(path):
        data = arrays() | arrays_of_another_kind
        np.savez(path, **{name: array for name, array in data.items() if array is not None})

    return write


BAD_DATA = {
    "no file": (lambda path: None, "There is no file"),
    "text": (lambda path: path.write_text("x_train,y_train"), "is not a .npz"),
    "one array": (lambda path: np.save(path.open("wb"), np.eye(2)), "is not a .npz"),
    "array missing": (changed(y_test=None), "has no array y_test: it needs x_train, y_train"),
    "objects": (
        changed(x_test=np.array([{}, {}], dtype=object)),
        "array x_test of .* cannot be read .*save plain numbers",
    ),
    "no rows": (changed(x_test=np.zeros((0, 8, 8))), "x_test must have a row for each point"),
    "other images": (changed(x_test=np.zeros((40, 8, 9))), r"x_test must be like .*\[m, 8, 8\]"),
    "labels of some": (changed(y_train=np.zeros(10, int)), "give one label a row"),
    "labels of some test points": (
        changed(y_test=np.zeros(10, int)),
        "y_test has 10",
    ),
    "words": (changed(y_train=np.array(["a", "b"] * 100)), "labels must be numbers"),
    "numbers": (changed(y_train=np.linspace(0, 1, 200)), "y_train must be the classes 0, 1"),
    "not finite": (changed(x_train=np.full((200, 8, 8), np.nan)), "x must be finite"),
    "another class": (changed(y_test=np.full(40, 12)), "y_test must be the classes 0..9"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_are_one_sentence(kind, tmp_path):
    write, message = BAD_DATA[kind]
    write(tmp_path / "bad.npz")
    with pytest.raises(SystemExit, match=f"^explain: .*{message}") as caught:
        run(tmp_path, "--test-index", 0, data="bad.npz")
    assert "\n" not in str(caught.value)


BAD_OPTIONS = {
    "--top 201": "between 1 and the 200 training points, not 201",
    "--top 0": "between 1 and the 200",
    "--test-index 40": r"--test-index must lie in 0\.\.39, not be 40",
    "--test-index -1": "--test-index must lie in",
    "--damping -1": "--damping must be at least 0",
    "--weight-decay -1": "weight_decay must be at least 0",
    "--last-layer": "--last-layer is for Keras models",
    "--model digits.keras --weight-decay 1": "--weight-decay is for the logistic regression",
    "--model digits.npz": "digits.npz is not a Keras file",
    "--model none.keras": "none.keras is not a Keras file",
    "--model text.keras": "Keras cannot load text.keras",
    "--figure digits.pdf": "--figure must end in .png",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_bad_options_are_one_sentence(options, files, monkeypatch):
    monkeypatch.chdir(files)
    (files / "text.keras").write_text("no zip")
    with pytest.raises(SystemExit, match=BAD_OPTIONS[options]) as caught:
        run(files, *options.split())
    assert "\n" not in str(caught.value)


def test_a_picture_needs_images(tmp_path):
    flat = {name: a.reshape(len(a), -1) if a.ndim == 3 else a for name, a in arrays().items()}
    np.savez(tmp_path / "flat.npz", **flat)
    with pytest.raises(SystemExit, match="--figure is for images"):
        run(tmp_path, "--figure", tmp_path / "flat.png", data="flat.npz")
    assert not (tmp_path / "flat.png").exists()


def test_a_model_of_other_points_is_one_sentence(tmp_path, files):
    network = keras.Sequential([layers.Input((5,)), layers.Dense(10, "softmax")])
    network.compile(loss="sparse_categorical_crossentropy")
    network.save(tmp_path / "other.keras")
    with pytest.raises(SystemExit, match="does not take points like those of train") as caught:
        run(files, "--model", tmp_path / "other.keras")
    assert "\n" not in str(caught.value)
