"""Inverse CDF: the first token whose rounded cumulative probability exceeds u."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..laws.inverse_cdf import inverse_cdf_law
from ..laws.law import Law
from ..uniforms import DTYPES, TORCH_RAND, Rng
from .sampler import Sampler, Stages, chunks


@dataclass(frozen=True)
class InverseCDF(Sampler):
    """softmax, ``torch.cumsum`` and ``searchsorted`` in one format; a u above the last sum takes the last token.

    On CPU ``torch.cumsum`` accumulates float32 in float64, and float16 and bfloat16 in float32, then rounds each sum.
    """

    @property
    def ceiling(self) -> float:
        return float("nan")

    def bits_per_draw(self, vocab: int) -> float:
        return TORCH_RAND[self.stages.uniform].bits

    def cumulative(self, logits: Tensor) -> Tensor:
        return torch.cumsum(torch.softmax(logits.to(DTYPES[self.stages.weights]), dim=-1), dim=-1)

    def decide(self, logits: Tensor, u: Tensor) -> Tensor:
        """logits: (rows, vocab); u: (n, rows). Returns (n, rows)."""
        found = torch.searchsorted(self.cumulative(logits), u.T.contiguous(), right=True).T
        return found.clamp(max=logits.shape[-1] - 1)

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        draws, rows = chunks(logits[:, :1].expand(-1, 64), n)
        out = torch.empty((n, len(logits)), dtype=torch.int64, device=logits.device)
        for j in range(0, len(logits), rows):
            for i in range(0, n, draws):
                part = logits[j : j + rows]
                u = TORCH_RAND[self.stages.uniform].draw((min(draws, n - i), len(part)), rng=rng)
                out[i : i + draws, j : j + rows] = self.decide(part, u)
        return out

    def row_law(self, logits: Tensor) -> Law:
        cumulative = self.cumulative(logits).double().cpu().numpy()
        source = TORCH_RAND[self.stages.uniform]
        if self.stages.uniform in ("fp32", "fp64"):
            return inverse_cdf_law(cumulative, bits=source.bits, rule="u < c")
        atoms = source.atoms()
        return inverse_cdf_law(
            cumulative, bits=source.bits, rule="u < c", uniform_atoms=(atoms.values, np.cumsum(atoms.probs))
        )


def inverse_cdf(format: str) -> InverseCDF:
    return InverseCDF(
        name=f"inverse_cdf_{format}",
        publisher="textbook",
        source_ref="torch.searchsorted(torch.cumsum(softmax(logits), -1), torch.rand(...), right=True)",
        stages=Stages.all(format),
    )
