"""CuPy's Gumbel noise on CUDA, run here with a CPU's logarithms in place of CUDA's accurate logf.
``cupy.argmax`` lets NaN win, as torch's does."""

from __future__ import annotations

from ...uniforms.cuda import CURAND_LOGF
from ..noise_maps import gumbel
from ..sampler import Stages, UniformSampler

CUPY_GUMBEL_FP32 = UniformSampler(
    name="cupy_gumbel_fp32",
    publisher="CuPy random.gumbel, dtype float32",
    source_ref="cupy/cupy cupy/random/_generator.py _gumbel_kernel, _random_sample_raw (6b6d956)",
    stages=Stages.all("fp32"),
    source=CURAND_LOGF,
    noise_of=gumbel,
    combine="add",
    backend="cuda",
)

CUPY = (CUPY_GUMBEL_FP32,)
