"""The temperature that best explains a law or draws, and how much of the deviation it does explain."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import logsumexp

from ..errors import InputError
from ..laws.law import Law
from ..types import Guarantee
from ._checks import check_open_unit, check_same_vocab
from .counts import Counts
from .divergence import kl_divergence, relative_entropy
from .estimate import Estimate
from .tempered import Tempered, root

_FLAT = "undetermined: flat target"


@dataclass(frozen=True)
class EffectiveTemperature:
    """``temperature`` 1/b of the tempered law p_b nearest to q.

    ``share``: KL(p_b || p) / KL(q || p), in [0, 1]: what the temperature explains.  ``kl``: KL(q || p), nats.
    """

    temperature: Estimate
    share: float
    kl: float


@dataclass(frozen=True)
class Band:
    """Tokens with ``low`` <= log p < ``high`` (nats): their target ``mass`` and the ``slope`` of log q against log p.

    Slope 1: the odds inside the band are right; NaN without two different log p, or where all but one underflow.
    ``unreachable``: the part of ``mass`` on tokens that q cannot draw; the slope leaves them out.
    """

    low: float
    high: float
    mass: float
    slope: float
    unreachable: float = 0.0


def effective_temperature(q: Law, p: Law) -> EffectiveTemperature:
    """1/b with E_{p_b}[log p] = E_q[log p], p_b proportional to p^b on the support of p; b = argmin_b KL(q || p_b).

    Then KL(q || p) = KL(q || p_b) + KL(p_b || p) exactly, so the share is of a whole; it is 0 where q = p.
    Below 1: sharper than the target. 0: q draws only p's most likely tokens. inf: b = 0, flat. Below 0: q prefers what
    p makes unlikely (-0.0 at the limit). Undetermined where p is flat or one token: value 1, interval [0, inf].
    Mass of q outside the support of p makes kl inf and share 0; the temperature is that of q restricted to the support.
    Of the two laws as given: their own errors are not propagated. Errors: InputError for unequal vocabularies, or
    where q and p have no token in common.
    """
    check_same_vocab(q.vocab, p.vocab)
    family, kl = Tempered.of(p), kl_divergence(q, p)
    log_q = q.log_probs[family.tokens]
    if np.isneginf(log_q).all():
        raise InputError(
            "two laws without a common token", "q that draws a token of p", "check the order of the tokens"
        )
    if family.flat:
        undetermined = Estimate(1.0, 0.0, math.inf, 1.0, 0, _FLAT, Guarantee.EXACT)
        return EffectiveTemperature(undetermined, 0.0, kl)
    t = family.excess_of(log_q if kl < math.inf else log_q - logsumexp(log_q))
    explained = relative_entropy(family.log_p, family.log_ratio(t))
    share = min(1.0, explained / kl) if 0 < kl < math.inf else 0.0
    return EffectiveTemperature(Estimate.exact(_temperature(t), method="tempered law nearest to q"), share, kl)


def temperature_from_draws(counts: Counts, p: Law, confidence: float = 0.95) -> Estimate:
    """1/b with b maximising sum_i n_i log p_b(i) + 1/2 log I(b), I(b) = n Var_{p_b}[log p].

    The second term is Firth's correction (Biometrika 80, 1993, doi:10.1093/biomet/80.1.27): it takes away the bias of
    order 1/n in b and keeps b finite when every draw is a most (least) likely token, which ``method`` then calls
    separated. Interval: the b whose corrected likelihood falls short by less than half a chi-square quantile with one
    degree of freedom (Heinze and Schemper 2002, doi:10.1002/sim.1047), turned over; high = inf where it reaches b <= 0,
    and all numbers where b itself is below 0 but the interval reaches above. Supposes independent draws.
    A flat p: value 1, interval [0, inf]. Errors: InputError for unequal vocabularies or draws that p makes impossible.
    """
    check_open_unit("confidence", confidence)
    check_same_vocab(counts.vocab, p.vocab)
    impossible = np.flatnonzero(np.isneginf(p.log_probs) & (counts.counts > 0))
    if impossible.size:
        raise InputError(
            f"draws of {impossible.size} tokens that p cannot draw, first {impossible[0]}",
            "draws in the support of p",
            "no temperature explains them: compare supports first",
        )
    family, n = Tempered.of(p), counts.n
    if family.flat:
        return Estimate(1.0, 0.0, math.inf, confidence, n, _FLAT, Guarantee.ASYMPTOTIC)
    drawn, top = counts.counts[family.tokens] / n, family.y.max()
    seen = family.y[drawn > 0]
    below = float(np.sum(drawn * (family.y - top)))

    def score(t: float) -> float:
        centre, variance, third = family.cumulants(t)
        return n * (below - centre) + third / (2 * variance) if variance > 0 else -t

    def likelihood(t: float) -> float:
        variance = family.cumulants(t)[1]
        return n * float(np.sum(drawn * family.log_ratio(t))) + math.log(max(variance, 5e-324)) / 2

    def reach(t: float) -> float:
        return family.step(math.sqrt(family.cumulants(t)[1] / n), t)  # one standard error

    best = root(score, 0.0, math.copysign(reach(0.0), score(0.0)))
    drop = likelihood(best) - stats.chi2.ppf(confidence, 1) / 2
    fewest, most = (1 + root(lambda t: likelihood(t) - drop, best, step) for step in (-reach(best), reach(best)))
    value = _temperature(best)
    low, high = 1 / most if most else -math.inf, 1 / fewest if fewest else math.inf
    if fewest <= 0 < most:
        low, high = (low, math.inf) if value > 0 else (-math.inf, math.inf)
    separated = seen.min() == top or seen.max() == family.y.min()
    method = "maximum likelihood, Firth, likelihood ratio" + (", separated: every draw at one end" if separated else "")
    return Estimate(value, low, high, confidence, n, method, Guarantee.ASYMPTOTIC)


def log_odds_spectrum(q: Law, p: Law, edges: ArrayLike) -> list[Band]:
    """Slope of log q against log p, least squares with weights p, in each band of log p between two ``edges``.

    slope = 1 + Cov_p(log q - log p, log p) / Var_p(log p). ``edges``: (bands + 1,) increasing, nats, -/+ inf allowed.
    """
    check_same_vocab(q.vocab, p.vocab)
    marks = np.asarray(edges, dtype=np.float64)
    if marks.ndim != 1 or len(marks) < 2 or not (marks[1:] > marks[:-1]).all():
        raise InputError(f"edges {marks.tolist()}", "two or more increasing numbers", "sort them and drop repeats")
    return [_band(q, p, float(low), float(high)) for low, high in itertools.pairwise(marks)]


def _band(q: Law, p: Law, low: float, high: float) -> Band:
    inside = (p.log_probs >= low) & (p.log_probs < high) & ~np.isneginf(p.log_probs)
    drawn = inside & ~np.isneginf(q.log_probs)
    mass, reached = math.fsum(p.probs[inside]), math.fsum(p.probs[drawn])
    slope, x, d = math.nan, p.log_probs[drawn], q.log_probs[drawn] - p.log_probs[drawn]
    if x.size and np.ptp(x) > 0:
        weights = np.exp(x - x.max())
        x, d = (row - np.average(row, weights=weights) for row in (x, d))
        variance = np.sum(weights * x**2)
        slope = float(1 + np.sum(weights * x * d) / variance) if variance > 0 else math.nan
    return Band(low, high, mass, slope, max(0.0, mass - reached))


def _temperature(t: float) -> float:
    b = 1 + t
    return math.inf if abs(b) < 1e-12 else 1 / b  # nearer to 0, the sign of b is rounding
