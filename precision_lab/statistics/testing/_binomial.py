"""The exact two-sided binomial test: p-value, rejection region and power.

The null is any rate in [low, high]; low = high is the simple null. p = min(1, 2 min(P_low(X <= hits),
P_high(X >= hits))), which is at least the doubled tail of every rate between: P(X <= k) falls with the
rate. Arrays broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from ...errors import InputError
from ...types import Array, Float
from .._checks import check_open_unit

MOST_DRAWS = 2**50  # beyond, SciPy's binomial quantiles are NaN and a step of one is lost in float64


def interval_of(rate: float, error: float) -> tuple[float, float]:
    """[rate - error, rate + error] within [0, 1]; InputError unless 0 < rate < 1 and error >= 0."""
    check_open_unit("p0", rate)
    if not error >= 0:
        raise InputError(f"p0_error = {error}", "a bound, 0 or more", "pass the largest possible |p0 - truth|")
    return max(rate - error, 0.0), min(rate + error, 1.0)


def two_sided(hits: int, n: int, low: float, high: float) -> float:
    return min(1.0, 2 * float(min(stats.binom.cdf(hits, n, low), stats.binom.sf(hits - 1, n, high))))


def region(n: int | Array, low: float | Float, high: float | Float, false_fail: float) -> tuple[Float, Float]:
    """(few, many): the test fails at hits <= few and at hits >= many. -1 and n + 1 where that side is never
    failed.

    Errors: InputError for n above MOST_DRAWS."""
    if np.max(n) > MOST_DRAWS:
        raise InputError(f"n = {np.max(n):.3g}", f"at most 2**50 = {MOST_DRAWS:.3g} draws", "compare the laws")
    side = false_fail / 2
    # quantiles may round by one: walk to the last one rejected
    few = np.asarray(stats.binom.ppf(side, n, low)) + 1.0
    while (beyond := stats.binom.cdf(few, n, low) > side).any():
        few = few - beyond
    many = np.maximum(np.asarray(stats.binom.isf(side, n, high)) - 1.0, 0.0)
    while (beyond := stats.binom.sf(many - 1, n, high) > side).any():
        many = many + beyond
    return few, many


def power(n: int | Array, ends: tuple[Float, Float], rate: float | Float) -> Float:
    """P(X <= few) + P(X >= many), X ~ Binomial(n, rate)."""
    few, many = ends
    return np.asarray(stats.binom.cdf(few, n, rate) + stats.binom.sf(many - 1, n, rate))


def detected_rates(
    n: int, low: float, high: float, false_fail: float, false_pass: float
) -> tuple[float, float]:
    """The largest rate below the null and the smallest above it that fail with 1 - false_pass; NaN where
    none."""
    few, many = (int(end) for end in region(n, low, high, false_fail))
    lowest = float(stats.beta.ppf(false_pass, few + 1, n - few)) if few >= 0 else math.nan
    highest = float(stats.beta.isf(false_pass, many, n - many + 1)) if many <= n else math.nan
    return lowest, highest


def conditional_power(n: int, discordant: float, false_fail: float) -> Callable[[float], float]:
    """share -> power of the test of 1/2 on M trials of that rate, M ~ Binomial(n, discordant): sum_m P(M =
    m) power(m).

    The sum leaves out 2e-12 of M, so the power is understated by at most that.
    """
    if n * discordant > 2**30:  # the sum would have a million terms
        raise InputError(
            f"an expectation of {n * discordant:.3g} trials", f"at most {2.0**30:.3g}", "compare the laws"
        )
    m = np.arange(stats.binom.ppf(1e-12, n, discordant), stats.binom.isf(1e-12, n, discordant) + 1)
    m = m[m > 0]
    if not m.size:  # that there is any trial is itself among the 2e-12 left out
        return lambda share: 0.0
    weights, ends = stats.binom.pmf(m, n, discordant), region(m, 0.5, 0.5, false_fail)
    return lambda share: float(weights @ power(m, ends, share))


def smallest(enough: Callable[[int], bool], aim: str) -> int:
    """Smallest n >= 1 with ``enough(n)``, by doubling and bisection; ``enough`` should be monotone, or
    nearly so."""
    few, many = 0, 1
    while not enough(many):
        few, many = many, 2 * many
        if many > MOST_DRAWS:
            raise InputError(aim, "an effect visible in 2**50 draws", "compare the laws")
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def check_rates(false_fail: float, false_pass: float) -> None:
    check_open_unit("false_fail", false_fail)
    check_open_unit("false_pass", false_pass)
