"""The exact binomial test of a set of tokens, and the set that two laws disagree on most usefully."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Array, Float
from .._checks import check_open_unit, check_same_vocab, check_successes, check_whole
from ..counts import Counts
from ..estimate import proportion
from ._binomial import MOST_DRAWS, check_rates, detected_rates, interval_of, power, region, smallest, two_sided
from .result import TestResult, asserting

_COMPARED = 512  # thresholds whose exact power is computed


def tail_test(
    successes: int,
    n: int,
    p0: float,
    *,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    p0_error: float = 0.0,
) -> TestResult:
    """Is the rate of a set of tokens p0? p = min(1, 2 min(P(X <= successes), P(X >= successes))), X ~
    Binomial(n, p0).

    Exact at every n and p0; with ``p0_error`` for every rate within it of p0, each tail at its worst rate.
    ``statistic``: z = (successes - n p0) / sqrt(n p0 (1 - p0)). ``estimate``: Clopper and Pearson's interval at
    1 - ``false_fail``, outside which p0 lies exactly where the test fails.
    The set of tokens must be chosen before the draws are seen, say by :func:`tail_set`.
    """
    hits, total = check_successes(successes, n)
    detectable = detectable_tail(total, p0, false_fail, false_pass, p0_error)
    return TestResult(
        two_sided(hits, total, *interval_of(p0, p0_error)),
        (hits - total * p0) / math.sqrt(total * p0 * (1 - p0)),
        total,
        detectable,
        false_fail,
        "tail_test",
        estimate=proportion(hits, total, 1 - false_fail),
        expected=p0,
    )


assert_tail = asserting(tail_test)


def detectable_tail(
    n: int, p0: float, false_fail: float = 1e-6, false_pass: float = 1e-6, p0_error: float = 0.0
) -> float:
    """Smallest d such that :func:`tail_test` passes any rate p1 with |p1 / p0 - 1| >= d at most
    ``false_pass`` often.

    From the ends of the rejection region by quantiles of the beta distribution. A side on which even the
    rate 0 (or 1) goes unseen counts as d = 1 (or 1/p0 - 1), where it ends; inf where both sides are so.
    """
    check_rates(false_fail, false_pass)
    total, ends = check_whole("n", n, 1), interval_of(p0, p0_error)
    lowest, highest = detected_rates(total, *ends, false_fail, false_pass)
    if math.isnan(lowest) and math.isnan(highest):
        return math.inf
    return max(
        1.0 if math.isnan(lowest) else 1 - lowest / p0, (1.0 if math.isnan(highest) else highest) / p0 - 1
    )


def detectable_shortfall(
    n: int, p0: float, false_fail: float = 1e-6, false_pass: float = 1e-6, p0_error: float = 0.0
) -> float:
    """Smallest d such that :func:`tail_test`, two-sided as it is, passes any rate p1 <= (1 - d) p0 at most
    ``false_pass`` often; inf where even the rate 0 goes unseen."""
    check_rates(false_fail, false_pass)
    lowest, _ = detected_rates(check_whole("n", n, 1), *interval_of(p0, p0_error), false_fail, false_pass)
    return math.inf if math.isnan(lowest) else 1 - lowest / p0


def draws_needed_tail(
    p0: float | Law, p1: float | Law, false_fail: float = 1e-6, false_pass: float = 1e-6, p0_error: float = 0.0
) -> int:
    """Draws with which :func:`tail_test` of p0 fails a sampler of rate p1 with probability at least 1 -
    ``false_pass``.

    Two laws: with the set that :func:`tail_set` picks at that n; ``p0_error`` then comes from the first
    law's error. By bisection. Power is a saw-tooth in n, so that a few nearby n can serve, or fail, against
    the trend.
    """
    check_rates(false_fail, false_pass)
    if isinstance(p0, Law) and isinstance(p1, Law):
        prefixes = _Prefixes.of(p0, p1)
        return smallest(lambda n: prefixes.best(n, false_fail)[1] >= 1 - false_pass, "laws that nearly agree")
    if isinstance(p0, Law) or isinstance(p1, Law) or not (0 <= p1 <= 1 and p1 != p0):
        got = (
            "a law against a rate"
            if isinstance(p0, Law) or isinstance(p1, Law)
            else f"p1 = {p1} against p0 = {p0}"
        )
        raise InputError(got, "two rates in [0, 1] that differ, or two laws", "name the deviation to see")
    ends, rate = interval_of(p0, p0_error), p1

    def enough(n: int) -> bool:
        lowest, highest = detected_rates(n, *ends, false_fail, false_pass)
        return rate <= lowest if rate < p0 else rate >= highest  # False where a bound is NaN

    return smallest(enough, f"p1 = {p1} against p0 = {p0}")


@dataclass(frozen=True, eq=False)
class TailSet:
    """A set of tokens chosen before the draws.

    ``tokens``: (vocab,) bool.  ``p0``, ``p1``: its mass under the target and under the alternative.
    ``p0_error``: bound on |p0 - truth|, min(size, vocab - size) law.error, as errors sum to 0.  ``power``:
    see tail_set.
    """

    tokens: Array
    p0: float
    p1: float
    p0_error: float
    power: float

    def successes(self, counts: Counts) -> int:
        """How many draws fell into the set."""
        check_same_vocab(counts.vocab, len(self.tokens))
        return int(counts.counts[self.tokens].sum())


def tail_set(target: Law, alternative: Law, n: int, *, false_fail: float = 1e-6) -> TailSet:
    """{i: q_i / p_i <= threshold}, q the alternative: the threshold of greatest exact power of
    :func:`tail_test` at n.

    By Neyman and Pearson no other set of its size under p has more power. Up to 512 distinct ratios all
    thresholds are compared; above that the 512 of greatest power in the normal approximation.
    """
    check_open_unit("false_fail", false_fail)
    prefixes = _Prefixes.of(target, alternative)
    at, best_power = prefixes.best(check_whole("n", n, 1), false_fail)
    tokens = np.zeros(target.vocab, dtype=bool)
    tokens[prefixes.order[: prefixes.size[at]]] = True
    p0, p1 = (math.fsum(law.probs[tokens]) for law in (target, alternative))
    return TailSet(tokens, p0, p1, float(prefixes.error[at]), best_power)


@dataclass(frozen=True, eq=False)
class _Prefixes:
    """The sets {ratio <= threshold}, one an entry: size, mass under p and q, error of the first. ``order``:
    of tokens."""

    order: Array
    size: Array
    p: Float
    q: Float
    error: Float

    @staticmethod
    def of(target: Law, alternative: Law) -> _Prefixes:
        check_same_vocab(alternative.vocab, target.vocab)
        possible = ~(np.isneginf(target.log_probs) & np.isneginf(alternative.log_probs))
        tokens = np.flatnonzero(possible)
        ratio = alternative.log_probs[tokens] - target.log_probs[tokens]
        order = tokens[by := np.argsort(ratio, kind="stable")]
        size = np.flatnonzero(np.append(ratio[by][1:] > ratio[by][:-1], False)) + 1
        p, q = (np.cumsum(law.probs[order])[size - 1] for law in (target, alternative))
        inside = (p > 0) & (p < 1)
        if not (inside & (p != q)).any():
            raise InputError(
                "laws that agree on every set", "an alternative that differs", "name another alternative"
            )
        error = np.minimum(np.minimum(size, target.vocab - size) * target.error, 1.0)
        return _Prefixes(order, size[inside], p[inside], np.clip(q[inside], 0, 1), error[inside])

    def best(self, n: int, false_fail: float) -> tuple[int, float]:
        """The entry of greatest exact power at n, and that power."""
        if n > MOST_DRAWS:
            return 0, 0.0
        spread = np.sqrt(self.p * (1 - self.p)), np.sqrt(self.q * (1 - self.q)) + 1e-300
        off = np.maximum(np.abs(self.p - self.q) - self.error, 0.0)
        z = (math.sqrt(n) * off - stats.norm.isf(false_fail / 2) * spread[0]) / spread[1]
        shortlist = np.argsort(-z, kind="stable")[:_COMPARED]
        p, error = self.p[shortlist], self.error[shortlist]
        ends = region(n, np.maximum(p - error, 0.0), np.minimum(p + error, 1.0), false_fail)
        powers = power(n, ends, self.q[shortlist])
        at = int(powers.argmax())  # the first of equal powers has the greater z
        return int(shortlist[at]), float(powers[at])
