"""What crosses the border between the judge and the sampler's process: JSON headers and plain arrays, no
pickles.

A message is 4 bytes (the header's length, big-endian), the header (a JSON object) and the bytes of its
arrays in order, little-endian, rows first. The header holds ``ticket`` (16 hexadecimal digits that the
judge draws for each request and that the answer must repeat), ``kind``, ``value``, and for each array its
dtype and shape. In ``value`` an array is ``{"array": its number}`` and a mapping is ``{"map": {...}}``; all
else is JSON. The reader knows how long a header may be and how many bytes of arrays it takes before it
reads the first of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LENGTH = 4  # bytes of the header's length
MOST_HEADER = 1 << 16  # bytes
MOST_ARRAYS = 64  # arrays of one message
MOST_DIMENSIONS = 8
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u8", "<f2", "<f4", "<f8")


class Malformed(Exception):
    """Bytes that are no message, or a longer one than was to come."""


@dataclass(frozen=True)
class Message:
    """``kind``: a method, or how a call ended.  ``value``: JSON, arrays, and lists and mappings of them."""

    kind: str
    value: Any
    ticket: str


def packed(message: Message) -> bytes:
    """The bytes of a message. TypeError for a value that has no form here, ValueError for a long header."""
    arrays: list[np.ndarray] = []
    value = _plain(message.value, arrays)
    header = {
        "ticket": message.ticket,
        "kind": message.kind,
        "value": value,
        "arrays": [[array.dtype.str, list(array.shape)] for array in arrays],
    }
    text = json.dumps(header).encode()
    if len(text) > MOST_HEADER:
        raise ValueError(f"a header of {len(text)} bytes, above {MOST_HEADER}")
    return b"".join([len(text).to_bytes(LENGTH, "big"), text, *[array.tobytes() for array in arrays]])


def unpacked(take: Callable[[int], bytes], most: int) -> Message:
    """The next message of a stream. ``take(n)`` returns the next n bytes; ``most``: bytes of all arrays
    together.

    Malformed for anything that :func:`packed` cannot have written, or more than ``most``."""
    length = int.from_bytes(take(LENGTH), "big")
    if not 2 <= length <= MOST_HEADER:
        raise Malformed(f"a header of {length} bytes")
    try:
        header = json.loads(take(length).decode())
    except (ValueError, RecursionError):
        raise Malformed("a header that is no JSON") from None
    if not isinstance(header, dict) or set(header) != {"ticket", "kind", "value", "arrays"}:
        raise Malformed("a header of other fields")
    if not isinstance(header["kind"], str) or not isinstance(header["ticket"], str):
        raise Malformed("a header of other fields")
    forms = _forms(header["arrays"], most)
    arrays = [_array(take(math.prod(shape) * dtype.itemsize), dtype, shape) for dtype, shape in forms]
    try:
        return Message(header["kind"], _filled(header["value"], arrays), header["ticket"])
    except RecursionError:
        raise Malformed("a value nested too deep") from None


def _forms(listed: Any, most: int) -> list[tuple[np.dtype, tuple[int, ...]]]:
    """Dtype and shape of each array that is to come. Malformed for more than ``most`` bytes in all."""
    if not isinstance(listed, list) or len(listed) > MOST_ARRAYS:
        raise Malformed("a list of arrays that is none")
    forms = []
    left = most
    for entry in listed:
        if not isinstance(entry, list) or len(entry) != 2:
            raise Malformed("an array without dtype and shape")
        dtype, shape = entry
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise Malformed("an array of another dtype")
        if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
            raise Malformed("an array of another shape")
        if not all(type(size) is int and 0 <= size <= most for size in shape):
            raise Malformed("an array of another shape")
        left -= math.prod(shape) * np.dtype(dtype).itemsize
        if left < 0:
            raise Malformed(f"more than {most} bytes of arrays")
        forms.append((np.dtype(dtype), tuple(shape)))
    return forms


def _array(data: bytes, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(data, dtype=dtype).reshape(shape).copy()


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """The value as JSON; its arrays are put at the end of ``arrays``."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).reshape(value.shape)
        if array.dtype.str not in DTYPES:
            raise TypeError(f"an array of {value.dtype}")
        arrays.append(array)
        return {"array": len(arrays) - 1}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(each, arrays) for each in value]
    if isinstance(value, dict):
        return {"map": {str(key): _plain(each, arrays) for key, each in value.items()}}
    raise TypeError(f"a value of type {type(value).__name__}")


def _filled(value: Any, arrays: list[np.ndarray]) -> Any:
    """The value of a header with its arrays in place."""
    if isinstance(value, list):
        return [_filled(each, arrays) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"array"}:
        number = value["array"]
        if type(number) is not int or not 0 <= number < len(arrays):
            raise Malformed("an array that is not there")
        return arrays[number]
    if set(value) == {"map"} and isinstance(value["map"], dict):
        return {key: _filled(each, arrays) for key, each in value["map"].items()}
    raise Malformed("a mapping that is none")
