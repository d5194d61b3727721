"""A sampler whose words are too many to visit: its table is made by blocks, its ceiling found at the extreme words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...laws.argmax import perturbed_law
from ...laws.law import Law
from ..sampler import UniformSampler, log_normalised

# Gumbel noise above 31 has probability e^-31 < 2^-44.7 a value: it is counted in the lattice of a fine float32 law.
_REACH = 31.0


@dataclass(frozen=True)
class WordSampler(UniformSampler):
    """Gumbel noise in float32 from words of 31 bits or more.

    ``fine``: (relative error of one exponential as computed, spacing of its law); :meth:`row_law` adds the rounding of the
    float32 sum, which depends on the logits. Only scores from 5 below the largest logit (E_head > e^5 has probability
    e^-148) to 31 above it decide, so a sum is off by at most half an ulp of the largest of these in magnitude.
    """

    @property
    def ceiling(self) -> float:
        last = (1 << self.source.bits) - 1 if self.source.bits < 64 else -1
        return float(self.noise_of(self.source.from_words(torch.tensor([0, 1, last]))).max())

    def row_law(self, logits: Tensor) -> Law:
        if self.fine is None:
            return super().row_law(logits)
        weights = self.weights_of(logits).double().cpu().numpy()
        half_ulp = 2.0 ** (math.ceil(math.log2(abs(float(weights.max())) + _REACH)) - 25)
        return perturbed_law(
            log_normalised(weights, self.combine), relative=self.fine[0] + half_ulp, lattice=self.fine[1]
        )
