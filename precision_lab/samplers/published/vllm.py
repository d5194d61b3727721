"""vLLM's Gumbel samplers, model runner V2, one generation after another; SGLang's seeded sampler, of the same hash.

vLLM's are argmax(logits + noise) in a Triton kernel: float32 noise of one word a token, first index on ties. Here the words
are mapped on a CPU: a GPU's logarithm differs in the last place, and fused multiply-adds in the series of ``log1p`` move
0.25 % of its values, by 2 ulp at most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...uniforms.murmur import MURMUR_32, MURMUR_CLOSED, log1p_series
from ...uniforms.triton import TL_RAND, TL_RAND_64, TL_RAND_GUARDED
from ..gumbel_max import gumbel
from ..sampler import Stages, UniformSampler
from .jax_library import flipped
from .words import WordSampler

_GUMBEL_PY = "vllm-project/vllm vllm/v1/worker/gpu/sample/gumbel.py"
_CUDA = "cuda (emulated)"


def flipped_series(u: Tensor) -> Tensor:
    """-log(-log1p(-u)), log1p by eight terms of its series below 1/4."""
    return -torch.log(-log1p_series(u))


def open_above(u: Tensor) -> Tensor:
    """-log(-log u) in float64: +inf at u = 1."""
    return -torch.log(-torch.log(u).clamp(min=torch.finfo(torch.float64).min))


def clamped(u: Tensor) -> Tensor:
    """-log(-min(log u, -2^-32)) in float64."""
    return -torch.log(-torch.log(u).clamp(min=torch.finfo(torch.float64).min, max=-(2.0**-32)))


VLLM = (
    WordSampler(
        name="tl_rand",
        publisher="vLLM",
        source_ref=f"{_GUMBEL_PY}, pull requests 34854 and 41775 (Feb. and May 2026)",
        stages=Stages.all("fp32"),
        source=TL_RAND,
        noise_of=gumbel,
        combine="add",
        backend=_CUDA,
    ),
    WordSampler(
        name="tl_rand_flipped",
        publisher="vLLM",
        source_ref=f"{_GUMBEL_PY}, pull request 45996 (June 2026)",
        stages=Stages.all("fp32"),
        source=TL_RAND,
        noise_of=flipped,
        combine="add",
        backend=_CUDA,
    ),
    WordSampler(
        name="vllm_64bit",
        publisher="vLLM",
        source_ref=f"{_GUMBEL_PY}, pull request 47524 (July 2026, not merged by 0.33.0)",
        stages=Stages.all("fp32"),
        source=TL_RAND_64,
        noise_of=flipped,
        combine="add",
        # As for JAX's float32: u to 2^-24, log1p to 2 ulp, -log E to one ulp of [16, 32); and u above 1/2 keeps 24 bits.
        fine=(2.0**-19 + 2.0**-21, 2.0**-44),
        backend=_CUDA,
    ),
    WordSampler(
        name="vllm_murmur32",
        publisher="vLLM",
        source_ref=f"{_GUMBEL_PY} (0.33.0; pull request 51367, August 2026)",
        stages=Stages.all("fp32"),
        source=MURMUR_32,
        noise_of=flipped_series,
        combine="add",
        backend=_CUDA,
    ),
    WordSampler(
        name="vllm_diffusion_gemma",
        publisher="vLLM",
        source_ref="vllm-project/vllm vllm/model_executor/models/diffusion_gemma_sampler.py (0.33.0)",
        stages=Stages.all("fp32"),
        source=TL_RAND_GUARDED,
        noise_of=gumbel,
        combine="add",
        backend=_CUDA,
    ),
    UniformSampler(
        name="sglang_seeded",
        publisher="SGLang",
        source_ref="sgl-project/sglang python/sglang/srt/layers/sampler.py multinomial_with_seed, before pull request 33423",
        stages=Stages.all("fp64"),
        source=MURMUR_CLOSED,
        noise_of=open_above,
        combine="add",
        # Scores in float64 as in FINE_FP64; P(u <= k / (2^32 - 1)) is off by at most 2^-32.
        fine=(2.0**-44, 2.0**-32),
        backend=_CUDA,
    ),
    UniformSampler(
        name="sglang_seeded_clamped",
        publisher="SGLang",
        source_ref="sgl-project/sglang python/sglang/srt/layers/sampler.py multinomial_with_seed (0.5.23; pull request 33423)",
        stages=Stages.all("fp64"),
        source=MURMUR_CLOSED,
        noise_of=clamped,
        combine="add",
        fine=(2.0**-44, 2.0**-32),
        backend=_CUDA,
    ),
)
