"""What is kept of long work is not computed again, and made again where it is damaged."""

import numpy as np
import pytest

from influence.data.files import fingerprint, kept, load_checkpoint, save_checkpoint


@pytest.fixture
def part(tmp_path):
    """Where an array is kept, and how often it was computed."""
    path, calls = tmp_path / "folder" / "part.npz", []

    def get():
        def compute():
            calls.append(1)
            return np.arange(300.0)

        return kept(path, compute)

    return path, calls, get


def test_what_is_kept_is_not_computed_again(part):
    _, calls, get = part
    for _ in range(2):
        np.testing.assert_array_equal(get(), np.arange(300.0))
    assert len(calls) == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def empty(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_array(path):
    np.savez(path, something=np.zeros(3))


@pytest.mark.parametrize("damage", [cut, empty, flipped, other_array])
def test_a_damaged_file_is_made_again(part, damage):
    path, calls, get = part
    get()
    damage(path)
    for _ in range(2):
        np.testing.assert_array_equal(get(), np.arange(300.0))
    assert len(calls) == 2
    assert list(path.parent.iterdir()) == [path]


def test_a_fingerprint_is_of_values_types_and_shapes():
    x = np.arange(6.0)
    assert fingerprint("a", x) == fingerprint("a", x.copy())
    others = [("b", x), ("a", x.astype(np.float32)), ("a", x.reshape(2, 3)), ("a", x + 1), (x, "a")]
    assert len({fingerprint(*parts) for parts in [("a", x), *others]}) == 6


def test_a_checkpoint_is_for_its_key_alone(tmp_path):
    path = tmp_path / "folder" / "checkpoint.npz"
    assert load_checkpoint(path, "a") is None
    save_checkpoint(path, "a", numbers=np.arange(3), words=["one", ""])
    saved = load_checkpoint(str(path), "a")
    assert saved.keys() == {"numbers", "words"}
    assert saved["words"].tolist() == ["one", ""]
    assert load_checkpoint(path, "b") is None
    # Without a path nothing is kept.
    save_checkpoint(None, "a", numbers=np.arange(3))
    assert load_checkpoint(None, "a") is None


@pytest.mark.parametrize("damage", [cut, empty, flipped, other_array])
def test_a_damaged_checkpoint_is_said(tmp_path, damage):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, "a", numbers=np.arange(300.0))
    damage(path)
    with pytest.warns(UserWarning, match=r"checkpoint.npz is not a readable checkpoint"):
        assert load_checkpoint(path, "a") is None
