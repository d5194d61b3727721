"""Several numbers of the same sequences at once, and one number of several samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import InputError
from ..types import Float, Guarantee, Int
from ._checks import check_open_unit, check_whole
from .estimate import Estimate
from .resampling import check_resamples


@dataclass(frozen=True)
class Region:
    """The points x with (x - centre)' covariance^-1 (x - centre) <= square: an ellipse for two numbers. It
    holds all of the true numbers *together* with probability ``confidence``; a box of marginal intervals
    holds them less often."""

    centre: Float  # (p,)
    covariance: Float  # (p, p), of the centre
    square: float
    confidence: float
    n: int
    method: str
    guarantee: Guarantee

    def contains(self, point: ArrayLike) -> bool:
        away = np.asarray(point, dtype=np.float64) - self.centre
        return float(away @ np.linalg.solve(self.covariance, away)) <= self.square

    def outline(self, points: int = 100) -> Float:
        """(points, 2) along the edge, closed. Two numbers only."""
        turn = np.linspace(0, 2 * np.pi, points)
        circle = np.stack([np.cos(turn), np.sin(turn)])
        return self.centre + np.sqrt(self.square) * (np.linalg.cholesky(self.covariance) @ circle).T


def joint_region(statistic: Callable[[Int], ArrayLike], clusters: int, confidence: float = 0.95) -> Region:
    """``statistic(cluster indices)`` -> (p,), smooth; its ellipsoid over whole clusters.

    Covariance: jackknife, (G-1)/G sum_g (s_g - mean)(s_g - mean)', s_g without cluster g. Square: that of
    Hotelling's T^2, p (G-1) / (G-p) F_{p, G-p}. For means of normal clusters it covers exactly; otherwise
    as G grows. Errors: InputError unless G > p, or for numbers that do not vary or vary as one (no
    ellipsoid has a volume of 0).
    """
    check_open_unit("confidence", confidence)
    every = np.arange(check_whole("clusters", clusters, 2))
    centre = np.asarray(statistic(every), dtype=np.float64)
    left_out = np.array([statistic(np.delete(every, g)) for g in every], dtype=np.float64)
    p = len(centre)
    if clusters <= p:
        raise InputError(f"{clusters} clusters for {p} numbers", f"more than {p}", "generate more sequences")
    with np.errstate(over="ignore", invalid="ignore"):
        away = left_out - left_out.mean(0)
        covariance = (clusters - 1) / clusters * away.T @ away
    if not np.isfinite(covariance).all() or np.linalg.matrix_rank(covariance, hermitian=True) < p:
        raise InputError(
            "numbers that do not vary, or vary as one", "finite, not collinear", "drop one of them"
        )
    square = p * (clusters - 1) / (clusters - p) * float(stats.f.ppf(confidence, p, clusters - p))
    method = "jackknife over clusters, Hotelling"
    return Region(centre, covariance, square, confidence, clusters, method, Guarantee.ASYMPTOTIC)


def stratified_bootstrap(
    statistic: Callable[[list[Int]], ArrayLike],
    sizes: Sequence[int],
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> list[Estimate]:
    """Numbers of several independent samples: each sample is drawn again by itself, clusters with
    replacement; percentiles.

    ``statistic``: one int64 array of cluster indices a sample, ``sizes`` long -> (p,) or a number; one
    Estimate each. NaN where it is undefined on a resample: that resample counts as lying beyond both ends,
    so that many of them make the interval all numbers. ``n``: all clusters. Errors: InputError if one is
    undefined on the samples themselves, or for fewer resamples than have a quantile of (1 - confidence) /
    2.
    """
    resamples = check_resamples(resamples, confidence)
    sizes = [check_whole("sizes", size, 1) for size in sizes]
    values = np.atleast_1d(np.asarray(statistic([np.arange(size) for size in sizes]), dtype=np.float64))
    if np.isnan(values).any():
        raise InputError(
            "a statistic that is not defined on the samples", "a number", "ask whether it is, first"
        )
    drawn = np.array([statistic([rng.integers(0, size, size) for size in sizes]) for _ in range(resamples)])
    drawn = drawn.reshape(resamples, -1)
    low = np.quantile(np.where(np.isnan(drawn), -np.inf, drawn), (1 - confidence) / 2, axis=0, method="lower")
    high = np.quantile(np.where(np.isnan(drawn), np.inf, drawn), (1 + confidence) / 2, axis=0, method="higher")
    name, n = "stratified cluster bootstrap, percentile", sum(sizes)
    ends = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Estimate(value, a, b, confidence, n, name, Guarantee.ASYMPTOTIC) for value, a, b in ends]
