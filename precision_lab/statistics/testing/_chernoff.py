"""Chernoff's bounds on sums: every s gives a valid bound, so the best of a grid of s does too."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from ...types import Array, Float, Int

S = np.geomspace(2.0**-9, 4.0, 96)  # the optimum is missed by 4 % of s at most, the exponent by 0.2 %


def log_upper(total: float, n: int, log_mgf: Float) -> float:
    """log P(X_1 + ... + X_n >= total) <= min_s n log E e^(sX) - s total, and <= 0. ``log_mgf``: on the grid
    S."""
    return min(0.0, float((n * log_mgf - S * total).min()))


def threshold(n: int, log_mgf: Float, log_level: float) -> float:
    """The smallest total whose :func:`log_upper` is ``log_level``: min_s (n log E e^(sX) - log_level) / s."""
    return float(((n * log_mgf - log_level) / S).min())


def bernoulli_sum_upper(k: int, trials: Float, rates: Float) -> float:
    """Bound on P(K >= k), K = sum_g Binomial(trials_g, rates_g) with independent terms.

    The smaller of Hoeffding's P(Binomial(N, mean rate) >= k), for k >= E K + 1 (Ann. Math. Stat. 27, 713,
    Theorem 4; for equal rates it is exact at every k), and Chernoff's min_s e^(-sk) E e^(sK).
    """
    total, mean = float(trials.sum()), float(trials @ rates)
    if k <= 0:
        return 1.0
    if k > trials[rates > 0].sum():
        return 0.0
    if np.ptp(rates) == 0:
        return float(stats.binom.sf(k - 1, total, rates[0]))
    best = float(stats.binom.sf(k - 1, total, min(mean / total, 1.0))) if k >= mean + 1 else 1.0
    if k > mean:

        def exponent(s: float) -> float:
            return float(trials @ np.log1p(rates * math.expm1(s))) - s * k

        best = min(
            best, math.exp(min(optimize.minimize_scalar(exponent, bounds=(0, 60), method="bounded").fun, 0.0))
        )
    return best


def bernoulli_sum_lower(k: int, trials: Float, rates: Float) -> float:
    """Bound on P(K <= k): the failures' upper tail."""
    return bernoulli_sum_upper(int(trials.sum()) - k, trials, 1 - rates)


def pooled(hits: Array, rates: Float, classes: int = 512) -> tuple[Int, Int, Float]:
    """(hits, trials, mean rate) of classes of coins of nearly equal rates; one coin a class up to
    ``classes`` of them.

    The bounds of :func:`bernoulli_sum_upper` and :func:`bernoulli_sum_lower` stay bounds: log(1 + r (e^s -
    1)) is concave in r, so that no coins of the same mean have a greater E e^(sK) than equal ones.
    """
    if len(rates) <= classes:
        return hits.astype(np.int64), np.ones(len(rates), dtype=np.int64), rates
    low, width = float(rates.min()), float(np.ptp(rates))
    if width == 0:
        label = np.zeros(len(rates), dtype=np.int64)
    else:
        label = np.minimum((classes * ((rates - low) / width)).astype(np.int64), classes - 1)
    trials = np.bincount(label, minlength=classes)
    used = trials > 0
    mean = np.bincount(label, weights=rates, minlength=classes)[used] / trials[used]
    found = np.bincount(label, weights=hits.astype(np.float64), minlength=classes)[used]
    return np.rint(found).astype(np.int64), trials[used].astype(np.int64), mean
