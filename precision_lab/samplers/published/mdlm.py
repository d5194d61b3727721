"""SEDD and MDLM: a race whose exponential has a guard, in float32."""

from __future__ import annotations

from ...uniforms import TORCH_CPU_FP32
from ..noise_maps import guarded_exponential
from ..sampler import Stages, UniformSampler

MDLM_FP32 = UniformSampler(
    name="mdlm_fp32",
    publisher="SEDD, MDLM",
    source_ref="kuleshov-group/mdlm diffusion.py; louaaron/Score-Entropy-Discrete-Diffusion catsample.py",
    stages=Stages.all("fp32"),
    source=TORCH_CPU_FP32,
    noise_of=guarded_exponential,
    combine="divide",
)

MDLM = (MDLM_FP32,)
