"""``jax.random.uniform`` and the uniforms inside ``jax.random.gumbel`` (jax-ml/jax jax/_src/random/core.py,
0.10.2).

What XLA compiles is what counts: it folds ``(f - 1) + tiny`` of mode "low" into ``f - 1`` where that rounds
so, which moves 57 of float16's 1,024 noise values; bfloat16 and float32 are the same either way (measured).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import BF16, FP16, FP32
from .wide import WordSource


@dataclass(frozen=True)
class JaxUniform(WordSource):
    """Few enough words to visit, or an InputError."""

    @property
    def mantissa(self) -> int:
        return self.format.precision - 1

    @property
    def tiny(self) -> Tensor:
        """The smallest normal number."""
        return torch.tensor(2.0**self.format.emin, dtype=self.dtype)

    def grid(self, k: Tensor) -> Tensor:
        """k 2^-mantissa: a mantissa drawn below an exponent of 1, less 1. Exact."""
        return (k.double() * 2.0**-self.mantissa).to(self.dtype)

    def atoms(self) -> Atoms:
        if not self.enumerable:
            raise InputError(f"{self.name} with 2^{self.bits} words", "at most 2^24", "use its certified law")
        return Atoms.of(self.from_words(torch.arange(1 << self.bits)).double().numpy(), 1, self.bits)


@dataclass(frozen=True)
class JaxLow(JaxUniform):
    """Mode "low": max(tiny, k 2^-m), m = 23, 10 or 7 mantissa bits."""

    def from_words(self, words: Tensor) -> Tensor:
        return torch.maximum(self.grid(words), self.tiny)


@dataclass(frozen=True)
class JaxHigh(JaxUniform):
    """Mode "high": a high and a low uniform of m bits each. high if it is at least 1/2, else high + 2^-m low
    + tiny.

    ``tiny`` is there against log 0. It is 2^-126 in float32 and bfloat16, far below the grid of 2^-2m, so the
    word 0 has E = 2^-126 and not about 2^-2m: an atom at G = 87.3 of probability 2^-2m, in bfloat16 2^-14.
    Mended on main, July 2026."""

    def from_words(self, words: Tensor) -> Tensor:
        high, low = self.grid(words >> self.mantissa), self.grid(words & ((1 << self.mantissa) - 1))
        step = torch.tensor(2.0**-self.mantissa, dtype=self.dtype)
        return torch.where(high >= 0.5, high, high + step * low + self.tiny)


@dataclass(frozen=True)
class JaxHighest(JaxUniform):
    """Mode "highest": E, not u. A 64-bit u below 1/2, or 1 - u above, truncated to float32 with its own
    exponent (0 as 2^-65): -log1p(-x) or -log(x)."""

    def from_words(self, words: Tensor) -> Tensor:
        x = torch.where(words < 0, -words, words)  # from the nearer end; 2^63, where they meet, stays negative
        # exact: bits that double lacks are cut
        x = torch.where((x < 0) | (x >= 1 << 53), x & -2048, x).double().abs()
        x = (x.view(torch.int64) & -(1 << 29)).view(torch.float64).float() * 2.0**-64  # cut to 24 bits
        x = x.clamp(min=2.0**-65)
        return torch.where(words < 0, -torch.log(x), -torch.log1p(-x))


_XLA = "JAX 0.10.2 on CPU, with XLA's logarithms"
JAX_LOW = {
    f.name: JaxLow(f"jax.random.uniform {f.name}", f, f.precision - 1, whose=_XLA) for f in (FP16, BF16, FP32)
}
JAX_HIGH = {
    f.name: JaxHigh(f"jax.random.gumbel high {f.name}", f, 2 * f.precision - 2, whose=_XLA)
    for f in (FP16, BF16, FP32)
}
JAX_HIGHEST = JaxHighest("jax.random.gumbel highest fp32", FP32, 64, whose=_XLA)
