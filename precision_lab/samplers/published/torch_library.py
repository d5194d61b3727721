"""PyTorch's own ways to draw: ``torch.distributions.Gumbel``, ``F.gumbel_softmax``, ``torch.multinomial`` on CUDA."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...laws.argmax import perturbed_law
from ...laws.law import Law
from ...uniforms import TORCH_CPU_FP32, TORCH_EXPONENTIAL
from ...uniforms.cuda import TORCH_CUDA_EXPONENTIAL, unchanged
from ..exponential_race import negative_log
from ..sampler import Stages, UniformSampler, log_normalised

_TINY, _SPAN = torch.finfo(torch.float32).tiny, 1 - torch.finfo(torch.float32).eps


def distributions_gumbel(u: Tensor) -> Tensor:
    """-log(-log(tiny + u (1 - eps))), eps = 2^-23: the largest argument of log is 1 - 3 2^-24, the smallest is tiny."""
    return -torch.log(-torch.log(_TINY + u * _SPAN))


TORCH_DISTRIBUTIONS_GUMBEL_FP32 = UniformSampler(
    name="torch_distributions_gumbel_fp32",
    publisher="PyTorch; MDLM (autoregressive baseline)",
    source_ref="torch/distributions/gumbel.py (2.13); kuleshov-group/mdlm diffusion.py _ar_sampler (c112c52)",
    stages=Stages.all("fp32"),
    source=TORCH_CPU_FP32,
    noise_of=distributions_gumbel,
    combine="add",
)

# The noise is drawn on the CPU in float32, moved to the device and *then* cast: the sum is float64, the ceiling is not.
DUO_AR_FP64 = replace(
    TORCH_DISTRIBUTIONS_GUMBEL_FP32,
    name="duo_ar_fp64",
    publisher="Duo, ReMDM, BD3LM, discrete-diffusion-guidance (autoregressive baselines)",
    source_ref="s-sahoo/duo algo.py generate_samples (7c9b498); kuleshov-group/remdm diffusion.py _ar_sampler (f830d65)",
    stages=Stages("fp64", "fp32", "fp32", "fp64"),
)


@dataclass(frozen=True)
class GumbelSoftmax(UniformSampler):
    """``F.gumbel_softmax(logits, hard=True)``: argmax(logits - log(exponential_())); its ``eps`` is not used.

    E = 0 makes a score +inf (NaN for a token of -inf), the softmax of such a row is NaN throughout, and the index of its
    ``max`` is 0. The softmax before ``max`` is monotone; where its rounding makes equals of the two best scores, ``max``
    takes the first, and this sampler the better.
    """

    def decide(self, logits: Tensor, u: Tensor) -> Tensor:
        scores = self.weights_of(logits) + self.noise_of(u)
        return scores.argmax(dim=-1).masked_fill(~torch.isfinite(scores.amax(dim=-1)), 0)

    def row_law(self, logits: Tensor) -> Law:
        """From the law of the argmax, in which the first NaN wins, else the first +inf: that mass is moved to token 0.

        float32 has too many atoms to list: every score below 32 + top is known to 2^-19 (log) + 2^-24 |score| (sum), and
        Gumbel values above 32 have probability e^-32 each.
        """
        weights = self.weights_of(logits).double().cpu().numpy()
        if not self.source.enumerable:
            relative = 2.0**-19 + 2.0**-24 * (33 + abs(float(weights.max())))
            return perturbed_law(log_normalised(weights, "add"), relative=relative, lattice=2.0**-46)
        law, atoms = super().row_law(logits), self.noise_atoms()
        infinite = 65520.0 if self.stages.score == "fp16" else math.inf  # where the sum rounds to +inf
        lost = 1.0 - atoms.below(np.where(np.isneginf(weights), math.inf, infinite - weights), inclusive=False)
        order = np.argsort(~np.isneginf(weights), kind="stable")  # NaN first
        first = np.zeros(len(weights))
        first[order] = lost[order] * np.cumprod(np.concatenate([[1.0], 1.0 - lost[order][:-1]]))
        probs = np.maximum(law.probs - first, 0.0)
        probs[0] += first.sum()
        return Law.from_probs(probs, f"{law.how}, NaN rows to index 0", law.error, law.guarantee)


_GUMBEL_SOFTMAX = "torch/nn/functional.py gumbel_softmax (2.13)"

TORCH_GUMBEL_SOFTMAX_CPU_FP32 = GumbelSoftmax(
    name="torch_gumbel_softmax_cpu_fp32",
    publisher="PyTorch",
    source_ref=_GUMBEL_SOFTMAX,
    stages=Stages("fp32", "fp32", "fp32", "fp32"),
    source=TORCH_EXPONENTIAL["fp32"],
    noise_of=negative_log,
    combine="add",
    fine=(2.0**-18, 2.0**-46),
)
TORCH_GUMBEL_SOFTMAX_FP16 = GumbelSoftmax(
    name="torch_gumbel_softmax_fp16",
    publisher="PyTorch",
    source_ref=_GUMBEL_SOFTMAX,
    stages=Stages.all("fp16"),
    source=TORCH_EXPONENTIAL["fp16"],
    noise_of=negative_log,
    combine="add",
)
TORCH_GUMBEL_SOFTMAX_CUDA_FP32 = UniformSampler(
    name="torch_gumbel_softmax_cuda_fp32",
    publisher="PyTorch",
    source_ref=f"{_GUMBEL_SOFTMAX}; aten/src/ATen/core/TransformationHelper.h (2.13)",
    stages=Stages.all("fp32"),
    source=TORCH_CUDA_EXPONENTIAL["fp32"],
    noise_of=negative_log,
    combine="add",
    backend="cuda",
)
TORCH_CUDA_RACE_FP32 = UniformSampler(
    name="torch_cuda_race_fp32",
    publisher="torch.multinomial without replacement on CUDA; vLLM V1, SGLang, nano-vllm",
    source_ref="pytorch aten/src/ATen/native/Distributions.cpp, core/TransformationHelper.h (2.13); vllm "
    "v1/sample/ops/topk_topp_sampler.py random_sample; GeeeekExplorer/nano-vllm nanovllm/layers/sampler.py (bb823b3)",
    stages=Stages.all("fp32"),
    source=TORCH_CUDA_EXPONENTIAL["fp32"],
    noise_of=unchanged,
    combine="divide",
    backend="cuda",
)

TORCH_LIBRARY = (
    TORCH_DISTRIBUTIONS_GUMBEL_FP32,
    DUO_AR_FP64,
    TORCH_GUMBEL_SOFTMAX_CPU_FP32,
    TORCH_GUMBEL_SOFTMAX_FP16,
    TORCH_GUMBEL_SOFTMAX_CUDA_FP32,
    TORCH_CUDA_RACE_FP32,
)
