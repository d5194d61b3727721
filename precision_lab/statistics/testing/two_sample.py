"""Do two samplers, or two decoders, draw from one law that nobody knows?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Array, Float
from .._checks import check_same_vocab, check_tokens, check_whole
from ..counts import Counts
from ._binomial import check_rates, smallest
from ._monte_carlo import critical_tail, detected_shift, monte_carlo, needed_resamples, quantile
from .result import TestResult, asserting

_MOST_POOLED = 10**9  # of NumPy's multivariate hypergeometric draws


def two_sample_test(
    a: Counts | ArrayLike,
    b: Counts | ArrayLike,
    *,
    rng: np.random.Generator,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    resamples: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> TestResult:
    """T = sum_i (m_b a_i - m_a b_i)^2 / (m_a m_b (a_i + b_i)), the chi-square of homogeneity of m_a and m_b
    draws.

    Its null is the permutations of what was drawn, so the sparsest counts are no harm (with equal m it is
    the closeness statistic of Chan, Diakonikolas, Valiant and Valiant, SODA 2014, up to a constant); p = (b
    + 1) / (B + 1), or Besag and Clifford's h / l. Level finite-sample. a, b: two Counts of independent
    draws, permuted draw by draw (hypergeometric); or two arrays (sequences, length) of tokens, of one
    length, permuted by whole sequences, so that tokens may depend on each other within one.
    ``detectable``: asymptotic; for sequences as if their tokens were independent, so a lower bound.
    """
    check_rates(false_fail, false_pass)
    resamples = needed_resamples(false_fail, resamples)
    pool, m_a, observed, simulate, width = _problem(a, b, rng)
    n = int(pool.sum())
    p_value = monte_carlo(observed, simulate, false_fail, resamples, width, progress)
    variance = float((2 * (1 - 1 / pool)).sum())
    third = float((8 * (pool - 1) * (pool - 2) / pool**2).sum())
    detectable = math.inf
    if variance > 0:
        critical = quantile(critical_tail(false_fail, resamples, false_pass), variance, third)
        detectable = math.sqrt(detected_shift(critical, variance, false_pass) * n / (m_a * (n - m_a)))
    effect = "sqrt of sum (a - b)^2 / pooled probability, over tokens drawn often"
    return TestResult(p_value, observed, n, detectable, false_fail, "two_sample_test", effect)


assert_two_sample = asserting(two_sample_test)


def detectable_two_sample(
    n: int, law: Law, false_fail: float = 1e-6, false_pass: float = 1e-6, resamples: int | None = None
) -> float:
    """d: n independent draws of each of two samplers near ``law`` tell sum_i (a_i - b_i)^2 / p_i >= d^2.
    Asymptotic.

    For differences on tokens that are drawn often; a token drawn once or never tells nothing.
    """
    check_rates(false_fail, false_pass)
    critical, variance = _critical(2 * check_whole("n", n, 1) * law.probs, false_fail, false_pass, resamples)
    return math.sqrt(detected_shift(critical, variance, false_pass) * 2 / n)


def draws_needed_two_sample(
    law_a: Law, law_b: Law, false_fail: float = 1e-6, false_pass: float = 1e-6, resamples: int | None = None
) -> int:
    """Independent draws of each sampler that tell the two laws apart. Asymptotic.

    Shift of T for Poisson counts of mean x_i = n (a_i + b_i): sum_i ((a_i - b_i) / (a_i + b_i))^2 (x_i - 1
    + e^-x_i).
    """
    check_rates(false_fail, false_pass)
    check_same_vocab(law_a.vocab, law_b.vocab)
    a, b = law_a.probs, law_b.probs
    both = (a + b) > 0
    mean, contrast = (a + b)[both], (((a - b)[both]) / (a + b)[both]) ** 2
    if not contrast.any():
        raise InputError("laws that agree", "two laws that differ", "name another alternative")
    z = float(stats.norm.isf(false_pass / 2))

    def enough(n: int) -> bool:
        critical, variance = _critical(n * mean, false_fail, false_pass, resamples)
        shift = float(contrast @ (n * mean + np.expm1(-n * mean)))
        return shift - z * math.sqrt(variance + 4 * shift) >= critical

    return smallest(enough, "laws that nearly agree")


def _critical(x: Float, false_fail: float, false_pass: float, resamples: int | None) -> tuple[float, float]:
    """The centred T that fails but ``false_pass`` / 2 often, and its null variance, at Poisson pools of mean x.

    Given N pooled draws a token's term has variance 2 (1 - 1/N) and third cumulant 8 (N - 1)(N - 2) / N^2:
    their means, from N = 20 on at their limits 2 and 8.
    """
    resamples, rest = needed_resamples(false_fail, resamples), float(stats.poisson.sf(19, x).sum())
    often = np.array([stats.poisson.pmf(k, x).sum() for k in range(1, 20)])
    k = np.arange(1.0, 20.0)
    variance = float(often @ (2 * (1 - 1 / k))) + 2 * rest
    third = float(often @ (8 * (k - 1) * (k - 2) / k**2)) + 8 * rest
    return quantile(critical_tail(false_fail, resamples, false_pass), max(variance, 1e-300), third), variance


def _problem(
    a: Counts | ArrayLike, b: Counts | ArrayLike, rng: np.random.Generator
) -> tuple[Float, int, float, Callable[[int], Float], int]:
    """(pooled counts of the tokens drawn, m_a, T, simulator of T, numbers in a simulated row)."""
    if isinstance(a, Counts) and isinstance(b, Counts):
        check_same_vocab(a.vocab, b.vocab)
        pool = a.counts + b.counts
        drawn = pool > 0
        pool, first, n_a = pool[drawn], a.counts[drawn], a.n
        if a.n + b.n >= _MOST_POOLED:
            got = f"{a.n} and {b.n} draws"
            raise InputError(
                got, f"fewer than {_MOST_POOLED:.0e} together", "fewer draws, or test each against its law"
            )

        def shuffled(rows: int) -> Array:
            return rng.multivariate_hypergeometric(pool, n_a, size=rows, method="marginals")

        width = len(pool)
    elif isinstance(a, Counts) or isinstance(b, Counts):
        raise InputError("counts against sequences", "two of a kind", "count both, or pass both as sequences")
    else:
        left, right = check_tokens(a), check_tokens(b)
        if left.shape[1] != right.shape[1]:
            raise InputError(
                f"sequences of {left.shape[1]} and {right.shape[1]} tokens", "one length", "crop both alike"
            )
        rows_all, length = np.concatenate([left, right]), left.shape[1]
        ids = np.unique(rows_all, return_inverse=True)[1].reshape(rows_all.shape)
        pool, n_a, each = np.bincount(ids.ravel()), left.size, len(left)
        first = np.bincount(ids[:each].ravel(), minlength=len(pool))

        def shuffled(rows: int) -> Array:
            chosen = (rng.permutation(len(ids))[:each] for _ in range(rows))
            return np.stack([np.bincount(ids[at].ravel(), minlength=len(pool)) for at in chosen])

        width = max(len(pool), n_a, length)
    n_b = int(pool.sum()) - n_a

    def statistic(counts: Array) -> Float:
        off = n_b * counts.astype(np.float64) - n_a * (pool - counts)
        return np.asarray((off**2 / pool).sum(axis=-1) / (float(n_a) * n_b))

    return pool.astype(np.float64), n_a, float(statistic(first)), lambda rows: statistic(shuffled(rows)), width
