"""A published claim beside an estimate: reproduced, different or undecided, decided and worded here alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .errors import InputError
from .statistics import Estimate
from .types import Guarantee


class Claim(StrEnum):
    """Where a quantity is claimed to be, seen from the null value."""

    ABOVE = "above"
    BELOW = "below"
    EQUAL = "equal to"


class Outcome(StrEnum):
    """What an interval says of a claim."""

    REPRODUCED = "reproduced"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Finding:
    """The quantity ``name`` with its ``estimate``, the value ``null`` to compare it with, and what is claimed of it.

    ``claim`` ABOVE or BELOW: reproduced if the whole interval lies on that side of ``null``, different if it
    lies on the other. EQUAL: reproduced if it lies within ``null`` -/+ ``margin``, different if it leaves
    that range out; without a margin equality is reproduced only of a number that was computed (n = 0). None,
    nobody claims anything: different from ``null``, or undecided. ``digits``: decimals in :meth:`text`.
    ``unit``: written behind the numbers.
    """

    name: str
    estimate: Estimate
    null: float = 0.0
    claim: Claim | None = None
    margin: float = 0.0
    digits: int = 3
    unit: str = ""

    def __post_init__(self) -> None:
        if self.margin < 0 or (self.margin > 0 and self.claim is not Claim.EQUAL):
            raise InputError(
                f"margin = {self.margin} for {self.claim}",
                "0 or more, and only for Claim.EQUAL",
                "put the margin into null",
            )

    @property
    def outcome(self) -> Outcome:
        """The rule of the class, applied."""
        low, high = self.estimate.low, self.estimate.high
        above = low > self.null + self.margin
        below = high < self.null - self.margin
        if self.claim is Claim.ABOVE:
            reproduced, different = above, below
        elif self.claim is Claim.BELOW:
            reproduced, different = below, above
        else:
            inside = self.null - self.margin <= low and high <= self.null + self.margin
            reproduced = self.claim is Claim.EQUAL and inside and (self.margin > 0 or self.estimate.n == 0)
            different = above or below
        if reproduced:
            return Outcome.REPRODUCED
        return Outcome.DIFFERENT if different else Outcome.UNDECIDED

    def text(self) -> str:
        """One clause: name, outcome, the numbers, and what was claimed."""
        shown = number(self.estimate, self.digits) + (f" {self.unit}" if self.unit else "")
        size = f", n = {self.estimate.n:,}" if self.estimate.n else ""
        if self.claim is None:
            where = (
                f" from {self.null:g}" if self.outcome is Outcome.DIFFERENT else f", {self.null:g} is possible"
            )
            return f"{self.name}: {self.outcome}{where}, {shown}{size}"
        margin = f" -/+ {self.margin:g}" if self.margin else ""
        return f"{self.name}: {self.outcome}, {shown}{size} (claimed {self.claim} {self.null:g}{margin})"

    def record(self) -> dict[str, Any]:
        """The finding as JSON values; an infinite end is None."""
        ends = {name: getattr(self.estimate, name) for name in ("value", "low", "high")}
        numbers = {name: end if math.isfinite(end) else None for name, end in ends.items()}
        claim = None if self.claim is None else str(self.claim)
        rule = {"null": self.null, "margin": self.margin, "claim": claim, "outcome": str(self.outcome)}
        return {"name": self.name, "n": self.estimate.n, "method": self.estimate.method} | numbers | rule


def number(estimate: Estimate, digits: int = 3) -> str:
    """ "value [low, high]"; without the interval where there is none, or where the number was computed."""
    if estimate.low == estimate.high or not (math.isfinite(estimate.low) or math.isfinite(estimate.high)):
        return f"{estimate.value:.{digits}f}"
    return estimate.text(digits)


def evidence(nats: float, odds: float = 1e6) -> Estimate:
    """A log likelihood ratio of two laws given before the draws, as an estimate: nats -/+ log(odds).

    The interval leaves out 0 on the wrong side, whichever of the two is right, with probability at most 1 /
    odds, at any stopping time (Ville's inequality for a ratio whose mean is at most 1 under the law below).
    """
    if not odds > 1:
        raise InputError(f"odds = {odds}", "more than 1", "1e6: wrong once in a million")
    half = math.log(odds)
    method = f"likelihood ratio, Ville, 1 / {odds:g}"
    return Estimate(nats, nats - half, nats + half, 1 - 1 / odds, 0, method, Guarantee.ANYTIME)
