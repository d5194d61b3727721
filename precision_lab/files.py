"""Reading and writing files so that nothing is lost and nothing is executed.

Every write goes to a neighbour first and is renamed over the target, so a reader sees the old file or the new
one."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from .types import Array

JSON_BYTES = 1 << 26


def cache_dir() -> Path:
    """``$PRECISION_LAB_CACHE``, else ``~/.cache/precision_lab``."""
    return Path(os.environ.get("PRECISION_LAB_CACHE") or Path.home() / ".cache" / "precision_lab")


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


@contextmanager
def locked(folder: Path, seconds: float = 60.0) -> Iterator[None]:
    """Only one process, and one thread of it, at a time is inside for a folder, which is made if need be.

    The kernel's lock of the folder itself (flock): nothing is left behind by a process that is killed.
    Where the system or the file system has none, a file .lock that only one can make, which a killed
    process leaves. InputError after ``seconds``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    number = _locked_folder(folder, until)
    by_file = folder / ".lock"
    if number is None:
        _make_lock_file(by_file, until)
    try:
        yield
    finally:
        if number is None:
            by_file.unlink(missing_ok=True)
        else:
            os.close(number)


def _locked_folder(folder: Path, until: float) -> int | None:
    """File number of the folder, which holds its lock; None where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    number = os.open(folder, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return number
            except BlockingIOError:
                _wait_for_lock(folder, until)
            except OSError:
                os.close(number)
                return None
    except InputError:
        os.close(number)
        raise


def _make_lock_file(path: Path, until: float) -> None:
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return
        except FileExistsError:
            _wait_for_lock(path, until)


def _wait_for_lock(what: Path, until: float) -> None:
    if time.monotonic() > until:
        raise InputError(
            f"{what}, locked by another process",
            "one that lets it go",
            "end it, or remove a .lock that it left",
        )
    time.sleep(0.01)


def check_writable(folder: Path) -> None:
    """OSError now, and not after an hour of work, where no file can be made in a folder, which is made if
    need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_json(path: Path, value: Any, *, strict: bool = True) -> None:
    """Write JSON atomically. ``strict`` refuses NaN and infinity, which only Python's own reader takes."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=False, allow_nan=not strict) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; InputError if it is missing, not JSON, above 64 MiB, or nested or numbered beyond
    Python."""
    try:
        if (size := path.stat().st_size) > JSON_BYTES:
            raise InputError(f"{path} of {size:,} bytes", f"at most {JSON_BYTES:,}", "check what it is")
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"no file {path}", "a JSON file", "check the path") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: {str(error)[:200]}", "valid JSON", "restore the file from its source"
        ) from None


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


def read_npz(path: Path, *, dtypes: dict[str, tuple[str, ...]], most: int) -> dict[str, Array]:
    """The arrays of a NumPy archive, whose headers are checked before anything is read and which is never
    unpickled.

    ``dtypes``: for each array that the file must hold, the dtypes allowed, such as ``"<f8"``; ``most``: items
    at most in one. Raises InputError if the file is missing, not named .npz, cut short, or holds something
    else."""
    if path.suffix != ".npz":
        raise InputError(f"a file {path.name}", "a name that ends in .npz", "give the table that was written")
    if not path.is_file():
        raise InputError(f"no file {path}", "a table (.npz)", "check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            held = sorted(archive.namelist())
            if held != sorted(f"{name}.npy" for name in dtypes):
                raise ValueError(f"holds {', '.join(held) or 'nothing'}")
            return {name: _npz_member(archive, name, allowed, most) for name, allowed in dtypes.items()}
    except (
        ValueError,
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        expected = f"an archive of {', '.join(dtypes)}, numbers only"
        raise InputError(f"{path}: {error}", expected, "restore the file or measure it again") from None


def _npz_member(archive: zipfile.ZipFile, name: str, allowed: tuple[str, ...], most: int) -> Array:
    """One array. ValueError for another dtype, more than ``most`` items, or a length that its header does not
    give."""
    import numpy as np

    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        major = np.lib.format.read_magic(file)[0]
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        items = math.prod(shape)
        if dtype.str not in allowed or fortran:
            raise ValueError(f"{name} of dtype {dtype.str}, not {' or '.join(allowed)}")
        if not 0 <= items <= most or any(n < 0 for n in shape):
            raise ValueError(f"{name} of shape {shape}, more than {most} items")
        if info.file_size != file.tell() + items * dtype.itemsize:
            raise ValueError(f"{name} of {info.file_size} bytes for the shape {shape}")
        data = file.read(items * dtype.itemsize)
    if len(data) != items * dtype.itemsize:
        raise ValueError(f"{name} is cut short")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def write_npz(path: Path, arrays: dict[str, Array]) -> None:
    """Write a compressed NumPy archive atomically. InputError unless the name ends in .npz."""
    import numpy as np

    if path.suffix != ".npz":
        raise InputError(f"a file {path.name}", "a name that ends in .npz", "name it so")
    with atomic(path) as partial:
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]


def write_safetensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    from safetensors.torch import save_file

    with atomic(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(partial), metadata)
