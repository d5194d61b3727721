"""What a law does to a use, in the use's own terms: total variation of a token, or the unmasking of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..laws.law import Law, target_law
from ..statistics import total_variation
from ..statistics.unmasking import unmasking
from ..targets import Target, Use, parse_target
from ..types import Guarantee

# From where on a use is harmed: total variation of one token, and relative deviation of the unmasking rate.
HARMFUL_TV = 0.01
HARMFUL_RATE = 0.05
ALSO = Use("mdm:4096", 4096)  # told beside next tokens
RELIABLE = {Guarantee.EXACT, Guarantee.CERTIFIED, Guarantee.EMULATED}


@dataclass(frozen=True)
class Harm:
    """``quantity``: total variation from the target, or the unmasking multiplier of a step. ``error``: of the law.
    ``guarantee``, ``how``: what stands behind it."""

    use: Use
    target: str
    quantity: str
    value: float
    error: float
    guarantee: str
    how: str

    @property
    def harmful(self) -> bool:
        """Whether the use is harmed for certain: beyond the margin by more than the law's error."""
        if self.guarantee not in RELIABLE:
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
        return f"{said} for {self.use.described} ({found} on {self.target})"


def rows_of(use: Use, vocab: int) -> list[tuple[Use, Target]]:
    """(use, what is drawn from) of the laws that are asked: the use itself, and one of the other kind beside it."""
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
    return Harm(use, target.name, quantity, value, law.error, str(law.guarantee), law.how)
