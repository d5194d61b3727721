"""How far a sampler's law q is from its target p. Every sum keeps its digits when q and p nearly agree.

q and p: two Laws over one vocabulary, or two arrays of probabilities (vocab,) that sum to 1. The laws' own
errors are not propagated. Errors: InputError for unequal vocabularies or arrays that are no distribution.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError
from ..laws.law import Law
from ..types import Float
from ._checks import log_probs_pair


def total_variation(q: Law | Float, p: Law | Float) -> float:
    """TV = 1/2 sum_i |q_i - p_i|, in [0, 1]."""
    return min(1.0, math.fsum(np.abs(difference(*log_probs_pair(q, p)))) / 2)


def kl_divergence(q: Law | Float, p: Law | Float) -> float:
    """KL(q || p) = sum_i q_i log(q_i / p_i), nats, >= 0; inf where q draws a token that p cannot.

    Summed as p (r log r - r + 1), r = q / p: the same where both sum to 1, and no term is negative.
    """
    log_q, log_p = log_probs_pair(q, p)
    return relative_entropy(log_p, _log_ratio(log_q, log_p), log_q)


def max_log_ratio(q: Law | Float, p: Law | Float) -> float:
    """max_i |log q_i - log p_i|, nats: no event's odds against any other are off by more than twice this.

    Tokens that neither can draw do not count; a token that only one can draw makes it inf.
    """
    return float(np.abs(_log_ratio(*log_probs_pair(q, p))).max())


def suppressed_mass(q: Law | Float, p: Law | Float, factor: float = 0.5) -> float:
    """sum of p_i over the tokens with q_i / p_i < factor: the share of the target that is drawn too rarely."""
    if not factor > 0:
        raise InputError(
            f"factor = {factor}", "a positive ratio", "0.5 asks for tokens drawn less than half as often"
        )
    log_q, log_p = log_probs_pair(q, p)
    return math.fsum(np.exp(log_p[_log_ratio(log_q, log_p) < math.log(factor)]))


def difference(log_q: Float, log_p: Float) -> Float:
    """q_i - p_i as sign(d) max(q_i, p_i) (1 - e^-|d|), d = log q_i - log p_i: digits of d, not of q and p."""
    d = _log_ratio(log_q, log_p)
    return -np.sign(d) * np.exp(np.maximum(log_q, log_p)) * np.expm1(-np.abs(d))


def relative_entropy(log_p: Float, log_ratio: Float, log_q: Float | None = None) -> float:
    """sum_i p_i (e^d (d - 1) + 1), d = log q_i - log p_i given by itself: KL(q || p) in nats.

    ``log_q``: where it is known, as log p + d has lost it where p is a mask of -1e16. Below |d| = 1/2 by the
    series sum_k d^k (k - 1) / k!, which has no cancellation; above, directly as q (d - 1) + p.
    """
    d = log_ratio
    if np.isposinf(d).any():
        return math.inf
    near = np.abs(d) < 0.5
    series = np.zeros(int(near.sum()))
    for k in range(17, 1, -1):  # the next term is below 2**-60 of the first
        series = d[near] * series + (k - 1) / math.factorial(k)
    p, far = np.exp(log_p), ~near & ~np.isneginf(d)
    close = p[near] * series * d[near] ** 2
    q = np.exp((log_p + d if log_q is None else log_q)[far])
    direct = np.where(q > 0, q * (d[far] - 1), 0.0) + p[far]
    return math.fsum(close) + math.fsum(direct) + math.fsum(p[np.isneginf(d)])


def _log_ratio(log_q: Float, log_p: Float) -> Float:
    """log q - log p, 0 where neither can be drawn."""
    neither = np.isneginf(log_q) & np.isneginf(log_p)
    return np.where(neither, 0.0, log_q) - np.where(neither, 0.0, log_p)
