"""One exponent b = 1 + t fitted to draws: likelihood with Firth's correction, and the interval of its ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy import stats

from ..types import Float, Guarantee
from .estimate import Estimate
from .tempered import root


@dataclass(frozen=True)
class Moments:
    """Sums over the draws at excess t. ``log_likelihood``: nats, up to a constant.  ``score``: its slope in t.

    ``information``: minus its curvature, sum Var_{p_b}[log p].  ``third``: slope of that, the third central
    moments.
    """

    log_likelihood: float
    score: float
    information: float
    third: float

    @property
    def corrected(self) -> float:
        """l + 1/2 log I."""
        return self.log_likelihood + math.log(max(self.information, 5e-324)) / 2


def fit(
    moments: Callable[[float], Moments],
    cluster_scores: Callable[[float], tuple[Float, Float]] | None,
    *,
    n: int,
    widest: float,
    separated: bool,
    confidence: float,
    accuracy: float = 0.0,
) -> Estimate:
    """b at the maximum of l + 1/2 log I, with the b that fall short of it by less than ``limit / 2``.

    ``limit``: independent draws: the chi-square quantile with one degree of freedom. Clusters: D F, F the
    quantile with 1 and G - 1 degrees, D = G / (G - 1) sum_g S_g^2 / I the design effect (the sandwich
    variance over the model's), S_g the score of cluster g at b. Where the draws are separated no D can be
    seen, and D is the one of clusters that repeat one draw, sum_g n_g^2 / n. ``cluster_scores(t)``: S_g and
    n_g, (clusters,). ``widest``: a step in t that changes no weight e-fold.  ``accuracy``: of t, in
    standard errors.
    """
    moments = cache(moments)

    def score(t: float) -> float:
        at = moments(t)
        return at.score + at.third / (2 * at.information) if at.information > 0 else -t

    def step(t: float, newton: float = 0.0) -> float:
        """One standard error beyond Newton's step, so that the root lies within."""
        information = moments(t).information
        return min(widest, newton / information + 1 / math.sqrt(information)) if information > 0 else widest

    # where all but one probability of p underflow, from the flat law, of which every draw tells
    start = 0.0 if moments(0.0).information > 0 else -1.0
    best, error = start, accuracy * step(start)
    while True:
        best = root(score, best, math.copysign(step(best, abs(score(best))), score(best)), error)
        finer = accuracy * step(best)
        if finer >= error / 2:
            break
        error = finer  # a peaked p has a standard error at b that is far below the one at 1
    limit, method = float(stats.chi2.ppf(confidence, 1)), "maximum likelihood, Firth, likelihood ratio"
    if cluster_scores is not None:
        scores, sizes = cluster_scores(best)
        clusters = len(scores)
        method += f", {clusters} clusters"
        if clusters == 1:
            return Estimate(1 + best, -math.inf, math.inf, confidence, 1, method, Guarantee.ASYMPTOTIC)
        model = moments(best).information
        sandwich = clusters / (clusters - 1) * float(np.sum(scores**2))
        effect = float(np.sum(sizes**2) / np.sum(sizes)) if separated else sandwich / model
        n, limit = clusters, effect * float(stats.f.ppf(confidence, 1, clusters - 1))
    top = moments(best).corrected

    def short(t: float) -> float:
        """Roughly linear in t, so that few values of t settle it."""
        return math.sqrt(max(0.0, 2 * (top - moments(t).corrected))) - math.sqrt(limit)

    low, high = (1 + root(short, best, way * step(best), error) for way in (-1, 1))
    if separated:
        method += ", separated: every draw at one end"
    return Estimate(1 + best, low, high, confidence, n, method, Guarantee.ASYMPTOTIC)


def undetermined(confidence: float, n: int, why: str) -> Estimate:
    """Nothing is known of b."""
    return Estimate(1.0, -math.inf, math.inf, confidence, n, f"undetermined: {why}", Guarantee.ASYMPTOTIC)


def inverse(b: float) -> float:
    """1 / b, inf at 0."""
    return math.inf if abs(b) < 1e-12 else 1 / b  # nearer to 0, the sign of b is rounding


def temperature(b: Estimate) -> Estimate:
    """The estimate of 1/b: an interval of b that holds 0 reaches infinite temperature."""
    value = inverse(b.value)
    low, high = 1 / b.high if b.high else -math.inf, 1 / b.low if b.low else math.inf
    if b.low <= 0 < b.high:
        low, high = (low, math.inf) if value > 0 else (-math.inf, math.inf)
    return replace(b, value=value, low=low, high=high)
