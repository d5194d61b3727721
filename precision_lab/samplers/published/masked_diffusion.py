"""Masked diffusion language models: how their public code draws a token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InputError
from ...laws.law import Law
from ...uniforms import DTYPES, TORCH_CPU_BF16, TORCH_CPU_FP16, TORCH_CPU_FP32, TORCH_CPU_FP64
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


# Guard and addend together are u -> (u + 1e-10) exp(-1e-10), a move of at most 1e-10: a lattice of that spacing.
REMDM_FP64 = UniformSampler(
    name="remdm_fp64",
    publisher="ReMDM, BD3LM, Duo",
    source_ref="kuleshov-group/remdm diffusion.py _sample_categorical (f830d65); Duo with sampling.use_float64",
    stages=Stages.all("fp64"),
    source=TORCH_CPU_FP64,
    noise_of=guarded_exponential,
    combine="divide",
    fine=(FINE_FP64[0], 1.01e-10),
)


@dataclass(frozen=True)
class UnnormalisedRace(UniformSampler):
    """exp(logits) / E with no softmax, in the format of the weights. A row whose largest exp is not finite (logits above
    709 in float64, 88.7 in float32 and bfloat16, 11.09 in float16) is refused here; scores may overflow, and tie at inf.

    In float64, with its certified law, a largest exp below 2^-950 is refused too, and from 673 on a score can overflow,
    with probability at most sum_i exp(l_i) / max: it is in the error of the law.
    """

    overflow: bool = True

    def weights_of(self, logits: Tensor) -> Tensor:
        dtype = DTYPES[self.stages.weights]
        weights, least = torch.exp(logits.to(dtype)), 2.0**-950 if self.fine else 0.0
        top = weights.amax(dim=-1)
        if not torch.isfinite(top).all() or (top < least).any():
            largest = logits.amax(dim=-1)
            bottom = f"{math.log(least):.0f} to " if least else "at most "
            raise InputError(
                f"largest logits from {float(largest.min()):.4g} to {float(largest.max()):.4g} for {self.name}",
                f"{bottom}{math.log(torch.finfo(dtype).max):.4g} (exp leaves the range of {self.stages.weights} outside)",
                "subtract the largest logit first",
            )
        return weights

    def row_law(self, logits: Tensor) -> Law:
        law = super().row_law(logits)
        if self.fine is None:
            return law
        scaled = self.weights_of(logits) / torch.finfo(torch.float64).max
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
D1_FP32 = UnnormalisedRace(
    name="d1_fp32",
    publisher="d1 (evaluation)",
    source_ref="dllm-reasoning/d1 eval/generate.py add_gumbel_noise (837888f), temperature 1",
    stages=Stages.all("fp32"),
    source=TORCH_CPU_FP32,
    noise_of=exponential,
    combine="divide",
)
D1_BF16 = UnnormalisedRace(
    name="d1_bf16",
    publisher="d1 (rollouts of diffu-GRPO)",
    source_ref="dllm-reasoning/d1 diffu-grpo/diffu_grpo_trainer.py add_gumbel_noise, dtype of the model (837888f)",
    stages=Stages.all("bf16"),
    source=TORCH_CPU_BF16,
    noise_of=exponential,
    combine="divide",
)
FAST_DLLM_FORK_FP16 = UnnormalisedRace(
    name="fast_dllm_fork_fp16",
    publisher="a fork of Fast-dLLM",
    source_ref="RohitNagraj/Fast-dLLM llada/generate.py, PRECISION_MAX = float16 (2025; later versions have float64)",
    stages=Stages.all("fp16"),
    source=TORCH_CPU_FP16,
    noise_of=exponential,
    combine="divide",
)

MASKED_DIFFUSION = (MDLM_FP32, REMDM_FP64, LLADA_FP64, D1_FP32, D1_BF16, FAST_DLLM_FORK_FP16)
