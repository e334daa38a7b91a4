"""Where the weights of Inception come from, and what is said of them."""

import hashlib

import pytest

from scripts.loaders import inception, registry
from scripts.loaders.archive import DataError
from scripts.loaders.inception import InceptionWeights, load_inception

OFFICIAL, STAND_IN = b"official weights", b"weights that stand in"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """``inception/`` and ``INFLUENCE_DATA``, both empty, and no address."""
    monkeypatch.setattr(registry, "INCEPTION_FOLDER", tmp_path / "inception")
    monkeypatch.setenv("INFLUENCE_DATA", str(tmp_path / "shared"))
    md5, sha256 = hashlib.md5(OFFICIAL).hexdigest(), hashlib.sha256(STAND_IN).hexdigest()
    official = registry.RawFile("official.h5", (), md5, 100, algorithm="md5")
    monkeypatch.setattr(inception, "INCEPTION", official)
    stand_in = registry.RawFile("stand_in.weights.h5", (), sha256, 100)
    monkeypatch.setattr(inception, "INCEPTION_STAND_IN", stand_in)
    (tmp_path / "inception").mkdir()
    (tmp_path / "shared").mkdir()
    return tmp_path


@pytest.mark.parametrize("folder", ["inception", "shared"])
def test_the_official_weights_come_first(folders, folder, capsys):
    (folders / folder / "official.h5").write_bytes(OFFICIAL)
    (folders / "inception" / "stand_in.weights.h5").write_bytes(STAND_IN)
    checksum = f"md5:{hashlib.md5(OFFICIAL).hexdigest()}"
    expected = InceptionWeights(folders / folder / "official.h5", "official", checksum)
    assert load_inception() == expected
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("folder", ["inception", "shared"])
def test_those_that_stand_in_are_said(folders, folder, capsys, monkeypatch):
    monkeypatch.setattr(registry, "fetch", lambda *_: pytest.fail("downloaded"))
    (folders / folder / "stand_in.weights.h5").write_bytes(STAND_IN)
    weights = load_inception()
    assert weights.kind == "stand-in"
    assert weights.path == folders / folder / "stand_in.weights.h5"
    assert weights.checksum == f"sha256:{hashlib.sha256(STAND_IN).hexdigest()}"
    assert "STAND-IN WEIGHTS" in capsys.readouterr().out


def test_a_download_goes_to_the_weights_folder(folders, monkeypatch, capsys):
    def download(file, folder):
        (folder / file.name).write_bytes(OFFICIAL)
        return OFFICIAL

    monkeypatch.setattr(registry, "_download", download)
    weights = load_inception()
    assert weights.kind == "official"
    assert weights.path.read_bytes() == OFFICIAL
    assert weights.path == folders / "inception" / "official.h5"
    assert capsys.readouterr().out == ""


def test_without_any_file_the_weights_are_random_and_said(capsys):
    assert load_inception() == InceptionWeights(None, "random", None)
    printed = capsys.readouterr().out
    assert "RANDOM WEIGHTS" in printed
    assert "official.h5" in printed


def test_real_weights_are_never_random():
    with pytest.raises(DataError, match="official.h5 is not there"):
        load_inception("real")


def test_those_of_the_stand_in_are_random_whatever_lies_there(folders, capsys, monkeypatch):
    monkeypatch.setattr(registry, "fetch", lambda *_: pytest.fail("asked the network"))
    (folders / "inception" / "official.h5").write_bytes(OFFICIAL)
    assert load_inception("stand-in") == InceptionWeights(None, "random", None)
    assert "RANDOM WEIGHTS" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["official.h5", "stand_in.weights.h5"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"other", "has the wrong content"), (bytes(101), "more than 100 bytes"), (None, "be read")],
)
def test_a_wrong_file_is_an_error_and_never_random_weights(folders, name, content, message):
    path = folders / "inception" / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_inception()
    assert str(path) in str(caught.value)


def test_the_entries_are_the_published_ones():
    assert registry.INCEPTION.sha256 == "bcbd6486424b2319ff4ef7d526e38f63"
    assert registry.INCEPTION.algorithm == "md5"
    assert registry.INCEPTION.urls[0].endswith("_tf_dim_ordering_tf_kernels_notop.h5")
