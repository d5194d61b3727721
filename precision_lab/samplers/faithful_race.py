"""Our own race as one on trial: a word a token, and the argmax of real arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..faithful import exponential_race
from ..faithful.noise import CEILING, FLOOR
from ..laws.argmax import perturbed_law
from ..laws.law import Law, target_law
from ..uniforms import Rng
from .sampler import Sampler, Stages
from .torch_multinomial import as_torch_rng


@final
@dataclass(frozen=True)
class FaithfulRace(Sampler):
    """:func:`precision_lab.faithful.exponential_race`. Its scores are compared as real numbers, so that the
    grid of the uniforms, of 2^-64, is all that parts its law from softmax."""

    @property
    def ceiling(self) -> float:
        return CEILING

    def bits_per_draw(self, vocab: int) -> float:
        """32 a token, and 32 more where the first word lies within FLOOR of either end."""
        return vocab * 32 * (1 + 2 * FLOOR / 2**32)

    @property
    def emulated(self) -> str | None:
        """None: sums and products of IEEE arithmetic, one after another, are the same on every machine."""
        return None

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        return exponential_race(logits, n, generator=as_torch_rng(rng))

    def row_law(self, logits: Tensor) -> Law:
        target = target_law(logits.double().cpu().numpy())
        law = perturbed_law(target.log_probs, relative=0.0, lattice=2.0**-64)
        how = "softmax; each uniform is within 2^-65 of a real one, and scores are compared as real numbers"
        return Law(law.log_probs, how, law.error + target.error, law.guarantee)


FAITHFUL_RACE = FaithfulRace(
    "faithful_race",
    "precision_lab",
    "precision_lab/faithful/race.py, certified.py",
    Stages("fp64", "int64", "fp32", "fp32"),
)
