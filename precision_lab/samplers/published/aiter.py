"""AITER's race on ROCm, run here with a CPU's logarithms: nobody measured the kernel's own."""

from __future__ import annotations

from ...uniforms.cuda import ROCRAND
from ..noise_maps import aiter_exponential
from ..sampler import Stages, UniformSampler

AITER_ROCM = UniformSampler(
    name="aiter_rocm",
    publisher="AITER random_sample (ROCm)",
    source_ref="ROCm/aiter csrc/kernels/sample_kernels.cu exponential_func_impl, random_sample_impl (e404860)",
    stages=Stages.all("fp32"),
    source=ROCRAND,
    noise_of=aiter_exponential,
    combine="divide",
    backend="rocm",
)

AITER = (AITER_ROCM,)
