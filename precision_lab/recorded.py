"""Draws and logits in files, read in chunks and never unpickled: Parquet, npz, npy and safetensors."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .types import Array

SUFFIXES = (".parquet", ".npz", ".npy", ".safetensors")
VALUES = 1 << 20  # of one chunk


class Recorded:
    """One array of a file: ``shape``, and ``chunks()`` of its first axis, each time from the beginning.

    ``name``: its name in npz and safetensors, the column in Parquet (of numbers, or of lists of one length).
    Errors: InputError for a missing, empty or broken file, another suffix, no such array.
    """

    def __init__(self, path: Path, name: str) -> None:
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}", f"a file ending in {', '.join(SUFFIXES)}", "save it as one of them")
        if not path.is_file():
            raise InputError(f"no file {path}", f"{name} in {path.suffix}", "check the path")
        self.path, self.name = path, name
        with self._mended():
            self.shape: tuple[int, ...] = self._shape()
        if not self.shape or 0 in self.shape:
            raise InputError(f"{name} of shape {self.shape} in {path}", "one row or more", "record some draws")

    def chunks(self) -> Iterator[Array]:
        """(k, ...) arrays of about :data:`VALUES` numbers."""
        rows = max(1, VALUES // int(np.prod(self.shape[1:], dtype=np.int64)))
        read = {".parquet": self._parquet, ".safetensors": self._safetensors}.get(self.path.suffix, self._numpy)
        with self._mended():
            yield from read(rows)

    @contextmanager
    def _mended(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            got = f"{self.path}: {type(error).__name__}: {str(error)[:200]}"
            raise InputError(got, f"an intact {self.path.suffix} file", "restore it, or record again") from None

    def _missing(self, known: Any) -> InputError:
        return InputError(
            f"no {self.name!r} in {self.path}", f"one of {sorted(known)}"[:200], f"name it {self.name!r}"
        )

    def _shape(self) -> tuple[int, ...]:
        if self.path.suffix == ".safetensors":
            with self._open_safetensors() as file:
                if self.name not in file.keys():  # noqa: SIM118  not a dict
                    raise self._missing(file.keys())
                return tuple(file.get_slice(self.name).get_shape())
        if self.path.suffix == ".parquet":
            return self._parquet_shape()
        with self._member() as (_, shape, _dtype):
            return shape

    # -- safetensors -----------------------------------------------------------------------------------------------
    def _open_safetensors(self) -> Any:
        from safetensors import safe_open

        return safe_open(str(self.path), framework="pt")  # torch reads bfloat16, NumPy does not

    def _safetensors(self, rows: int) -> Iterator[Array]:
        with self._open_safetensors() as file:
            part = file.get_slice(self.name)
            for first in range(0, self.shape[0], rows):
                tensor = part[first : first + rows]
                yield (tensor.double() if tensor.is_floating_point() else tensor).numpy()

    # -- npz, npy --------------------------------------------------------------------------------------------------
    @contextmanager
    def _member(self) -> Iterator[tuple[Any, tuple[int, ...], np.dtype[Any]]]:
        """(file at the first number, shape, dtype); objects are refused, as they would have to be unpickled."""
        if self.path.suffix == ".npy":
            with open(self.path, "rb") as file:
                yield (file, *_header(file, self.path))
            return
        with zipfile.ZipFile(self.path) as archive:
            if f"{self.name}.npy" not in archive.namelist():
                raise self._missing(name.removesuffix(".npy") for name in archive.namelist())
            with archive.open(f"{self.name}.npy") as member:
                yield (member, *_header(member, self.path))

    def _numpy(self, rows: int) -> Iterator[Array]:
        with self._member() as (file, shape, dtype):
            width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            for first in range(0, shape[0], rows):
                count = min(rows, shape[0] - first)
                data = file.read(count * width)
                if len(data) < count * width:
                    raise InputError(
                        f"{self.path}, which ends in row {first}", f"{shape[0]} rows", "record again"
                    )
                yield np.frombuffer(data, dtype).reshape(count, *shape[1:])

    # -- Parquet ---------------------------------------------------------------------------------------------------
    def _open_parquet(self) -> Any:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            remedy = "pip install 'precision-lab[parquet]', or save npz or safetensors"
            raise InputError(f"{self.path} without pyarrow", "pyarrow installed", remedy) from None
        return parquet.ParquetFile(self.path)

    def _parquet_shape(self) -> tuple[int, ...]:
        with self._open_parquet() as file:
            if self.name not in file.schema_arrow.names:
                raise self._missing(file.schema_arrow.names)
            n = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=1, columns=[self.name]):
                return (n, *np.asarray(batch.column(0)[0].as_py()).shape)
            return (0,)

    def _parquet(self, rows: int) -> Iterator[Array]:
        with self._open_parquet() as file:
            done = 0
            for batch in file.iter_batches(batch_size=rows, columns=[self.name]):
                column = batch.column(0)
                if column.null_count:
                    raise InputError(f"a null in {self.name} of {self.path}", "numbers", "drop the row")
                if len(self.shape) == 1:
                    yield column.to_numpy(zero_copy_only=False)
                else:
                    flat = column.flatten().to_numpy(zero_copy_only=False)
                    if flat.size != len(column) * self.shape[1] or (np.diff(_lengths(column)) != 0).any():
                        got = f"lists of unequal length after row {done} of {self.path}"
                        raise InputError(got, f"{self.shape[1]} logits a row", "one vocabulary for all")
                    yield flat.reshape(len(column), self.shape[1])
                done += len(column)


def _lengths(column: Any) -> Array:
    import pyarrow.compute as compute

    return compute.list_value_length(column).to_numpy(zero_copy_only=False)


def _header(file: Any, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise InputError(
            f"Python objects in {path}", "numbers", "objects would have to be unpickled: save an array"
        )
    if fortran and len(shape) > 1:
        raise InputError(f"a column-major array in {path}", "a row-major one", "save np.ascontiguousarray(...)")
    return shape, dtype
