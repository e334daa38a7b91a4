"""Data files as the experiments need them: how they are read, and how they are verified."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scripts.loaders.archive import DataError, read_gzip, read_members


@dataclass(frozen=True)
class RemoteFile:
    """A data file, as the experiments need it.

    Attributes:
        name: path inside ``data/`` or ``INFLUENCE_DATA``, and of a download.
        urls: official addresses, tried in this order.
        sha256: of the content that ``read`` gives.
        max_bytes: the largest content; anything larger is refused while it is unpacked.
        member: the file wanted from an archive; None for a file that is only compressed.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    max_bytes: int
    member: str | None = None

    def read(self, path: Path):
        """The content of the file at ``path``, not yet verified."""
        if self.member is None:
            return read_gzip(path, self.max_bytes)
        for name, content in read_members(path, self.max_bytes):
            if Path(name).name == self.member:
                return content
        raise DataError(f"{path} has no member {self.member}: delete it.")

    def digest(self, content) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(content).hexdigest()

    def verified(self, path: Path):
        """The content of the file at ``path``.

        Raises:
            DataError: it cannot be read, or is not the expected one.
        """
        content = self.read(path)
        self._check(path, self.digest(content))
        return content

    def _check(self, path: Path, found: str) -> None:
        if found != self.sha256:
            raise DataError(
                f"{path} has the wrong content (checksum {found[:12]}…, expected "
                f"{self.sha256[:12]}…): delete it or replace it."
            )

    def places(self, folder: Path) -> list[Path]:
        """Where the file may lie in a data folder."""
        return [folder / self.name]


@dataclass(frozen=True)
class RemoteFolder(RemoteFile):
    """A folder of many small files, as an archive or unpacked (``member`` names the folder)."""

    def read(self, path: Path) -> dict[str, bytes]:
        """The files by path, sorted."""
        if path.is_dir():
            inside = sorted(entry for entry in path.rglob("*") if entry.is_file())
            return {
                entry.relative_to(path.parent).as_posix(): entry.read_bytes() for entry in inside
            }
        return dict(sorted(read_members(path, self.max_bytes)))

    def digest(self, content: dict[str, bytes]) -> str:
        """SHA-256 of the lines "sha256  path" of the files, in the order of their paths."""
        lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def places(self, folder: Path) -> list[Path]:
        """The archive, else the unpacked folder."""
        return [folder / self.name, folder / self.member]


@dataclass(frozen=True)
class RemoteArchive(RemoteFolder):
    """An archive of which some folders are wanted; ``sha256`` is of the archive as it is.

    Attributes:
        folders: names of the folders, at any depth, whose files are read.
    """

    folders: tuple[str, ...] = ()

    def read(self, path: Path) -> dict[str, bytes]:
        """The files in the wanted folders by path, sorted."""
        return dict(
            sorted(
                (name, content)
                for name, content in read_members(path, self.max_bytes)
                if set(PurePosixPath(name).parts[:-1]) & set(self.folders)
            )
        )

    def verified(self, path: Path) -> dict[str, bytes]:
        """The wanted files, once the archive is known to be the expected one."""
        self._check(path, file_hash(path))
        return self.read(path)

    def places(self, folder: Path) -> list[Path]:
        """Only the archive: nothing is known about an unpacked folder."""
        return [folder / self.name]


@dataclass(frozen=True)
class RawFile(RemoteFile):
    """A file that is used as it is.

    Attributes:
        algorithm: of the hash that ``sha256`` holds, where its publisher chose another one.
    """

    algorithm: str = "sha256"

    def read(self, path: Path) -> bytes:
        """The bytes of the file."""
        try:
            with open(path, "rb") as file:
                content = file.read(self.max_bytes + 1)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from None
        if len(content) > self.max_bytes:
            raise DataError(f"{path} has more than {self.max_bytes:,} bytes: delete it.")
        return content

    def digest(self, content: bytes) -> str:
        """The hash of the bytes."""
        return hashlib.new(self.algorithm, content).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, without holding them."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
