"""Masked diffusion language models: how their public code draws a token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InputError
from ...laws.law import Law
from ...uniforms import TORCH_CPU_FP32, TORCH_CPU_FP64
from ..exponential_race import exponential
from ..gumbel_max import FINE_FP64
from ..sampler import Stages, UniformSampler


def guarded_exponential(u: Tensor) -> Tensor:
    """1e-10 - log(u + 1e-10), in the dtype of u: the guard lifts the smallest exponential, so it lowers the ceiling."""
    return 1e-10 - torch.log(u + 1e-10)


MDLM_FP32 = UniformSampler(
    name="mdlm_fp32",
    publisher="SEDD, MDLM",
    source_ref="kuleshov-group/mdlm diffusion.py; louaaron/Score-Entropy-Discrete-Diffusion catsample.py",
    stages=Stages.all("fp32"),
    source=TORCH_CPU_FP32,
    noise_of=guarded_exponential,
    combine="divide",
)


@dataclass(frozen=True)
class UnnormalisedRace(UniformSampler):
    """exp(logits) / E with no softmax: overflows to inf above 709 in float64, underflows far below: refused here.

    From 673 on, a score can overflow, with probability at most sum_i exp(l_i) / max: it is in the error of the law.
    """

    def weights_of(self, logits: Tensor) -> Tensor:
        weights = torch.exp(logits.double())
        top = weights.amax(dim=-1)
        if not torch.isfinite(top).all() or (top < 2.0**-950).any():
            largest = logits.amax(dim=-1)
            raise InputError(
                f"largest logits from {float(largest.min()):.4g} to {float(largest.max()):.4g} for {self.name}",
                "-658 to 709 (exp leaves the range of float64 outside)",
                "subtract the largest logit first",
            )
        return weights

    def row_law(self, logits: Tensor) -> Law:
        law, scaled = super().row_law(logits), self.weights_of(logits) / torch.finfo(torch.float64).max
        return replace(law, error=min(law.error + float(scaled.sum()), 1.0))


LLADA_FP64 = UnnormalisedRace(
    name="llada_fp64",
    publisher="LLaDA, Fast-dLLM",
    source_ref="ML-GSAI/LLaDA generate.py, temperature 1",
    stages=Stages.all("fp64"),
    source=TORCH_CPU_FP64,
    noise_of=exponential,
    combine="divide",
    fine=FINE_FP64,
)
