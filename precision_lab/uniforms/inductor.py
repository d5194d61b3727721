"""``torch.rand`` and ``Tensor.exponential_`` inside ``torch.compile``: inductor's own generator and logarithm
(2.13).

torch/_inductor/lowering.py ``inductor_random`` draws float32 ``tl.rand`` on GPUs and, on CPU, the same 31
bits of Philox (torch/csrc/inductor/cpp_prefix.h ``normalized_rand_cpu``, ATen/core/PhiloxRNGEngine.h
``uint32_to_uniform_float``), unless ``fallback_random`` or ``align_random_eager`` is set.
torch/_refs/__init__.py ``exponential`` takes the logarithm with Triton's ``tl_math.log``, which on an H100
(Triton 3.6) was within an ulp of the accurate one for u = 1 - k 2^-24, k <= 2^20. Compiled draws there were
of this grid: least rand 2^-31, least exponentials 2^-24, 2^-23, 3 2^-24."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..formats import FP32
from .triton import TlRand


@dataclass(frozen=True)
class CompiledExponential(TlRand):
    """-log u of ``tl.rand``'s u, 2^-24 where u >= 1 - 2^-24. u = 0, of probability 2^-31, gives +inf, which
    never wins."""

    def finish(self, word: Tensor) -> Tensor:
        u = COMPILED_RAND.finish(word)
        return torch.where(u >= 1 - 2.0**-24, 2.0**-24, -torch.log(u))


COMPILED_RAND = TlRand(
    "compiled torch.rand float32", FP32, 31, 0.0, whose="torch.rand compiled by inductor (2.13)"
)
COMPILED_EXPONENTIAL = CompiledExponential(
    "compiled exponential_ float32",
    FP32,
    31,
    0.0,
    whose="exponential_ compiled by inductor (2.13), with tl.log",
)
