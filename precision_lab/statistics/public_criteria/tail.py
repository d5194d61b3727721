"""vLLM's rules of the whole vocabulary: the mass of the tail, and how much of it is ever seen."""

from __future__ import annotations

import math

import numpy as np
from scipy import special, stats

from ...errors import InputError
from ...types import Float, Guarantee
from .rule import Rule

SOURCE = "vllm-project/vllm tests/v1/worker/test_gpu_gumbel_sample.py"


def tail_mass(p: Float) -> float:
    """The mass of all tokens but the likeliest."""
    tail = float(np.delete(p, p.argmax()).sum())
    if not 0 < tail < 1:
        raise InputError(
            f"a tail of mass {tail}", "a head and a tail", "give a target with two possible tokens"
        )
    return tail


def _z(counts: Float, p: Float, n: int) -> float:
    tail = tail_mass(p)
    return abs(float(n - counts[p.argmax()]) - n * tail) / math.sqrt(n * tail * (1 - tail))


def _z_foreseen(q: Float, p: Float, n: int, threshold: float) -> tuple[float, float, Guarantee]:
    """Binomial."""
    tail, rate = tail_mass(p), float(np.delete(q, p.argmax()).sum())
    middle, spread = n * tail, math.sqrt(n * tail * (1 - tail))
    low, high = math.floor(middle - threshold * spread), math.ceil(middle + threshold * spread) - 1
    passes = float(stats.binom.cdf(high, n, min(1.0, rate)) - stats.binom.cdf(low, n, min(1.0, rate)))
    return abs(n * rate - middle) / spread, passes, Guarantee.EXACT


def _coverage(counts: Float, p: Float, n: int) -> float:
    return float(np.mean(counts > 0))


def _coverage_foreseen(q: Float, p: Float, n: int, threshold: float) -> tuple[float, float, Guarantee]:
    """Normal: a token is seen with 1 - (1 - q_i)^n; the variance as if tokens were independent, which is too large."""
    with np.errstate(divide="ignore"):
        missed = np.exp(n * np.log1p(-np.minimum(q, 1.0)))
    vocab, seen = len(q), float(np.sum(1 - missed))
    spread, least = math.sqrt(float(missed @ (1 - missed))), math.floor(threshold * vocab) + 0.5
    passes = float(special.ndtr((seen - least) / spread)) if spread > 0 else float(seen > least)
    return seen / vocab, passes, Guarantee.HEURISTIC


VLLM_TAIL = Rule(
    name="vllm_tail",  # 200,000 tokens, counts 1 to 3 against a head of round(e^18)
    publisher="vLLM",
    source_ref=f"{SOURCE} test_sampling_matches_target_distribution, 200eee69b6",
    statistic=_z,
    foresee=_z_foreseen,
    threshold=10.0,
    above=False,
    n=500_000,
)
VLLM_COVERAGE = Rule(
    name="vllm_coverage",  # 200,000 tokens within a factor of 3 of each other
    publisher="vLLM",
    source_ref=f"{SOURCE} test_full_vocab_distribution_fidelity, 200eee69b6",
    statistic=_coverage,
    foresee=_coverage_foreseen,
    threshold=0.99,
    above=True,
    n=4_000_000,
)
