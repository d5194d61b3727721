"""Inverse CDF: the first token whose rounded cumulative probability exceeds u."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from ..laws.inverse_cdf import inverse_cdf_law
from ..laws.law import Law
from ..types import Guarantee
from ..uniforms import DTYPES, TORCH_RAND, Rng, Source
from .chunks import draw_in_chunks
from .sampler import Sampler, Stages, emulated_arithmetic

SUMS_IN_MEMORY = 1 << 22  # of the rows whose draws are made together


@final
@dataclass(frozen=True)
class SoftmaxSums:
    """cumsum(softmax(logits)) by torch in one format. On CPU ``torch.cumsum`` accumulates float32 in
    float64, and float16 and bfloat16 in float32, then rounds each sum."""

    format: str

    def __call__(self, logits: Tensor) -> Tensor:
        """(..., vocab) logits to (..., vocab) sums."""
        return torch.cumsum(torch.softmax(logits.to(DTYPES[self.format]), dim=-1), dim=-1)


@final
@dataclass(frozen=True)
class InverseCDF(Sampler):
    """The first token whose sum exceeds (``rule`` "u < c") or reaches ("u <= c") u; what is above every sum
    takes the last token.

    ``source``: of u, one a token drawn; ``sums``: (rows, vocab) logits to rounded cumulative sums,
    non-decreasing;
    ``scaled``: u times the last sum is compared in place of u. ``values_per_row``: what a row counts for where
    the sums of more than one part of the batch do not fit in memory; the generator is used in order of parts,
    of draws and of rows. None: the vocabulary.
    """

    source: Source
    sums: Callable[[Tensor], Tensor]
    rule: Literal["u < c", "u <= c"] = "u < c"
    scaled: bool = False
    values_per_row: int | None = None

    @property
    def ceiling(self) -> float:
        return math.nan

    def bits_per_draw(self, vocab: int) -> float:
        return self.source.bits

    @property
    def emulated(self) -> str | None:
        return emulated_arithmetic(self.source, self.backend)

    def decide(self, logits: Tensor, u: Tensor) -> Tensor:
        """The pure decision. logits: (rows, vocab); u: (n, rows) from :attr:`source`. Returns (n, rows)
        int64."""
        return self._search(self.sums(logits), u)

    def _search(self, sums: Tensor, u: Tensor) -> Tensor:
        sought = u * sums[:, -1] if self.scaled else u
        found = torch.searchsorted(sums, sought.T.contiguous(), right=self.rule == "u < c").T
        return found.clamp(max=sums.shape[-1] - 1)

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        def draw_part(sums: Tensor, count: int) -> Tensor:
            return self._search(sums, self.source.draw((count, len(sums)), rng=rng))

        rows_at_once = max(SUMS_IN_MEMORY // (self.values_per_row or logits.shape[-1]), 1)
        out = torch.empty((n, len(logits)), dtype=torch.int64, device=logits.device)
        for j in range(0, len(logits), rows_at_once):
            part = slice(j, j + rows_at_once)
            out[:, part] = draw_in_chunks(draw_part, self.sums(logits[part]), n, values_per_row=1)
        return out

    def row_law(self, logits: Tensor) -> Law:
        """Exact, but for the rounding of u times the last sum, where ``scaled``: two units in the last
        place of u.

        A source whose format holds every word is the grid k 2^-bits; any other is counted by its atoms.
        """
        sums = self.sums(logits.unsqueeze(0))[0].double().cpu().numpy()
        if self.scaled:
            sums = sums / sums[-1]
        uniform_atoms = None
        if self.source.bits > self.source.format.precision:
            atoms = self.source.atoms()
            uniform_atoms = (atoms.values, np.cumsum(atoms.probs))
        law = inverse_cdf_law(sums, bits=self.source.bits, rule=self.rule, uniform_atoms=uniform_atoms)
        return replace(law, error=2.0**-51, guarantee=Guarantee.CERTIFIED) if self.scaled else law


def inverse_cdf(format: str) -> InverseCDF:
    """softmax, ``torch.cumsum`` and ``searchsorted`` in ``format``: fp16, fp32 or fp64; u from
    ``torch.rand``."""
    return InverseCDF(
        name=f"inverse_cdf_{format}",
        publisher="textbook",
        source_ref="torch.searchsorted(torch.cumsum(softmax(logits), -1), torch.rand(...), right=True)",
        stages=Stages.all(format),
        source=TORCH_RAND[format],
        sums=SoftmaxSums(format),
        values_per_row=64,
    )
