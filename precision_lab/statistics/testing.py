"""Tests that say what they can see: the exact binomial test of a tail, and the likelihood ratio of two laws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import InputError
from ..laws.law import Law
from ..types import Float, Guarantee
from ._checks import check_open_unit, check_same_vocab, check_successes, check_whole
from .counts import Counts
from .estimate import Estimate


@dataclass(frozen=True)
class TestResult:
    """A test on ``n`` draws that fails a right sampler with probability at most ``false_fail``.

    ``detectable``: the smallest relative deviation that this n sees, see :func:`detectable_tail`.
    """

    __test__ = False  # not a test class: keeps pytest from collecting it

    p_value: float
    statistic: float
    n: int
    detectable: float
    false_fail: float

    @property
    def failed(self) -> bool:
        return self.p_value <= self.false_fail


def tail_test(successes: int, n: int, p0: float, *, false_fail: float = 1e-6, false_pass: float = 1e-6) -> TestResult:
    """Is the rate of a set of tokens p0? p = min(1, 2 min(P(X <= successes), P(X >= successes))), X ~ Binomial(n, p0).

    Exact at every n and p0. ``statistic``: z = (successes - n p0) / sqrt(n p0 (1 - p0)), to read, not to decide.
    The set of tokens must be chosen before the draws are seen, say from the predicted law.
    """
    hits, total = check_successes(successes, n)
    detectable = detectable_tail(total, p0, false_fail, false_pass)
    null = stats.binom(total, p0)
    p_value = min(1.0, 2 * float(min(null.cdf(hits), null.sf(hits - 1))))
    z = (hits - total * p0) / math.sqrt(total * p0 * (1 - p0))
    return TestResult(p_value, z, total, detectable, false_fail)


def detectable_tail(n: int, p0: float, false_fail: float = 1e-6, false_pass: float = 1e-6) -> float:
    """Smallest d such that :func:`tail_test` passes any rate p1 with |p1 / p0 - 1| >= d at most ``false_pass`` often.

    From the ends of the rejection region by quantiles of the beta distribution. A side on which even the rate 0 (or 1)
    goes unseen counts as d = 1 (or 1/p0 - 1), where it ends; inf where both sides are so.
    """
    lowest, highest = _detected_rates(check_whole("n", n, 1), p0, false_fail, false_pass)
    if math.isnan(lowest) and math.isnan(highest):
        return math.inf
    return max(1.0 if math.isnan(lowest) else 1 - lowest / p0, (1.0 if math.isnan(highest) else highest) / p0 - 1)


def draws_needed_tail(p0: float, p1: float, false_fail: float = 1e-6, false_pass: float = 1e-6) -> int:
    """Draws with which :func:`tail_test` of p0 fails a sampler of rate p1 with probability at least 1 - ``false_pass``.

    By bisection. Power is a saw-tooth in n, so that a few nearby n can serve, or fail, against the trend.
    """
    if not (0 <= p1 <= 1 and p1 != p0):
        raise InputError(f"p1 = {p1} against p0 = {p0}", "another rate in [0, 1]", "name the deviation you want to see")

    def enough(n: int) -> bool:
        lowest, highest = _detected_rates(n, p0, false_fail, false_pass)
        return p1 <= lowest if p1 < p0 else p1 >= highest  # False where a bound is NaN

    few, many = 0, 1
    while not enough(many):
        few, many = many, 2 * many
        if many > 2**53:
            raise InputError(f"p1 = {p1} against p0 = {p0}", "a deviation visible in 2**53 draws", "compare the laws")
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def two_laws_log_likelihood(
    counts: Counts, law_a: Law, law_b: Law, classes: ArrayLike | None = None, confidence: float = 0.95
) -> Estimate:
    """L = sum_i n_i (log a_i - log b_i), nats: by how much the draws speak for law a against law b.

    ``classes``: (vocab,) labels 0, 1, ...; then i runs over classes and a_i, b_i are their masses.
    Interval: n times the normal interval of the mean of log a - log b over the draws, so it holds n E[log a - log b].
    -/+ inf where one law makes a draw impossible. Errors: InputError where both do, or for unequal vocabularies.
    """
    check_open_unit("confidence", confidence)
    check_same_vocab(law_a.vocab, counts.vocab)
    check_same_vocab(law_b.vocab, counts.vocab)
    n, drawn, log_a, log_b = counts.n, counts.counts, law_a.log_probs, law_b.log_probs
    if classes is not None:
        labels = _labels(classes, counts.vocab)
        drawn = np.bincount(labels, weights=drawn).astype(np.int64)
        log_a, log_b = _grouped(log_a, labels), _grouped(log_b, labels)
    seen = drawn > 0
    times, log_a, log_b = drawn[seen], log_a[seen], log_b[seen]
    never_a, never_b = bool(np.isneginf(log_a).any()), bool(np.isneginf(log_b).any())
    if never_a and never_b:
        raise InputError("draws that neither law can make", "draws in the support of a or b", "propose other laws")
    if never_a or never_b:
        certain = math.inf if never_b else -math.inf
        return Estimate(certain, certain, certain, 1.0, n, "impossible under one law", Guarantee.EXACT)
    value = math.fsum(times * (log_a - log_b))
    spread = math.fsum(times * (log_a - log_b - value / n) ** 2)
    half = math.inf
    if n > 1:
        half = float(stats.norm.isf((1 - confidence) / 2)) * math.sqrt(n * spread / (n - 1))
    method = "log likelihood ratio" + (" of classes" if classes is not None else "")
    return Estimate(value, value - half, value + half, confidence, n, method, Guarantee.ASYMPTOTIC)


def _detected_rates(n: int, p0: float, false_fail: float, false_pass: float) -> tuple[float, float]:
    """The largest rate below p0 and the smallest above it that the test fails with 1 - false_pass; NaN where none."""
    check_open_unit("p0", p0)
    side, miss = check_open_unit("false_fail", false_fail) / 2, check_open_unit("false_pass", false_pass)
    null = stats.binom(n, p0)
    few = int(null.ppf(side)) + 1  # quantiles may round by one: walk to the last count that is rejected
    while few >= 0 and null.cdf(few) > side:
        few -= 1
    many = max(0, int(null.isf(side)) - 1)
    while many <= n and null.sf(many - 1) > side:
        many += 1
    lowest = float(stats.beta.ppf(miss, few + 1, n - few)) if few >= 0 else math.nan
    highest = float(stats.beta.isf(miss, many, n - many + 1)) if many <= n else math.nan
    return lowest, highest


def _labels(classes: ArrayLike, vocab: int) -> np.ndarray:
    labels = np.asarray(classes)
    if labels.shape != (vocab,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError(
            f"classes of shape {labels.shape}, dtype {labels.dtype}",
            f"({vocab},) labels 0, 1, ...",
            "label every token",
        )
    return labels


def _grouped(log_probs: Float, labels: np.ndarray) -> Float:
    with np.errstate(divide="ignore"):
        return np.log(np.bincount(labels, weights=np.exp(log_probs)))
