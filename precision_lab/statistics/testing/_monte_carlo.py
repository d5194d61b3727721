"""P-values from a simulated null, and what a test by them can see.

With b of B simulated statistics at or above the observed one, p = (b + 1) / (B + 1) is valid at every B.
Besag and Clifford (Biometrika 78, 1991) stop at the h-th such statistic, the l-th simulated, with p = h /
l: as valid, and a sampler that is right costs about 2h simulations however small the level.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from ...errors import InputError
from ...types import Float
from .._checks import check_whole

_ENTRIES = 1 << 22  # numbers in a block of simulated counts: 32 MiB
_SLACK = 1e-12  # relative: equal statistics whose sums were taken in another order count as equal


def needed_resamples(level: float, resamples: int | None) -> int:
    """B: as given, if 1 / (B + 1) <= level, else InputError; by default the least such B."""
    least = math.ceil(1 / max(level, 1e-300)) - 1
    least += 1 / (least + 1) > level  # rounding
    resamples = least if resamples is None and least < 2**40 else resamples or 1
    if check_whole("resamples", resamples, 1) < least:
        raise InputError(
            f"{resamples} resamples for a level of {level:.3g}",
            f"{least:.3g} or more",
            "leave resamples out, or raise false_fail; where Law.error ate the level, use tail_test",
        )
    return resamples


def monte_carlo(
    observed: float,
    simulate: Callable[[int], Float],
    level: float,
    resamples: int,
    width: int,
    progress: Callable[[float], None] | None = None,
) -> float:
    """The p-value of ``observed``; ``simulate(k)`` returns k statistics under the null, from rows of
    ``width`` numbers.

    Stops at max(20, (B + 1) level) statistics as large, so that stopping never turns a failure into a pass.
    """
    stop = max(20, math.ceil((resamples + 1) * level))
    least, b, done, size = observed - _SLACK * abs(observed), 0, 0, 64
    while done < resamples:
        size = min(size, resamples - done, max(1, _ENTRIES // width))
        at = np.flatnonzero(simulate(size) >= least)
        if b + len(at) >= stop:
            return stop / (done + int(at[stop - b - 1]) + 1)
        b, done, size = b + len(at), done + size, 2 * size
        if progress is not None:
            progress(done / resamples)
    return (b + 1) / (resamples + 1)


def critical_tail(level: float, resamples: int, false_pass: float) -> float:
    """The p* for which a statistic of null tail p* or less fails but ``false_pass`` / 2 often, with B
    resamples.

    It fails where b + 1 <= c = floor((B + 1) level), b ~ Binomial(B, p*); P(b >= c) is a beta distribution
    function.
    """
    c = max(1, math.floor((resamples + 1) * level * (1 + 1e-12)))
    return float(stats.beta.ppf(false_pass / 2, c, resamples - c + 1))


def quantile(tail: float, variance: float, third: float) -> float:
    """Upper quantile of a centred statistic with these cumulants, by Pearson's type III (a shifted gamma)."""
    sd = math.sqrt(variance)
    return sd * float(stats.pearson3.isf(tail, third / sd**3))


def detected_shift(critical: float, variance: float, false_pass: float) -> float:
    """y: the mean at which a statistic of variance ``variance`` + 4y exceeds ``critical`` but
    ``false_pass`` / 2 often.

    y - z sqrt(variance + 4y) = critical, z the normal quantile: a quadratic.
    """
    z2 = float(stats.norm.isf(false_pass / 2)) ** 2
    return critical + 2 * z2 + math.sqrt(z2 * (4 * critical + 4 * z2 + variance))
