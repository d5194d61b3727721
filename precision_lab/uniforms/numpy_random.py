"""``numpy.random.Generator.random`` (2.4): the high 24 bits of a 32-bit word, or the high 53 of 64, as a
fraction. numpy/random/src/distributions/distributions.c, ``next_float`` and ``next_double``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..formats import FORMATS
from .grids import grid
from .source import Rng, Source


@dataclass(frozen=True)
class NumpyRandom(Source):
    """The grid k 2^-24 in float32, k 2^-53 in float64; a NumPy generator draws with its own ``random``."""

    @property
    def emulated(self) -> str | None:
        if numpy_agrees(self.bits):
            return None
        return f"numpy.random.Generator.random (2.4), which NumPy {np.__version__} here does not agree with"

    def from_words(self, words: Tensor) -> Tensor:
        return words.to(self.dtype) * 2.0**-self.bits

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.from_words(torch.randint(0, 1 << self.bits, shape, generator=rng, device=rng.device))

    def draw(self, shape: tuple[int, ...], *, rng: Rng) -> Tensor:
        if isinstance(rng, np.random.Generator):
            return torch.from_numpy(rng.random(shape, dtype=np.float32 if self.bits == 24 else np.float64))
        return super().draw(shape, rng=rng)

    def atoms(self) -> Atoms:
        return grid(self.bits, format=self.format).atoms()


@cache
def numpy_agrees(bits: int) -> bool:
    """Whether 4,096 draws of this machine's NumPy are the map (``bits`` 24 or 53) of the raw words of the
    same PCG64, which float32 takes by halves, the low one first."""
    raw = np.random.PCG64(20260713).random_raw(4096)
    rng = np.random.Generator(np.random.PCG64(20260713))
    if bits == 53:
        return np.array_equal(rng.random(4096), (raw >> np.uint64(11)) * 2.0**-53)
    halves = np.stack([raw & np.uint64(0xFFFFFFFF), raw >> np.uint64(32)], axis=1).ravel()
    return np.array_equal(rng.random(8192, dtype=np.float32), (halves >> np.uint64(8)) * 2.0**-24)


NUMPY_FP32 = NumpyRandom("numpy random float32", FORMATS["fp32"], 24)
NUMPY_FP64 = NumpyRandom("numpy random float64", FORMATS["fp64"], 53)
