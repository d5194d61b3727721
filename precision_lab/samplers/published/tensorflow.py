"""``tf.random.categorical``: Gumbel-max on GPU, a float64 cumulative sum on CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...uniforms.grids import TENSORFLOW_FP32, TENSORFLOW_FP64
from ..inverse_cdf import InverseCDF
from ..noise_maps import tensorflow_gumbel
from ..sampler import Stages, UniformSampler


def tensorflow_sums(logits: Tensor) -> Tensor:
    """Sequential float64 sums of exp(l - max), not divided."""
    wide = logits.double()
    return torch.from_numpy(np.cumsum((wide - wide.amax(dim=-1, keepdim=True)).exp().cpu().numpy(), axis=-1))


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
TENSORFLOW_CPU = InverseCDF(
    name="tensorflow_cpu",
    publisher="TensorFlow tf.random.categorical on CPU",
    source_ref="tensorflow/core/kernels/multinomial_op.cc MultinomialFunctor<CPUDevice> (0d2cc41)",
    stages=Stages.all("fp64"),
    source=TENSORFLOW_FP64,
    sums=tensorflow_sums,
    scaled=True,
    backend="tensorflow cpu",
)

TENSORFLOW = (TENSORFLOW_GPU, TENSORFLOW_CPU)
