"""Integer masses: m = rint(2^44 exp(x)) by a fixed sequence of IEEE operations, the same on every machine.

    x = max((l - max l) / T, -100)            in the dtype of the logits, rounded to float32
    n = rint(x / ln 2),  r = (x - n h) - n g      ln 2 = h + g, h of 12 bits, so that n h is exact (Cody and Waite)
    p = sum_k r^k / k!, k to 7, by Horner     float32: products and sums, each rounded, none fused
    m = rint(float64(p 2^(n+22)) 2^22)        exact but for the last rounding

exp is off by at most 1.3 units in the last place (every float32 from -32 to 0 was tried); m is at most
2^44, so that the sum of 2^18 of them is an integer below 2^62, whatever the order of summation.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

BITS = 44  # of the largest mass
LEAST = -100.0  # nats: exp of it is below 2^-144, and its mass 0
MOST_VOCAB = 1 << 18  # tokens whose masses sum to less than 2^63
_HALF = BITS // 2
_LOG2E = 1 / math.log(2)
_HIGH = 0.693359375  # 355 / 512
_LOW = -2.12194440e-4
_TERMS = tuple(1 / math.factorial(k) for k in range(7, 1, -1))


def masses(logits: Tensor, temperature: Tensor | float | None = None) -> Tensor:
    """(..., vocab) int64 of real logits, -inf allowed, by torch operations one by one: the oracle of the
    compiled loop, and what a GPU runs. ``temperature``: broadcast over rows, above 0.
    """
    wide = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    x = wide - wide.amax(-1, keepdim=True)
    if temperature is not None:
        x = x / torch.as_tensor(temperature, dtype=wide.dtype, device=wide.device).unsqueeze(-1)
    return torch.round(exponentials(x.clamp(min=LEAST).float()).double() * 2.0**_HALF).long()


def exponentials(x: Tensor) -> Tensor:
    """2^22 exp(x) in float32, x float32 from -100 to 0: off by at most 1.3 units in the last place."""
    n = torch.round(x * _LOG2E)
    r = (x - n * _HIGH) - n * _LOW
    p = torch.full_like(r, _TERMS[0])
    for term in (*_TERMS[1:], 1.0, 1.0):
        p = p * r + term
    scale = ((n.to(torch.int32) + (127 + _HALF)) << 23).view(torch.float32)
    return p * scale


def masses_of_weights(weights: Tensor) -> Tensor:
    """(..., vocab) int64 of weights at least 0, one above 0: rint(w 2^s), s such that the largest mass lies
    in [2^43, 2^44]. Exact but for the last rounding."""
    wide = weights.double()
    _, exponent = torch.frexp(wide.amax(-1, keepdim=True))
    return torch.round(torch.ldexp(wide, BITS - exponent)).long()


@cache
def compiled() -> Any:
    """``mass(x)`` for a float32 x <= 0, compiled: the same numbers as :func:`masses`. Returns int64.

    Rounding is by a sum with 1.5 2^52, whose spacing is 1: its last bits are the whole number, ties to even.
    A processor does that for many values at once, which it cannot with a conversion."""
    import numba

    exponential = compiled_exponential()
    least = np.float32(LEAST)
    half = float(2.0**_HALF)
    shift = 1.5 * 2.0**52
    base = np.int64(np.float64(shift).view(np.int64))

    @numba.njit(nogil=True, error_model="numpy", inline="always")
    def mass(x):
        value = np.float64(exponential(max(x, least))) * half + shift
        return np.int64(np.float64(value).view(np.int64) - base)

    return mass


@cache
def compiled_exponential() -> Any:
    """:func:`exponentials` of one float32, compiled."""
    import numba

    high = np.float32(_HIGH)
    low = np.float32(_LOW)
    log2e = np.float32(_LOG2E)
    c7, c6, c5, c4, c3, c2 = (np.float32(term) for term in _TERMS)
    one = np.float32(1)
    bias = np.int32(127 + _HALF)
    place = np.int32(23)

    @numba.njit(nogil=True, error_model="numpy", inline="always")
    def exponential(x):
        n = np.rint(x * log2e)
        r = (x - n * high) - n * low
        p = c7 * r + c6
        p = p * r + c5
        p = p * r + c4
        p = p * r + c3
        p = p * r + c2
        p = p * r + one
        p = p * r + one
        scale = np.int32((np.int32(n) + bias) << place).view(np.float32)
        return p * scale

    return exponential
