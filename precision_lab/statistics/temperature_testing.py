"""Were independent draws made at temperature 1? A test by Chernoff's bound, what it sees, and the draws it
needs.

For the tempered laws p_t of :class:`~.tempered.Tempered`, n draws from p and m on the side of t,

    P(mean of y beyond E_{p_t}[y]) <= exp(-n KL(p_t || p))

at every n. The exponent is the log likelihood ratio of p_t with that mean against p, so that the guarantee
costs only the distance from log(2 / level) to half a chi-square quantile: 22 % more draws at 1e-6 and 1e-6.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from ..errors import InputError
from ..laws.law import Law
from ..types import Guarantee
from ._checks import check_open_unit, check_same_vocab, check_whole
from .counts import Counts
from .temperature import temperature_from_draws
from .tempered import Tempered, root
from .testing import TestResult, asserting
from .testing._widen import worst_mean

_EFFECT = "|temperature - 1|"
_NEVER = -1e5  # log q below: not among 2^53 draws, nor do so many tell it from -inf


def temperature_test(
    counts: Counts, p: Law, *, false_fail: float = 1e-6, false_pass: float = 1e-6, asymptotic: bool = False
) -> TestResult:
    """Is the temperature 1? R = n KL(p_t || p), E_{p_t}[y] the mean of the draws; p-value 2 e^-R,
    finite-sample.

    ``asymptotic``: the chi-square tail of 2R instead. ``statistic``: R, with the sign of t. Either way R is
    lowered for the worst truth within ``p.error``. Supposes independent draws. It looks at the mean of log
    p only: see
    :func:`~.lack_of_fit.lack_of_fit_test` for the rest. Errors: InputError for a flat p or draws that p makes impossible.
    """
    estimate = temperature_from_draws(counts, p, 1 - false_fail)
    family, n = _tilting(p), counts.n
    drawn = counts.counts[family.tokens]
    with np.errstate(divide="ignore"):
        t = family.excess_of(np.log(drawn / n))
    if p.error:
        # every t of its sign gives a bound: a finite one is enough
        bounded = max(-1 / p.error, min(1 / p.error, t))
        gaps = bounded * (family.y - (family.y.max() if t > 0 else family.y.min()))
        exponent = math.fsum(drawn / n * gaps) - math.log(
            worst_mean(np.exp(family.log_p), p.error, np.exp(gaps))
        )
    else:
        exponent = family.divergence(t)
    ratio = n * max(0.0, exponent)
    p_value = float(stats.chi2.sf(2 * ratio, 1)) if asymptotic else min(1.0, 2 * math.exp(-ratio))
    return TestResult(
        p_value,
        math.copysign(ratio, t),
        n,
        detectable_temperature(n, p, false_fail, false_pass, asymptotic),
        false_fail,
        "temperature_test",
        _EFFECT,
        Guarantee.ASYMPTOTIC if asymptotic else Guarantee.FINITE_SAMPLE,
        estimate,
        1.0,
    )


assert_temperature = asserting(temperature_test)


def detectable_temperature(
    n: int, p: Law, false_fail: float = 1e-6, false_pass: float = 1e-6, asymptotic: bool = False
) -> float:
    """Smallest d such that a sampler of p at any T with |T - 1| >= d passes at most ``false_pass`` often.

    From the t at which the test fails, n KL(p_t || p) = a, on to s with n KL(p_t || p_s) = c. inf where
    even T = inf goes unseen; 1 where T > 2 is seen and no T < 1 is. The error of p is left out.
    """
    n, family = check_whole("n", n, 1), _tilting(p)
    fail, miss = (limit / n for limit in _limits(false_fail, false_pass, asymptotic))
    error = math.sqrt(2 / family.cumulants(0.0)[1])  # KL(p_t || p) is about (t / error)^2, near t = 0
    widest, accuracy = 1 / float(np.ptp(family.y)), 1e-9 * min(error, 1.0)  # a peaked p has a huge error
    seen = []
    for way in (1, -1):
        if fail >= family.divergence(way * math.inf):
            seen.append(way * math.inf)
            continue
        step = way * min(error * math.sqrt(fail), widest)
        t = root(lambda t: family.divergence(t) - fail, 0.0, step, accuracy)
        step = way * min(error * math.sqrt(miss), widest)
        seen.append(root(lambda s, t=t: family.divergence(t, s) - miss, t, step, accuracy))  # type: ignore[misc]
    most, least = (1 + t for t in seen)
    return max(1 - 1 / most, 1 / least - 1 if least > 0 else math.inf)


def draws_needed_temperature(
    p: Law,
    alternative: float | Law,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    asymptotic: bool = False,
) -> int:
    """Draws with which the test fails a sampler of p at temperature ``alternative``, or of that law, 1 -
    ``false_pass``.

    n = a / KL(p_t || p) at the mean m of y with a KL(q_s || q) = c KL(p_t || p), where p_t and q_s = q e^(s
    y - ...) are the tilts of p and of the alternative q with that mean; a = log(2 / false_fail), c = log(1
    / false_pass). Near p that is n Var_p[log p] (1/T - 1)^2 = (sqrt(2a) + sqrt(2c))^2. ``asymptotic``: 2a
    and 2c are the squares of normal quantiles. The error of p is left out. Errors: InputError where q moves
    E[log p] nowhere, or draws what p cannot.
    """
    null = _tilting(p)
    if isinstance(alternative, Law):
        check_same_vocab(alternative.vocab, p.vocab)
        log_q = alternative.log_probs
    elif alternative > 0:
        log_q = null.at(1 / alternative - 1, p.vocab).log_probs
    else:
        raise InputError(
            f"temperature {alternative}", "a number above 0", "give a Law for what has no temperature"
        )
    if (np.isneginf(p.log_probs) & ~np.isneginf(log_q)).any():
        raise InputError(
            "an alternative that draws what p cannot", "a law on the support of p", "one draw may do"
        )
    log_q = np.where(log_q < _NEVER, -np.inf, log_q)
    other = null.tilting(log_q[null.tokens])
    away = other.centre - null.centre
    if not abs(away) > 1e-13 * abs(null.centre):
        raise InputError("an alternative of the same mean log p", "another temperature", "use lack_of_fit_test")
    fail, miss = _limits(false_fail, false_pass, asymptotic)

    def balance(share: float) -> float:
        """Of the mean that lies ``share`` of the way from p to q: 1 where only q is far from it, -1 where
        only p is."""
        from_p, from_q = miss * _rate(null, share * away), fail * _rate(other, (share - 1) * away)
        return (from_q - from_p) / (from_q + from_p) if from_q < math.inf else 1.0

    rate = _rate(null, root(balance, 1.0, -0.5, 1e-9) * away)
    if not rate > fail / 1e300:
        raise InputError(
            "an alternative that 1e300 draws do not tell", "one that draws can tell", "compare the laws"
        )
    return math.ceil(fail / rate)


def _tilting(p: Law) -> Tempered:
    family = Tempered.of(p)
    if family.flat:
        raise InputError(
            "a flat target, or one token beside which float64 sees no other",
            "two different probabilities",
            "every temperature near 1 of it is the same law",
        )
    return family


def _limits(false_fail: float, false_pass: float, asymptotic: bool) -> tuple[float, float]:
    """What n KL must reach for the test to fail, and for the sampler to be seen."""
    check_open_unit("false_fail", false_fail)
    check_open_unit("false_pass", false_pass)
    if asymptotic:
        return float(stats.chi2.isf(false_fail, 1)) / 2, max(0.0, float(stats.norm.isf(false_pass))) ** 2 / 2
    return math.log(2 / false_fail), math.log(1 / false_pass)


def _rate(family: Tempered, mean: float) -> float:
    """KL(q_s || q) at E_{q_s}[y] = mean; inf where q has no such mean."""
    end = float(family.y.max() if mean > 0 else family.y.min())
    if mean == 0 or abs(mean) > abs(end) * (1 + 1e-12):
        return math.inf if mean else 0.0
    if abs(mean) > abs(end) * (1 - 1e-12):
        return family.divergence(math.copysign(math.inf, mean))
    return family.divergence(
        root(lambda t: family.mean(t) - mean, 0.0, math.copysign(family.step(abs(mean)), mean))
    )
