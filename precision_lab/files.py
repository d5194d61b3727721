"""Reading and writing files so that nothing is lost and nothing is executed.

Every write goes to a neighbour first and is renamed over the target, so a reader sees the old file or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, strict: bool = True) -> None:
    """Write JSON atomically. ``strict`` refuses NaN and infinity, which only Python's own reader takes."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=False, allow_nan=not strict) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; InputError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"no file {path}", "a JSON file", "check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", "valid JSON", "restore the file from its source") from None


def read_safetensors(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """Torch tensors of a safetensors file (never unpickled). With ``sha256`` the bytes are checked first.

    Raises InputError if the file is missing, corrupt, or not the one expected.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from .provenance import file_sha256

    if not path.is_file():
        raise InputError(f"no file {path}", "a safetensors file", "check the path")
    if sha256 is not None and (actual := file_sha256(path)) != sha256:
        raise InputError(
            f"{path} with sha256 {actual[:16]}...",
            f"{sha256[:16]}... as its manifest says",
            "restore the file, or remake both",
        )
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise InputError(f"{path}: {error}", "a safetensors file", "restore the file from its source") from None


def write_safetensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    from safetensors.torch import save_file

    with atomic(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(partial), metadata)
