"""Entropies in nats: of laws, of counts as published, and of the law behind the counts, corrected for what was not seen."""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate, special

from ..laws.law import Law
from ..types import Float, Int
from .counts import Counts


def entropy(source: Law | Counts) -> float:
    """-sum_i p_i log p_i, nats. Of a Law: its entropy. Of Counts: the plug-in value, p_i = n_i / n, biased low."""
    if isinstance(source, Counts):
        return plug_in(source.counts)
    possible = source.log_probs[~np.isneginf(source.log_probs)]
    return max(0.0, -math.fsum(np.exp(possible) * possible))


def miller_madow(counts: Counts) -> float:
    """Plug-in + (tokens seen - 1) / 2n, nats: the bias of order 1/n once all tokens are seen; too little before.

    Miller 1955, Note on the bias of information estimates.
    """
    return plug_in(counts.counts) + (int((counts.counts > 0).sum()) - 1) / (2 * counts.n)


def chao_wang_jost(counts: Counts) -> float:
    """Entropy of the law behind the counts, nats, with the unseen tokens estimated from those seen once and twice.

    H = sum_i (X_i / n) sum_{k=X_i}^{n-1} 1/k + (f1 / n) (1-A)^(1-n) {-log A - sum_{r=1}^{n-1} (1-A)^r / r},
    A as in :func:`rare`; f_k = number of tokens seen k times. Chao, Wang and Jost 2013, doi:10.1111/2041-210X.12108. The
    second term is 0 where f1 = 0 or A = 1. Its bracket is the tail of a series and cancels to nothing, so the tail is
    taken as the integral (1-A) int_0^inf e^-v / (nA + n (1-A) (1 - e^(-v/n))) dv, smooth in w = log(1 + v / nA).
    """
    n, seen = counts.n, counts.counts[counts.counts > 0]
    observed = math.fsum(seen / n * (special.digamma(n) - special.digamma(seen)))
    f1, a = rare(counts)
    if a == 1:
        return observed

    def integrand(w: float) -> float:
        v = n * a * math.expm1(w)
        return math.exp(w - v) / (1 - (1 - a) / a * math.expm1(-v / n))

    end = math.log1p(745 / (n * a))  # e^-745 is the last number before 0
    tail, _ = integrate.quad(integrand, 0.0, end, epsabs=0.0, epsrel=1e-12, limit=200)
    return observed + f1 / n * (1 - a) * tail


def rare(counts: Counts) -> tuple[int, float]:
    """f1 and A = 2 f2 / ((n-1) f1 + 2 f2), or 2 / ((n-1) (f1-1) + 2) where f2 = 0, or 1 where f1 = 0.

    A: estimated mean probability of the tokens seen once (Chao and Jost 2012, doi:10.1890/11-1952.1).
    """
    n, f1, f2 = counts.n, int((counts.counts == 1).sum()), int((counts.counts == 2).sum())
    return f1, 2 * f2 / ((n - 1) * f1 + 2 * f2) if f2 else 2 / ((n - 1) * (f1 - 1) + 2) if f1 else 1.0


def plug_in(counts: Int) -> float:
    shares = counts[counts > 0] / counts.sum()
    return max(0.0, -math.fsum(shares * np.log(shares)))


def to_bits(nats: float | Float) -> float | Float:
    """nats / log 2."""
    return nats / math.log(2)
