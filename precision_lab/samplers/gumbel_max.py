"""Gumbel-max: argmax(logits + G), G = -log(-log u). Gumbel (1954); Maddison, Tarlow, Minka (2014)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..laws.argmax import truncated_gumbel_law
from ..laws.law import Law
from ..uniforms import TORCH_CPU_FP64, TORCH_RAND
from .sampler import Stages, UniformSampler

FP32_CEILING = -math.log(-math.log1p(-(2.0**-24)))  # 16.6355, of the largest float32 u below 1
# Error budget of the float64 paths: scores below 64 in magnitude round by 2^-48 at most, and torch's logarithms err by
# a few ulp; the 53-bit grid spaces E by 2^-53.
FINE_FP64 = (2.0**-44, 2.0**-52)


def gumbel(u: Tensor) -> Tensor:
    """-log(-log u) in the dtype of u: two logarithms, each rounded."""
    return -torch.log(-torch.log(u))


def gumbel_max(format: str) -> UniformSampler:
    """Every stage in one format."""
    return UniformSampler(
        name=f"gumbel_max_{format}",
        publisher="textbook",
        source_ref="argmax(logits - log(-log(torch.rand_like(logits))))",
        stages=Stages.all(format),
        source=TORCH_RAND[format],
        noise_of=gumbel,
        combine="add",
        fine=FINE_FP64 if format == "fp64" else None,
    )


@dataclass(frozen=True)
class TruncatedGumbelMax(UniformSampler):
    """float64 Gumbel noise conditioned to lie below the float32 ceiling: u scaled by exp(-e^-M). The paper's control."""

    def row_law(self, logits: Tensor) -> Law:
        rounding = super().row_law(logits)
        law = truncated_gumbel_law(rounding.log_probs, FP32_CEILING)
        return replace(law, error=min(law.error + rounding.error, 1.0))


def _truncated(u: Tensor) -> Tensor:
    return gumbel(u * math.exp(-math.exp(-FP32_CEILING)))


GUMBEL_MAX_FP64_TRUNCATED = TruncatedGumbelMax(
    name="gumbel_max_fp64_truncated",
    publisher="control",
    source_ref="arXiv:2409.02908, section 5 (Table 2, third row)",
    stages=Stages.all("fp64"),
    source=TORCH_CPU_FP64,
    noise_of=_truncated,
    combine="add",
    fine=FINE_FP64,
)
