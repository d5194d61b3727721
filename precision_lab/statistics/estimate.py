"""A number with its interval and with what stands behind the interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from ..errors import InputError
from ..types import Guarantee
from ._checks import check_open_unit, check_successes, check_whole


@dataclass(frozen=True)
class Estimate:
    """``value`` with the interval [``low``, ``high``] that holds the truth with probability ``confidence``.

    ``n``: independent units behind it (draws, sequences), 0 for a computed number.  ``guarantee``: in what sense.
    """

    value: float
    low: float
    high: float
    confidence: float
    n: int
    method: str
    guarantee: Guarantee

    @staticmethod
    def exact(value: float, error: float = 0.0, method: str = "exact") -> Estimate:
        """A number that was computed, not drawn: value -/+ error, certified where the error is not 0."""
        if not error >= 0:
            raise InputError(f"error = {error}", "a bound, 0 or more", "pass the largest possible |value - truth|")
        guarantee = Guarantee.CERTIFIED if error else Guarantee.EXACT
        return Estimate(float(value), float(value - error), float(value + error), 1.0, 0, method, guarantee)

    def contains(self, truth: float) -> bool:
        """Whether ``truth`` lies in the interval, ends included."""
        return self.low <= truth <= self.high

    def scaled(self, factor: float, method: str | None = None) -> Estimate:
        """The estimate of ``factor`` times the quantity, factor > 0."""
        if not factor > 0:
            raise InputError(f"factor = {factor}", "a positive number", "a negative factor would swap the ends")
        ends = {name: factor * getattr(self, name) for name in ("value", "low", "high")}
        return replace(self, **ends, method=method or self.method)


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """successes / n with Clopper and Pearson's interval, which covers at every n and rate (Biometrika 26, 1934)."""
    hits, total = check_successes(successes, n)
    interval = stats.binomtest(hits, total).proportion_ci(check_open_unit("confidence", confidence), method="exact")
    low, high = float(interval.low), float(interval.high)
    return Estimate(hits / total, low, high, confidence, total, "Clopper-Pearson", Guarantee.FINITE_SAMPLE)


def ratio_of_proportion(successes: int, n: int, expected_probability: float, confidence: float = 0.95) -> Estimate:
    """(successes / n) / p0: 1 where the sampler is right. Clopper-Pearson divided by the known p0, 0 < p0 <= 1."""
    if not 0 < expected_probability <= 1:
        raise InputError(
            f"expected_probability = {expected_probability}", "0 < p0 <= 1", "choose events that the target can draw"
        )
    return proportion(successes, n, confidence).scaled(1 / expected_probability, "Clopper-Pearson over p0")


def mean(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean -/+ t_{n-1} s / sqrt(n) of independent values, any shape. One value: the interval is all numbers."""
    check_open_unit("confidence", confidence)
    x = np.asarray(values, dtype=np.float64).ravel()
    if not x.size or not np.isfinite(x).all():
        raise InputError(
            f"{x.size} values, {int((~np.isfinite(x)).sum())} not finite", "finite numbers", "drop the rest"
        )
    centre, half = float(x.mean()), math.inf
    if x.size > 1:
        half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Estimate(centre, centre - half, centre + half, confidence, x.size, "Student t", Guarantee.ASYMPTOTIC)


def cluster_bootstrap(
    statistic: Callable[[NDArray[Any]], float],
    clusters: int,
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Estimate:
    """``statistic(all clusters)`` with the BCa interval over whole clusters drawn with replacement.

    Ends: quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) of the resampled statistics, z0 from the share below the
    value, a from the jackknife (Efron 1987, doi:10.1080/01621459.1987.10478410).
    ``statistic`` receives an int64 array of cluster indices, (clusters,) or one shorter for the jackknife.
    One cluster: the interval is all numbers. Statistics all alike: the interval is the value.
    """
    check_open_unit("confidence", confidence)
    clusters, resamples = check_whole("clusters", clusters, 1), check_whole("resamples", resamples, 1)
    every = np.arange(clusters)

    def interval(low: float, high: float) -> Estimate:
        return Estimate(value, low, high, confidence, clusters, "cluster bootstrap, BCa", Guarantee.ASYMPTOTIC)

    value = float(statistic(every))
    if clusters == 1:
        return interval(-math.inf, math.inf)
    drawn = np.array([statistic(rng.integers(0, clusters, clusters)) for _ in range(resamples)], dtype=np.float64)
    left_out = np.array([statistic(np.delete(every, i)) for i in every], dtype=np.float64)
    if not (math.isfinite(value) and np.isfinite(drawn).all() and np.isfinite(left_out).all()):
        raise InputError(
            "a statistic that is not finite on some resample", "finite numbers", "make it total, or drop it"
        )
    if np.ptp(drawn) == 0:
        return interval(value, value)
    below = (np.sum(drawn < value) + np.sum(drawn <= value)) / (2 * resamples)  # ties count half
    z0 = special.ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    pull = left_out.mean() - left_out
    spread = np.sum(pull**2) ** 1.5
    a = np.sum(pull**3) / (6 * spread) if spread > 0 else 0.0
    z = z0 + special.ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(drawn, special.ndtr(z0 + z / (1 - a * z)))
    return interval(float(low), float(high))
