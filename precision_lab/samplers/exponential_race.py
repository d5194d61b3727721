"""The exponential race: argmax(p / E), E = -log u. The same law as Gumbel-max in real arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from ..uniforms import TORCH_RAND
from .gumbel_max import FINE_FP64
from .sampler import Stages, UniformSampler


def exponential(u: Tensor) -> Tensor:
    """-log u in the dtype of u."""
    return -torch.log(u)


def negative_log(exponential: Tensor) -> Tensor:
    """-log E, Gumbel noise, in the dtype of E."""
    return -exponential.log()


def exponential_race(format: str) -> UniformSampler:
    """Every stage in one format."""
    return UniformSampler(
        name=f"exponential_race_{format}",
        publisher="textbook",
        source_ref="argmax(softmax(logits) / -log(torch.rand_like(logits)))",
        stages=Stages.all(format),
        source=TORCH_RAND[format],
        noise_of=exponential,
        combine="divide",
        fine=FINE_FP64 if format == "fp64" else None,
    )
