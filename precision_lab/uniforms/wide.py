"""Words of 31 or 32 bits and the float32 that they round to: drawn with torch, counted by integers.

One family, :class:`WideSource`: curand, rocRAND, ``tl.rand`` and hashes. Such a map begins with word ->
float32(word), ties to even; its law is counted binade by binade (84 million values for 32 bits), and only
these go through the rest of the map, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..types import Array, Float, Int
from .source import Source, evaluated_here

_BLOCK = 1 << 18  # values at a time: arrays that stay in the processor's cache


def torch_words(shape: tuple[int, ...], bits: int, *, rng: torch.Generator) -> Tensor:
    """Uniform integers in [0, 2^bits) as int64; for 64 bits the pattern of the word, its sign bit
    included."""
    low, high = (-(1 << 63), None) if bits == 64 else (0, 1 << bits)
    return torch.empty(shape, dtype=torch.int64, device=rng.device).random_(low, high, generator=rng)


def rounded_words(bits: int, *, centred: bool = False, precision: int = 24) -> Iterator[tuple[Float, Int]]:
    """The values that the words w = 0 .. 2^bits - 1 (or w + 1/2, ``centred``) round to in a binary format of
    ``precision`` bits (at most ``bits``), ties to even, and how many words go to each: ascending, in blocks,
    by integers alone.

    In ticks of 1 (or 1/2) a word is X = w (or 2 w + 1). A value V with spacing S above it is an integer of
    ticks, and X rounds to V or below if 2 X < 2 V + S, or if they are equal and the significand of V is even.
    """
    ticks, first = (2, 1) if centred else (1, 0)
    octaves = bits + ticks - precision  # above the first 2^precision ticks; then 2^bits itself
    done = -1  # the last word counted
    for shift in range(octaves + 1):
        start = 0 if shift == 0 else 1 << (precision - 1)
        stop = 1 << precision if shift < octaves else start + 1
        for block in range(start, stop, _BLOCK):
            significand = np.arange(block, min(block + _BLOCK, stop), dtype=np.int64)
            value, spacing = significand << shift, 1 << shift
            last = (2 * value + spacing - (significand & 1) - 2 * first) >> ticks  # divided by 2 or 4, floor
            np.minimum(last, (1 << bits) - 1, out=last)
            counts = np.diff(last, prepend=done)
            done = int(last[-1])
            yield value[counts > 0] / ticks, counts[counts > 0]


def merged(values: Array, counts: Int) -> tuple[Array, Int]:
    """Sorted, the counts of equal values added up."""
    if len(values) and values[0] > values[-1]:
        values, counts = values[::-1], counts[::-1]
    if (values[1:] < values[:-1]).any():
        order = np.argsort(values, kind="stable")  # timsort: quick on what is nearly sorted
        values, counts = values[order], counts[order]
    new = np.concatenate([[True], values[1:] > values[:-1]])
    return (values, counts) if new.all() else (values[new], np.add.reduceat(counts, np.flatnonzero(new)))


def unchanged(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class WordSource(Source):
    """A source whose own generator is not to be had here: words from a torch.Generator stand in for it.

    ``whose``: the code that the map was read in, and which of its operations this machine only imitates.
    """

    whose: str = field(default="", kw_only=True, compare=False)

    @property
    def emulated(self) -> str | None:
        return evaluated_here(self.whose or self.name)

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.from_words(torch_words(shape, self.bits, rng=rng))


@dataclass(frozen=True)
class WideSource(WordSource):
    """A uniform of 31 or 32 bits that begins with float32(word): some 80 million atoms, listed an octave at a
    time."""

    centred: ClassVar[bool] = False  # whether it is float32(word + 1/2)

    @property
    def enumerable(self) -> bool:
        return True

    def finish(self, word: Tensor) -> Tensor:
        """float32(word) to the value; as it is, unless a subclass says more."""
        return word

    def from_words(self, words: Tensor) -> Tensor:
        return self.finish(words.float())

    def octaves(self) -> Iterator[tuple[Tensor, Int]]:
        """Values and how many words have them, in the order of the words; a value can be repeated."""
        for word, count in rounded_words(self.bits, centred=self.centred):
            yield self.finish(torch.from_numpy(word.astype(np.float32))), count

    def atoms(self) -> Atoms:
        return wide_law.__wrapped__(self, unchanged)  # 1.3 GB: not kept

    def push(self, function: Callable[[Tensor], Tensor]) -> Atoms:
        """The law of ``function(value)``, float32 or narrower, with no table of the values in between: up to
        80 million atoms, 1.3 GB, so only the last few are kept. The function need not be monotone."""
        return wide_law(self, function)


@lru_cache(maxsize=4)
def wide_law(source: WideSource, function: Callable[[Tensor], Tensor]) -> Atoms:
    """The law of ``function(value)``: each block by itself, joined in the order of their first values."""
    parts = []
    for block, count in source.octaves():
        value, many = merged(function(block).float().numpy() + np.float32(0.0), count)
        many = many.astype(np.uint32)
        cut = len(value) - int(np.isposinf(value[-1]))  # an infinity would hide where its block lies
        parts += [(value[part], many[part]) for part in (slice(cut), slice(cut, None)) if len(value[part])]
    parts.sort(key=lambda part: (part[0][0], part[0][-1]))
    values = np.empty(sum(len(value) for value, _ in parts))
    counts = np.empty(len(values), dtype=np.int64)
    end = 0
    for value, many in parts:  # neighbouring blocks may share a value
        shared = int(end > 0 and value[0] == values[end - 1])
        counts[end - shared : end] += many[:shared]
        start, end = end, end + len(value) - shared
        values[start:end] = value[shared:]
        counts[start:end] = many[shared:]
    del parts
    values, counts = merged(values[:end], counts[:end])
    return Atoms(np.ascontiguousarray(values), np.ascontiguousarray(counts), source.bits)
