"""Our own faithful sampler as one on trial: integer masses, whose law is a division."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor

from ..faithful import categorical, categorical_masses
from ..faithful.masses import BITS
from ..laws.law import Law
from ..types import Guarantee
from ..uniforms import Rng
from .sampler import Sampler, Stages
from .torch_multinomial import as_torch_rng


@final
@dataclass(frozen=True)
class IntegerMasses(Sampler):
    """:func:`precision_lab.faithful.categorical`. The law of a row is m_i / M, of the very integers that
    are drawn from."""

    @property
    def ceiling(self) -> float:
        return math.nan

    def bits_per_draw(self, vocab: int) -> float:
        """64 for a number below M, and again where it is not below: 1.44 words at most on average of M, 2
        at worst."""
        return 128

    @property
    def emulated(self) -> str | None:
        """None: sums and products of IEEE arithmetic, one after another, are the same on every machine."""
        return None

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        return categorical(logits, n, generator=as_torch_rng(rng))

    def row_law(self, logits: Tensor) -> Law:
        masses = categorical_masses(logits).cpu().numpy()
        total = int(masses.sum())
        with np.errstate(divide="ignore"):
            log_probs = np.log(masses.astype(np.float64)) - math.log(total)
        how = f"whole-number masses of at most 2^{BITS}, over their sum {total}"
        return Law(log_probs, how, 2.0**-50, Guarantee.EXACT, 2.0**-46)


FAITHFUL_MASSES = IntegerMasses(
    "faithful_masses",
    "precision_lab",
    "precision_lab/faithful/categorical.py",
    Stages("fp32", "int64", "int64", "int64"),
)
