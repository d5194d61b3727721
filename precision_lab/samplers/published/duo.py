"""ReMDM, BD3LM and Duo: MDLM's race in float64; their autoregressive baselines, float64 sums of float32 noise."""

from __future__ import annotations

from ...uniforms import TORCH_CPU_FP32, TORCH_CPU_FP64
from ..noise_maps import distributions_gumbel, guarded_exponential
from ..rules import WithinBound
from ..sampler import Stages, UniformSampler

REMDM_FP64 = UniformSampler(
    name="remdm_fp64",
    publisher="ReMDM, BD3LM, Duo",
    source_ref="kuleshov-group/remdm diffusion.py _sample_categorical (f830d65); Duo with sampling.use_float64",
    stages=Stages.all("fp64"),
    source=TORCH_CPU_FP64,
    noise_of=guarded_exponential,
    combine="divide",
    # Guard and addend together are u -> (u + 1e-10) exp(-1e-10), a move of at most 1e-10: a grid of that
    # spacing.
    rule=WithinBound(relative=2.0**-44, spacing=1.01e-10),
)
# The noise is drawn on the CPU in float32, moved to the device and *then* cast: the sum is float64, the
# ceiling is not.
DUO_AR_FP64 = UniformSampler(
    name="duo_ar_fp64",
    publisher="Duo, ReMDM, BD3LM, discrete-diffusion-guidance (autoregressive baselines)",
    source_ref="s-sahoo/duo algo.py generate_samples (7c9b498); kuleshov-group/remdm diffusion.py _ar_sampler (f830d65)",
    stages=Stages("fp64", "fp32", "fp32", "fp64"),
    source=TORCH_CPU_FP32,
    noise_of=distributions_gumbel,
    combine="add",
)

DUO = (REMDM_FP64, DUO_AR_FP64)
