"""What a law does to a use, in the use's own terms: total variation of a token, or the unmasking of a step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..laws.law import Law, target_law
from ..statistics import Counts, identity_test, tail_test, total_variation
from ..statistics.unmasking import unmasking
from ..targets import Target, Use, parse_target
from ..types import Guarantee

# From where on a use is harmed: total variation of one token, and relative deviation of the unmasking rate.
HARMFUL_TV = 0.01
HARMFUL_RATE = 0.05
ALSO = Use("mdm:4096", 4096)  # told beside next tokens
CONTRADICTED = 1e-6  # p-value at which draws say that the law that was read is not theirs
RELIABLE = {Guarantee.EXACT, Guarantee.CERTIFIED, Guarantee.EMULATED}


@dataclass(frozen=True)
class Harm:
    """``quantity``: total variation from the target, or the unmasking multiplier of a step. ``error``: of
    the law. ``guarantee``, ``how``: what stands behind it.  ``agreement``: p-value of the draws under that
    very law, None where none were made of this target.  ``mask``: of a step, the mask's index."""

    use: Use
    target: str
    quantity: str
    value: float
    error: float
    guarantee: str
    how: str
    agreement: float | None = None
    mask: int | None = None
    law: Law | None = field(default=None, repr=False, compare=False)

    @property
    def contradicted(self) -> bool:
        """Whether the draws are not of this law: then it says nothing of the sampler."""
        return self.agreement is not None and self.agreement <= CONTRADICTED

    @property
    def harmful(self) -> bool:
        """Whether the use is harmed for certain: beyond the margin by more than the law's error."""
        if self.guarantee not in RELIABLE or self.contradicted:
            return False
        if self.quantity == "total variation":
            return self.value - self.error > HARMFUL_TV
        return abs(self.value - 1) > HARMFUL_RATE

    def row(self) -> dict[str, Any]:
        """For JSON and tables."""
        return {
            "for": self.use.name,
            "target": self.target,
            "quantity": self.quantity,
            "value": self.value,
            "error": self.error,
            "guarantee": self.guarantee,
            "harmful": self.harmful,
            "agreement_of_draws": self.agreement,
            "how": self.how,
        }

    def sentence(self) -> str:
        """``fine for next tokens (tv <= 0.0004)``."""
        said = "not" if self.harmful else "fine"
        number = f"{self.value:.2g} of what it should"
        found = (
            f"unmasks {number}"
            if self.quantity != "total variation"
            else f"tv <= {self.value + self.error:.2g}"
        )
        if self.contradicted:
            return f"of a law that its draws contradict (p = {self.agreement:.2g} on {self.target})"
        return f"{said} for {self.use.described} ({found} on {self.target})"

    def confirmed_by(self, counts: Counts, rng: np.random.Generator) -> Harm:
        """The harm with the p-value of the draws of its target under its own law: of a step, of how often
        the mask went (exact binomial); else of all tokens (identity test)."""
        assert self.law is not None
        if self.mask is None:
            p_value = identity_test(counts, self.law, rng=rng, false_fail=CONTRADICTED).p_value
        else:
            rate = float(np.delete(self.law.probs, self.mask).sum())
            unmasked = counts.n - int(counts.counts[self.mask])
            p_value = tail_test(unmasked, counts.n, rate, p0_error=self.law.error).p_value
        return replace(self, agreement=p_value)


def rows_of(use: Use, vocab: int) -> list[tuple[Use, Target]]:
    """(use, what is drawn from) of the laws that are asked: the use itself, and one of the other kind
    beside it."""
    uses = [use] if use.steps is not None else [use, ALSO]
    found = []
    for each in uses:
        name = f"zipf[vocab={vocab}]" if each.steps is None else f"normal[vocab={vocab}]"
        found.append((each, each.of(parse_target(name))))
    return found


def harm_of(law: Law, use: Use, target: Target) -> Harm:
    """What ``law`` does to ``target`` in a use."""
    intended = target_law(target.logits.astype(np.float32))
    if target.mask is None:
        value, quantity = total_variation(law, intended), "total variation"
    else:
        value, quantity = unmasking(law, intended).multiplier, "unmasking multiplier"
    stands = str(law.guarantee)
    return Harm(use, target.name, quantity, value, law.error, stands, law.how, mask=target.mask, law=law)
