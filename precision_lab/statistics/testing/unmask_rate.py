"""Do positions unmask as often as the schedule says? One coin for every masked position of every step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from ...errors import InputError
from ...types import Float
from ..estimate import Estimate, proportion
from ._binomial import check_rates, smallest
from ._chernoff import bernoulli_sum_lower, bernoulli_sum_upper
from .result import TestResult, asserting

MULTIPLIERS = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)
_FINEST = 1e-12  # the smallest relative deviation that is looked for


def unmask_rate_test(
    unmasked: ArrayLike,
    masked: ArrayLike,
    predicted: ArrayLike,
    *,
    predicted_error: float = 0.0,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
) -> TestResult:
    """K = sum_g k_g unmaskings of m_g masked positions, each with its predicted probability r_g: p = 2
    min(tails of K).

    ``unmasked``, ``masked``, ``predicted``: k, m, r of one shape (or scalars). K is Poisson-binomial; its
    tails are bounded by Hoeffding's binomial of the mean rate and by Chernoff, whichever is smaller: exact
    for equal rates, a level that holds at every n for others. ``predicted_error``: every r is known within
    it. The trials must be fixed before their outcomes: a whole run, in which a position is tried until it
    unmasks, is for
    :func:`unmask_rate_e_value`. ``statistic``, ``estimate``: K / E K; its interval assumes equal rates.
    """
    check_rates(false_fail, false_pass)
    k, m, r = _groups(unmasked, masked, predicted)
    hits, n, mean = int(k.sum()), int(m.sum()), float(m @ r)
    design = _Design(m, r, predicted_error)
    p_value = min(1.0, 2 * min(design.lower(hits), design.upper(hits)))
    ratio: Estimate = proportion(hits, n, 1 - false_fail).scaled(n / mean, "Clopper-Pearson over the mean rate")
    detectable = design.detectable(false_fail, false_pass)
    effect = "relative deviation of every rate"
    name = "unmask_rate_test"
    return TestResult(
        p_value, hits / mean, n, detectable, false_fail, name, effect, estimate=ratio, expected=1.0
    )


assert_unmask_rate = asserting(unmask_rate_test)


def detectable_unmask_rate(
    masked: ArrayLike,
    predicted: ArrayLike,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    predicted_error: float = 0.0,
) -> float:
    """Smallest d such that rates min(1, c r) with |c - 1| >= d pass at most ``false_pass`` often. Certified.

    A side on which nothing is seen counts as d = 1 (all rates 0) or as inf; inf where both are so.
    """
    check_rates(false_fail, false_pass)
    _, m, r = _groups(0, masked, predicted)
    return _Design(m, r, predicted_error).detectable(false_fail, false_pass)


def draws_needed_unmask_rate(
    predicted: ArrayLike,
    multiplier: float,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    predicted_error: float = 0.0,
) -> int:
    """Rounds of one trial at every predicted rate with which rates min(1, multiplier r) fail. Certified.

    For one rate: trials. For the rates of a run: runs of as many positions as rates.
    """
    check_rates(false_fail, false_pass)
    _, ones, r = _groups(0, np.ones(np.shape(predicted), dtype=np.int64), predicted)
    if not (multiplier >= 0 and multiplier != 1):
        raise InputError(
            f"multiplier = {multiplier}", "0 or more, not 1", "name the deviation to see, say 0.69"
        )

    def enough(rounds: int) -> bool:
        return _Design(rounds * ones, r, predicted_error).missed(multiplier, false_fail) <= false_pass

    return smallest(enough, f"rates times {multiplier}")


def unmask_rate_e_value(
    unmasked: ArrayLike, masked: ArrayLike, predicted: ArrayLike, multipliers: ArrayLike = MULTIPLIERS
) -> float:
    """log of the mean over c of prod_g c^k_g ((1 - c r_g) / (1 - r_g))^(m_g - k_g): a martingale that
    starts at 1.

    Valid where the number of trials and the rate of a step depend on all earlier steps, and at every
    stopping: a right sampler has P(ever >= 1 / false_fail) <= false_fail. Multipliers c with some c r > 1
    are left out.
    """
    k, m, r = _groups(unmasked, masked, predicted)
    c = np.asarray(multipliers, dtype=np.float64)[:, None]
    c = c[(c[:, 0] >= 0) & (c[:, 0] * r.max() <= 1)]
    if not len(c):
        raise InputError(
            f"multipliers that raise a rate of {r.max()} above 1", "one that does not", "add one below 1"
        )
    # m = k where r = 1, or the draw is impossible
    stay = special.xlogy(m - k, 1 - c * r) - special.xlogy(m - k, 1 - r)
    return float(special.logsumexp((special.xlogy(k, c) + stay).sum(axis=1)) - math.log(len(c)))


class _Design:
    """``trials`` (groups,) at ``rates`` known within ``error``; tails at their worst rates."""

    def __init__(self, trials: Float, rates: Float, error: float) -> None:
        if not error >= 0:
            raise InputError(f"predicted_error = {error}", "a bound, 0 or more", "pass the largest |r - truth|")
        self.trials, self.rates = trials, rates
        self.least, self.most = np.maximum(rates - error, 0.0), np.minimum(rates + error, 1.0)

    def lower(self, k: int) -> float:
        return bernoulli_sum_lower(k, self.trials, self.least)

    def upper(self, k: int) -> float:
        return bernoulli_sum_upper(k, self.trials, self.most)

    def region(self, false_fail: float) -> tuple[int, int]:
        """(few, many): fails at K <= few and K >= many, by bisection of the two bounds."""
        n, side = int(self.trials.sum()), false_fail / 2
        low, high = -1, n + 1
        few = _last(lambda k: self.lower(k) <= side, low, n)
        many = high - 1 - _last(lambda j: self.upper(n - j) <= side, low, n)
        return few, many

    def missed(self, multiplier: float, false_fail: float, ends: tuple[int, int] | None = None) -> float:
        """Bound on the probability to pass at rates min(1, multiplier r)."""
        few, many = ends or self.region(false_fail)
        truth = np.minimum(multiplier * self.rates, 1.0)
        if multiplier < 1:
            return bernoulli_sum_upper(few + 1, self.trials, truth)
        return bernoulli_sum_lower(many - 1, self.trials, truth)

    def detectable(self, false_fail: float, false_pass: float) -> float:
        ends = self.region(false_fail)

        def over(multiplier: float) -> float:
            return self.missed(multiplier, false_fail, ends) - false_pass

        below, most = math.inf, 1 / float(self.rates.max())
        if over(0.0) <= 0:
            near = 1 - _FINEST
            below = 1 - (float(optimize.brentq(over, 0.0, near, xtol=1e-9)) if over(near) > 0 else near)
        above = math.inf
        if most > 1 and over(most) <= 0:
            near = min(1 + _FINEST, most)
            above = (float(optimize.brentq(over, near, most, rtol=1e-9)) if over(near) > 0 else near) - 1
        if math.isinf(below) and math.isinf(above):
            return math.inf
        return max(1.0 if math.isinf(below) else below, most - 1 if math.isinf(above) else above)


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest k in low..high with holds(k), which is True up to some k >= low and False beyond."""
    high += 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _groups(unmasked: ArrayLike, masked: ArrayLike, predicted: ArrayLike) -> tuple[Float, Float, Float]:
    """k, m, r as flat float64 arrays of one length, m > 0; InputError unless whole 0 <= k <= m and 0 <= r
    <= 1."""
    try:
        k, m, r = np.broadcast_arrays(
            np.asarray(unmasked), np.asarray(masked), np.asarray(predicted, dtype=np.float64)
        )
    except ValueError as error:
        raise InputError(
            "arrays that do not go together", "one shape", "one entry a group of trials"
        ) from error
    if k.dtype.kind not in "biu" or m.dtype.kind not in "biu" or (k < 0).any() or (k > m).any():
        raise InputError("counts that are no counts", "whole 0 <= unmasked <= masked", "pass integers")
    if not ((r >= 0) & (r <= 1)).all():
        raise InputError(
            "predicted rates outside [0, 1] or NaN", "probabilities", "use (a_s - a_t) / (1 - a_t)"
        )
    used = np.asarray(m > 0)
    if not used.any() or not (r[used] > 0).any():
        raise InputError(
            "no trial that can unmask", "one with m > 0 and r > 0", "pass the steps that have masks"
        )
    return k[used].astype(np.float64), m[used].astype(np.float64), r[used]
