"""FlashInfer: base-2 Gumbel noise on CUDA, run here with a CPU's logarithms.

The kernel is built with -use_fast_math, so its log2f is lg2.approx; nobody measured here what that does to
the noise."""

from __future__ import annotations

import math

from ...uniforms.cuda import CURAND_LG2
from ..noise_maps import flashinfer_gumbel
from ..sampler import Stages, UniformSampler

FLASHINFER_LOGITS = UniformSampler(
    name="flashinfer_logits",
    publisher="FlashInfer sampling_from_logits",
    source_ref="flashinfer-ai/flashinfer include/flashinfer/sampling.cuh GenerateGumbelNoise, DataAndIndex (fb28d72)",
    stages=Stages.all("fp32"),
    source=CURAND_LG2,
    noise_of=flashinfer_gumbel,
    combine="add",
    tie="last",
    gumbel_shift=math.log(math.log(2)),
    backend="cuda",
)

FLASHINFER = (FLASHINFER_LOGITS,)
