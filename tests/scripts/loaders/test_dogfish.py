"""Dogs and fish: order, sources, the stand-in, and photographs that are none."""

import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from scripts.loaders import dogfish, registry
from scripts.loaders.archive import DataError
from tests.archives import packed

DOG, FISH = dogfish.CLASSES
SIDE = 20


def photograph(mode="RGB", size=(80, 70), value=0, kind="JPEG"):
    """A photograph of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, kind)
    return buffer.getvalue()


def colour(value):
    """A grey level as RGB."""
    return (value, value, value)


# Two training images and one test image of each class are wanted; there are more, in disorder.
FILES = {
    f"imagenette2-224/{part}/{folder}/{name}": photograph(value=colour(value))
    for part, folder, name, value in (
        ("train", FISH, "b.JPEG", 40),
        ("train", DOG, "c.JPEG", 30),
        ("train", FISH, "a.JPEG", 20),
        ("train", DOG, "B.JPEG", 10),
        ("train", DOG, "a.JPEG", 50),
        ("val", DOG, "a.JPEG", 60),
        ("val", FISH, "b.JPEG", 80),
        ("val", FISH, "a.JPEG", 70),
    )
} | {f"imagenette2-224/train/{DOG}/.DS_Store": b"no photograph"}


@pytest.fixture
def folder(only_folder, monkeypatch):
    """An empty data folder and no other source; two training and one test image of each class."""
    monkeypatch.setattr(dogfish, "TRAIN", 2)
    monkeypatch.setattr(dogfish, "TEST", 1)
    monkeypatch.setattr(
        dogfish, "IMAGENETTE_320", registry.RemoteArchive("320.tgz", (), "", 1, folders=())
    )
    return only_folder


@pytest.fixture
def put(folder, monkeypatch):
    """Put the small copy, with a checksum that fits, into the data folder."""

    def put(files):
        digest = registry.IMAGENETTE_224.digest(dict(sorted(files.items())))
        remote = registry.RemoteFolder("224.tar", (), digest, 10**6, member="imagenette2-224")
        monkeypatch.setattr(dogfish, "IMAGENETTE_224", remote)
        (folder / "224.tar").write_bytes(packed("tar", *files.items()))

    return put


def test_the_first_by_name_dogs_then_fish(put):
    put(FILES)
    data = dogfish.load_dogfish("real", SIDE)
    assert data.train.x.shape == (4, SIDE, SIDE, 3)
    assert data.train.x.dtype == np.uint8
    assert not data.train.x.flags.writeable
    np.testing.assert_allclose(data.train.x[:, 0, 0, 0], [10, 50, 20, 40], atol=2)
    np.testing.assert_array_equal(data.train.labels, [0, 0, 1, 1])
    np.testing.assert_allclose(data.test.x[:, 0, 0, 0], [60, 70], atol=2)
    np.testing.assert_array_equal(data.test.labels, [0, 1])
    assert data.test_names == [f"imagenette2-224/val/{name}/a.JPEG" for name in (DOG, FISH)]
    assert data.train_names[0] == f"imagenette2-224/train/{DOG}/B.JPEG"


def test_imagenette_is_said_to_be_a_substitute(put, capsys):
    put(FILES)
    data = dogfish.load_dogfish("auto", SIDE)
    assert data.provenance.data == "substitute"
    assert list(data.provenance.sha256) == ["224.tar"]
    assert "224.tar" in data.source
    assert "SUBSTITUTE" in capsys.readouterr().out


def test_the_official_archive_is_known_by_its_own_hash(folder, monkeypatch):
    other = {f"imagenette2-320/train/n03000684/{i}.JPEG": b"another class" for i in range(3)}
    files = {name.replace("224", "320"): content for name, content in FILES.items()}
    archive = packed("tar.gz", *(files | other).items())
    (folder / "320.tgz").write_bytes(archive)
    sha256 = hashlib.sha256(archive).hexdigest()
    remote = registry.RemoteArchive("320.tgz", (), sha256, 10**6, folders=dogfish.CLASSES)
    monkeypatch.setattr(dogfish, "IMAGENETTE_320", remote)
    data = dogfish.load_dogfish("real", SIDE)
    np.testing.assert_allclose(data.train.x[:, 0, 0, 0], [10, 50, 20, 40], atol=2)
    assert data.provenance == registry.Provenance("substitute", {"320.tgz": sha256})
    assert not any("n03000684" in name for name in remote.read(folder / "320.tgz"))
    (folder / "320.tgz").write_bytes(archive + b"changed")
    with pytest.raises(DataError, match=r"320\.tgz has the wrong content"):
        dogfish.load_dogfish("auto", SIDE)


def test_an_unreadable_archive_is_a_data_error(folder):
    (folder / "320.tgz").mkdir()
    with pytest.raises(DataError, match=r"320\.tgz cannot be read"):
        dogfish.load_dogfish("auto", SIDE)


def test_the_authors_arrays_come_before_imagenette(put, folder):
    put(FILES)
    (folder / dogfish.AUTHORS).write_bytes(b"damaged")
    with pytest.raises(DataError, match="is not the authors' file"):
        dogfish.load_dogfish("auto", SIDE)


def test_real_without_data_says_what_to_do(folder):
    with pytest.raises(DataError, match=r"320\.tgz is not there .* or set INFLUENCE_DATA"):
        dogfish.load_dogfish("real")


@pytest.mark.parametrize(
    ("part", "name", "needed"), [("train", DOG, 2), ("train", FISH, 2), ("val", DOG, 1)]
)
def test_too_few_images_of_a_class(put, part, name, needed):
    inside = [path for path in FILES if f"{part}/{name}/" in path and path.endswith(".JPEG")]
    put({path: FILES[path] for path in FILES if path not in inside[needed - 1 :]})
    message = f"{needed - 1} images in {part}/{name}: {needed} are needed"
    with pytest.raises(DataError, match=message):
        dogfish.load_dogfish("real", SIDE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (photograph()[:-20], "not a complete JPEG"),
        (photograph()[:100], "not a complete JPEG"),
        (b"", "not a complete JPEG"),
        (b"GIF89a of something", "not a complete JPEG"),
        (photograph(kind="PNG"), "not a complete JPEG"),
        (photograph("CMYK"), "the channels CMYK: RGB is needed"),
        (photograph(size=(63, 80)), "63×80 pixels"),
        (photograph(size=(80, 4097)), "80×4097 pixels"),
    ],
)
def test_photographs_that_are_none_are_named(put, content, message):
    wrong = f"imagenette2-224/train/{DOG}/a.JPEG"
    put(FILES | {wrong: content})
    with pytest.raises(DataError, match=message) as caught:
        dogfish.load_dogfish("auto", SIDE)
    assert str(caught.value).startswith(wrong)


def test_a_header_that_claims_a_gigapixel_takes_no_memory():
    content = bytearray(photograph())
    frame = content.index(b"\xff\xc0") + 5
    content[frame : frame + 4] = b"\xff\xdc\xff\xdc"
    with pytest.raises(DataError, match="not a complete JPEG"):
        dogfish.read_photograph(bytes(content), "large.JPEG", SIDE)


def test_grey_photographs_have_three_equal_channels():
    pixels = dogfish.read_photograph(photograph("L", value=90), "grey.JPEG", SIDE)
    assert pixels.shape == (SIDE, SIDE, 3)
    np.testing.assert_allclose(pixels, 90, atol=2)


def test_resizing_is_bilinear():
    ramp = np.broadcast_to(np.arange(0, 240, 3, np.uint8)[:, np.newaxis], (80, 80, 3))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "JPEG", quality=100, subsampling=0)
    row = dogfish.read_photograph(buffer.getvalue(), "ramp.JPEG", 160)[80, 4:-4, 0].astype(float)
    centres = (np.arange(160) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(row, 3 * centres[4:-4], atol=3)


def test_stand_in_crops_of_training_and_testing_do_not_overlap(monkeypatch):
    monkeypatch.setattr(registry, "find", lambda *_: None)
    files = dogfish.stand_in()["images"]
    assert len(files) == 160
    # A photograph whose right quarter alone is white: test crops are white, training crops black.
    image = np.zeros((427, 640, 3), np.uint8)
    image[:, 480:] = 255
    bunch = type("Bunch", (), {"filenames": dogfish._PHOTOGRAPHS, "images": [image, image]})
    monkeypatch.setattr(dogfish, "load_sample_images", bunch)
    data = dogfish.load_dogfish("stand-in", SIDE)
    assert (len(data.train), len(data.test)) == (120, 40)
    assert data.train.x.max() < 3
    assert data.test.x.min() > 252


@pytest.mark.slow
def test_stand_in_is_said_and_the_same_in_every_process(capsys):
    data = dogfish.load_dogfish("stand-in", SIDE)
    assert "STAND-IN" in capsys.readouterr().out
    assert data.provenance.data == "stand-in"
    np.testing.assert_array_equal(data.train.labels, np.repeat([0, 1], 60))
    np.testing.assert_array_equal(data.test.labels, np.repeat([0, 1], 20))
    script = (
        "import hashlib; from scripts.loaders.dogfish import load_dogfish as load;"
        f"data = load('stand-in', {SIDE}); pixels = data.train.x.tobytes() + data.test.x.tobytes();"
        "print(hashlib.sha256(pixels).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[-1]
    here = hashlib.sha256(data.train.x.tobytes() + data.test.x.tobytes()).hexdigest()
    assert there == here


@pytest.mark.parametrize("choice", ["", "Real", None])
def test_an_unknown_choice_is_refused(choice):
    with pytest.raises(ValueError, match="auto"):
        dogfish.load_dogfish(choice)


@pytest.mark.slow
@pytest.mark.realdata
def test_real_dogs_and_fish():
    if registry.find(registry.IMAGENETTE_224) is None:
        pytest.skip(f"no {registry.IMAGENETTE_224.name} in data/ or INFLUENCE_DATA")
    data = dogfish.load_dogfish("real")
    assert data.train.x.shape == (1800, 299, 299, 3)
    assert data.test.x.shape == (600, 299, 299, 3)
    np.testing.assert_array_equal(data.train.labels, np.repeat([0, 1], 900))
    assert data.test.labels[462] == 1  # the paper's test image is a fish
    assert data.test_names[462].split("/")[-3:-1] == ["val", FISH]
