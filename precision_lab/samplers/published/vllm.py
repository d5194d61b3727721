"""vLLM's Gumbel samplers, model runner V2, one generation after another.

They are argmax(logits + noise) in a Triton kernel: float32 noise of one word a token, first index on ties.
Here the words are mapped on a CPU: ``tl.log`` on a GPU differs in the last place (on an H100 within an ulp
for u = 1 - k 2^-24, k <= 2^20), and fused multiply-adds in the series of ``log1p`` move 0.25 % of its values,
by 2 ulp at most. vLLM V1's race: :data:`..pytorch.TORCH_CUDA_RACE_FP32`."""

from __future__ import annotations

from ...uniforms.murmur import MURMUR_32
from ...uniforms.triton import TL_RAND, TL_RAND_64, TL_RAND_GUARDED
from ..noise_maps import flipped, flipped_series, gumbel
from ..rules import WithinBound
from ..sampler import Stages, UniformSampler

_GUMBEL_PY = "vllm-project/vllm vllm/v1/worker/gpu/sample/gumbel.py"

TL_RAND_PLAIN = UniformSampler(
    name="tl_rand",
    publisher="vLLM",
    source_ref=f"{_GUMBEL_PY}, pull requests 34854 and 41775 (Feb. and May 2026)",
    stages=Stages.all("fp32"),
    source=TL_RAND,
    noise_of=gumbel,
    combine="add",
    backend="cuda",
)
TL_RAND_FLIPPED = UniformSampler(
    name="tl_rand_flipped",
    publisher="vLLM",
    source_ref=f"{_GUMBEL_PY}, pull request 45996 (June 2026)",
    stages=Stages.all("fp32"),
    source=TL_RAND,
    noise_of=flipped,
    combine="add",
    backend="cuda",
)
VLLM_64BIT = UniformSampler(
    name="vllm_64bit",
    publisher="vLLM",
    source_ref=f"{_GUMBEL_PY}, pull request 47524 (July 2026, not merged by 0.33.0)",
    stages=Stages.all("fp32"),
    source=TL_RAND_64,
    noise_of=flipped,
    combine="add",
    # u to 2^-24, log1p to 2 ulp, -log E to one ulp of [16, 32); P(G > 31) < 2^-44.7; and u above 1/2 keeps 24
    # bits, which counts 2^-24 in all, whatever the vocabulary (see jax.py).
    rule=WithinBound(relative=2.0**-19 + 2.0**-21, spacing=2.0**-44, reach=31.0),
    backend="cuda",
)
VLLM_MURMUR32 = UniformSampler(
    name="vllm_murmur32",
    publisher="vLLM",
    source_ref=f"{_GUMBEL_PY} (0.33.0; pull request 51367, August 2026)",
    stages=Stages.all("fp32"),
    source=MURMUR_32,
    noise_of=flipped_series,
    combine="add",
    backend="cuda",
)
VLLM_DIFFUSION_GEMMA = UniformSampler(
    name="vllm_diffusion_gemma",
    publisher="vLLM",
    source_ref="vllm-project/vllm vllm/model_executor/models/diffusion_gemma_sampler.py (0.33.0)",
    stages=Stages.all("fp32"),
    source=TL_RAND_GUARDED,
    noise_of=gumbel,
    combine="add",
    backend="cuda",
)

VLLM = (TL_RAND_PLAIN, TL_RAND_FLIPPED, VLLM_64BIT, VLLM_MURMUR32, VLLM_DIFFUSION_GEMMA)
