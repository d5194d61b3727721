"""FlashInfer's rule: cosine similarity of frequencies and probabilities, and the temperatures that it lets
pass."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from ...laws.law import Law
from ...types import Float, Guarantee
from .._checks import check_open_unit, check_whole, log_probs_of
from ..tempered import NEVER
from .rule import Rule, never


def passing_temperatures(
    target: Law | Float, threshold: float = 0.99, n: int | None = None
) -> tuple[float, float]:
    """The lowest and the highest T at which p_T ~ p^(1/T) has cosine similarity ``threshold`` with p.

    Unimodal in b = 1/T with its top at 1, as d log cos / db = E_{b+1}[log p] - E_{2b}[log p]. ``n``: of the
    frequencies in n draws, their squares at the mean. 0 or inf where even the limit passes; (1, 1) where
    nothing does.
    """
    log_p = log_probs_of(target)
    log_p, draws = log_p[log_p > NEVER], math.inf if n is None else check_whole("n", n, 1)
    p, least = np.exp(log_p), check_open_unit("threshold", threshold)

    def excess(b: float) -> float:
        return _cosine(np.exp(b * log_p - special.logsumexp(b * log_p)), p, draws) - least

    if excess(1.0) <= 0:
        return 1.0, 1.0
    cold = 2.0
    while excess(cold) > 0 and cold < 2.0**60:
        cold *= 2
    coldest = 0.0 if excess(cold) > 0 else 1 / optimize.brentq(excess, 1.0, cold, xtol=1e-12)
    hottest = math.inf if excess(0.0) >= 0 else 1 / optimize.brentq(excess, 0.0, 1.0, xtol=1e-12)
    return coldest, hottest


def _cosine(q: Float, p: Float, n: float) -> float:
    """q.p / (|p| sqrt(|q|^2 + (1 - |q|^2) / n)): the frequencies in n draws of q against p."""
    square = float(q @ q)
    return float(q @ p) / math.sqrt(float(p @ p) * (square + (1 - square) / n))


def _of_counts(counts: Float, p: Float, n: int) -> float:
    if counts[p == 0].any():
        return math.nan  # test_sampling_freq asks for this first
    return float(counts @ p) / math.sqrt(float(counts @ counts) * float(p @ p))


def _foresee(q: Float, p: Float, n: int, threshold: float) -> tuple[float, float, Guarantee]:
    """Normal about :func:`_cosine`, by its gradient at q; times the probability that no impossible token is
    drawn."""
    centre, square = _cosine(q, p, n), float(q @ q) + (1 - float(q @ q)) / n
    slope = p / math.sqrt(float(p @ p) * square) - centre * q / square
    spread = math.sqrt(float(q @ slope**2) / n)  # q.slope = 0: the cosine does not depend on the scale
    passes = float(special.ndtr((centre - threshold) / spread)) if spread > 0 else float(centre > threshold)
    return centre, passes * never(q, p, n), Guarantee.ASYMPTOTIC


FLASHINFER_COSINE = Rule(
    name="flashinfer_cosine",
    publisher="FlashInfer",
    source_ref="flashinfer-ai/flashinfer tests/utils/test_sampling.py test_sampling_from_logits_freq, fb28d7242b (0.6.18)",
    statistic=_of_counts,
    foresee=_foresee,
    threshold=0.99,
    above=True,
    n=5_000_000,
)
