"""Arrays in files, read in chunks and never unpickled: safetensors, npz, npy, Parquet, JSON and JSON Lines.

One reader for every command that takes logits or tokens from a file. Headers are checked before anything is
read, and no more is held than a chunk; JSON is held whole and may have :data:`JSON_BYTES`.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .types import Array

SUFFIXES = (".safetensors", ".npz", ".npy", ".parquet", ".json", ".jsonl")
VALUES = 1 << 20  # of one chunk
WIDEST = 1 << 24  # numbers in a row: a vocabulary
LONGEST = 1 << 34  # rows
JSON_BYTES = 1 << 28
HEADER_BYTES = 1 << 26  # of safetensors
ALIASES = {"tokens": ("tokens", "token", "token_ids", "input_ids", "ids")}  # in order of preference
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}  # of safetensors; BF16 is widened to float32, which holds every value of it
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle")


@dataclass(frozen=True)
class _Held:
    """One array of a file: where its first number is, and what its numbers are."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int = 0
    bfloat: bool = False


class Recorded:
    """One array of a file: ``shape``, ``dtype``, and ``chunks()`` of its first axis, each time from the
    beginning.

    ``name``: of the array; where the file holds no such array but one only, that one. In Parquet the column
    (of numbers, or of lists of one length), in JSON the key of every object; JSON of bare numbers or lists
    has no names. Errors: InputError for a missing, empty or broken file, another suffix, no such array,
    rows of more than
    :data:`WIDEST` numbers; of pickles with the lines that convert them.
    """

    def __init__(self, path: Path | str, name: str) -> None:
        path = Path(path)
        if path.suffix.lower() in PICKLES:
            raise _pickled(path, name)
        if path.is_dir():
            raise InputError(f"no file {path}, which is a folder", f"a file of {name}", "name the file in it")
        if path.suffix not in SUFFIXES:
            remedy = (
                f"unpack it first: gunzip {path.name}" if path.suffix == ".gz" else "save it as one of them"
            )
            raise InputError(f"{path}", f"a file ending in {', '.join(SUFFIXES)}", remedy)
        if not path.is_file():
            raise InputError(f"no file {path}", f"{name} in {path.suffix}", "check the path")
        self.path, self.name = path, name
        self._held: _Held | None = None
        self._values: Array | None = None
        with self._mended():
            self.shape, self.dtype = self._look()
        if any(length < 0 for length in self.shape):
            raise InputError(f"{name} of shape {self.shape} in {path}", "lengths of 0 or more", "record again")
        if not self.shape or 0 in self.shape:
            raise InputError(f"{name} of shape {self.shape} in {path}", "one row or more", "record some draws")
        if self.shape[0] > LONGEST or math.prod(self.shape[1:]) > WIDEST:
            got = f"{name} of shape {self.shape} in {path}"
            raise InputError(
                got, f"at most {WIDEST:,} numbers a row", "check the header: no vocabulary is so large"
            )

    def chunks(self, first: int = 0) -> Iterator[Array]:
        """(k, ...) arrays of about :data:`VALUES` numbers, from row ``first`` on."""
        rows = max(1, VALUES // math.prod(self.shape[1:]))
        suffix = self.path.suffix
        with self._mended():
            if self._values is not None:
                for start in range(first, self.shape[0], rows):
                    yield self._values[start : start + rows]
            elif suffix == ".safetensors":
                yield from self._safetensors(first, rows)
            elif suffix == ".parquet":
                yield from _from(first, self._parquet(rows))
            else:
                yield from self._numpy(first, rows)

    def row(self, index: int) -> Array:
        """Row ``index`` alone; of a file that holds one row, (vocab,), row 0 is that."""
        rows = self.shape[0] if len(self.shape) > 1 else 1
        if not 0 <= index < rows:
            raise InputError(f"row {index} of {self.path}", f"0..{rows - 1}", "choose another row")
        if len(self.shape) == 1:
            return self.whole()
        return np.asarray(next(self.chunks(index))[0])

    def whole(self, most: int = 1 << 28) -> Array:
        """Everything. InputError for more than ``most`` numbers."""
        if math.prod(self.shape) > most:
            got = f"{self.name} of shape {self.shape} in {self.path}"
            raise InputError(got, f"at most {most:,} numbers", "split the file")
        return np.concatenate(list(self.chunks()))

    @contextmanager
    def _mended(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            got = f"{self.path}: {type(error).__name__}: {str(error)[:200]}"
            kind = (
                "a safetensors file"
                if self.path.suffix == ".safetensors"
                else f"an intact {self.path.suffix} file"
            )
            raise InputError(got, kind, "restore it, or record again") from None

    def _choose(self, held: Iterable[str]) -> str:
        names = sorted(held)
        for name in ALIASES.get(self.name, (self.name,)):
            if name in names:
                return name
        if len(names) == 1:
            return names[0]
        listed = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
        raise InputError(
            f"no array {self.name!r} in {self.path}, which holds {listed or 'nothing'}",
            f"one named {self.name!r}, or a file of one array",
            f"save it under the name {self.name!r}",
        )

    def _look(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        suffix = self.path.suffix
        if suffix in (".json", ".jsonl"):
            self._values = self._json()
            return self._values.shape, self._values.dtype
        if suffix == ".parquet":
            return self._parquet_shape()
        if suffix == ".safetensors":
            self._held = self._safetensors_header()
        else:
            with self._member() as (_, held):
                self._held = held
        return self._held.shape, np.dtype(np.float32) if self._held.bfloat else self._held.dtype

    # -- safetensors ------------------------------------------------------------------------------
    def _safetensors_header(self) -> _Held:
        """8 bytes, the length of a JSON object; name -> dtype, shape and the place of its bytes after the
        object."""
        size = os.path.getsize(self.path)
        with open(self.path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, HEADER_BYTES):
                raise ValueError(f"a header of {length} bytes in {size}")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("no header of names")
        self.name = self._choose(name for name in header if name != "__metadata__")
        entry = header[self.name]
        kind = entry["dtype"]
        shape = tuple(entry["shape"])
        (begin, end) = entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"{self.name} of shape {shape} at {begin} to {end}")
        if kind != "BF16" and kind not in DTYPES:
            got = f"{self.name} of dtype {kind} in {self.path}"
            raise InputError(got, f"BF16 or one of {', '.join(DTYPES)}", "widen it first: tensor.float()")
        dtype = np.dtype("<u2" if kind == "BF16" else DTYPES[kind])
        if end - begin != math.prod(shape) * dtype.itemsize or 8 + length + end > size:
            raise ValueError(f"{self.name} of {end - begin} bytes for {kind} {shape}, in a file of {size}")
        return _Held(shape, dtype, 8 + length + begin, kind == "BF16")

    def _safetensors(self, first: int, rows: int) -> Iterator[Array]:
        assert self._held is not None
        held = self._held
        width = math.prod(held.shape[1:]) * held.dtype.itemsize
        with open(self.path, "rb") as file:
            file.seek(held.offset + first * width)
            for data in self._read(file, held, first, rows):
                yield (data.astype(np.uint32) << 16).view(np.float32) if held.bfloat else data

    def _read(self, file: Any, held: _Held, first: int, rows: int) -> Iterator[Array]:
        width = math.prod(held.shape[1:]) * held.dtype.itemsize
        for start in range(first, held.shape[0], rows):
            count = min(rows, held.shape[0] - start)
            data = file.read(count * width)
            if len(data) < count * width:
                raise InputError(
                    f"{self.path}, which ends in row {start}", f"{held.shape[0]} rows", "record again"
                )
            yield np.frombuffer(data, held.dtype).reshape(count, *held.shape[1:])

    # -- npz, npy ---------------------------------------------------------------------------------
    @contextmanager
    def _member(self) -> Iterator[tuple[Any, _Held]]:
        """(file at the first number, what it holds); objects are refused, as they would have to be
        unpickled."""
        if self.path.suffix == ".npy":
            with open(self.path, "rb") as file:
                yield file, _header(file, self.path, os.path.getsize(self.path))
            return
        with zipfile.ZipFile(self.path) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            self.name = self._choose(held)
            info = archive.getinfo(f"{self.name}.npy")
            with archive.open(info) as member:
                yield member, _header(member, self.path, info.file_size)

    def _numpy(self, first: int, rows: int) -> Iterator[Array]:
        with self._member() as (file, held):
            file.seek(held.offset + first * math.prod(held.shape[1:]) * held.dtype.itemsize)
            yield from self._read(file, held, first, rows)

    # -- Parquet ----------------------------------------------------------------------------------
    def _open_parquet(self) -> Any:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            remedy = "pip install 'precision-lab[parquet]', or save npz or safetensors"
            raise InputError(f"{self.path} without pyarrow", "pyarrow installed", remedy) from None
        return parquet.ParquetFile(self.path)

    def _parquet_shape(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        with self._open_parquet() as file:
            self.name = self._choose(file.schema_arrow.names)
            n = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=1, columns=[self.name]):
                first = np.asarray(batch.column(0)[0].as_py())
                column = batch.column(0)
                inner = column.flatten() if first.ndim else column
                return (n, *first.shape), np.dtype(inner.type.to_pandas_dtype())
            return (0,), np.dtype(np.float64)

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

    # -- JSON -------------------------------------------------------------------------------------
    def _json(self) -> Array:
        """Numbers or lists of one length: bare, or in objects under the name; a line or an item each."""
        size = os.path.getsize(self.path)
        if size > JSON_BYTES:
            raise InputError(
                f"{self.path} of {size:,} bytes", f"at most {JSON_BYTES:,}", "save npz or safetensors"
            )
        text = self.path.read_text()
        if self.path.suffix == ".jsonl":
            items = [json.loads(line) for line in text.splitlines() if line.strip()]
            items = items[0] if len(items) == 1 and isinstance(items[0], list) else items
        else:
            found = json.loads(text)
            items = self._value(found, 0) if isinstance(found, dict) else found
        if not isinstance(items, list):
            raise InputError(f"{type(items).__name__} in {self.path}", "a list of numbers", "save a list")
        values = [self._value(item, i) if isinstance(item, dict) else item for i, item in enumerate(items)]
        lengths = [len(value) if isinstance(value, list) else -1 for value in values]
        for i, length in enumerate(lengths):
            if length != lengths[0]:
                got = f"item {i} of {self.path} with {_count(length)}, after items with {_count(lengths[0])}"
                raise InputError(got, "one length for all", "cut or pad the lists, or save one list of all ids")
        array = np.asarray(values) if values else np.empty(0)
        if array.dtype.kind not in "iuf":
            got = f"{self.name} that are no numbers in {self.path}"
            raise InputError(
                got, "whole numbers as ids, numbers or -Infinity as logits", "save the ids, not the text"
            )
        return array

    def _value(self, item: dict[str, Any], i: int) -> Any:
        for name in ALIASES.get(self.name, (self.name,)):
            if name in item:
                return item[name]
        if len(item) == 1:
            return next(iter(item.values()))
        keys = ", ".join(repr(key) for key in islice(item, 8))
        remedy = f"save it under the name {self.name!r}"
        raise InputError(f"item {i} of {self.path} with {keys}", f"one named {self.name!r}", remedy)


def _count(length: int) -> str:
    return "one number" if length < 0 else f"a list of {length}"


def _from(first: int, chunks: Iterator[Array]) -> Iterator[Array]:
    """The rows from ``first`` on."""
    for chunk in chunks:
        if first < len(chunk):
            yield chunk[first:]
        first = max(0, first - len(chunk))


def _pickled(path: Path, name: str) -> InputError:
    """The lines that convert a pickle, for who trusts it."""
    out = path.with_suffix(".safetensors").name
    if path.suffix.lower() in (".pkl", ".pickle"):
        out = path.with_suffix(".npz").name
        first = f"import pickle, numpy as np; x = pickle.load(open({path.name!r}, 'rb'))"
        second = f"np.savez({out!r}, **(x if isinstance(x, dict) else {{{name!r}: x}}))"
    else:
        first = f"import torch; x = torch.load({path.name!r}, weights_only=True)"
        second = (
            f"import safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in "
            f"(x if isinstance(x, dict) else {{{name!r}: x}}).items()}}, {out!r})"
        )
    remedy = f"convert it where you trust it:\n    {first}\n    {second}"
    return InputError(
        f"{path}, a pickle, which runs code when it is read", f"a {out.rpartition('.')[2]} file", remedy
    )


def _lengths(column: Any) -> Array:
    import pyarrow.compute as compute

    return compute.list_value_length(column).to_numpy(zero_copy_only=False)


def _header(file: Any, path: Path, size: int) -> _Held:
    """Of an array in NumPy's format of ``size`` bytes in all."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise InputError(
            f"Python objects in {path}", "numbers", "objects would have to be unpickled: save an array"
        )
    if fortran and len(shape) > 1:
        raise InputError(f"a column-major array in {path}", "a row-major one", "save np.ascontiguousarray(...)")
    if all(length >= 0 for length in shape) and file.tell() + math.prod(shape) * dtype.itemsize > size:
        rows = shape[0] if shape else 1
        got = f"{path}, which is cut short: {size:,} bytes for an array of shape {shape}"
        raise InputError(got, f"{rows} rows", "restore it, or record again")
    return _Held(shape, dtype, file.tell())
