"""FlashSampling's CUDA kernel, run here with a CPU's logarithms and with torch's argmax, in which NaN wins.

Whether its logf is the accurate one or __logf depends on the flags it is built with; nobody measured it here.
"""

from __future__ import annotations

from ...uniforms.cuda import CURAND_UNKNOWN_LOG
from ..noise_maps import gumbel
from ..sampler import Stages, UniformSampler

# Its max(u, 1e-10) never acts: curand's least u is 2^-33. u = 1 is +inf; a token of -inf then scores NaN,
# which this kernel's `>` skips except in the first lane of a warp.
FLASHSAMPLING_CUDA = UniformSampler(
    name="flashsampling_cuda",
    publisher="FlashSampling",
    source_ref="FlashSampling/FlashSampling src/fused_mm_sampling/csrc/fmms_kernel.cu (1e5d8fa)",
    stages=Stages.all("fp32"),
    source=CURAND_UNKNOWN_LOG,
    noise_of=gumbel,
    combine="add",
    backend="cuda",
)

FLASHSAMPLING = (FLASHSAMPLING_CUDA,)
