"""SGLang's seeded sampler: float64 Gumbel noise from 32-bit Murmur hashes, u = k / (2^32 - 1).

Without a seed it races like ``torch.multinomial`` on CUDA: :data:`..pytorch.TORCH_CUDA_RACE_FP32`.
"""

from __future__ import annotations

from ...uniforms.murmur import MURMUR_CLOSED
from ..gumbel_max import GUMBEL_FP64
from ..noise_maps import clamped_gumbel, open_above_gumbel
from ..rules import WithinBound
from ..sampler import Stages, UniformSampler

_SAMPLER_PY = "sgl-project/sglang python/sglang/srt/layers/sampler.py multinomial_with_seed"

# Scores in float64 as in GUMBEL_FP64; P(u <= k / (2^32 - 1)) is off by at most 2^-32.
_WITHIN_BOUND = WithinBound(relative=GUMBEL_FP64.relative, spacing=2.0**-32)

SGLANG_SEEDED = UniformSampler(
    name="sglang_seeded",
    publisher="SGLang",
    source_ref=f"{_SAMPLER_PY}, before pull request 33423",
    stages=Stages.all("fp64"),
    source=MURMUR_CLOSED,
    noise_of=open_above_gumbel,
    combine="add",
    rule=_WITHIN_BOUND,
    backend="cuda",
)
SGLANG_SEEDED_CLAMPED = UniformSampler(
    name="sglang_seeded_clamped",
    publisher="SGLang",
    source_ref=f"{_SAMPLER_PY} (0.5.23; pull request 33423)",
    stages=Stages.all("fp64"),
    source=MURMUR_CLOSED,
    noise_of=clamped_gumbel,
    combine="add",
    rule=_WITHIN_BOUND,
    backend="cuda",
)

SGLANG = (SGLANG_SEEDED, SGLANG_SEEDED_CLAMPED)
