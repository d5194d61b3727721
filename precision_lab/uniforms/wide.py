"""Words wider than a float32 significand: drawn with torch, and counted by the float32 that they round to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..types import Array, Float, Int
from .source import Source

_BLOCK = 1 << 18  # values at a time: arrays that stay in the processor's cache


def torch_words(shape: tuple[int, ...], bits: int, *, rng: torch.Generator) -> Tensor:
    """Uniform integers in [0, 2^bits) as int64; for 64 bits the pattern of the word, its sign bit included."""
    low, high = (-(1 << 63), None) if bits == 64 else (0, 1 << bits)
    return torch.empty(shape, dtype=torch.int64, device=rng.device).random_(low, high, generator=rng)


def rounded_words(bits: int, *, centred: bool = False, precision: int = 24) -> Iterator[tuple[Float, Int]]:
    """The values that the words w = 0 .. 2^bits - 1 (or w + 1/2, ``centred``) round to in a binary format of ``precision``
    bits (at most ``bits``), ties to even, and how many words go to each: ascending, in blocks, by integers alone.

    In ticks of 1 (or 1/2) a word is X = w (or 2 w + 1). A value V with spacing S above it is an integer of ticks, and X
    rounds to V or below if 2 X < 2 V + S, or if they are equal and the significand of V is even.
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
    if (values[1:] < values[:-1]).any():
        order = np.argsort(values, kind="stable")  # timsort: quick on what is nearly sorted, either way round
        values, counts = values[order], counts[order]
    new = np.concatenate([[True], values[1:] > values[:-1]])
    return (values, counts) if new.all() else (values[new], np.add.reduceat(counts, np.flatnonzero(new)))


def _unchanged(u: Tensor) -> Tensor:
    return u


@dataclass(frozen=True)
class WordSource(Source):
    """A source whose own generator is not to be had here: words from a torch.Generator stand in for it."""

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.from_words(torch_words(shape, self.bits, rng=rng))


@dataclass(frozen=True)
class WideSource(WordSource):
    """A float32 uniform of 31 or 32 bits: some 80 million atoms, listed an octave at a time."""

    @property
    def enumerable(self) -> bool:
        return True

    @abstractmethod
    def octaves(self) -> Iterator[tuple[Array, Int]]:
        """Float32 values and how many words have them, ascending; a value can be repeated."""

    def atoms(self) -> Atoms:
        return _law.__wrapped__(self, _unchanged)  # 1.2 GB: not kept

    def push(self, function: Callable[[Tensor], Tensor]) -> Atoms:
        """The law of ``function(u)``, float32 or narrower, with no table of u in between: 40 million atoms for a Gumbel,
        600 MB, so only the last two are kept."""
        return _law(self, function)


@lru_cache(maxsize=2)
def _law(source: WideSource, function: Callable[[Tensor], Tensor]) -> Atoms:
    parts = [merged(function(torch.from_numpy(u)).numpy() + np.float32(0.0), n) for u, n in source.octaves()]
    parts.sort(key=lambda part: part[0][0])
    values, counts = merged(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return Atoms(values.astype(np.float64), counts, source.bits)
