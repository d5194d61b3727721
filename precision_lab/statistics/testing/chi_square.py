"""Pearson's test, where its approximation can be trusted."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Guarantee
from .._checks import check_same_vocab, check_whole
from ..counts import Counts
from ._binomial import MOST_DRAWS, check_rates
from .result import TestResult, asserting

LEAST = 5.0  # expected draws of the rarest token (Cochran, Biometrics 10, 1954)


def chi_square_test(
    counts: Counts, law: Law, *, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> TestResult:
    """X^2 = sum_i max(0, |n_i - n p_i| - n e)^2 / (n (p_i + e)) against chi-square with (tokens - 1)
    degrees of freedom.

    e = ``law.error``: the statistic is at most Pearson's at the true law. Level asymptotic, and untrue for
    small expected counts: at 50,257 tokens a nominal 1e-3 can reject a right sampler a third of the time.
    So InputError where any token expects fewer than 5 draws. Tokens of probability 0 are no cells; a draw
    of one gives p = 0 (where e = 0).
    """
    check_rates(false_fail, false_pass)
    check_same_vocab(counts.vocab, law.vocab)
    n, e = counts.n, law.error
    p, drawn = law.probs, counts.counts
    cells = p > 0
    _check_expected(n, law)
    detectable = detectable_chi_square(n, law, false_fail, false_pass)
    if drawn[~cells].any() and e == 0:
        statistic, p_value = math.inf, 0.0
    else:
        off = np.maximum(np.abs(drawn - n * p) - n * e, 0.0)[cells]
        statistic = float((off**2 / (n * (p[cells] + e))).sum())
        p_value = float(stats.chi2.sf(statistic, max(int(cells.sum()) - 1, 1)))
    effect = "sqrt of sum (q - p)^2 / p"
    return TestResult(
        p_value, statistic, n, detectable, false_fail, "chi_square_test", effect, Guarantee.ASYMPTOTIC
    )


assert_chi_square = asserting(chi_square_test)


def detectable_chi_square(n: int, law: Law, false_fail: float = 1e-6, false_pass: float = 1e-6) -> float:
    """d such that a sampler q with sum_i (q_i - p_i)^2 / p_i = d^2 passes ``false_pass`` often: n d^2 =
    noncentrality.

    Asymptotic; the law's error is left out.
    """
    check_rates(false_fail, false_pass)
    return math.sqrt(_noncentrality(law, false_fail, false_pass) / check_whole("n", n, 1))


def draws_needed_chi_square(
    law: Law, alternative: Law, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> int:
    """Draws that see the alternative, and no fewer than the test accepts. Asymptotic."""
    check_rates(false_fail, false_pass)
    check_same_vocab(alternative.vocab, law.vocab)
    p, q = law.probs, alternative.probs
    cells = p > 0
    least = _least_draws(float(p[cells].min()))
    if q[~cells].any():  # sure to fail once one of these is drawn
        return max(least, math.ceil(math.log(false_pass) / math.log1p(-min(q[~cells].sum(), 1 - 2.0**-53))))
    square = float(((q - p)[cells] ** 2 / p[cells]).sum())
    if square == 0:
        raise InputError("laws that agree", "an alternative that differs", "name another alternative")
    return max(least, math.ceil(_noncentrality(law, false_fail, false_pass) / square))


def _noncentrality(law: Law, false_fail: float, false_pass: float) -> float:
    freedom = max(int((law.probs > 0).sum()) - 1, 1)
    critical, top = stats.chi2.isf(false_fail, freedom), 64.0
    while stats.ncx2.cdf(critical, freedom, top) > false_pass:
        top *= 2
    return float(
        optimize.brentq(lambda nc: stats.ncx2.cdf(critical, freedom, nc) - false_pass, 0, top, rtol=1e-9)
    )


def _least_draws(rarest: float) -> int:
    """Draws of which the test expects LEAST of the rarest token; InputError above MOST_DRAWS."""
    if LEAST / rarest > MOST_DRAWS:
        got = f"a token of probability {rarest:.3g}"
        raise InputError(got, f"{LEAST / MOST_DRAWS:.3g} or more", "use identity_test or tail_test")
    return math.ceil(LEAST / rarest)


def _check_expected(n: int, law: Law) -> None:
    p = law.probs
    rarest = float(p[p > 0].min())
    if n * rarest < LEAST:
        needed = LEAST / rarest
        more = f", or draw {math.ceil(needed)}" if needed < MOST_DRAWS else ""
        raise InputError(
            f"an expectation of {n * rarest:.3g} draws of the rarest token",
            f"{LEAST:g} or more of every token",
            f"use identity_test, tail_test or likelihood_ratio_test{more}",
        )
