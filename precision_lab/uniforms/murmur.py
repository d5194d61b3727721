"""Hashed uniforms: MurmurHash3_x86_32 of (seed, position, token), as vLLM 0.33 and SGLang draw them.

The words are a pure function of their place, and everything that one position's tokens share is a state of 32
bits: in all there are 2^32 vectors of noise. Each word by itself is as good as uniform; two positions whose
states collide are equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FP32, FP64
from ..types import Array
from .wide import WideSource, WordSource


def _rotate(x: Array, r: int) -> Array:
    return (x << np.uint32(r)) | (x >> np.uint32(32 - r))


def _mix(state: Array, block: Array) -> Array:
    block = _rotate(block * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
    return _rotate(state ^ block, 13) * np.uint32(5) + np.uint32(0xE6546B64)


def _words(x: Array | int) -> tuple[Array, Array]:
    """Low and high 32 bits of 64-bit integers, negative ones in two's complement."""
    wide = np.asarray(x).astype(np.uint64)
    return (wide & np.uint64(0xFFFFFFFF)).astype(np.uint32), (wide >> np.uint64(32)).astype(np.uint32)


def murmur3_state(seed: Array | int, position: Array | int, *, domain: int = 0) -> Array:
    """The uint32 that all tokens of (seed, position) share: the hash after the seed's two words and the
    position's low one. Arrays broadcast."""
    low, high = _words(seed)
    with np.errstate(over="ignore"):
        return _mix(_mix(_mix(np.asarray(domain, dtype=np.uint32), low), high), _words(position)[0])


def murmur3_32(seed: Array | int, position: Array | int, token: Array | int, *, domain: int = 0) -> Array:
    """MurmurHash3_x86_32 of the 16 bytes (seed: 8, position: 4, token: 4), little-endian, hash seed
    ``domain``. uint32."""
    with np.errstate(over="ignore"):
        h = _mix(murmur3_state(seed, position, domain=domain), _words(token)[0]) ^ np.uint32(16)
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return h ^ (h >> np.uint32(16))


@dataclass(frozen=True)
class MurmurUniform(WideSource):
    """float32((k + 1/2) 2^-32) of a 32-bit k, correctly rounded: the sum of two exact 16-bit halves. From
    2^-33 to 1."""

    centred = True

    def from_words(self, words: Tensor) -> Tensor:
        return (words >> 16).float() * 2.0**-16 + ((words & 0xFFFF).float() + 0.5) * 2.0**-32

    def finish(self, word: Tensor) -> Tensor:
        return word * 2.0**-32


@dataclass(frozen=True)
class ClosedUniform(WordSource):
    """k / (2^32 - 1) in float64: the closed interval, 0 and 1 included with probability 2^-32 each."""

    def from_words(self, words: Tensor) -> Tensor:
        return words.double() / ((1 << self.bits) - 1)

    def atoms(self) -> Atoms:
        raise InputError(f"{self.name} with 2^{self.bits} atoms", "float32 values", "use its certified law")


def log1p_series(u: Tensor) -> Tensor:
    """log(1 - u), float32: eight terms of the series below 1/4, above it log(max(1 - u, 2^-24))."""
    series = torch.full_like(u, 1 / 8)
    for n in range(7, 0, -1):
        series = 1 / n + u * series
    return torch.where(u < 0.25, -u * series, torch.log((1.0 - u).clamp(min=2.0**-24)))


def noise_vector(seed: int, position: int, vocab: int) -> Tensor:
    """vLLM 0.33's Gumbel noise at one position, (vocab,) float32: -log(-log1p(-u)) by the series."""
    words = torch.from_numpy(murmur3_32(seed, position, np.arange(vocab)).astype(np.int64))
    return -torch.log(-log1p_series(MURMUR_32.from_words(words)))


MURMUR_32 = MurmurUniform(
    "murmur3, float32",
    FP32,
    32,
    whose="a Triton kernel of vLLM 0.33 with tl.log, its fused multiply-adds left out",
)
MURMUR_CLOSED = ClosedUniform(
    "murmur3 / (2^32 - 1), float64",
    FP64,
    32,
    whose="SGLang's float64 code for CUDA, with CUDA's double logarithm",
)
