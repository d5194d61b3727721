"""The most powerful test of one law against one other, and by how much draws speak for either."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Array, Float, Guarantee
from .._checks import check_open_unit, check_same_vocab, check_whole
from ..counts import Counts
from ..estimate import Estimate
from ._binomial import MOST_DRAWS, check_rates, smallest
from ._chernoff import S, log_upper, threshold
from ._widen import worst_mean
from .result import TestResult, asserting


def likelihood_ratio_test(
    counts: Counts, law: Law, alternative: Law, *, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> TestResult:
    """L = sum_i n_i log f_i, f_i = q_i / (p_i + e): Neyman and Pearson's test of p against the alternative q.

    One-sided: it fails a sampler that draws more like q than like p. p-value: Chernoff's min_s e^(-sL) (E f^s)^n, which
    bounds P(L or more) at every n, for every truth within e = ``law.error`` of p. Against the exact tail it gives away a
    factor of about s sqrt(2 pi Var L). A draw that p certainly cannot make gives 0; one that q cannot, 1, so let the
    alternative be (p + q) / 2 where its zeros are not to be trusted.
    ``detectable``: the share of the way from p to q. ``estimate``: L / n, normal interval.
    """
    check_rates(false_fail, false_pass)
    check_same_vocab(counts.vocab, law.vocab)
    ratio = _Ratio.of(law, alternative)
    n, drawn = counts.n, counts.counts
    detectable = ratio.detectable(n, false_fail, false_pass)
    if (drawn[ratio.never] > 0).any():
        total, p_value, found = math.inf, 0.0, None
    elif (drawn[np.isneginf(ratio.log_f)] > 0).any():
        total, p_value, found = -math.inf, 1.0, None
    else:
        found = _sum_of(
            drawn[seen := drawn > 0], ratio.log_f[seen], 1 - false_fail, "mean log likelihood ratio"
        )
        total, found = found.value, found.scaled(1 / n)
        p_value = math.exp(log_upper(total, n, ratio.log_null))
    effect = "share of the deviation from law to alternative"
    name, kind = "likelihood_ratio_test", Guarantee.FINITE_SAMPLE
    return TestResult(p_value, total, n, detectable, false_fail, name, effect, kind, found)


assert_likelihood_ratio = asserting(likelihood_ratio_test)


def detectable_likelihood_ratio(
    n: int, law: Law, alternative: Law, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> float:
    """Smallest x for which the test fails a sampler of p + x (q - p) with 1 - ``false_pass``; inf where x = 1 is not
    seen. Certified: Chernoff on both sides."""
    check_rates(false_fail, false_pass)
    return _Ratio.of(law, alternative).detectable(check_whole("n", n, 1), false_fail, false_pass)


def draws_needed_likelihood_ratio(
    law: Law, alternative: Law, false_fail: float = 1e-6, false_pass: float = 1e-6, *, truth: Law | None = None
) -> int:
    """Draws with which the test fails a sampler of law ``truth`` (by default the alternative). Certified, by Chernoff."""
    check_rates(false_fail, false_pass)
    ratio = _Ratio.of(law, alternative)
    if truth is not None:
        check_same_vocab(truth.vocab, law.vocab)
    probs = alternative.probs if truth is None else truth.probs
    if probs[ratio.never].any():
        return math.ceil(math.log(false_pass) / math.log1p(-min(probs[ratio.never].sum(), 1 - 2.0**-53)))
    log_miss = ratio.log_miss(probs)

    def enough(n: int) -> bool:
        return n <= MOST_DRAWS and ratio.missed(n, log_miss, false_fail) <= math.log(false_pass)

    return smallest(enough, "laws that nearly agree, or a truth nearer to the law")


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
    drawn, log_a, log_b = counts.counts, law_a.log_probs, law_b.log_probs
    if classes is not None:
        labels = _labels(classes, counts.vocab)
        drawn = np.bincount(labels, weights=drawn).astype(np.int64)
        log_a, log_b = _grouped(log_a, labels), _grouped(log_b, labels)
    seen = drawn > 0
    times, log_a, log_b = drawn[seen], log_a[seen], log_b[seen]
    never_a, never_b = bool(np.isneginf(log_a).any()), bool(np.isneginf(log_b).any())
    if never_a and never_b:
        raise InputError(
            "draws that neither law can make", "draws in the support of a or b", "propose other laws"
        )
    if never_a or never_b:
        certain = math.inf if never_b else -math.inf
        return Estimate(certain, certain, certain, 1.0, counts.n, "impossible under one law", Guarantee.EXACT)
    method = "log likelihood ratio" + (" of classes" if classes is not None else "")
    return _sum_of(times, log_a - log_b, confidence, method)


def _sum_of(times: Array, values: Float, confidence: float, method: str) -> Estimate:
    """sum times * values with n times the normal interval of their mean."""
    n, value = int(times.sum()), math.fsum(times * values)
    spread = math.fsum(times * (values - value / n) ** 2)
    half = math.inf
    if n > 1:
        half = float(stats.norm.isf((1 - confidence) / 2)) * math.sqrt(n * spread / (n - 1))
    return Estimate(value, value - half, value + half, confidence, n, method, Guarantee.ASYMPTOTIC)


@dataclass(frozen=True, eq=False)
class _Ratio:
    """``log_f``: (vocab,) log of q / (p + e).  ``never``: tokens that p certainly cannot draw.

    ``log_null``: log sup_t E_t f^s on the grid S.  ``p``, ``q``: probabilities.
    """

    log_f: Float
    never: Array
    log_null: Float
    p: Float
    q: Float

    @staticmethod
    def of(law: Law, alternative: Law) -> _Ratio:
        check_same_vocab(alternative.vocab, law.vocab)
        p, q, error = law.probs, alternative.probs, law.error
        if np.array_equal(law.log_probs, alternative.log_probs):
            raise InputError("an alternative equal to the law", "another law", "name the deviation to see")
        with np.errstate(divide="ignore", invalid="ignore"):
            log_f = alternative.log_probs - (law.log_probs if error == 0 else np.log(p + error))
        never = (p == 0) & (error == 0)
        log_f[never] = np.inf
        with np.errstate(over="ignore", divide="ignore"):
            log_null = np.log([worst_mean(p, error, np.exp(s * log_f)) for s in S])
        return _Ratio(log_f, never, log_null, p, q)

    def log_miss(self, probs: Float) -> Float:
        """log E f^-t on the grid, draws from ``probs``; inf where it has a token that q does not."""
        at = (probs > 0) & ~self.never
        with np.errstate(over="ignore"):
            return np.log([float(probs[at] @ np.exp(-t * self.log_f[at])) for t in S])

    def missed(self, n: int, log_miss: Float, false_fail: float) -> float:
        """Bound on the log probability that n draws pass."""
        return log_upper(-threshold(n, self.log_null, math.log(false_fail)), n, log_miss)

    def detectable(self, n: int, false_fail: float, false_pass: float) -> float:
        if self.q[self.never].any():  # sure to fail at one such draw, whatever the rest
            share = -math.expm1(math.log(false_pass) / n) / float(self.q[self.never].sum())
            return share if share <= 1 else math.inf
        null, other = self.log_miss(self.p), self.log_miss(self.q)

        def over(share: float) -> float:
            with np.errstate(divide="ignore"):
                mixed = np.logaddexp(
                    math.log1p(-share) + null if share < 1 else -np.inf, math.log(share) + other
                )
            return self.missed(n, mixed, false_fail) - math.log(false_pass)

        if over(1.0) > 0:
            return math.inf
        return (
            float(optimize.brentq(lambda x: max(over(x), -1e6), 1e-12, 1.0, xtol=1e-9))
            if over(1e-12) > 0
            else 1e-12
        )


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
