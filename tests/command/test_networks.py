"""Keras networks of tables: labels as their losses take them, and columns that do not fit."""

import re

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from influence import KerasModel
from influence.command.networks import NetworkScorer
from influence.command.scoring import Rows
from influence.command.subject import prepare
from tests.command.running import refuse, run
from tests.command.shapes import layers

# Nor are those of most people; the command says it in its own words.
pytestmark = pytest.mark.filterwarnings("ignore:KerasModel is not at a minimum")
ROWS = 120
# (units, activation, loss, labels of the classes a, b, c or of numbers)
KINDS = {
    "sparse": (3, "softmax", "sparse_categorical_crossentropy", ["a", "b", "c"]),
    "one-hot": (3, "softmax", "categorical_crossentropy", ["a", "b", "c"]),
    "logits": (3, None, keras.losses.SparseCategoricalCrossentropy(True), [0, 1, 2]),
    "two classes": (1, "sigmoid", "binary_crossentropy", ["no", "yes"]),
    "truth": (1, "sigmoid", "binary_crossentropy", [False, True]),
    "numbers": (1, None, "mse", None),
}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path, monkeypatch):
    """(name, labels [n] as the network takes them, labels [n] of the table); t.csv, m.keras."""
    monkeypatch.chdir(tmp_path)
    units, activation, loss, names = KINDS[request.param]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(ROWS, 4)).astype(np.float32)
    hidden = x @ generator.normal(size=(4, 3)) + generator.normal(size=(ROWS, 3))
    if names is None:
        given = shown = hidden[:, 0].astype(np.float32)
    else:
        places = hidden[:, : len(names)].argmax(axis=1)
        shown = np.array(names, object)[places]
        given = np.eye(3)[places] if loss == "categorical_crossentropy" else places
    keras.utils.set_random_seed(0)
    l2 = keras.regularizers.L2(0.05)
    last = layers.Dense(units, activation, kernel_regularizer=l2, name="top")
    network = keras.Sequential([layers.Input((4,)), layers.Dense(5, "tanh"), last])
    network.compile(keras.optimizers.Adam(0.05), loss)
    network.fit(x, given, epochs=30, verbose=0)
    network.save("m.keras")
    pd.DataFrame(x, columns=list("abcd")).assign(y=shown).to_csv("t.csv", index=False)
    return request.param, given, shown


@pytest.mark.slow
def test_labels_are_given_as_the_loss_takes_them(kind, tmp_path):
    name, given, shown = kind
    subject = prepare(
        tmp_path / "t.csv", tmp_path / "t.csv", target="y", model=tmp_path / "m.keras"
    )
    network = keras.saving.load_model("m.keras")
    x = pd.read_csv("t.csv")[list("abcd")].to_numpy(np.float32)
    model = KerasModel(network, (x, given), variables=network.get_layer("top"))
    scorer, test = subject.scorer, subject.test
    np.testing.assert_allclose(scorer.losses(test), model.losses(x, given), rtol=1e-4)
    expected = model.influence_on_loss(x[:1], given[:1])[0]
    np.testing.assert_allclose(scorer.influences(test.at(0)), expected, rtol=1e-3, atol=1e-7)
    outputs = model.predict(x)
    if name == "numbers":
        assert subject.kind == "numbers"
        assert scorer.of_label(test) is None
        np.testing.assert_allclose(scorer.predict(test), outputs[:, 0], rtol=1e-5)
        return
    classes = KINDS[name][3]
    units = outputs.shape[1]
    best = outputs.argmax(axis=1) if units > 1 else (outputs[:, 0] > 0.5).astype(int)
    assert scorer.predict(test).tolist() == np.array(classes, object)[best].tolist()
    if name != "logits":
        probabilities = outputs if units > 1 else np.hstack([1 - outputs, outputs])
        places = [classes.index(label) for label in shown.tolist()]
        own = probabilities[np.arange(ROWS), places]
        np.testing.assert_allclose(scorer.of_label(test), own, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparse"], indirect=True)
def test_columns_of_test_rows_are_in_the_order_of_the_training_rows(kind, tmp_path):
    pd.read_csv("t.csv")[list("dybac")].to_csv("other.csv", index=False)
    test = prepare(
        tmp_path / "t.csv", tmp_path / "other.csv", target="y", model=tmp_path / "m.keras"
    ).test
    np.testing.assert_allclose(test.given, pd.read_csv("t.csv")[list("abcd")], rtol=1e-6)


@pytest.mark.slow
def test_images_in_a_npz_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    x, y = (digits.images[:150] / 16).astype(np.float32), digits.target[:150]
    np.savez("d.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [layers.Input((8, 8)), layers.Flatten(), layers.Dense(10, "softmax")]
    )
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(x[:120], y[:120], epochs=30, verbose=0)
    network.save("m.keras")
    run(capsys, "explain", "d.npz", "--test", "d.npz", "--model", "m.keras", "--html", "r.html")
    assert (tmp_path / "r.html").read_text().count("data:image/png") == 11
    subject = prepare(tmp_path / "d.npz", model=tmp_path / "m.keras")
    assert isinstance(subject.train, Rows)
    np.testing.assert_array_equal(subject.train.images, x[:120])


TABLES = {
    "columns": ({"e": [0.0] * ROWS}, r"points of the shape \[4\], and t.csv has 5 columns"),
    "text": ({"b": ["small"] * ROWS}, "Column 'b' of t.csv must be numbers, and row 0"),
    "gap": ({"c": [0.0] * 7 + [None] * (ROWS - 7)}, "Column 'c' of t.csv is empty in row 7"),
    "labels": ({"y": [7, 0] * (ROWS // 2)}, "has the classes 0..2, and t.csv has the label 7"),
    "classes": ({"y": ["u", "v"] * (ROWS // 2)}, "has 3 outputs, for 3 classes, and t.csv has 2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", TABLES)
@pytest.mark.parametrize("kind", ["sparse"], indirect=True)
def test_tables_that_the_network_does_not_take_are_refused(what, kind, capsys):
    columns, words = TABLES[what]
    pd.read_csv("t.csv").assign(**columns).to_csv("t.csv", index=False)
    sentence = refuse(capsys, "mislabelled", "t.csv", "--target", "y", "--model", "m.keras")
    assert re.search(words, sentence), sentence


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparse"], indirect=True)
def test_scores_that_are_all_the_same_agree_with_nothing(kind, tmp_path, monkeypatch):
    subject = prepare(
        tmp_path / "t.csv", tmp_path / "t.csv", target="y", model=tmp_path / "m.keras"
    )
    monkeypatch.setattr(subject.scorer, "influences", lambda rows: np.ones(ROWS))
    with pytest.warns(UserWarning, match="all 3 predicted changes of the mean test loss are 1"):
        found = subject.scorer.validate(subject.test, 3)
    assert np.isnan([found.pearson_r, found.slope]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparse"], indirect=True)
def test_a_network_has_no_conclusion_to_overturn(kind, capsys):
    arguments = ["t.csv", "--target", "y", "--model", "m.keras", "--coefficient", "a"]
    assert "overturn is for linear models" in refuse(capsys, "overturn", *arguments)


@pytest.mark.slow
def test_a_fitted_last_layer_predicts_its_refits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    x, y = (digits.images[:700, ..., np.newaxis] / 16).astype(np.float32), digits.target[:700]
    np.savez("d.npz", x_train=x[:600], y_train=y[:600], x_test=x[600:], y_test=y[600:])
    keras.utils.set_random_seed(0)
    l2 = keras.regularizers.L2
    network = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, strides=2, activation="relu", kernel_regularizer=l2(1e-3)),
            layers.BatchNormalization(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(10, "softmax", kernel_regularizer=l2(1e-2)),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(x[:600], y[:600], epochs=2, verbose=0)
    top = network.layers[-1]
    model = KerasModel(network, (x[:600], y[:600]), variables=top).fit()
    top.set_weights([variable.numpy() for variable in model.variables])
    network.save("m.keras")
    subject = prepare(tmp_path / "d.npz", tmp_path / "d.npz", model=tmp_path / "m.keras")
    assert subject.scorer.damping == 0
    assert "not at a minimum" not in subject.sentence
    found = subject.scorer.validate(subject.test.at(92), 10)
    assert found.pearson_r >= 0.99
    assert found.slope == pytest.approx(1, abs=0.1)


L2 = keras.regularizers.L2(1e-3)
DAMPINGS = {
    "L2": (L2, 0),
    "L1 and L2": (keras.regularizers.L1L2(1e-3, 1e-4), 0),
    "L1, without curvature": (keras.regularizers.L1(1e-3), 0.01),
    "none": (None, 0.01),
}


@pytest.mark.parametrize("name", DAMPINGS)
@pytest.mark.parametrize("hidden", [None, L2])
def test_damping(name, hidden):
    regularizer, expected = DAMPINGS[name]
    stack = [layers.Dense(4, kernel_regularizer=each) for each in (hidden, regularizer)]
    network = keras.Sequential([layers.Input((3,)), *stack])
    network.compile(loss="mse")
    x, y = np.eye(3, dtype=np.float32), np.eye(3, 4, dtype=np.float32)
    rows = Rows(None, x, y, y)
    assert NetworkScorer(network, rows, None).damping == expected
