"""MNIST: IDX files are parsed strictly, and the stand-in has the shape of the real thing."""

import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from scripts.loaders import digits, mnist
from scripts.loaders.archive import DataError
from scripts.loaders.registry import Provenance

GOOD = mnist.write_idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.fixture(scope="module")
def stand_in():
    return mnist.load_mnist("stand-in")


@pytest.fixture
def load_with(monkeypatch):
    """``load_mnist`` on a small set of contents, some of them replaced by other arrays."""

    def load_with(**arrays):
        labels = np.arange(10, dtype=np.uint8)
        images = np.zeros((10, 28, 28), np.uint8)
        files = {"train_images": images, "train_labels": labels}
        files |= {"test_images": images, "test_labels": labels} | arrays
        contents = {name: mnist.write_idx(array) for name, array in files.items()}
        provenance = Provenance("stand-in", {})
        monkeypatch.setattr(mnist, "load", lambda *args: (contents, provenance))
        return mnist.load_mnist()

    return load_with


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)))
def test_idx_round_trip(array):
    read = mnist.read_idx(mnist.write_idx(array), array.ndim, "x")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array, strict=True)


def test_idx_is_big_endian():
    assert mnist.write_idx(np.array([[7, 8, 9]], np.uint8)) == bytes(
        [0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9]
    )


def test_idx_of_a_good_file():
    assert mnist.read_idx(GOOD, 2, "x").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"\x01" + GOOD[1:], "not an IDX file", id="first-zero"),
        pytest.param(GOOD[:1] + b"\x01" + GOOD[2:], "not an IDX file", id="second-zero"),
        pytest.param(GOOD[:2] + b"\x0d" + GOOD[3:], "not an IDX file", id="floats"),
        pytest.param(GOOD[:3] + b"\x01" + GOOD[4:], "not an IDX file", id="one-axis"),
        pytest.param(GOOD[:3] + b"\x03" + GOOD[4:], "not an IDX file", id="three-axes"),
        pytest.param(b"", "too short", id="empty"),
        pytest.param(GOOD[:3], "too short", id="cut-in-the-magic"),
        pytest.param(GOOD[:11], "too short", id="cut-in-the-shape"),
        pytest.param(GOOD[:-1], r"12 bytes of data .*\[3, 4\]; it has 11", id="missing-byte"),
        pytest.param(GOOD[:12], "it has 0", id="no-data"),
        pytest.param(GOOD + b"\0", "it has 13", id="trailing-byte"),
        # 2^31 * 2^31 * 4 is 0 in 64 bits.
        pytest.param(struct.pack(">4B3I", 0, 0, 8, 3, 1 << 31, 1 << 31, 4), "bytes", id="overflow"),
    ],
)
def test_wrong_idx_files_are_refused_by_name(content, reason):
    with pytest.raises(DataError, match=reason) as caught:
        mnist.read_idx(content, 3 if len(content) == 16 else 2, "test labels")
    assert str(caught.value).startswith("test labels")


def test_the_stand_in_is_eight_bit_pixels_with_a_scale(stand_in):
    for points in (stand_in.train, stand_in.test):
        assert points.x.dtype == np.uint8
        assert points.x.shape == (len(points), 784)
        assert (points.x.min(), points.x.max()) == (0, 255)
        assert points.scale == pytest.approx(1 / 255)
        assert np.unique(points.labels).tolist() == list(range(10))
    assert stand_in.provenance.data == "stand-in"
    assert len(stand_in.provenance.sha256) == 4


@pytest.mark.parametrize(
    ("scale", "train", "test"), [("laptop", 24_000, 3_000), ("quick", 2_400, 300)]
)
def test_the_stand_in_holds_out_the_first_twelfth_as_the_real_data_do(scale, train, test):
    points, held_out = mnist.load_mnist("stand-in", scale), train // 12
    assert (len(points.train), len(points.test)) == (train - held_out, test)
    contents = mnist.stand_in(train, test)
    images = mnist.read_idx(contents["train_images"], 3, "x")
    labels = mnist.read_idx(contents["train_labels"], 1, "x")
    np.testing.assert_array_equal(points.train.x, images[held_out:].reshape(-1, 784))
    np.testing.assert_array_equal(points.train.labels, labels[held_out:])


def test_the_stand_in_is_the_same_every_time(stand_in):
    again = mnist.load_mnist("stand-in")
    np.testing.assert_array_equal(again.train.x, stand_in.train.x)
    np.testing.assert_array_equal(again.test.labels, stand_in.test.labels)
    assert again.provenance == stand_in.provenance


def test_no_two_images_of_the_stand_in_are_equal(stand_in):
    images = np.concatenate([stand_in.train.x, stand_in.test.x])
    assert len({image.tobytes() for image in images}) == len(images)


def test_the_stand_in_tests_on_digits_that_it_does_not_train_on(monkeypatch):
    # A hundred originals, each with a label of its own.
    originals = SimpleNamespace(images=np.zeros((100, 8, 8)), target=np.arange(100))
    monkeypatch.setattr(digits, "load_digits", lambda: originals)
    monkeypatch.setattr(digits, "TRAIN_ORIGINALS", 80)
    (_, train), (_, test) = digits.written_anew(170, 50)
    numbers = np.bincount(np.concatenate([train, test]), minlength=100)
    assert set(numbers) == {2, 3}  # as often as the others, to one
    assert len(set(train)) == 80
    assert len(set(test)) == 20
    assert not set(train) & set(test)


def test_the_stand_in_s_digits_lie_in_the_middle(stand_in):
    mean = stand_in.train.x.mean(axis=0).reshape(28, 28)
    assert mean[8:20, 8:20].mean() > 10 * mean[:3].mean()
    places = np.arange(28)
    for axis in (0, 1):
        assert (mean.sum(axis=axis) @ places) / mean.sum() == pytest.approx(13.5, abs=0.5)


def test_the_stand_in_s_labels_belong_to_its_images(stand_in):
    means = np.stack([stand_in.train.x[stand_in.train.labels == i].mean(0) for i in range(10)])
    distances = ((stand_in.test.x[:, np.newaxis] - means) ** 2).sum(2)
    assert (distances.argmin(1) == stand_in.test.labels).mean() > 0.75


@pytest.mark.parametrize(("negative", "positive"), [(1, 7), (7, 1)])
def test_a_pair_is_only_its_digits_labelled_in_their_order(stand_in, negative, positive):
    pair = stand_in.pair(negative, positive)
    for chosen, points in ((pair.train, stand_in.train), (pair.test, stand_in.test)):
        labels = points.labels[np.isin(points.labels, [negative, positive])]
        np.testing.assert_array_equal(chosen.labels, labels == positive)
        np.testing.assert_array_equal(
            chosen.x, points.x[np.isin(points.labels, [negative, positive])]
        )
        assert chosen.scale == points.scale
    assert pair.provenance == stand_in.provenance


def test_small_contents_are_accepted(load_with):
    assert len(load_with().train) == 10


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("kind", "array", "reason"),
    [
        ("labels", np.zeros(9, np.uint8), "10 images but 9 labels"),
        ("labels", np.full(10, 10, np.uint8), "labels go up to 10"),
        ("images", np.zeros((10, 28, 27), np.uint8), "28, 27"),
        ("images", np.zeros((10, 27, 28), np.uint8), "27, 28"),
        ("images", np.zeros((10, 784), np.uint8), "images is not an IDX file"),
        ("labels", np.zeros((10, 1), np.uint8), "labels is not an IDX file"),
    ],
)
def test_contents_that_do_not_fit_are_refused(load_with, part, kind, array, reason):
    with pytest.raises(DataError, match=reason) as caught:
        load_with(**{f"{part}_{kind}": array})
    assert str(caught.value).startswith(part)


@pytest.mark.parametrize("part", ["train", "test"])
def test_files_without_images_are_refused(load_with, part):
    images, labels = np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8)
    with pytest.raises(DataError, match=part):
        load_with(**{f"{part}_images": images, f"{part}_labels": labels})


@pytest.mark.realdata
def test_the_real_images():
    real = mnist.load_mnist("real")
    assert real.train.x.shape == (55_000, 784)
    assert real.test.x.shape == (10_000, 784)
    assert real.test.labels[8] == 5
    assert real.provenance.data == "paper"
