"""``numpy.random.Generator.choice``: a float64 cumulative sum, computed by the NumPy of this machine."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...uniforms.numpy_random import NUMPY_FP64
from ..inverse_cdf import InverseCDF
from ..sampler import Stages


def numpy_sums(logits: Tensor) -> Tensor:
    """Sequential float64 sums of a float64 softmax, divided by the last."""
    sums = np.cumsum(torch.softmax(logits.double(), dim=-1).cpu().numpy(), axis=-1)
    return torch.from_numpy(sums / sums[..., -1:])


NUMPY_CHOICE = InverseCDF(
    name="numpy_choice",
    publisher="numpy.random.Generator.choice",
    source_ref="numpy/numpy numpy/random/_generator.pyx choice with p (1f90bbb, 2.4)",
    stages=Stages.all("fp64"),
    source=NUMPY_FP64,
    sums=numpy_sums,
    backend="numpy",
)

NUMPY = (NUMPY_CHOICE,)
