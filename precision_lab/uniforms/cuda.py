"""32-bit words as curand, rocRAND and torch on CUDA turn them into numbers, with exact laws of 2^32 words.

So u is *not* fp32((x + 1/2) 2^-32): two roundings, and above 2^-8 the counts alternate between 255 and 257 of
256. The arithmetic is a CPU's, but for the logarithm of ``exponential_``, whose table was measured on an
H100: :mod:`.fast_log`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from ..formats import FORMATS
from .agreement import draws_and_words, note
from .fast_log import LENGTH, PROVENANCE, RELATIVE_BOUND, fast_exponential
from .source import DTYPES, evaluated_here
from .wide import WideSource
from .wide import unchanged as unchanged


@dataclass(frozen=True)
class Curand(WideSource):
    """``curand_uniform``: fp32(fp32(x) 2^-32 + 2^-33), in [2^-33, 1]; 1 has probability 2^-25.
    CUDA toolkit, curand_uniform.h."""

    def finish(self, word: Tensor) -> Tensor:
        return word * 2.0**-32 + 2.0**-33


@dataclass(frozen=True)
class Rocrand(WideSource):
    """``hiprand_uniform`` on AMD: fp32(fp32(x) 2^-32 + 2^-32), in [2^-32, 1]. rocRAND, rocrand_uniform.h."""

    def finish(self, word: Tensor) -> Tensor:
        return word * 2.0**-32 + 2.0**-32


@dataclass(frozen=True)
class TorchCudaSource(WideSource):
    """A library call of torch on CUDA. Confirmed here only where a CUDA device draws so: 4,096 values against
    the map of the Philox words that it must have used."""

    op: ClassVar[str] = ""

    @property
    def emulated(self) -> str | None:
        return None if confirmed_on_cuda(self) else evaluated_here(self.whose or self.name)

    def agrees(self, native: Tensor, words: Tensor) -> bool:
        """Whether a device's draws are those that the map makes of the same words."""
        return torch.equal(native, self.from_words(words))


@cache
def confirmed_on_cuda(source: TorchCudaSource) -> bool:
    """Whether a CUDA device is at hand and draws by the map."""
    if not torch.cuda.is_available():
        return False
    agrees = source.agrees(*draws_and_words(source.op, source.dtype, "cuda"))
    if agrees:
        note(source.op, source.dtype, "cuda", source.name)
    return agrees


@dataclass(frozen=True)
class TorchCudaRand(TorchCudaSource):
    """``torch.rand`` on CUDA: curand's u, cast, and a result of 1 moved to 0.
    pytorch aten/src/ATen/native/cuda/DistributionTemplates.h, ``uniform_kernel`` (2.11 and 2.13)."""

    op = "rand"

    def finish(self, word: Tensor) -> Tensor:
        u = CURAND.finish(word).to(self.dtype)
        return u.masked_fill(u == 1, 0)


@dataclass(frozen=True)
class TorchCudaExponential(TorchCudaSource):
    """``Tensor.exponential_`` on CUDA: -__logf(u) in float32 of curand's u, 2^-24 where u >= 1 - 2^-24, then
    cast. So the guard lifts u = 1 - 2^-24, of 8.2e-9, to 2^-24; the next value, 6.8e-8, is below the 2^-23
    that is right. pytorch aten/src/ATen/core/TransformationHelper.h ``transformation::exponential``,
    ATen/NumericUtils.h ``at::log``.

    For u >= 7/8 the value is the one measured on an H100; below, it is known to :attr:`relative_bound` before
    the cast."""

    op = "exponential_"

    @property
    def relative_bound(self) -> float:
        return RELATIVE_BOUND

    def finish(self, word: Tensor) -> Tensor:
        u = CURAND.finish(word)
        return torch.where(u >= 1 - 2.0**-24, 2.0**-24, fast_exponential(u)).to(self.dtype)

    def agrees(self, native: Tensor, words: Tensor) -> bool:
        """To the last bit where the table reaches, elsewhere to the bound and half a unit of the cast."""
        expected = self.from_words(words)
        known = CURAND.from_words(words) >= 1 - LENGTH * 2.0**-24
        apart = (native.double() - expected.double()).abs()
        unit = torch.finfo(self.dtype).eps if self.dtype is not torch.float32 else 0.0
        near = apart <= (RELATIVE_BOUND + unit) * expected.double()
        return bool(near.all()) and torch.equal(native[known], expected[known])


CURAND = Curand(
    "curand_uniform", FORMATS["fp32"], 32, whose="curand_uniform, whose words are Philox's or XORWOW's"
)
ROCRAND = Rocrand("hiprand_uniform", FORMATS["fp32"], 32, whose="hiprand_uniform and a HIP kernel's logarithm")
# The same u in kernels that differ in their logarithm.
CURAND_LG2 = replace(CURAND, whose="a CUDA kernel built with -use_fast_math, whose log2f is lg2.approx")
CURAND_LOGF = replace(CURAND, whose="a CUDA kernel whose logf is CUDA's accurate one")
CURAND_UNKNOWN_LOG = replace(
    CURAND, whose="a CUDA kernel whose logarithm, logf or __logf by its build flags, nobody measured"
)
_LONG = {name: str(DTYPES[name]).removeprefix("torch.") for name in ("fp16", "bf16", "fp32")}
TORCH_CUDA_RAND = {
    name: TorchCudaRand(f"torch.rand {long} cuda", FORMATS[name], 32, whose=f"torch.rand {long} on CUDA")
    for name, long in _LONG.items()
}
TORCH_CUDA_EXPONENTIAL = {
    name: TorchCudaExponential(
        f"exponential_ {long} cuda",
        FORMATS[name],
        32,
        whose=f"exponential_ {long} on CUDA with the __logf of an {PROVENANCE} for u >= 7/8, NVIDIA's bound below, "
        "and curand's words",
    )
    for name, long in _LONG.items()
}
