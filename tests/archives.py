"""Archives of a few small files."""

import io
import tarfile
import zipfile


def packed(kind, *members):
    """A .zip, .tar or .tar.gz of (name or header, content) as bytes."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as archive:
            for name, content in members:
                header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()
