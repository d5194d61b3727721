"""A published rule of acceptance: its verdict on counts, and its verdict foreseen on a law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...laws.law import Law
from ...types import Float, Guarantee
from .._checks import check_same_vocab, check_whole, log_probs_of, log_probs_pair
from ..counts import Counts


@dataclass(frozen=True)
class Criterion:
    """One verdict. ``n``: the draws behind it, 0 for an exact law."""

    name: str
    publisher: str
    source_ref: str
    passed: bool
    statistic: float
    threshold: float
    n: int


@dataclass(frozen=True)
class Forecast:
    """What a rule says of a law after ``n`` draws: ``passes``, a probability, and the ``statistic`` about which it moves."""

    name: str
    passes: float
    statistic: float
    threshold: float
    n: int
    guarantee: Guarantee


@dataclass(frozen=True)
class Rule:
    """Passed where ``statistic(counts, p, n)`` is above (or below) ``threshold``; NaN fails.

    ``n``: the draws that the publisher makes.  ``foresee(q, p, n, threshold)``: statistic, P(pass) and in what sense.
    """

    name: str
    publisher: str
    source_ref: str
    statistic: Callable[[Float, Float, int], float]
    foresee: Callable[[Float, Float, int, float], tuple[float, float, Guarantee]]
    threshold: float
    above: bool
    n: int

    def __call__(self, counts: Counts, target: Law | Float) -> Criterion:
        """Judge the counts of draws that should follow the target."""
        p = np.exp(log_probs_of(target))
        check_same_vocab(len(p), counts.vocab)
        value = float(self.statistic(counts.counts.astype(np.float64), p, counts.n))
        passed = value > self.threshold if self.above else value < self.threshold
        return Criterion(self.name, self.publisher, self.source_ref, passed, value, self.threshold, counts.n)

    def forecast(self, q: Law | Float, target: Law | Float, n: int | None = None) -> Forecast:
        """What it would say of n draws, the publisher's number if none is given, of a sampler whose law is q."""
        log_q, log_p = log_probs_pair(q, target)
        draws = self.n if n is None else check_whole("n", n, 1)
        statistic, passes, guarantee = self.foresee(np.exp(log_q), np.exp(log_p), draws, self.threshold)
        return Forecast(self.name, float(passes), float(statistic), self.threshold, draws, guarantee)


def never(q: Float, p: Float, n: int) -> float:
    """P(no token that p cannot draw is among n draws of q)."""
    return (1 - min(1.0, float(q[p == 0].sum()))) ** n
