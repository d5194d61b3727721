"""The published rules of independence: PyTorch's repeated permutations, vLLM's draft and target streams."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Array, Float, Guarantee
from .._checks import check_whole, log_probs_of
from ..independence.agreement import paired
from .rule import Criterion, Forecast
from .tail import SOURCE, tail_mass


def pytorch_repeats(vectors: ArrayLike) -> Criterion:
    """Fewer than 10 of k vectors repeat an earlier one. PyTorch: 300,000 permutations of 26 from torch.multinomial."""
    rows: Array = np.asarray(vectors)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"vectors of shape {rows.shape}", "(k, m)", "one row for each permutation")
    repeats = len(rows) - len(np.unique(rows, axis=0))
    where = (
        "pytorch/pytorch test/distributions/test_distributions.py test_multinomial_sequential_draw, 009e3c697a"
    )
    return Criterion("pytorch_repeats", "PyTorch", where, repeats < 10, float(repeats), 10, len(rows))


def forecast_pytorch_repeats(state_bits: float, k: int = 300_000) -> Forecast:
    """k vectors made from 2^bits states: P(Poisson(C(k, 2) 2^-bits) < 10), the limit for k^3 much below 4^bits."""
    if not state_bits >= 0:
        raise InputError(f"state_bits = {state_bits}", "0 or more", "a 32-bit state has 32")
    mean = check_whole("k", k, 1) * (k - 1) / 2 * 2.0**-state_bits
    return Forecast("pytorch_repeats", float(stats.poisson.cdf(9, mean)), mean, 10, k, Guarantee.ASYMPTOTIC)


def vllm_streams(first: ArrayLike, second: ArrayLike, target: Law | Float) -> Criterion:
    """Exactly one of two streams leaves the likeliest token in more than t of n draws, t the mass of all other tokens.

    Independent streams do in 2 t (1 - t) of the draws, one stream for both in none. vLLM makes 500,000.
    """
    p = np.exp(log_probs_of(target))
    a, b = paired(first, second, len(p))
    apart, tail = float(np.mean((a == p.argmax()) != (b == p.argmax()))), tail_mass(p)
    where = f"{SOURCE} test_drafting_uses_a_separate_noise_stream, 200eee69b6"
    return Criterion("vllm_streams", "vLLM", where, apart > tail, apart, tail, len(a))


def forecast_vllm_streams(target: Law | Float, share: float, n: int = 500_000) -> Forecast:
    """Noise shared in a ``share`` of the draws, both laws right: Binomial(n, (1 - share) 2 t (1 - t)) draws apart."""
    if not 0 <= share <= 1:
        raise InputError(f"share = {share}", "0 <= share <= 1", "1 is noise that is always shared")
    tail, draws = tail_mass(np.exp(log_probs_of(target))), check_whole("n", n, 1)
    rate = (1 - share) * 2 * tail * (1 - tail)
    passes = float(stats.binom.sf(math.floor(draws * tail), draws, rate))
    return Forecast("vllm_streams", passes, rate, tail, draws, Guarantee.EXACT)
