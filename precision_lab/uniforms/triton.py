"""Triton's random numbers: Philox4x32-10 and ``tl.rand`` (triton-lang/triton
python/triton/language/random.py, 3.9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FP32
from ..types import Array
from .philox import philox4x32
from .wide import WideSource, WordSource

SCALE = (
    4.6566127342e-10  # as a float32, 2^-31 (1 - 2^-24): one ulp below 2^-31, so that 2^31 scales to less than 1
)


def randint4x(seed: Array | int, offset: Array | int) -> tuple[Array, ...]:
    """``tl.randint4x(seed, offset)`` for 64-bit seeds and offsets: four uint32 arrays. ``tl.randint`` is the
    first."""
    seed, offset = np.asarray(seed).astype(np.uint64), np.asarray(offset).astype(np.uint64)
    return philox4x32((offset, offset >> np.uint64(32), 0, 0), (seed, seed >> np.uint64(32)))


def fold(word: Array) -> Array:
    """The 31 bits that ``tl.rand`` keeps of a uint32: x read as int32, ~x where it is negative. Two words to
    each value."""
    signed = np.asarray(word, dtype=np.uint32).view(np.int32)
    return np.where(signed < 0, ~signed, signed)


@dataclass(frozen=True)
class TlRand(WideSource):
    """``tl.rand``, raised to ``floor``: float32(k) * float32(SCALE) of a 31-bit k, so {0} U [2^-31 - 2^-55, 1
    - 2^-24]."""

    floor: float

    def finish(self, word: Tensor) -> Tensor:
        return (word * SCALE).clamp(min=self.floor)


@dataclass(frozen=True)
class TlRand64(WordSource):
    """max(float32(k) 2^-64, 2^-64) of a 64-bit k, two of Philox's four outputs: vLLM pull request 47524."""

    def from_words(self, words: Tensor) -> Tensor:
        return (words.view(torch.uint64).float() * 2.0**-64).clamp(min=2.0**-64)

    def atoms(self) -> Atoms:
        raise InputError(f"{self.name}, over 2^28 atoms", "at most 32 bits", "use its certified law")


_TRITON = "Triton's tl.rand (3.9) and tl.log, which on an H100 was within an ulp of the accurate logarithm"
TL_RAND = TlRand("tl.rand, 0 raised", FP32, 31, float(np.float32(SCALE)), whose=_TRITON)
TL_RAND_GUARDED = TlRand("tl.rand, at least 1e-20", FP32, 31, 1e-20, whose=_TRITON)
TL_RAND_64 = TlRand64(
    "64 bits of tl.randint4x", FP32, 64, whose="Triton's tl.randint4x (3.9) and its logarithms"
)
