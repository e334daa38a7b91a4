"""Inception and its weight files, and networks that cannot replace it."""

import subprocess
import sys
import warnings

import h5py
import keras
import numpy as np
import pytest

from influence import BinaryInceptionModel, Dataset
from scripts.loaders import registry
from scripts.loaders.dogfish import load_dogfish
from tests.networks import SIDE, make, network, photographs

# Keras converts a variable for save_weights in a way that NumPy 2 is leaving behind.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Input((SIDE + 1, SIDE, 3)), keras.layers.GlobalAveragePooling2D()],
        [keras.layers.Input((SIDE, SIDE, 3)), keras.layers.Conv2D(2, 3)],
        [keras.layers.Input((SIDE * 3,)), keras.layers.Dense(2)],
    ],
)
def test_networks_that_do_not_fit(layers):
    with pytest.raises(ValueError, match=r"must map \[m, 9, 9, 3\] to \[m, f\]"):
        make(backbone=keras.Sequential(layers))


def test_a_network_for_all_sizes_fits():
    layers = [keras.layers.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]
    assert make(backbone=keras.Sequential(layers)).features(photographs(2)[0]).shape == (2, 3)


@pytest.fixture(scope="module")
def small_inception():
    """Inception at its smallest size, with random weights, and the warnings it gave."""
    images = np.random.default_rng(0).integers(0, 256, (4, 75, 75, 3), np.uint8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = BinaryInceptionModel(Dataset(images, [0, 1, 0, 1]), 75)
    return model, [str(warning.message) for warning in caught]


@pytest.mark.slow
def test_random_weights_are_said(small_inception):
    model, messages = small_inception
    assert any("RANDOM WEIGHTS" in message for message in messages)
    features = model.features(model.train.x)
    assert features.shape == (4, 2048)
    assert np.isfinite(features).all()
    assert 0.01 < features.std() < 100


def legacy(path, network):
    """The weights in the layout of the official file."""
    with h5py.File(path, "w") as file:
        layers = [layer for layer in network.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [weight.path for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.get_weights()):
                group[name] = weight


@pytest.mark.slow
@pytest.mark.parametrize("name", ["official.h5", "keras.weights.h5"])
def test_both_layouts_of_weights(small_inception, tmp_path, name):
    model, _ = small_inception
    if name == "official.h5":
        legacy(tmp_path / name, model.backbone)
    else:
        model.backbone.save_weights(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = BinaryInceptionModel(model.train, 75, weights=tmp_path / name)
    # The layers of a second network have other names; the digest of the cache has none.
    assert loaded._backbone_digest.hexdigest() == model._backbone_digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["other.h5", "other.weights.h5"])
@pytest.mark.parametrize("kind", ["missing", "no-file", "another-network"])
def test_files_without_the_weights(small_inception, tmp_path, name, kind):
    model, _ = small_inception
    path = tmp_path / name
    if kind == "no-file":
        path.write_bytes(b"weights")
    if kind == "another-network":
        (legacy if name == "other.h5" else lambda p, n: n.save_weights(p))(path, network())
    message = "no weight file at" if kind == "missing" else "does not hold the weights of Inception"
    with pytest.raises(ValueError, match=message) as caught:
        BinaryInceptionModel(model.train, 75, weights=path)
    assert str(path) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["without-a-layer", "not-finite"])
def test_files_with_some_of_the_weights(small_inception, tmp_path, how):
    model, _ = small_inception
    path = tmp_path / "some.weights.h5"
    model.backbone.save_weights(path)
    with h5py.File(path, "r+") as file:
        if how == "without-a-layer":
            del file["layers/conv2d_7"]
        else:
            file["layers/conv2d_7/vars/0"][0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="does not hold the weights of Inception"):
        BinaryInceptionModel(model.train, 75, weights=path)


@pytest.mark.slow
def test_importing_changes_no_global_state():
    script = (
        "import keras, numpy, random; before = keras.config.floatx(), random.getstate()[1];"
        "drawn = numpy.random.get_state()[1].tolist(); import influence, sys;"
        "assert before == (keras.config.floatx(), random.getstate()[1]);"
        "assert drawn == numpy.random.get_state()[1].tolist();"
        "assert keras.config.dtype_policy().name == 'float32'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
@pytest.mark.realdata
def test_the_stand_in_weights():
    weights = registry.find(registry.INCEPTION_STAND_IN, registry.INCEPTION_FOLDER)
    if weights is None or registry.find(registry.IMAGENETTE_224) is None:
        pytest.skip("no stand-in weights, or no Imagenette, in INFLUENCE_DATA")
    data = load_dogfish("real")
    chosen = np.r_[0:4, 1796:1800]
    few = Dataset(data.train.x[chosen], data.train.labels[chosen])
    model = BinaryInceptionModel(few, weights=weights).fit()
    features = model.features(few.x)
    assert features.shape == (8, 2048)
    assert np.isfinite(features).all()
    assert features.std(axis=0).mean() > 0.01
    np.testing.assert_array_equal(model.predict(few.x), few.labels)
    gradient = model.influence_input_gradient([0], data.test.x[:1], data.test.labels[:1])
    assert gradient.shape == (1, 299, 299, 3)
    assert 0 < np.abs(gradient).max() < 1
