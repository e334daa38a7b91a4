"""The cache of features: computed once, again after any change, and never from a damaged file."""

import h5py
import numpy as np
import pytest

from influence import BinaryInceptionModel
from tests.networks import FEATURES, make, network, phi


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cached model, and the list of how many images each extraction computed."""
    calls = []
    computed = BinaryInceptionModel._computed

    def counted(self, images, progress):
        calls.append(len(images))
        return computed(self, images, progress)

    monkeypatch.setattr(BinaryInceptionModel, "_computed", counted)
    return make(cache_folder=tmp_path / "cache"), calls


def saved_in(model):
    return list(model.cache_folder.iterdir())


def test_features_are_computed_once(cached):
    model, calls = cached
    first = model.features(model.train.x)
    (path,) = saved_in(model)
    np.testing.assert_array_equal(model.features(model.train.x), first)
    again = make(cache_folder=model.cache_folder)  # equal weights, in another network
    np.testing.assert_array_equal(again.features(model.train.x), first)
    assert calls == [30]
    assert path.name.startswith("features-")
    assert not path.name.startswith(".")


@pytest.mark.parametrize(
    "change",
    [
        lambda model, x: make(cache_folder=model.cache_folder, backbone=network(seed=1)),
        lambda model, x: make(
            cache_folder=model.cache_folder, backbone=network(activation="sigmoid")
        ),
        lambda model, x: make(cache_folder=model.cache_folder, backbone=network("float32")),
        lambda model, x: x.__setitem__((29, 8, 8, 2), x[29, 8, 8, 2] ^ 1) or model,
    ],
    ids=["weights", "activation", "dtype", "pixel"],
)
def test_any_change_is_computed_again(cached, change):
    model, calls = cached
    x = model.train.x.copy()
    model.features(x)
    other = change(model, x)
    np.testing.assert_allclose(other.features(x), phi(other, x), rtol=1e-5)
    assert calls == [30, 30]
    assert len(saved_in(model)) == 2


def test_images_in_another_order_are_others(cached):
    model, _ = cached
    forward, backward = model.features(model.train.x), model.features(model.train.x[::-1])
    np.testing.assert_allclose(backward[::-1], forward, rtol=1e-12)


def test_attacked_images_are_not_kept(cached):
    model, calls = cached
    model.features(model.train.x / 127.5 - 1)
    assert not model.cache_folder.exists()
    assert calls == [30]


def no_file(path):
    path.write_bytes(b"not HDF5")


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path):
    """One byte of the features is another."""
    content = bytearray(path.read_bytes())
    with h5py.File(path) as saved:
        offset = saved["features"].id.get_chunk_info(0).byte_offset
    content[offset + 5] ^= 1
    path.write_bytes(content)


def other_shape(path):
    with h5py.File(path, "w") as saved:
        saved["features"] = np.zeros((3, FEATURES))


def other_name(path):
    with h5py.File(path, "w") as saved:
        saved["something"] = np.zeros((30, FEATURES))


def not_finite(path):
    with h5py.File(path, "r+") as saved:
        saved["features"][3, 2] = np.nan


@pytest.mark.parametrize(
    "damage", [no_file, empty, cut, flipped, other_shape, other_name, not_finite]
)
def test_a_damaged_file_is_made_again(cached, damage):
    model, calls = cached
    first = model.features(model.train.x)
    (path,) = saved_in(model)
    damage(path)
    np.testing.assert_array_equal(model.features(model.train.x), first)
    np.testing.assert_array_equal(model.features(model.train.x), first)
    assert calls == [30, 30]
    assert saved_in(model) == [path]
