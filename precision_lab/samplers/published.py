"""What published code really does, stage by stage. Each recipe is written anew from the arithmetic of its source."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..uniforms import TORCH_CPU_FP32, TORCH_CPU_FP64
from .exponential_race import exponential
from .gumbel_max import FINE_FP64
from .sampler import Stages, UniformSampler


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
    """exp(logits) / E with no softmax: overflows to inf above 709 in float64, which is refused here."""

    def weights_of(self, logits: Tensor) -> Tensor:
        weights = torch.exp(logits.double())
        if not torch.isfinite(weights).all():
            raise InputError(
                f"a logit of {float(logits.max()):.4g} for {self.name}",
                "at most 709 (exp overflows in float64 above)",
                "subtract the largest logit first",
            )
        return weights


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
