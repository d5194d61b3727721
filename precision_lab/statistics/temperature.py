"""The temperature that best explains a law or draws, and how much of the deviation it does explain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from ..errors import InputError
from ..laws.law import Law
from ..types import Float, Guarantee, Int
from ._checks import check_open_unit, check_same_vocab, check_tokens
from .counts import Counts
from .divergence import kl_divergence, relative_entropy
from .estimate import Estimate
from .firth import Moments, fit, inverse, temperature, undetermined
from .tempered import NEVER, Tempered

_FLAT = "flat target"


@dataclass(frozen=True)
class EffectiveTemperature:
    """``temperature`` 1/b of the tempered law p_b nearest to q.

    ``share``: KL(p_b || p) / KL(q || p), in [0, 1]: what the temperature explains.  ``kl``: KL(q || p), nats.
    ``unexplained``: KL(q || p_b), nats: the lack of fit of every temperature.
    """

    temperature: Estimate
    share: float
    kl: float
    unexplained: float


def effective_temperature(q: Law, p: Law) -> EffectiveTemperature:
    """1/b with E_{p_b}[log p] = E_q[log p], p_b proportional to p^b on the support of p; b = argmin_b KL(q
    || p_b).

    Then KL(q || p) = KL(q || p_b) + KL(p_b || p) exactly, so the share is of a whole; it is 0 where q = p.
    Below 1: sharper than the target. 0: q draws only p's most likely tokens. inf: b = 0, flat. Below 0: q
    prefers what p makes unlikely (-0.0 at the limit). Undetermined where p is flat or one token: value 1,
    interval [0, inf]. Mass of q outside the support of p makes kl inf and share 0; the temperature is that
    of q restricted to the support. Of the two laws as given: their own errors are not propagated. Errors:
    InputError for unequal vocabularies, or where q and p have no token in common.
    """
    check_same_vocab(q.vocab, p.vocab)
    family, kl = Tempered.of(p), kl_divergence(q, p)
    log_q = q.log_probs[family.tokens]
    if np.isneginf(log_q).all():
        raise InputError(
            "two laws without a common token", "q that draws a token of p", "check the order of the tokens"
        )
    if family.alike:
        anything = Estimate(1.0, 0.0, math.inf, 1.0, 0, f"undetermined: {_FLAT}", Guarantee.EXACT)
        return EffectiveTemperature(anything, 0.0, kl, kl)
    t = family.excess_of(log_q if kl < math.inf else log_q - logsumexp(log_q))
    explained = relative_entropy(family.log_p, family.log_ratio(t))
    share = min(1.0, explained / kl) if 0 < kl < math.inf else 0.0
    found = Estimate.exact(inverse(1 + t), method="tempered law nearest to q")
    return EffectiveTemperature(found, share, kl, kl_divergence(q, family.at(t, p.vocab)))


def temperature_from_draws(draws: Counts | ArrayLike, p: Law, confidence: float = 0.95) -> Estimate:
    """1/b with b maximising sum_i n_i log p_b(i) + 1/2 log I(b), I(b) = n Var_{p_b}[log p].

    The second term is Firth's correction (Biometrika 80, 1993, doi:10.1093/biomet/80.1.27): it takes away
    the bias of order 1/n in b and keeps b finite when every draw is a most (least) likely token, which
    ``method`` then calls separated. Interval: the b whose corrected likelihood falls short by less than
    half a chi-square quantile with one degree of freedom (Heinze and Schemper 2002, doi:10.1002/sim.1047),
    turned over; high = inf where it reaches b <= 0, and all numbers where b itself is below 0 but the
    interval reaches above.
    ``draws``: Counts of independent draws, or token ids (sequences, length) that may depend on each other
    inside a sequence: then the shortfall is scaled by the design effect (:func:`~.firth.fit`), and ``n``
    counts sequences. What is estimated if the draws follow no p_b is the 1/b of
    :func:`effective_temperature`; Counts then have an interval as if Var_q[log p] were Var_{p_b}[log p],
    sequences have not. A flat p: value 1, interval [0, inf]. Errors: InputError for unequal vocabularies or
    draws that p makes impossible.
    """
    check_open_unit("confidence", confidence)
    counts, rows = counted(draws, p)
    impossible = np.flatnonzero((p.log_probs <= NEVER) & (counts.counts > 0))
    if impossible.size:
        raise InputError(
            f"draws of {impossible.size} tokens that p cannot draw, first {impossible[0]}",
            "draws in the support of p",
            "no temperature explains them: compare supports first",
        )
    return temperature(exponent(Tempered.of(p), counts.counts, rows, confidence))


def counted(draws: Counts | ArrayLike, p: Law) -> tuple[Counts, Int | None]:
    """The counts, and the (sequences, length) tokens where that is what ``draws`` are."""
    if isinstance(draws, Counts):
        check_same_vocab(draws.vocab, p.vocab)
        return draws, None
    rows = check_tokens(draws)
    return Counts.from_tokens(rows, p.vocab), rows


def exponent(family: Tempered, counts: Int, rows: Int | None, confidence: float) -> Estimate:
    """b of :func:`temperature_from_draws`. Draws outside the family's support are left out.

    ``counts``: (vocab,).  ``rows``: (sequences, length) the same draws, where they depend on each other.
    """
    drawn = counts[family.tokens]
    n, top = int(drawn.sum()), family.y.max()
    if family.alike or not n:
        return undetermined(confidence, n, _FLAT if n else "no draws")
    below = float(np.sum(drawn * (family.y - top)))
    seen = family.y[drawn > 0]

    def moments(t: float) -> Moments:
        centre, variance, third = family.cumulants(t)
        likelihood = float(np.sum(drawn * family.log_ratio(t)))
        return Moments(likelihood, below - n * centre, n * variance, n * third)

    def scores(t: float) -> tuple[Float, Float]:
        residual, inside = np.zeros((2, len(counts)))
        residual[family.tokens], inside[family.tokens] = family.y - top - family.cumulants(t)[0], 1.0
        return residual[rows].sum(axis=1), inside[rows].sum(axis=1)

    return fit(
        moments,
        None if rows is None else scores,
        n=n,
        widest=1 / float(np.ptp(family.y)),
        separated=bool(seen.min() == top or seen.max() == family.y.min()),
        confidence=confidence,
    )
