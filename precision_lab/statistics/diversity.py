"""How varied tokens are: entropies in nats, as published and corrected, and distinct n-grams."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate, special

from ..errors import InputError
from ..laws.law import Law
from ..types import Float
from ._checks import check_tokens, check_whole
from .counts import Counts
from .estimate import Estimate, cluster_bootstrap


def entropy(source: Law | Counts) -> float:
    """-sum_i p_i log p_i, nats. Of a Law: its entropy. Of Counts: the plug-in value, p_i = n_i / n, biased low."""
    if isinstance(source, Counts):
        return _plug_in(source.counts)
    possible = source.log_probs[~np.isneginf(source.log_probs)]
    return max(0.0, -math.fsum(np.exp(possible) * possible))


def sequence_entropy(tokens: ArrayLike) -> Float:
    """Plug-in entropy of the tokens inside each sequence, nats: (sequences, length) ids -> (sequences,).

    -sum_v (c_v / length) log(c_v / length), as published for masked diffusion models. At most log(length), and biased
    low by an amount that depends on the length: compare at equal length only, hence the demand for a 2-D array.
    """
    return np.array([_plug_in(np.unique(row, return_counts=True)[1]) for row in check_tokens(tokens)])


def sequence_entropy_estimate(tokens: ArrayLike, *, rng: np.random.Generator, confidence: float = 0.95) -> Estimate:
    """Mean of :func:`sequence_entropy` over sequences, nats, with the cluster bootstrap interval over sequences."""
    each = sequence_entropy(tokens)
    return cluster_bootstrap(lambda at: float(each[at].mean()), len(each), rng=rng, confidence=confidence)


def chao_wang_jost(counts: Counts) -> float:
    """Entropy of the law behind the counts, nats, with the unseen tokens estimated from those seen once and twice.

    H = sum_i (X_i / n) sum_{k=X_i}^{n-1} 1/k + (f1 / n) (1-A)^(1-n) {-log A - sum_{r=1}^{n-1} (1-A)^r / r},
    A = 2 f2 / ((n-1) f1 + 2 f2), or 2 / ((n-1) (f1-1) + 2) where f2 = 0; f_k = number of tokens seen k times.
    Chao, Wang and Jost 2013, doi:10.1111/2041-210X.12108. The second term is 0 where f1 = 0 or A = 1.
    Its bracket is the tail of a series and cancels to nothing, so the tail is taken as the integral
    (1-A) int_0^inf e^-v / (nA + n (1-A) (1 - e^(-v/n))) dv, smooth in w = log(1 + v / nA).
    """
    n, seen = counts.n, counts.counts[counts.counts > 0]
    f1, f2 = int((seen == 1).sum()), int((seen == 2).sum())
    observed = math.fsum(seen / n * (special.digamma(n) - special.digamma(seen)))
    a = 2 * f2 / ((n - 1) * f1 + 2 * f2) if f2 else 2 / ((n - 1) * (f1 - 1) + 2) if f1 else 1.0
    if a == 1:
        return observed

    def integrand(w: float) -> float:
        v = n * a * math.expm1(w)
        return math.exp(w - v) / (1 - (1 - a) / a * math.expm1(-v / n))

    end = math.log1p(745 / (n * a))  # e^-745 is the last number before 0
    tail, _ = integrate.quad(integrand, 0.0, end, epsabs=0.0, epsrel=1e-12, limit=200)
    return observed + f1 / n * (1 - a) * tail


def distinct_n(tokens: ArrayLike, n: int) -> float:
    """Different n-grams / all n-grams over all sequences, in (0, 1]: (sequences, length) ids, 1 <= n <= length.

    Falls with the number of tokens: compare at equal sequences and length only.
    """
    rows, n = check_tokens(tokens), check_whole("n", n, 1)
    if n > rows.shape[1]:
        raise InputError(f"n = {n}", f"at most the length, {rows.shape[1]}", "ask for shorter n-grams")
    ids = _number(rows)
    grams, base = ids, int(ids.max()) + 1
    for k in range(1, n):
        grams = _number(grams[:, :-1] * base + ids[:, k:])  # numbered afresh, so that no product overflows
    return (int(grams.max()) + 1) / grams.size


def to_bits(nats: float) -> float:
    """nats / log 2."""
    return nats / math.log(2)


def _number(values: np.ndarray) -> np.ndarray:
    """Each value replaced by its rank among the different values."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def _plug_in(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return max(0.0, -math.fsum(shares * np.log(shares)))
