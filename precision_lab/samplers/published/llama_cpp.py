"""llama.cpp's dist sampler: a float64 cumulative sum of float32 weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...uniforms import TORCH_CPU_FP64
from ..inverse_cdf import InverseCDF
from ..sampler import Stages


def llama_cpp_sums(logits: Tensor) -> Tensor:
    """Sequential float64 sums of float32 exp(l - max), not divided."""
    weights = (logits.float() - logits.float().amax(dim=-1, keepdim=True)).exp()
    return torch.from_numpy(np.cumsum(weights.double().cpu().numpy(), axis=-1))


# std::uniform_real_distribution<double> makes u of 64 bits, rounded; here of 53.
LLAMA_CPP_DIST = InverseCDF(
    name="llama_cpp",
    publisher="llama.cpp dist sampler",
    source_ref="ggml-org/llama.cpp src/llama-sampler.cpp llama_sampler_dist_apply (00efb3e)",
    stages=Stages("fp32", "fp64", "fp64", "fp64"),
    source=TORCH_CPU_FP64,
    sums=llama_cpp_sums,
    rule="u <= c",
    scaled=True,
    backend="c++ cpu",
)

LLAMA_CPP = (LLAMA_CPP_DIST,)
