"""32-bit words as curand, rocRAND and torch on CUDA turn them into numbers, with exact laws of 2^32 words.

Every such map begins with word -> float32(word), ties to even. Its law is counted in integers, binade by binade
(84 million values); only these go through the rest of the map, block by block. So u is *not* fp32((x + 1/2) 2^-32): two
roundings, and above 2^-8 the counts alternate between 255 and 257 of 256. The arithmetic is a CPU's: a GPU's
``__logf`` (torch) or ``lg2.approx`` (fast math) is another logarithm, with an absolute error of up to 2^-21.4 near u = 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..formats import FORMATS
from ..types import Array, Int
from .source import DTYPES, Source

_BLOCK = 1 << 20  # values at a time


def unchanged(x: Tensor) -> Tensor:
    return x


def converted() -> Iterator[tuple[Array, Int]]:
    """Blocks of (float32(x) ascending, how many words x of [0, 2^32) have it).

    The words of m 2^k, 2^23 < m <= 2^24, are those within 2^(k-1) of it, and a tie belongs to the even m; below a power
    of two the spacing is half of that above.
    """
    offset = np.arange(_BLOCK + 1, dtype=np.int64)
    for start in range(0, 1 << 24, _BLOCK):
        yield (start + offset[:-1]).astype(np.float32), np.ones(_BLOCK, dtype=np.int64)
    for k in range(1, 9):
        for start in range(1 << 23, 1 << 24, _BLOCK):
            m = start + offset
            first = (m << k) - (1 << k >> 1) + (m & 1)
            if start == 1 << 23:
                first[0] = (m[0] << k) - (1 << k >> 2)
            yield (m[:-1] << k).astype(np.float32), np.diff(first)
    yield np.array([2.0**32], dtype=np.float32), np.array([128], dtype=np.int64)


def _merged(values: Array, counts: Int) -> tuple[Array, Int]:
    """Sorted, equal values added up. Timsort: fast on what is nearly sorted."""
    if len(values) and values[0] > values[-1]:
        values, counts = values[::-1], counts[::-1]
    if (values[1:] > values[:-1]).all():
        return values, counts
    if (values[1:] < values[:-1]).any():
        order = np.argsort(values, kind="stable")
        values, counts = values[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[first], np.add.reduceat(counts, first)


@lru_cache(maxsize=8)
def _law(source: Word32, function: Callable[[Tensor], Tensor]) -> Atoms:
    parts = []
    for word, count in converted():
        image = function(source.finish(torch.from_numpy(word))).float().numpy() + np.float32(0.0)
        value, many = _merged(image, count)
        many, cut = many.astype(np.uint32), len(value) - int(np.isposinf(value[-1]))
        parts += [(value[part], many[part]) for part in (slice(cut), slice(cut, None)) if len(value[part])]
    parts.sort(key=lambda part: (part[0][0], part[0][-1]))
    values = np.empty(sum(len(value) for value, _ in parts))
    counts = np.empty(len(values), dtype=np.int64)
    end = 0
    for value, many in parts:  # neighbouring blocks may share a value
        shared = int(end > 0 and value[0] == values[end - 1])
        counts[end - shared : end] += many[:shared]
        start, end = end, end + len(value) - shared
        values[start:end], counts[start:end] = value[shared:], many[shared:]
    del parts
    values, counts = _merged(values[:end], counts[:end])
    return Atoms(np.ascontiguousarray(values), np.ascontiguousarray(counts), 32)


@dataclass(frozen=True)
class Word32(Source):
    """A 32-bit word, converted to float32, then :meth:`finish`."""

    @property
    def enumerable(self) -> bool:
        return True

    @abstractmethod
    def finish(self, word: Tensor) -> Tensor:
        """float32(word) to the value."""

    def from_words(self, words: Tensor) -> Tensor:
        return self.finish(words.float())

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """The published map on words of torch's generator: the published generators run on GPUs only."""
        return self.from_words(torch.randint(0, 1 << 32, shape, generator=rng, device=rng.device))

    def atoms(self) -> Atoms:
        return self.push(unchanged)

    def push(self, function: Callable[[Tensor], Tensor]) -> Atoms:
        """The law of ``function(value)``, no wider than float32, without a table of the values themselves: the last
        eight laws are kept. The function need not be monotone."""
        return _law(self, function)


@dataclass(frozen=True)
class Curand(Word32):
    """``curand_uniform``: fp32(fp32(x) 2^-32 + 2^-33), in [2^-33, 1]; 1 has probability 2^-25.
    CUDA toolkit, curand_uniform.h."""

    def finish(self, word: Tensor) -> Tensor:
        return word * 2.0**-32 + 2.0**-33


@dataclass(frozen=True)
class Rocrand(Word32):
    """``hiprand_uniform`` on AMD: fp32(fp32(x) 2^-32 + 2^-32), in [2^-32, 1]. rocRAND, rocrand_uniform.h."""

    def finish(self, word: Tensor) -> Tensor:
        return word * 2.0**-32 + 2.0**-32


@dataclass(frozen=True)
class TorchCudaRand(Word32):
    """``torch.rand`` on CUDA: curand's u, cast, and a result of 1 moved to 0.
    pytorch aten/src/ATen/native/cuda/DistributionTemplates.h, ``uniform_kernel`` (2.13)."""

    def finish(self, word: Tensor) -> Tensor:
        u = CURAND.finish(word).to(self.dtype)
        return u.masked_fill(u == 1, 0)


@dataclass(frozen=True)
class TorchCudaExponential(Word32):
    """``Tensor.exponential_`` on CUDA: -log u in float32 of curand's u, 2^-24 where u >= 1 - 2^-24, then cast: E >= 2^-24.
    pytorch aten/src/ATen/core/TransformationHelper.h, ``transformation::exponential`` (2.13)."""

    def finish(self, word: Tensor) -> Tensor:
        u = CURAND.finish(word)
        return torch.where(u >= 1 - 2.0**-24, 2.0**-24, -torch.log(u)).to(self.dtype)


CURAND = Curand("curand_uniform", FORMATS["fp32"], 32)
ROCRAND = Rocrand("hiprand_uniform", FORMATS["fp32"], 32)
_LONG = {name: str(DTYPES[name]).removeprefix("torch.") for name in ("fp16", "bf16", "fp32")}
TORCH_CUDA_RAND = {name: TorchCudaRand(f"torch.rand {long} cuda", FORMATS[name], 32) for name, long in _LONG.items()}
TORCH_CUDA_EXPONENTIAL = {
    name: TorchCudaExponential(f"exponential_ {long} cuda", FORMATS[name], 32) for name, long in _LONG.items()
}
