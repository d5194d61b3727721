"""torch on CPU: ``torch.rand`` and ``Tensor.exponential_``, by the word map that this machine's torch is
found to take."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FORMATS
from .agreement import native_draws, word_map_here
from .source import DTYPES, Source, evaluated_here
from .word_maps import OWN_DIGITS, WordMap


@dataclass(frozen=True)
class TorchSource(Source):
    """A library call of torch. ``word_map``: the map it is taken to have; left out, the one measured here at
    first use, and an InputError where none fits. Drawing with a torch.Generator is the library's own call and
    needs no map."""

    word_map: WordMap | None = field(default=None, kw_only=True)
    op: ClassVar[str] = ""

    @property
    def word_map_used(self) -> WordMap:
        return self.word_map or word_map_here(self.op, self.dtype)

    @property
    def emulated(self) -> str | None:
        try:
            here = word_map_here(self.op, self.dtype)
        except InputError:
            return f"{self.name}, whose word map on this machine is unknown"
        if self.word_map is None or self.word_map == here:
            return None
        return evaluated_here(f"{self.name} as torch {self.word_map.read_in} has it")

    def from_words(self, words: Tensor) -> Tensor:
        return self.word_map_used.apply(words, self.dtype)

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return native_draws(self.op, self.dtype, str(rng.device), shape, rng=rng)


@dataclass(frozen=True)
class TorchRand(TorchSource):
    """``torch.rand`` on CPU: float32 is the low 24 bits of a word times 2^-24, float64 53 bits times 2^-53.
    float16 and bfloat16 are that float32 value rounded to nearest, with a result of 1 moved to 0 (2.13), or
    the low 11 or 8 bits of the word (2.11 and before): then their word of 24 bits has idle ones."""

    op = "rand"

    def atoms(self) -> Atoms:
        if not self.enumerable:
            raise InputError(f"{self.name} with 2^{self.bits} atoms", "at most 2^24", "use its certified law")
        if self.word_map_used == OWN_DIGITS:
            return _own_digits_atoms(self.format.precision)
        return _rounded_float32_atoms(self.format.name)


@cache
def _own_digits_atoms(digits: int) -> Atoms:
    return Atoms.of(np.ldexp(np.arange(1 << digits, dtype=np.float64), -digits), 1 << (24 - digits), 24)


@cache
def _rounded_float32_atoms(name: str) -> Atoms:
    """Rounding is monotone: the words of a value are those between its boundaries, the midpoints, where ties
    go to even."""
    every = torch.arange(1 << 15, dtype=torch.int16).view(DTYPES[name]).double().numpy()
    values = every[every <= 1]  # bit patterns of what is not negative, in order
    middle = (values[1:] + values[:-1]) / 2
    word = np.ldexp(middle, 24)
    first = np.where(FORMATS[name].round(middle) == values[1:], np.ceil(word), np.floor(word) + 1).astype(
        np.int64
    )
    counts = np.diff(np.concatenate([[0], first, [1 << 24]]))
    kept = counts > 0
    return Atoms.of(np.where(values == 1.0, 0.0, values)[kept], counts[kept], 24)


@dataclass(frozen=True)
class TorchExponential(TorchSource):
    """``Tensor.exponential_`` on CPU: ``-log1p(-u)`` of a 53-bit u in double, then cast. Returns E, not u."""

    op = "exponential_"

    @property
    def enumerable(self) -> bool:
        return self.format.precision <= 11

    def atoms(self) -> Atoms:
        """P(E rounds to v) from the 53-bit lattice: the count of k with -log1p(-k 2^-53) on v's side of each
        boundary.

        torch rounds the double to float32 first and that to the format, so a float32 value that lies halfway
        takes its own neighbourhood to the even side. A boundary is right to two units of 2^-53 (the rounding
        of log1p itself)."""
        if not self.enumerable:
            raise InputError(f"{self.name}, over 2^28 atoms", "float16 or bfloat16", "use its certified law")
        _ = self.word_map_used  # refuses a library that draws otherwise
        return _torch_exponential_atoms(self.format.name)


@cache
def _torch_exponential_atoms(name: str) -> Atoms:
    fmt = FORMATS[name]
    largest = float(fmt.round(np.array(53 * np.log(2.0))))  # -log1p(-(1 - 2^-53))
    top = np.frexp(largest)[1]
    # below 2^-54 every value rounds from k = 0
    smallest = np.ldexp(1.0, max(fmt.emin - fmt.precision + 1, -56))
    steps = [np.array([0.0])]
    for exponent in range(int(np.frexp(smallest)[1]), int(top) + 1):
        quantum = np.ldexp(1.0, max(exponent, fmt.emin + 1) - fmt.precision)
        steps.append(np.arange(np.ldexp(1.0, exponent - 1), np.ldexp(1.0, exponent), quantum))
    values = np.unique(np.concatenate(steps))
    values = values[values <= largest]
    # exact; as a float32 it goes to the even neighbour
    middle = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    down = fmt.round(middle) == values[:-1]
    cut = (middle.astype(np.float64) + np.nextafter(middle, np.where(down, np.inf, 0.0).astype(np.float32))) / 2
    lower = np.floor(np.ldexp(-np.expm1(-cut), 53)).astype(np.int64) + 1
    counts = np.diff(np.concatenate([[0], np.minimum(lower, 1 << 53), [1 << 53]]))
    return Atoms(values[counts > 0], counts[counts > 0], 53)


TORCH_CPU_FP16 = TorchRand("torch.rand float16", FORMATS["fp16"], 24)
TORCH_CPU_BF16 = TorchRand("torch.rand bfloat16", FORMATS["bf16"], 24)
TORCH_CPU_FP32 = TorchRand("torch.rand float32", FORMATS["fp32"], 24)
TORCH_CPU_FP64 = TorchRand("torch.rand float64", FORMATS["fp64"], 53)
TORCH_RAND = {s.format.name: s for s in (TORCH_CPU_FP16, TORCH_CPU_BF16, TORCH_CPU_FP32, TORCH_CPU_FP64)}
TORCH_EXPONENTIAL = {
    name: TorchExponential(f"exponential_ {DTYPES[name]}".replace("torch.", ""), fmt, 53)
    for name, fmt in FORMATS.items()
}
