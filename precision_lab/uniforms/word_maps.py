"""The maps, generator's word -> value, by which releases of torch have filled a CPU tensor.

Read in ``aten/src/ATen/core/TransformationHelper.h``, ``core/DistributionsHelper.h`` and
``native/cpu/DistributionTemplates.h`` of torch 2.11 and 2.13. Which of them this machine's torch takes is
measured: :mod:`.agreement`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DIGITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}


@dataclass(frozen=True)
class WordMap:
    """One map. ``read_in``: the releases of torch whose code says so. ``apply``: (words, dtype) -> values of
    that dtype.

    Draws agree with it if each is within ``relative`` of the map's value and at most a share of ``strays``
    differ from it."""

    name: str
    read_in: str
    apply: Callable[[Tensor, torch.dtype], Tensor]
    relative: float = 0.0
    strays: float = 0.0

    def agrees(self, native: Tensor, words: Tensor) -> bool:
        """Whether the library's own draws are those that the map makes of the same words."""
        expected = self.apply(words, native.dtype)
        close = (native.double() - expected.double()).abs() <= self.relative * expected.double().abs()
        return bool(close.all()) and float((native != expected).double().mean()) <= self.strays


def own_digits(words: Tensor, dtype: torch.dtype) -> Tensor:
    """k 2^-d, d the digits of the dtype's significand (11, 8, 24 or 53), k the low d bits of the word.
    Exact."""
    digits = DIGITS[dtype]
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    return ((words & ((1 << digits) - 1)).to(wide) * 2.0**-digits).to(dtype)


def rounded_float32(words: Tensor, dtype: torch.dtype) -> Tensor:
    """The float32 value of 24 bits, rounded to the dtype, and a result of 1 moved to 0."""
    u = own_digits(words, torch.float32).to(dtype)
    return u.masked_fill(u == 1, 0)


def double_log1p(words: Tensor, dtype: torch.dtype) -> Tensor:
    """-log1p(-u) of a 53-bit u in double, cast."""
    return (-torch.log1p(-own_digits(words, torch.float64))).to(dtype)


OWN_DIGITS = WordMap("own digits", "2.6 to 2.11 in every dtype; 2.13 in float32 and float64", own_digits)
ROUNDED_FLOAT32 = WordMap("float32 rounded, 1 moved to 0", "2.13 in float16 and bfloat16", rounded_float32)
# Two correct double logarithms differ by an ulp or two: 1 draw in 2^29 then casts otherwise to float32.
DOUBLE_LOG1P = WordMap(
    "-log1p(-u53) in double, cast", "2.11 and 2.13", double_log1p, relative=2.0**-7, strays=2.0**-10
)
DOUBLE_LOG1P_FP64 = WordMap(
    "-log1p(-u53) in double", "2.11 and 2.13", double_log1p, relative=2.0**-51, strays=1.0
)


def candidates(op: str, dtype: torch.dtype) -> tuple[WordMap, ...]:
    """The maps known for ``op`` ("rand" or "exponential_") in a dtype, the newest first."""
    if op == "rand":
        half = dtype in (torch.float16, torch.bfloat16)
        return (ROUNDED_FLOAT32, OWN_DIGITS) if half else (OWN_DIGITS,)
    return (DOUBLE_LOG1P_FP64,) if dtype is torch.float64 else (DOUBLE_LOG1P,)
