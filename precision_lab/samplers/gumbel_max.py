"""Gumbel-max: argmax(logits + G), G = -log(-log u). Gumbel (1954); Maddison, Tarlow, Minka (2014)."""

from __future__ import annotations

from ..uniforms import TORCH_CPU_FP64, TORCH_RAND
from .noise_maps import FP32_CEILING, gumbel, truncated_gumbel
from .rules import Enumerated, Truncated, WithinBound
from .sampler import Stages, UniformSampler

# Float64: both logarithms err by a few ulp, those of G, below 37, being 2^-47; the 53-bit grid spaces E by
# 2^-53. With the rounding of a sum of at most 64, 2^-48, the relative error is 2^-44.
GUMBEL_FP64 = WithinBound(relative=2.0**-44 - 2.0**-48, spacing=2.0**-52)


def gumbel_max(format: str) -> UniformSampler:
    """argmax(logits - log(-log u)), u from ``torch.rand``, every stage in ``format``: fp16, bf16, fp32 or fp64."""
    return UniformSampler(
        name=f"gumbel_max_{format}",
        publisher="textbook",
        source_ref="argmax(logits - log(-log(torch.rand_like(logits))))",
        stages=Stages.all(format),
        source=TORCH_RAND[format],
        noise_of=gumbel,
        combine="add",
        rule=GUMBEL_FP64 if format == "fp64" else Enumerated(),
    )


# float64 Gumbel noise conditioned to lie below the float32 ceiling: the paper's control.
GUMBEL_MAX_FP64_TRUNCATED = UniformSampler(
    name="gumbel_max_fp64_truncated",
    publisher="control",
    source_ref="arXiv:2409.02908, section 5 (Table 2, third row)",
    stages=Stages.all("fp64"),
    source=TORCH_CPU_FP64,
    noise_of=truncated_gumbel,
    combine="add",
    rule=Truncated(GUMBEL_FP64, FP32_CEILING),
)

__all__ = ["FP32_CEILING", "GUMBEL_FP64", "GUMBEL_MAX_FP64_TRUNCATED", "gumbel_max"]
