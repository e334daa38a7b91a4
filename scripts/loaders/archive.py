"""Read members of downloaded archives into memory; nothing in an archive is ever trusted."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CHUNK = 1 << 20
_TAR_BLOCK = 512
# What tar headers and padding may add to the contents.
_OVERHEAD = 1 << 24
# What the libraries raise for damaged files; RuntimeError is zipfile's for an encrypted one.
_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    UnicodeDecodeError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class DataError(Exception):
    """A data file is missing, corrupt or hostile; the message says which and what to do."""


def read_gzip(path: Path, max_bytes: int) -> bytes:
    """The uncompressed content of a .gz file, refused above ``max_bytes``."""
    try:
        with gzip.open(path) as stream:
            return Budget(path, max_bytes).read(stream)
    except _DAMAGE as error:
        raise DataError(f"{path} is not a complete gzip file ({error}): delete it.") from None


def read_members(path: Path, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files of a .zip, .tar or .tar.gz in the archive's order.

    Raises:
        DataError: the archive is damaged, a name is absolute or leaves the folder, a member is a
            link or a device, or the contents are together larger than ``max_bytes``.
    """
    try:
        if zipfile.is_zipfile(path):
            yield from _zip_members(path, Budget(path, max_bytes))
        else:
            yield from _tar_members(path, max_bytes)
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a complete archive ({reason}): delete it.") from None


class Budget:
    """Reads streams, whatever size their headers claim, until together they are too large."""

    def __init__(self, path: Path, max_bytes: int):
        self._path, self._max_bytes, self._used = path, max_bytes, 0

    def read(self, stream) -> bytes:
        """Everything that is left in ``stream``."""
        parts = []
        while part := stream.read(_CHUNK):
            self._used += len(part)
            if self._used > self._max_bytes:
                raise DataError(
                    f"{self._path} unpacks to more than the expected {self._max_bytes:,} bytes: "
                    f"delete it."
                )
            parts.append(part)
        return b"".join(parts)


def _zip_members(path, budget):
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_name(path, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if not member.is_dir():
                with archive.open(member) as stream:
                    yield member.filename, budget.read(stream)


def _tar_members(path, max_bytes):
    budget = Budget(path, max_bytes)
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if compressed else open(path, "rb") as stream:
        bounded = _Bounded(stream, max_bytes + _OVERHEAD, path)
        # "r|": one pass, so that headers, too, are read only as far as the bound allows.
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                _check_name(path, member.name, member.isfile() or member.isdir())
                if member.isfile():
                    yield member.name, budget.read(archive.extractfile(member))
            _check_tar_end(archive)
        # The checksum of a compressed stream comes after its last byte.
        while bounded.read(_CHUNK):
            pass


def _check_tar_end(archive):
    """tarfile takes a damaged or missing header for the end; the end is two blocks of zeros, of
    which it has read one."""
    if archive.fileobj.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
        raise tarfile.ReadError("it ends in the middle")


class _Bounded:
    """A stream that refuses to give more than a number of bytes."""

    def __init__(self, stream, limit: int, path: Path):
        self._stream, self._left, self._path = stream, limit, path

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(f"{self._path} unpacks to far more than expected: delete it.")
        return content


def _check_name(path, name, plain):
    posix = name.replace("\\", "/")
    drive = ":" in posix.split("/")[0]
    if drive or posix.startswith("/") or ".." in PurePosixPath(posix).parts:
        raise DataError(f"{path} has a member that leaves its folder, {name!r}: delete it.")
    if not plain:
        raise DataError(f"{path} has a member that is a link or a device, {name!r}: delete it.")
