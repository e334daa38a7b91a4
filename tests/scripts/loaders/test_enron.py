"""Enron1 and its words: order, split, stand-in, and files that are wrong."""

import os
import subprocess
import sys

import numpy as np
import pytest

from scripts.loaders import enron, registry
from scripts.loaders.archive import DataError
from scripts.steps.text import clean_documents, count_words
from tests.archives import packed

FILES = {
    "enron1/Summary.txt": b"two classes",
    "enron1/ham/0002.txt": b"meeting about gas",
    "enron1/ham/0010.txt": "prix en \xe9t\xe9".encode("latin-1"),
    "enron1/spam/0001.txt": b"cheap pills",
}


def archive(files) -> bytes:
    """A tar.gz of the files, in this order."""
    return packed("tar.gz", *files.items())


@pytest.fixture
def folder(only_folder, monkeypatch):
    """An empty data folder and no other source; the checksum is that of FILES."""
    digest = registry.ENRON.digest(FILES)
    remote = registry.RemoteFolder("enron1.tar.gz", (), digest, 1000, member="enron1")
    monkeypatch.setattr(enron, "ENRON", remote)
    return only_folder


def test_archive_and_folder_are_the_same(folder):
    backwards = dict(reversed(FILES.items()))
    (folder / "enron1.tar.gz").write_bytes(archive(backwards))
    archived = enron.load_enron("real")
    (folder / "enron1.tar.gz").unlink()
    for name, content in backwards.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    unpacked = enron.load_enron("real")
    assert archived.documents == unpacked.documents
    np.testing.assert_array_equal(archived.labels, unpacked.labels)
    assert archived.provenance.data == "paper"


def test_order_is_spam_then_ham_by_name_and_one_seeded_shuffle(folder):
    (folder / "enron1.tar.gz").write_bytes(archive(FILES))
    data = enron.load_enron("real")
    order = np.arange(3)
    np.random.RandomState(0).shuffle(order)
    expected = ["cheap pills", "meeting about gas", "prix en été"]
    assert data.documents == [expected[i] for i in order]
    np.testing.assert_array_equal(data.labels, np.array([1, 0, 0])[order])
    assert data.train_size == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(FILES)[:-30], "not a complete archive"),
        (b"not an archive", "not a complete archive"),
        (archive(FILES | {"enron1/ham/0002.txt": b"changed"}), "wrong content"),
        (archive(FILES | {"enron1/ham/0003.txt": b"one more"}), "wrong content"),
        (archive(FILES | {"../escaped": b"x"}), "leaves its folder"),
        (archive(FILES | {"enron1/ham/big.txt": b"x" * 2000}), "more than the expected 1,000"),
    ],
)
def test_wrong_archives_are_one_clear_error(folder, content, message):
    (folder / "enron1.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        enron.load_enron("auto")


def test_a_class_without_files_is_said(monkeypatch):
    files = {name: data for name, data in FILES.items() if "spam" not in name}
    monkeypatch.setattr(enron, "stand_in", lambda: {"enron1": files})
    with pytest.raises(DataError, match="0 spam and 2 ham"):
        enron.load_enron("stand-in")


def test_every_byte_is_a_latin_1_letter(monkeypatch):
    files = FILES | {"enron1/spam/all.txt": bytes(range(256))}
    monkeypatch.setattr(enron, "stand_in", lambda: {"enron1": files})
    assert bytes(range(256)).decode("latin-1") in enron.load_enron("stand-in").documents


@pytest.mark.slow
def test_stand_in_is_two_classes_of_english():
    data, again = enron.load_enron("stand-in"), enron.load_enron("stand-in")
    assert data.documents == again.documents
    assert data.provenance.data == "stand-in"
    assert min(data.labels.sum(), (1 - data.labels).sum()) > 300
    assert len(set(data.documents)) == len(data.documents)


@pytest.mark.slow
def test_stand_in_is_the_same_in_every_process():
    # SciPy writes random numbers and sets, in the order of their hashes, into some docstrings.
    script = (
        "import hashlib; from scripts.loaders.enron import load_enron as load;"
        "print(hashlib.sha256(repr(load('stand-in').documents).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()[-1]
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.slow
def test_words_are_alphabetic_known_and_lemmas():
    text = "The cats were running 42 qzxqzx rabbits, e-mail"
    assert clean_documents([text]) == ["cat run rabbit e mail"]


@pytest.mark.slow
def test_cleaned_documents_are_kept_by_content(tmp_path, monkeypatch):
    first = clean_documents(["two cats"], tmp_path)
    monkeypatch.setattr("scripts.steps.text.load_lookups", lambda *_: pytest.fail("computed again"))
    assert clean_documents(["two cats"], tmp_path) == first
    with pytest.raises(pytest.fail.Exception):
        clean_documents(["two dogs"], tmp_path)


def test_words_are_counted_on_train_alone():
    train, test = count_words(["spam spam"] * 5 + ["rare"], ["spam rare new"])
    assert train.shape == (6, 1)
    np.testing.assert_array_equal(train.toarray()[:, 0], [2, 2, 2, 2, 2, 0])
    np.testing.assert_array_equal(test.toarray(), [[1]])


@pytest.mark.realdata
def test_real_enron():
    data = enron.load_enron("real")
    assert len(data.documents) == 5172
    assert data.train_size == 4137
    assert data.labels.sum() == 1500
