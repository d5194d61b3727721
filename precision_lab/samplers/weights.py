"""From logits to the weights that enter the score, as data: one final class a method."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..errors import InputError
from ..uniforms import DTYPES


class Weights(ABC):
    """How a sampler makes weights of logits."""

    @abstractmethod
    def of(self, logits: Tensor, *, format: str, sampler: str) -> Tensor:
        """(..., vocab) logits to (..., vocab) weights in ``format`` (fp16, bf16, fp32, fp64), computed by
        torch in it.

        ``sampler``: its name, for the InputError of logits that the format cannot take.
        """


@final
@dataclass(frozen=True)
class Cast(Weights):
    """The logits themselves, rounded to the format."""

    def of(self, logits: Tensor, *, format: str, sampler: str) -> Tensor:
        return logits.to(DTYPES[format])


@final
@dataclass(frozen=True)
class Softmax(Weights):
    """softmax(logits), the logits rounded to the format first."""

    def of(self, logits: Tensor, *, format: str, sampler: str) -> Tensor:
        return torch.softmax(logits.to(DTYPES[format]), dim=-1)


@final
@dataclass(frozen=True)
class Exponentials(Weights):
    """exp(logits) with no softmax. Raises InputError for a row whose largest exp is not finite (logits
    above 709 in float64, 88.7 in float32 and bfloat16, 11.09 in float16), or is below ``least``."""

    least: float = 0.0

    def of(self, logits: Tensor, *, format: str, sampler: str) -> Tensor:
        dtype = DTYPES[format]
        weights = torch.exp(logits.to(dtype))
        top = weights.amax(dim=-1)
        if torch.isfinite(top).all() and (top >= self.least).all():
            return weights
        largest = logits.amax(dim=-1)
        bottom = f"{math.log(self.least):.0f} to " if self.least else "at most "
        raise InputError(
            f"largest logits from {float(largest.min()):.4g} to {float(largest.max()):.4g} for {sampler}",
            f"{bottom}{math.log(torch.finfo(dtype).max):.4g} (exp leaves the range of {format} outside)",
            "subtract the largest logit first",
        )
