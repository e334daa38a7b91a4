"""The authors' arrays of dogs and fish, and files that are not theirs."""

import hashlib
import io
import zipfile

import numpy as np
import pytest

from scripts.loaders import dogfish
from scripts.loaders.archive import DataError

SIDE = 20


def arrays(dtype=np.float64, **changed):
    """The authors' arrays, small: eight-bit levels in [-1, 1], classes mixed."""
    levels = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3))
    x = (levels / 255 - 0.5) * 2
    given = {
        "X_train": x[:4].astype(dtype),
        "Y_train": np.array([1.0, 0, 1, 0]),
        "X_test": x[4:].astype(dtype),
        "Y_test": np.array([1.0, 0]),
        "X_valid": x[:0],
    }
    return levels, given | changed


@pytest.fixture
def save(only_folder, monkeypatch):
    """Save arrays as the authors' file, the only source; two training images of each class."""
    monkeypatch.setattr(dogfish, "TRAIN", 2)
    monkeypatch.setattr(dogfish, "TEST", 1)
    monkeypatch.setattr(dogfish, "SIDE", SIDE)

    def save(given):
        np.savez_compressed(only_folder / dogfish.AUTHORS, **given)
        return only_folder / dogfish.AUTHORS

    return save


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_the_authors_arrays_are_the_paper_s_data(save, dtype):
    levels, given = arrays(dtype)
    path = save(given)
    data = dogfish.load_dogfish("auto", SIDE)
    assert data.provenance.data == "paper"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.provenance.sha256 == {dogfish.AUTHORS: sha256}
    np.testing.assert_array_equal(data.train.x, levels[:4])
    np.testing.assert_array_equal(data.test.x, levels[4:])
    np.testing.assert_array_equal(data.train.labels, [1, 0, 1, 0])
    assert data.test_names == ["X_test[0]", "X_test[1]"]


def test_the_authors_arrays_may_be_resized(save):
    save(arrays()[1])
    assert dogfish.load_dogfish("real", 10).train.x.shape == (4, 10, 10, 3)


def test_the_stand_in_is_not_made_of_them(save):
    save(arrays()[1])
    assert dogfish.load_dogfish("stand-in", SIDE).provenance.data == "stand-in"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X_train": np.zeros((4, SIDE, SIDE, 1))}, r"X_train is float64\[4, 20, 20, 1\]"),
        ({"X_test": np.zeros((3, SIDE, SIDE, 3))}, "X_test is"),
        ({"X_test": np.zeros((2, SIDE, SIDE, 3), complex)}, "X_test is complex"),
        ({"X_test": np.zeros((3, SIDE, SIDE, 2)).T}, "X_test is"),
        ({"X_test": np.full((2, SIDE, SIDE, 3), 255.0)}, r"X_test\[0\] has pixels outside"),
        ({"X_test": np.full((2, SIDE, SIDE, 3), np.nan)}, r"X_test\[0\] has pixels outside"),
        ({"Y_train": np.array([0, 0, 0, 1.0])}, "Y_train must be 2 zeros and 2 ones"),
        ({"Y_test": np.array([0, 2.0])}, "Y_test must be 1 zeros and 1 ones"),
        ({"Y_test": np.array(["a", "b"])}, "Y_test is"),
        ({"Y_test": np.array([0, None])}, "Y_test is object"),
    ],
)
def test_arrays_that_are_not_the_authors(save, changed, message):
    path = save(arrays(**changed)[1])
    with pytest.raises(DataError, match=message) as caught:
        dogfish.load_dogfish("auto")
    assert str(caught.value).startswith(str(path))


def without(key):
    """The arrays but for one."""
    return {name: array for name, array in arrays()[1].items() if name != key}


@pytest.mark.parametrize("key", ["X_train", "Y_train", "X_test", "Y_test"])
def test_a_missing_array_is_named(save, key):
    save(without(key))
    with pytest.raises(DataError, match=f"{key}.npy"):
        dogfish.load_dogfish("auto")


def test_damaged_arrays_are_one_clear_error(save):
    path = save(arrays()[1])
    whole = path.read_bytes()
    for content in (whole[:-50], whole[:5000], b"", whole[:900] + bytes(100) + whole[1000:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not the authors' file"):
            dogfish.load_dogfish("auto")


@pytest.mark.parametrize("extra", [-8, 8])
def test_an_array_of_another_length_than_its_header(save, extra):
    path = save(without("Y_test"))
    buffer = io.BytesIO()
    np.save(buffer, np.array([1.0, 0]))
    content = buffer.getvalue() + bytes(extra) if extra > 0 else buffer.getvalue()[:extra]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("Y_test.npy", content)
    with pytest.raises(DataError, match="is not the authors' file"):
        dogfish.load_dogfish("auto")
