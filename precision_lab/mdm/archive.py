"""Read chosen members of a package file: zip (wheels), tar (source distributions, npm) and ar (Debian)."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError, IndexError)


def members(path: Path, pattern: str) -> dict[str, bytes]:
    """Contents of the files of an archive whose whole name matches the regular expression, in order of name.

    Raises InputError if the archive is damaged or nothing in it matches.
    """
    wanted = re.compile(pattern)
    try:
        read = _zip if path.suffix == ".whl" else _tar
        raw = debian_data(path.read_bytes()) if path.suffix == ".deb" else path.read_bytes()
        found = dict(sorted((name, data) for name, data in read(raw, wanted)))
    except _DAMAGE as error:
        first = next(iter(str(error).splitlines()), "")  # tarfile tells the story of every compression it tried
        got = f"{path} that cannot be read ({type(error).__name__}: {first})"
        raise InputError(got, "an archive", "remove it and run the command again") from error
    if not found:
        raise InputError(f"{path.name} with no member {pattern}", "one that matches", "use the pinned version")
    return found


def _zip(raw: bytes, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for name in filter(wanted.fullmatch, archive.namelist()):
            yield name, archive.read(name)


def _tar(raw: bytes, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:*") as archive:
        for entry in archive:
            if wanted.fullmatch(entry.name) and (file := archive.extractfile(entry)):
                yield entry.name, file.read()


def debian_data(raw: bytes) -> bytes:
    """The member ``data.tar.*`` of a Debian package: an ar archive of 60-byte headers (deb(5)), data padded to even."""
    if not raw.startswith(b"!<arch>\n"):
        raise ValueError("no ar archive")
    at = 8
    while at < len(raw):
        name, size = raw[at : at + 16].strip(), int(raw[at + 48 : at + 58])
        if name.startswith(b"data.tar"):
            return raw[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("no data.tar in it")
