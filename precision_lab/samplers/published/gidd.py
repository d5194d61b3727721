"""GIDD: a float32 cumulative sum."""

from __future__ import annotations

import torch
from torch import Tensor

from ...uniforms import TORCH_CPU_FP32
from ..inverse_cdf import InverseCDF
from ..sampler import Stages


def gidd_sums(logits: Tensor) -> Tensor:
    """cumsum(softmax) in float32, its last value replaced by 1.0001: whatever u is left goes to the last
    token. (torch on CPU accumulates in float64 and rounds each sum; on CUDA it does not.)"""
    sums = torch.cumsum(torch.softmax(logits.float(), dim=-1), dim=-1)
    sums[..., -1] = 1 + 1e-4
    return sums


GIDD_FP32 = InverseCDF(
    name="gidd_fp32",
    publisher="GIDD",
    source_ref="dvruette/gidd gidd/utils.py sample_categorical (f67acc9)",
    stages=Stages.all("fp32"),
    source=TORCH_CPU_FP32,
    sums=gidd_sums,
)

GIDD = (GIDD_FP32,)
