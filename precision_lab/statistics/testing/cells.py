"""Several counts of known rates at once: the cells of a two-way table whose one margin is given."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ...errors import InputError
from ...types import Float
from .._checks import check_open_unit
from ..estimate import proportion
from ._binomial import check_rates, detected_rates
from .result import TestResult, asserting


def cells_test(
    hits: ArrayLike,
    trials: ArrayLike,
    rates: ArrayLike,
    *,
    rate_error: float = 0.0,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
) -> TestResult:
    """Is every ``hits[k]`` binomial of ``trials[k]`` at ``rates[k]``, or at any rate within ``rate_error``
    of it?

    p = min(1, cells x the least two-sided exact p-value), Holm's first step: valid whatever the dependence of
    the cells. Rates may be 0 and 1. Cells without trials are left out, also of their number. ``trials`` may be
    random if, given them, each count is binomial: say the draws of a class of tokens.
    ``statistic``: hits beyond what is due in the worst cell; ``estimate``, ``expected``: its rate.
    ``detectable``: :func:`detectable_cells`.
    Errors: InputError for arrays of unequal length, hits beyond trials, rates outside [0, 1], no trial at all.
    """
    check_rates(false_fail, false_pass)
    found, total, rate = (np.asarray(values) for values in (hits, trials, rates))
    if not found.shape == total.shape == rate.shape or found.ndim != 1:
        raise InputError(f"shapes {found.shape}, {total.shape}, {rate.shape}", "three of (cells,)", "pair them")
    if found.dtype.kind not in "iu" or total.dtype.kind not in "iu" or ((found < 0) | (found > total)).any():
        raise InputError("hits that are no counts", "whole numbers, 0 to trials", "count the draws")
    asked = total > 0
    if not asked.any():
        raise InputError("no trials", "a cell with one trial or more", "leave the test out")
    detectable = detectable_cells(total, rate, false_fail, false_pass, rate_error)
    found, total, rate = found[asked], total[asked], rate[asked].astype(np.float64)
    low, high = _interval(rate, rate_error)
    p_values = 2 * np.minimum(stats.binom.cdf(found, total, low), stats.binom.sf(found - 1, total, high))
    worst, cells = int(p_values.argmin()), len(found)
    return TestResult(
        min(1.0, cells * float(p_values[worst])),
        float(found[worst] - total[worst] * rate[worst]),
        int(total.sum()),
        detectable,
        false_fail,
        "cells_test",
        "deviation of the rate of the cell that sees most",
        estimate=proportion(int(found[worst]), int(total[worst]), 1 - false_fail),
        expected=float(rate[worst]),
    )


assert_cells = asserting(cells_test)


def detectable_cells(
    trials: ArrayLike,
    rates: ArrayLike,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    rate_error: float = 0.0,
) -> float:
    """Smallest d such that some cell, its rate off by d or more, passes at most ``false_pass`` often; inf where
    none is. Exact, from the ends of the rejection region of each cell at false_fail / cells. A side on which
    even the rate 0 (or 1) goes unseen counts as d = rate (or 1 - rate), where it ends."""
    check_rates(false_fail, false_pass)
    total, rate = np.asarray(trials), np.asarray(rates, dtype=np.float64)
    asked = total > 0
    low, high = _interval(rate, rate_error)
    level = check_open_unit("false_fail", false_fail) / max(int(asked.sum()), 1)
    seen = [
        _seen(int(total[k]), float(low[k]), float(high[k]), float(rate[k]), level, false_pass)
        for k in np.flatnonzero(asked)
    ]
    return min(seen, default=math.inf)


def _seen(n: int, low: float, high: float, rate: float, level: float, false_pass: float) -> float:
    """Of one cell, as :func:`~.tail.detectable_tail` has it: a side on which even 0 (or 1) goes unseen ends
    there."""
    lowest, highest = detected_rates(n, low, high, level, false_pass)
    if math.isnan(lowest) and math.isnan(highest):
        return math.inf
    return max(rate - (0.0 if math.isnan(lowest) else lowest), (1.0 if math.isnan(highest) else highest) - rate)


def _interval(rate: Float, error: float) -> tuple[Float, Float]:
    if not ((rate >= 0) & (rate <= 1)).all() or not error >= 0:
        raise InputError("rates outside [0, 1], or a negative error", "probabilities", "normalise them")
    return np.clip(rate - error, 0.0, 1.0), np.clip(rate + error, 0.0, 1.0)
