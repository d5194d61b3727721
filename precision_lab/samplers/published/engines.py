"""Kernels and libraries outside PyTorch. Those of GPUs run here with a CPU's logarithms, and with torch's argmax, in which
NaN wins: what the publisher's does is said where it differs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...uniforms.cuda import CURAND, ROCRAND
from ...uniforms.grids import RUST_RAND_FP32, TENSORFLOW_FP32
from ..gumbel_max import gumbel
from ..sampler import Stages, UniformSampler

_LN2 = 0.6931471806


def flashinfer_gumbel(u: Tensor) -> Tensor:
    """-ln2 log2(-log2 v), v = u (1 - 2^-23): finite for every u in (0, 1]. It is -log(-log v) + log(log 2): a Gumbel value
    less 0.3665, which no argmax sees. The kernel is built with fast math."""
    return -_LN2 * torch.log2(-torch.log2(u * (1 - 2.0**-23)))


def tensorflow_gumbel(u: Tensor) -> Tensor:
    """-log(-log(u + 2e-30)): the guard acts on u = 0 only."""
    return gumbel(u + 2e-30)


_CANDLE_LOW = float(np.float32(1e-7))
_CANDLE_SCALE = float(np.float32(0.999) - np.float32(1e-7))


def candle_gumbel(u: Tensor) -> Tensor:
    """-log(-log v), v = u (0.999 - 1e-7) + 1e-7: v < 0.999."""
    return gumbel(u * _CANDLE_SCALE + _CANDLE_LOW)


def aiter_exponential(u: Tensor) -> Tensor:
    """-log u + 1e-10, and +inf for u >= 1 - 2^-24, where the kernel's E is -2^-24: a score of 0 in place of a negative one,
    the same loser unless every other score is 0 too."""
    return torch.where(u >= 1 - 2.0**-24, math.inf, -torch.log(u) + 1e-10)


@dataclass(frozen=True)
class ShiftedGumbelMax(UniformSampler):
    """Gumbel noise that is too small by 0.3665 throughout."""

    @property
    def ceiling(self) -> float:
        """Of the Gumbel value proper, without the shift."""
        return super().ceiling - math.log(math.log(2))


FLASHINFER_LOGITS = ShiftedGumbelMax(
    name="flashinfer_logits",
    publisher="FlashInfer sampling_from_logits",
    source_ref="flashinfer-ai/flashinfer include/flashinfer/sampling.cuh GenerateGumbelNoise, DataAndIndex (fb28d72)",
    stages=Stages.all("fp32"),
    source=CURAND,
    noise_of=flashinfer_gumbel,
    combine="add",
    tie="last",
    backend="cuda",
)
# Its max(u, 1e-10) never acts: curand's least u is 2^-33. u = 1 is +inf; a token of -inf then scores NaN, which this
# kernel's `>` skips except in the first lane of a warp.
FLASHSAMPLING_CUDA = UniformSampler(
    name="flashsampling_cuda",
    publisher="FlashSampling",
    source_ref="FlashSampling/FlashSampling src/fused_mm_sampling/csrc/fmms_kernel.cu (1e5d8fa)",
    stages=Stages.all("fp32"),
    source=CURAND,
    noise_of=gumbel,
    combine="add",
    backend="cuda",
)
TENSORFLOW_GPU = UniformSampler(
    name="tensorflow_gpu",
    publisher="TensorFlow tf.random.categorical on GPU",
    source_ref="tensorflow/core/kernels/multinomial_op_gpu.cu.cc, core/lib/random/random_distributions_utils.h (2021-25)",
    stages=Stages.all("fp32"),
    source=TENSORFLOW_FP32,
    noise_of=tensorflow_gumbel,
    combine="add",
    tie="last",
    backend="tensorflow gpu",
)
CANDLE = UniformSampler(
    name="candle",
    publisher="candle gumbel_softmax on CPU",
    source_ref="huggingface/candle candle-nn/src/sampling.rs (2a13b0f); crate rand 0.9 distr/uniform_float.rs",
    stages=Stages.all("fp32"),
    source=RUST_RAND_FP32,
    noise_of=candle_gumbel,
    combine="add",
    backend="rust cpu",
)
# cupy.argmax lets NaN win, as torch's does.
CUPY_GUMBEL_FP32 = UniformSampler(
    name="cupy_gumbel_fp32",
    publisher="CuPy random.gumbel, dtype float32",
    source_ref="cupy/cupy cupy/random/_generator.py _gumbel_kernel, _random_sample_raw (6b6d956)",
    stages=Stages.all("fp32"),
    source=CURAND,
    noise_of=gumbel,
    combine="add",
    backend="cuda",
)
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

ENGINES = (FLASHINFER_LOGITS, FLASHSAMPLING_CUDA, TENSORFLOW_GPU, CANDLE, CUPY_GUMBEL_FP32, AITER_ROCM)
