"""Noise maps: u (or E) to the noise that enters the score, in the dtype of the input, each operation
rounded by torch.

Gumbel noise G is added to logits; exponential noise E = e^-G divides probabilities. Each is written as its
publisher does.

| map | formula |
|---|---|
| gumbel | -log(-log u) |
| truncated_gumbel | gumbel of u exp(-e^-M) |
| exponential | -log u |
| unchanged | E |
| negative_log | -log E |
| guarded_exponential | 1e-10 - log(u + 1e-10) |
| flipped | -log(-log1p(-u)) |
| flipped_series | the same, log1p by its series |
| distributions_gumbel | -log(-log(tiny + u (1 - eps))) |
| tensorflow_gumbel | -log(-log(u + 2e-30)) |
| candle_gumbel | -log(-log(u (0.999 - 1e-7) + 1e-7)) |
| flashinfer_gumbel | -ln2 log2(-log2(u (1 - 2^-23))) |
| open_above_gumbel | -log(-log u), +inf at u = 1 |
| clamped_gumbel | -log(-min(log u, -2^-32)) |
| aiter_exponential | 1e-10 - log u, +inf at the top |
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..uniforms.murmur import log1p_series

FP32_CEILING = -math.log(-math.log1p(-(2.0**-24)))  # 16.6355, of the largest float32 u below 1

_TINY = torch.finfo(torch.float32).tiny
_SPAN = 1 - torch.finfo(torch.float32).eps
_LOWEST_DOUBLE = torch.finfo(torch.float64).min
_LN2 = 0.6931471806  # as FlashInfer has it
_CANDLE_LOW = float(np.float32(1e-7))
_CANDLE_SCALE = float(np.float32(0.999) - np.float32(1e-7))


def gumbel(u: Tensor) -> Tensor:
    """-log(-log u): two logarithms, each rounded. +inf at u = 1, -inf at u = 0."""
    return torch.log(u).neg_().log_().neg_()


def truncated_gumbel(u: Tensor) -> Tensor:
    """-log(-log v), v = u exp(-e^-M), M = :data:`FP32_CEILING`: Gumbel noise conditioned to lie below M."""
    return gumbel(u * math.exp(-math.exp(-FP32_CEILING)))


def exponential(u: Tensor) -> Tensor:
    """-log u."""
    return torch.log(u).neg_()


def unchanged(e: Tensor) -> Tensor:
    """E itself, where the source returns exponentials."""
    return e


def negative_log(e: Tensor) -> Tensor:
    """-log E, Gumbel noise, where the source returns exponentials."""
    return torch.log(e).neg_()


def guarded_exponential(u: Tensor) -> Tensor:
    """1e-10 - log(u + 1e-10): the guard lifts the smallest exponential, so it lowers the ceiling. SEDD and
    its heirs."""
    return 1e-10 - torch.log(u + 1e-10)


def flipped(u: Tensor) -> Tensor:
    """-log(-log1p(-u)): the winners lie at u = 0, where floats are dense. JAX, vLLM."""
    return torch.neg(u).log1p_().neg_().log_().neg_()


def flipped_series(u: Tensor) -> Tensor:
    """-log(-log1p(-u)), log1p by eight terms of its series below 1/4. vLLM."""
    return -torch.log(-log1p_series(u))


def distributions_gumbel(u: Tensor) -> Tensor:
    """-log(-log(tiny + u (1 - eps))), eps = 2^-23: the largest argument of log is 1 - 3 2^-24, the smallest
    is tiny.
    ``torch.distributions.Gumbel``."""
    return gumbel(_TINY + u * _SPAN)


def tensorflow_gumbel(u: Tensor) -> Tensor:
    """-log(-log(u + 2e-30)): the guard acts on u = 0 only."""
    return gumbel(u + 2e-30)


def candle_gumbel(u: Tensor) -> Tensor:
    """-log(-log v), v = u (0.999 - 1e-7) + 1e-7: v < 0.999."""
    return gumbel(u * _CANDLE_SCALE + _CANDLE_LOW)


def flashinfer_gumbel(u: Tensor) -> Tensor:
    """-ln2 log2(-log2 v), v = u (1 - 2^-23): finite for every u in (0, 1]. It is -log(-log v) + log(log 2):
    a Gumbel value less 0.3665, which no argmax sees. The kernel is built with fast math."""
    return -_LN2 * torch.log2(-torch.log2(u * (1 - 2.0**-23)))


def open_above_gumbel(u: Tensor) -> Tensor:
    """-log(-log u) in float64: +inf at u = 1. SGLang."""
    return -torch.log(-torch.log(u).clamp(min=_LOWEST_DOUBLE))


def clamped_gumbel(u: Tensor) -> Tensor:
    """-log(-min(log u, -2^-32)) in float64. SGLang."""
    return -torch.log(-torch.log(u).clamp(min=_LOWEST_DOUBLE, max=-(2.0**-32)))


def aiter_exponential(u: Tensor) -> Tensor:
    """-log u + 1e-10, and +inf for u >= 1 - 2^-24, where the kernel's E is -2^-24: a score of 0 in place of
    a negative one, the same loser unless every other score is 0 too."""
    return torch.where(u >= 1 - 2.0**-24, math.inf, -torch.log(u) + 1e-10)
