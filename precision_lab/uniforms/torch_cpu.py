"""torch on CPU (2.13): ``torch.rand`` and ``Tensor.exponential_``, measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FORMATS
from .source import DTYPES, Source


@dataclass(frozen=True)
class TorchRand(Source):
    """``torch.rand`` on CPU (2.13): float32 is the low 24 bits of a word times 2^-24, float64 53 bits times 2^-53;
    float16 and bfloat16 are that float32 value rounded to nearest, with a result of 1 moved to 0 (measured)."""

    def from_words(self, words: Tensor) -> Tensor:
        if self.format.name == "fp64":
            return words.double() * 2.0**-53
        u = (words.float() * 2.0**-24).to(self.dtype)
        return u.masked_fill(u == 1, 0)

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=rng, dtype=self.dtype, device=rng.device)

    def atoms(self) -> Atoms:
        if not self.enumerable:
            raise InputError(f"{self.name} with 2^{self.bits} atoms", "at most 2^24", "use its certified law")
        return _torch_rand_atoms(self.format.name)


@cache
def _torch_rand_atoms(name: str) -> Atoms:
    """Rounding is monotone: the words of a value are those between its boundaries, the midpoints, where ties go to even."""
    if name == "fp32":
        return Atoms.of(np.ldexp(np.arange(1 << 24, dtype=np.float64), -24), 1, 24)
    every = torch.arange(1 << 15, dtype=torch.int16).view(DTYPES[name]).double().numpy()
    values = every[every <= 1]  # bit patterns of what is not negative, in order
    middle = (values[1:] + values[:-1]) / 2
    word = np.ldexp(middle, 24)
    first = np.where(FORMATS[name].round(middle) == values[1:], np.ceil(word), np.floor(word) + 1).astype(np.int64)
    counts = np.diff(np.concatenate([[0], first, [1 << 24]]))
    kept = counts > 0
    return Atoms.of(np.where(values == 1.0, 0.0, values)[kept], counts[kept], 24)


@dataclass(frozen=True)
class TorchExponential(Source):
    """``Tensor.exponential_`` on CPU (2.13): ``-log1p(-u)`` of a 53-bit u in double, then cast. Returns E, not u."""

    @property
    def enumerable(self) -> bool:
        return self.format.precision <= 11

    def from_words(self, words: Tensor) -> Tensor:
        return (-torch.log1p(-(words.double() * 2.0**-53))).to(self.dtype)

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=rng.device).exponential_(generator=rng)

    def atoms(self) -> Atoms:
        """P(E rounds to v) from the 53-bit lattice: the count of k with -log1p(-k 2^-53) on v's side of each boundary.

        torch rounds the double to float32 first and that to the format, so a float32 value that lies halfway takes its
        own neighbourhood to the even side. A boundary is right to two units of 2^-53 (the rounding of log1p itself).
        """
        if not self.enumerable:
            raise InputError(f"{self.name}, over 2^28 atoms", "float16 or bfloat16", "use its certified law")
        return _torch_exponential_atoms(self.format.name)


@cache
def _torch_exponential_atoms(name: str) -> Atoms:
    fmt = FORMATS[name]
    largest = float(fmt.round(np.array(53 * np.log(2.0))))  # -log1p(-(1 - 2^-53))
    top = np.frexp(largest)[1]
    smallest = np.ldexp(1.0, max(fmt.emin - fmt.precision + 1, -56))  # below 2^-54 every value rounds from k = 0
    steps = [np.array([0.0])]
    for exponent in range(int(np.frexp(smallest)[1]), int(top) + 1):
        quantum = np.ldexp(1.0, max(exponent, fmt.emin + 1) - fmt.precision)
        steps.append(np.arange(np.ldexp(1.0, exponent - 1), np.ldexp(1.0, exponent), quantum))
    values = np.unique(np.concatenate(steps))
    values = values[values <= largest]
    middle = ((values[:-1] + values[1:]) / 2).astype(np.float32)  # exact; as a float32 it goes to the even neighbour
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
