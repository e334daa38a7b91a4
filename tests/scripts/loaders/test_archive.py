"""Downloaded archives: what is damaged or hostile is one DataError that names the file."""

import gzip
import random
import stat
import tarfile
import tracemalloc
import zipfile

import pytest

from scripts.loaders.archive import DataError, read_gzip, read_members
from tests.archives import packed

LIMIT = 5_000_000
# Random content is not compressed away, so a cut or a flipped byte is always inside it.
NOISE = random.Random(0).randbytes(4096)
FORMATS = ("zip", "tar", "tar.gz")


def tar_header(name, kind, target=""):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def zip_header(name, mode, method=zipfile.ZIP_DEFLATED):
    header = zipfile.ZipInfo(name)
    header.external_attr, header.compress_type = mode << 16, method
    return header


def encrypted(archive):
    """The zip with its first member marked as encrypted, in both of its headers."""
    content = bytearray(archive)
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def flipped(archive, place):
    content = bytearray(archive)
    content[place] ^= 0xFF
    return bytes(content)


def members_of(tmp_path, archive, max_bytes=LIMIT):
    (tmp_path / "photos.bin").write_bytes(archive)
    return list(read_members(tmp_path / "photos.bin", max_bytes))


def refused(tmp_path, archive, reason, max_bytes=LIMIT):
    with pytest.raises(DataError, match=reason) as caught:
        members_of(tmp_path, archive, max_bytes)
    assert str(tmp_path / "photos.bin") in str(caught.value)
    assert "delete it" in str(caught.value)
    # One error: nothing is printed "during handling of" another.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("kind", FORMATS)
def test_members_come_in_the_order_of_the_archive(tmp_path, kind):
    archive = packed(kind, ("b/z.txt", b"first"), ("b/a.txt", b""), ("c.txt", b"third" * 500_000))
    assert members_of(tmp_path, archive) == [
        ("b/z.txt", b"first"),
        ("b/a.txt", b""),
        ("c.txt", b"third" * 500_000),
    ]


@pytest.mark.parametrize("name", ["photos", "."])
def test_tar_folders_are_passed_over(tmp_path, name):
    archive = packed("tar", (tar_header(name, tarfile.DIRTYPE), b""), ("./a.txt", b"a"))
    assert members_of(tmp_path, archive) == [("./a.txt", b"a")]


def test_zip_folders_are_passed_over(tmp_path):
    archive = packed("zip", ("photos/", b""), ("photos/a..b.txt", b"a"))
    assert members_of(tmp_path, archive) == [("photos/a..b.txt", b"a")]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "..\\x", "a\\..\\..\\x", "C:\\x", "C:x", "\\x"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path, kind, name):
    refused(tmp_path, packed(kind, (name, b"x")), "leaves its folder")


def test_a_hostile_name_is_refused_after_good_members(tmp_path):
    refused(tmp_path, packed("tar", ("a", b"a"), ("../x", b"x")), "leaves its folder")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    "member", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_tar_links_and_devices_are_refused(tmp_path, kind, member):
    archive = packed(kind, ("a", b"a"), (tar_header("x", member, "a"), b""))
    refused(tmp_path, archive, "link or a device")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_zip_links_and_devices_are_refused(tmp_path, mode):
    refused(tmp_path, packed("zip", (zip_header("x", mode | 0o644), b"a")), "link or a device")


def test_zip_files_with_an_ordinary_mode_are_read(tmp_path):
    archive = packed("zip", (zip_header("x", stat.S_IFREG | 0o644), b"a"))
    assert members_of(tmp_path, archive) == [("x", b"a")]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("sizes", [[1000], [500, 500]])
def test_the_limit_is_on_all_members_together(tmp_path, kind, sizes):
    archive = packed(kind, *((f"{i}", b"\0" * size) for i, size in enumerate(sizes)))
    assert len(members_of(tmp_path, archive, max_bytes=1000)) == len(sizes)
    refused(tmp_path, archive, "unpacks to more than the expected 999 bytes", max_bytes=999)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "gzip"])
def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, kind):
    content = bytes(30 << 20)
    archive = gzip.compress(content) if kind == "gzip" else packed(kind, ("x", content))
    path = tmp_path / "bomb"
    path.write_bytes(archive)
    assert len(archive) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="bomb unpacks to more than the expected 1,000 bytes"):
            read_gzip(path, 1000) if kind == "gzip" else list(read_members(path, 1000))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("cut", [1, 300, 600, 3000, 5000])
def test_truncated_archives_are_refused(tmp_path, kind, cut):
    archive = packed(kind, ("a", NOISE), ("b", NOISE[::-1]))
    refused(tmp_path, archive[:cut], "not a complete archive")


@pytest.mark.parametrize("cut", [1024, 1100, 2048])
def test_a_tar_that_ends_between_members_or_in_a_header_is_refused(tmp_path, cut):
    archive = packed("tar", ("a", NOISE[:512]), ("b", NOISE[512:1024]))
    refused(tmp_path, archive[:cut], "not a complete archive")


def test_a_tar_with_a_damaged_later_header_is_refused(tmp_path):
    archive = packed("tar", ("a", NOISE[:512]), ("b", NOISE[512:1024]))
    refused(tmp_path, flipped(archive, 1024 + 5), "not a complete archive")


def test_a_tar_gz_with_a_damaged_byte_is_refused(tmp_path):
    archive = packed("tar.gz", ("a", NOISE * 5))
    refused(tmp_path, flipped(archive, 3000), "not a complete archive")


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip_with_a_damaged_byte_is_refused(tmp_path, method):
    archive = packed("zip", (zip_header("a", 0o644, method), b"0123456789" * 1000))
    refused(tmp_path, flipped(archive, 50), "not a complete archive")


def test_an_encrypted_zip_is_refused(tmp_path):
    refused(tmp_path, encrypted(packed("zip", ("a", NOISE))), "delete it")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>404</html>", id="html"),
        pytest.param(NOISE, id="noise"),
        pytest.param(gzip.compress(NOISE, mtime=0), id="gzip-of-no-tar"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    refused(tmp_path, content, "not a complete archive")


def test_gzip_content_up_to_the_limit(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(NOISE))
    assert read_gzip(path, len(NOISE)) == NOISE
    with pytest.raises(DataError, match=r"labels\.gz unpacks to more than the expected 4,095"):
        read_gzip(path, len(NOISE) - 1)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(NOISE, mtime=0)[:-1], id="cut-in-the-trailer"),
        pytest.param(gzip.compress(NOISE, mtime=0)[:2000], id="cut-in-the-content"),
        pytest.param(gzip.compress(NOISE, mtime=0)[:5], id="cut-in-the-header"),
        pytest.param(flipped(gzip.compress(NOISE, mtime=0), 2000), id="wrong-checksum"),
        pytest.param(gzip.compress(b"", mtime=0)[:10] + b"\x07" * 20, id="no-deflate"),
        pytest.param(b"not gzip at all", id="no-gzip"),
    ],
)
def test_truncated_or_damaged_gzip_is_refused(tmp_path, content):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a complete gzip file") as caught:
        read_gzip(path, LIMIT)
    assert str(path) in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.gz"):
        read_gzip(tmp_path / "nowhere.gz", LIMIT)
    with pytest.raises(DataError, match=r"nowhere\.zip"):
        list(read_members(tmp_path / "nowhere.zip", LIMIT))
