"""Intervals by leaving out and by drawing again, for statistics of draws that come in sequences.

The bootstrap is for means and medians over sequences. It is wrong for what counts *different* things in the
whole (Hill numbers, distinct n-grams): a sequence drawn twice adds nothing new, so every resample falls
short of the value. Leaving out one sequence repeats none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from ..errors import InputError
from ..types import Float, Guarantee
from ._checks import check_numbers, check_open_unit, check_whole
from .counts import Counts
from .estimate import Estimate

Statistic = Callable[[NDArray[Any]], float]


def cluster_bootstrap(
    statistic: Statistic,
    clusters: int,
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Estimate:
    """``statistic(all clusters)`` with the BCa interval over whole clusters drawn with replacement.

    Ends: quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) of the resampled statistics, z0 from the share
    below the value, a from the jackknife (Efron 1987, doi:10.1080/01621459.1987.10478410).
    ``statistic`` receives an int64 array of cluster indices, (clusters,) or one shorter for the jackknife.
    One cluster: the interval is all numbers. Statistics all alike: the interval is the value. Where nearly
    all of them lie on one side of the value, the interval lies there too, and the statistic is not one for
    this bootstrap. Few skewed clusters are too few: of 20 log-normal means the 95 % interval holds the truth
    0.88 of the time, of 100 0.93 (judge_calibration).
    Errors: InputError for fewer resamples than have a quantile of (1 - confidence) / 2, for a statistic that
    is NaN, or not finite on a resample.
    """
    clusters, resamples = check_whole("clusters", clusters, 1), check_resamples(resamples, confidence)
    every = np.arange(clusters)

    def interval(low: float, high: float) -> Estimate:
        return Estimate(value, low, high, confidence, clusters, "cluster bootstrap, BCa", Guarantee.ASYMPTOTIC)

    value = float(statistic(every))
    if math.isnan(value):
        raise InputError(
            "a statistic that is NaN", "a number", "check the data for NaN, or make the statistic total"
        )
    if clusters == 1:
        return interval(-math.inf, math.inf)
    drawn = np.array(
        [statistic(rng.integers(0, clusters, clusters)) for _ in range(resamples)], dtype=np.float64
    )
    left_out = _left_out(statistic, clusters)
    _check_finite(value, drawn, left_out)
    if drawn.min() == drawn.max() == value:
        return interval(value, value)
    below = (np.sum(drawn < value) + np.sum(drawn <= value)) / (2 * resamples)  # ties count half
    z0 = special.ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    pull, _ = _scaled(left_out, np.ones(clusters))
    spread = np.sum(pull**2) ** 1.5
    a = np.sum(pull**3) / (6 * spread) if spread > 0 else 0.0
    z = z0 + special.ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    # where a z reaches 1 the transformation has run to its end
    end = z0 + np.where(a * z < 1, z / np.maximum(1 - a * z, 1e-300), np.copysign(np.inf, z))
    low, high = np.quantile(drawn, special.ndtr(end))
    return interval(float(low), float(high))


def median(values: ArrayLike, *, rng: np.random.Generator, confidence: float = 0.95) -> Estimate:
    """Median of independent values, one a cluster, with the interval of :func:`cluster_bootstrap`."""
    x = check_numbers(values)
    return cluster_bootstrap(lambda at: float(np.median(x[at])), len(x), rng=rng, confidence=confidence)


def cluster_jackknife(statistic: Statistic, clusters: int, confidence: float = 0.95) -> Estimate:
    """``statistic(all clusters)`` -/+ t_{G-1} sqrt((G-1)/G sum_g (s_g - mean)^2), s_g the statistic without
    cluster g.

    For smooth statistics of the whole; of a mean it is Student's interval, of a median it is wrong.
    ``statistic`` as in
    :func:`cluster_bootstrap`. One cluster: all numbers.
    """
    clusters = check_whole("clusters", clusters, 1)
    value = float(statistic(np.arange(clusters)))
    left_out = _left_out(statistic, clusters) if clusters > 1 else np.array([value])
    return _jackknife(value, left_out, np.ones(len(left_out)), clusters, confidence, "cluster jackknife")


def ratio_of_sums(over: ArrayLike, under: ArrayLike, confidence: float = 0.95) -> Estimate:
    """sum(over) / sum(under), one value of each a cluster, (clusters,) both, with the interval of
    :func:`cluster_jackknife`."""
    x, y = (np.asarray(values, dtype=np.float64) for values in (over, under))
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(
            f"shapes {x.shape} and {y.shape}", "one value of each a cluster", "sum inside clusters first"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("values that are not finite", "finite numbers", "drop the clusters that have none")

    def ratio(at: NDArray[Any]) -> float:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return float(x[at].sum() / y[at].sum())

    return cluster_jackknife(ratio, len(x), confidence)


def draw_jackknife(statistic: Callable[[Counts], float], counts: Counts, confidence: float = 0.95) -> Estimate:
    """:func:`cluster_jackknife` of independent draws, one left out at a time; tokens of equal count share
    the answer."""
    n, every = counts.n, counts.counts
    value, left_out, weights = float(statistic(counts)), [], []
    for count, repeats in zip(*np.unique(every[every > 0], return_counts=True), strict=True):
        less = every.copy()
        less[int(np.argmax(every == count))] -= 1
        left_out.append(float(statistic(Counts(less, n - 1))) if n > 1 else value)
        weights.append(float(count * repeats))
    return _jackknife(value, np.array(left_out), np.array(weights), n, confidence, "jackknife over draws")


def _jackknife(
    value: float, left_out: Float, weights: Float, units: int, confidence: float, method: str
) -> Estimate:
    check_open_unit("confidence", confidence)
    if math.isnan(value):
        raise InputError(
            "a statistic that is NaN", "a number", "check the data for NaN, or make the statistic total"
        )
    low, high = -math.inf, math.inf
    if units > 1:
        _check_finite(value, left_out)
        pull, exponent = _scaled(left_out, weights)
        error = math.sqrt((units - 1) / units * float(np.sum(weights * pull**2)))
        with np.errstate(over="ignore"):  # an interval wider than the numbers there are ends at infinity
            half = float(np.ldexp(stats.t.ppf((1 + confidence) / 2, units - 1) * error, exponent))
        low, high = value - half, value + half
    return Estimate(value, low, high, confidence, units, method, Guarantee.ASYMPTOTIC)


def _scaled(left_out: Float, weights: Float) -> tuple[Float, int]:
    """(mean less each) / 2^exponent, at most 1 in magnitude: squares and cubes neither overflow nor vanish."""
    _, top = np.frexp(np.abs(left_out).max())
    small = np.ldexp(left_out, -top)
    pull = np.average(small, weights=weights) - small
    _, further = np.frexp(np.abs(pull).max())
    return np.ldexp(pull, -further), int(top + further)


def check_resamples(resamples: int, confidence: float) -> int:
    """At least 2 / (1 - confidence) - 1: with fewer, no resampled statistic stands for a quantile so far
    out."""
    least = math.ceil(2 / (1 - check_open_unit("confidence", confidence)) * (1 - 1e-12)) - 1
    if check_whole("resamples", resamples, 1) < least:
        raise InputError(
            f"{resamples} resamples for a confidence of {confidence:g}", f"{least} or more", "draw more of them"
        )
    return resamples


def _left_out(statistic: Statistic, clusters: int) -> Float:
    every = np.arange(clusters)
    return np.array([statistic(np.delete(every, i)) for i in every], dtype=np.float64)


def _check_finite(value: float, *drawn: Float) -> None:
    if not (math.isfinite(value) and all(np.isfinite(each).all() for each in drawn)):
        raise InputError(
            "a statistic that is not finite on some resample", "finite numbers", "make it total, or drop it"
        )
