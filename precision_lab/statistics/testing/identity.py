"""Is this law the law of these draws? Over the whole vocabulary, however sparse the counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Array, Float, Guarantee
from .._checks import check_same_vocab, check_whole
from ..counts import Counts
from ._binomial import check_rates, smallest
from ._monte_carlo import critical_tail, detected_shift, monte_carlo, needed_resamples, quantile
from ._widen import level, reference, widened
from .result import TestResult, asserting

EFFECT = "sqrt of sum (q - p)^2 / max(p, 1/vocab)"


def identity_test(
    counts: Counts,
    law: Law,
    *,
    rng: np.random.Generator,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    resamples: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> TestResult:
    """T = sum_i ((n_i - n p_i)^2 - n_i) / (n max(p_i, 1/vocab)), large where any other law made the draws.

    The truncated chi-square of Balakrishnan and Wasserman (Ann. Stat. 47, 1893, 2019): a draw of a rare
    token does not outweigh everything, as it does in Pearson's. Null simulated: p = (b + 1) / (B + 1), or
    Besag and Clifford's h / l once h statistics are as large. Level finite-sample; ``law.error`` widens it
    (``_widen``). ``detectable``: asymptotic. ``resamples``: B, by default the least that can fail at
    ``false_fail``; a right sampler needs about 40 of them. A token that the law certainly cannot draw gives
    p = 0. ``progress``: called with the share of B done.
    """
    check_rates(false_fail, false_pass)
    check_same_vocab(counts.vocab, law.vocab)
    n, null, allowed = counts.n, reference(law), level(false_fail, law, counts.n)
    resamples = needed_resamples(allowed, resamples)
    detectable = detectable_identity(n, law, false_fail, false_pass, resamples)
    observed = float(_statistic(counts.counts, n, null))

    def simulate(rows: int) -> Float:
        return _statistic(_null_counts(n, null, rows, rng), n, null)

    if (counts.counts[null == 0] > 0).any():
        observed, p_value = math.inf, 0.0
    else:
        p_value = widened(monte_carlo(observed, simulate, allowed, resamples, law.vocab, progress), law, n)
    least = 0 < p_value <= 1 / (resamples + 1)
    note = f"p is the smallest that a null of {resamples} can say" if least else ""
    return TestResult(
        p_value,
        observed,
        n,
        detectable,
        false_fail,
        "identity_test",
        EFFECT,
        Guarantee.FINITE_SAMPLE,
        note=note,
    )


assert_identity = asserting(identity_test)


def detectable_identity(
    n: int, law: Law, false_fail: float = 1e-6, false_pass: float = 1e-6, resamples: int | None = None
) -> float:
    """d such that the test sees a sampler q with sum_i (q_i - p_i)^2 / max(p_i, 1/vocab) >= d^2. Asymptotic
    in n.

    Null quantile by Pearson's type III with the cumulants of Poisson counts, power by the normal law with
    variance var_0 + 4 n d^2; the chance in the resampling is counted in.
    """
    check_rates(false_fail, false_pass)
    critical, variance = _critical(check_whole("n", n, 1), law, false_fail, false_pass, resamples)
    return math.sqrt(detected_shift(critical, variance, false_pass) / n)


def draws_needed_identity(
    law: Law, alternative: Law, false_fail: float = 1e-6, false_pass: float = 1e-6, resamples: int | None = None
) -> int:
    """Draws with which the test fails a sampler of the alternative law. Asymptotic, from the moments of T
    under both."""
    check_rates(false_fail, false_pass)
    check_same_vocab(alternative.vocab, law.vocab)
    p, q, w = reference(law), alternative.probs, _weights(reference(law))
    square = float(((q - p) ** 2 / w).sum())
    if square == 0:
        raise InputError("laws that agree", "an alternative that differs", "name another alternative")
    offset = float(((p**2 - q**2) / w).sum())  # multinomial counts: E (X - np)^2 - X = n^2 (q - p)^2 - n q^2
    z = float(stats.norm.isf(false_pass / 2))

    def enough(n: int) -> bool:
        critical, _ = _critical(n, law, false_fail, false_pass, resamples)
        variance = float(((2 * q**2 + 4 * n * q * (q - p) ** 2) / w**2).sum())
        return n * square + offset - z * math.sqrt(variance) >= critical

    return smallest(enough, "laws that nearly agree")


def _weights(p: Float) -> Float:
    return np.maximum(p, 1 / len(p))


def _null_counts(n: int, p: Float, rows: int, rng: np.random.Generator) -> Array:
    """(rows, vocab) counts of n draws from p. Fewer draws than tokens are made one by one: n log vocab, not
    vocab."""
    if n >= len(p):
        return rng.multinomial(n, p, size=rows)
    last = int(np.flatnonzero(p)[-1])
    edges = np.cumsum(p[: last + 1])
    tokens = np.minimum(np.searchsorted(edges, edges[-1] * rng.random((rows, n)), side="right"), last)
    tokens += len(p) * np.arange(rows)[:, None]
    return np.bincount(tokens.ravel(), minlength=rows * len(p)).reshape(rows, len(p))


def _statistic(counts: Array, n: int, p: Float) -> Float:
    """(..., vocab) counts -> (...)"""
    return np.asarray((((counts - n * p) ** 2 - counts) / (n * _weights(p))).sum(axis=-1))


def null_cumulants(p: Float, n: int) -> tuple[float, float]:
    """Variance and third cumulant of T for Poisson counts: of means m = n p each bracket has 2 m^2 and 8
    m^3 + 4 m^2."""
    m, w = n * p, n * _weights(p)
    return float((2 * m**2 / w**2).sum()), float(((8 * m**3 + 4 * m**2) / w**3).sum())


def _critical(
    n: int, law: Law, false_fail: float, false_pass: float, resamples: int | None
) -> tuple[float, float]:
    """The centred value of T that fails but ``false_pass`` / 2 often, and its null variance."""
    p, allowed = reference(law), level(false_fail, law, n)
    variance, third = null_cumulants(p, n)
    if allowed < 1e-300:
        return math.inf, variance  # the law is too loosely known for so many draws
    tail = critical_tail(allowed, needed_resamples(allowed, resamples), false_pass)
    return quantile(tail, variance, third), variance
