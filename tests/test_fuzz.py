"""The judge at the edges of what it accepts. Every public function answers or says InputError, within
seconds, with no NaN but where one is promised; and what it says agrees with a slow twin: mpmath, fractions
or enumeration.

A few fixed cases in the fast lane; in the slow lane, drawn ones, the same in every run. No test here is random.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from edge_cases import CALLS, MOST, Case, cases, law_of_gaps
from hypothesis import HealthCheck, Phase, given, settings
from mpmath import mpf
from scipy import stats

from precision_lab import statistics
from precision_lab.errors import InputError
from precision_lab.laws.law import Law
from precision_lab.statistics import Counts
from precision_lab.types import Guarantee

LIMIT = 5.0  # seconds of this process for one call
DIGITS = 80
# Where a docstring promises NaN: no power without the laws, a slope of one token, a published statistic of
# no cells.
NAN_ALLOWED = {
    "shuffle_test": {"detectable"},
    "log_odds_spectrum": {"slope"},
    "public criteria": {"statistic"},
    "public forecasts": {"statistic"},
}


class NothingToCompare(Exception):
    """The case is outside what a slow twin knows."""


def suppose(condition: Any) -> None:
    if not condition:
        raise NothingToCompare


class TooSlow(BaseException):
    """No ``except Exception`` of the code that is timed can catch it."""


def answer(name: str, case: Case) -> Any:
    """What the call returns, None for an InputError; AssertionError for anything else."""

    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=RuntimeWarning, module="precision_lab")
            return CALLS[name](case)
    except InputError:
        return None
    except TooSlow:
        raise AssertionError(f"{name}: over {LIMIT:g} s on {case}") from None
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error} on {case}") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fields_with_nan(value: Any, field: str = "") -> Iterator[str]:
    """Names of the fields that hold NaN, at any depth."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            yield from fields_with_nan(getattr(value, each.name), each.name)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from fields_with_nan(each, field)
    elif isinstance(value, dict):
        for each in value.values():
            yield from fields_with_nan(each, field)
    elif isinstance(value, float | np.ndarray) and np.isnan(value).any():
        yield field


def check_answer(name: str, case: Case) -> None:
    unexpected = set(fields_with_nan(answer(name, case))) - NAN_ALLOWED.get(name, set())
    assert not unexpected, f"{name}: NaN in {sorted(unexpected)} on {case}"


def fixed(
    gaps: list[float],
    other_gaps: list[float],
    counts: list[int],
    *,
    error: float = 0.0,
    values: list[float] | None = None,
    order: float = 1 + 1e-12,
    size: int = 5,
    total: int = 1000,
    hits: int = 3,
    rate: float = 0.05,
) -> Case:
    """A case by hand."""
    vocab = len(gaps) + 1
    made = Counts(np.array(counts, dtype=np.int64), sum(counts))
    tokens = np.arange(12).reshape(4, 3) % vocab
    numbers = np.array(values or [1.0, 2.0, 4.0, 10.0])
    p, q = law_of_gaps(gaps, error), law_of_gaps(other_gaps)
    return Case(p, q, made, made, tokens, numbers, order, size, total, hits, rate, seed=0)


FIXED = {
    "peaked by 50 nats": fixed([50.0], [49.0], [1000, 0]),
    "peaked by 100 nats": fixed([100.0, 90.0], [100.0, 80.0], [1000, 0, 0], error=1e-17),
    "peaked by 740 nats": fixed([740.0], [700.0], [1, 0], values=[5e-324, 0.0, 1e-320]),
    "beyond float64": fixed([800.0], [0.0], [3, 2], order=2000.0),
    "flat": fixed([0.0, 0.0, 0.0], [0.1, 0.0, 0.3], [5, 3, 1, 1], order=math.fsum([0.1] * 10), error=1.0),
    "nearly flat": fixed([1e-16], [1e-8], [5, 3], order=1 - 2**-53),
    "one token": fixed([], [], [7], total=1, hits=1, size=1),
    "tokens that cannot be drawn": fixed([math.inf, 1.0, math.inf], [2.0, math.inf, math.inf], [3, 0, 2, 1]),
    "large masks": fixed([1e4, 3.4e38, 1.7e308], [1e9, 3.4e38, 1.0], [3, 0, 0, 0], error=1e-9),
    "2^53 draws": fixed([1.0], [1.1], [MOST - 3, 3], total=MOST, hits=2**52, rate=0.5, size=MOST),
    "1e9 draws": fixed([1.0], [1.1], [5 * 10**8, 7], total=10**9, hits=1, rate=1e-300, size=10**9),
    "1e15 draws": fixed(
        [30.0, 30.0], [29.0, 31.0], [10**15, 2, 1], total=10**15, hits=10**15, values=[1e110, 3e110]
    ),
    "large numbers": fixed([3.0], [2.0], [9, 1], values=[1e300, -1e300, 1.7e308, 3.0], rate=1 - 2**-53),
}


FAST = ("peaked by 100 nats", "large masks", "2^53 draws")


@pytest.mark.parametrize("name", CALLS)
def test_a_fixed_case_has_an_answer(name: str) -> None:
    for key in FAST:
        check_answer(name, FIXED[key])


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_fixed_case_has_an_answer(name: str) -> None:
    for case in FIXED.values():
        check_answer(name, case)


def drawn(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test on so many cases, the same in every run; a failing one is not made smaller, which would take
    hours."""
    budget = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: budget(given(case=cases())(test))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_drawn_cases_have_answers(part: int) -> None:
    """A quarter of the functions; each case is drawn once for all of these."""
    names, failures = list(CALLS)[part::4], dict[str, str]()

    @drawn(200)
    def check(case: Case) -> None:
        for name in names:
            if name not in failures:
                try:
                    check_answer(name, case)
                except AssertionError as error:
                    failures[name] = str(error)

    check()
    assert not failures, "\n".join(failures.values())


# The slow twins. Each takes a case and compares.


def chances(law: Law) -> list[Any]:
    """Probabilities to DIGITS digits, divided by their sum."""
    each = [mpmath.exp(mpf(float(x))) if x > -math.inf else mpf(0) for x in law.log_probs]
    total = mpmath.fsum(each)
    return [x / total for x in each]


def close(got: float, expected: Any, rel: float = 1e-9, smallest: float = 1e-300) -> None:
    """Relative, down to what is as good as 0."""
    wanted = float(expected)
    if math.isinf(wanted) or math.isinf(got):
        assert got == wanted, (got, wanted)
    else:
        assert abs(got - wanted) <= rel * abs(wanted) + smallest, (got, wanted)


def of_total_variation(case: Case) -> None:
    expected = mpmath.fsum(abs(a - b) for a, b in zip(chances(case.q), chances(case.p), strict=True)) / 2
    # the logarithms of a law that are off by an ulp move it by as much
    close(statistics.total_variation(case.q, case.p), expected, smallest=1e-15)


def of_kl_divergence(case: Case) -> None:
    expected = mpf(0)
    for a, b, log_a, log_b in zip(
        chances(case.q), chances(case.p), case.q.log_probs, case.p.log_probs, strict=True
    ):
        if a and not b:
            expected = mpmath.inf
            break
        if a:
            ratio = mpf(float(log_a)) - mpf(float(log_b))
            expected += a * ratio
    # logarithms are rounded to 1e-16 of themselves, each times its probability
    largest = max(
        (float(a) * abs(float(x)) for a, x in zip(chances(case.q), case.q.log_probs, strict=True) if a)
    )
    close(statistics.kl_divergence(case.q, case.p), expected, smallest=1e-15 * (1 + largest))


def of_suppressed_mass(case: Case) -> None:
    expected = mpf(0)
    for a, b, log_a, log_b in zip(
        chances(case.q), chances(case.p), case.q.log_probs, case.p.log_probs, strict=True
    ):
        gap = float(log_a) - float(log_b) if b else math.inf
        suppose(not abs(gap - math.log(0.5)) < 1e-9)
        if b and gap < math.log(0.5):
            expected += b
        assert not (a and not b) or gap == math.inf
    close(statistics.suppressed_mass(case.q, case.p), expected)


def of_entropy(case: Case) -> None:
    for source, share in (
        (case.p, chances(case.p)),
        (case.counts, [mpf(int(x)) / case.counts.n for x in case.counts.counts]),
    ):
        expected = -mpmath.fsum(x * mpmath.log(x) for x in share if x)
        close(statistics.entropy(source), expected, smallest=2e-16)


def effective(share: list[Any], times: list[Any], order: float) -> Any:
    """(sum times share^order)^(1 / (1 - order)), its limit at 1."""
    pairs = [(x, t) for x, t in zip(share, times, strict=True) if x and t]
    if order == 1:
        return mpmath.exp(-mpmath.fsum(t * x * mpmath.log(x) for x, t in pairs))
    q = mpf(order)
    top = max(x for x, _ in pairs)
    rest = mpmath.fsum(t * (x / top) ** q if q < 1e6 or x == top else 0 for x, t in pairs)
    return mpmath.exp((q * mpmath.log(top) + mpmath.log(rest)) / (1 - q))


def of_hill_number(case: Case) -> None:
    ones = [1] * case.p.vocab
    share = [mpf(int(x)) / case.counts.n for x in case.counts.counts]
    close(statistics.hill_number(case.counts, case.order), effective(share, ones, case.order))
    if case.order == 0:
        # a probability that underflows in float64 is none there
        assert statistics.hill_number(case.p, 0.0) == np.count_nonzero(case.p.probs)
    elif case.order > 0.3:
        close(statistics.hill_number(case.p, case.order), effective(chances(case.p), ones, case.order))


def of_rarefied(case: Case) -> None:
    size, counts = 1 + case.size % 12, case.counts
    suppose(size <= counts.n <= 10**10)
    ways = math.comb(counts.n, size)
    expected = [
        sum(
            Fraction(math.comb(x, k) * math.comb(counts.n - x, size - k), ways)
            for x in counts.counts.tolist()
            if x > 0
        )
        for k in range(1, size + 1)
    ]
    share = [mpf(k) / size for k in range(1, size + 1)]
    times = [mpf(e.numerator) / e.denominator for e in expected]
    got = statistics.rarefied(counts, size, case.order)
    close(got, effective(share, times, case.order), rel=1e-11 + 2e-14 * counts.n)


def of_rarefied_law(case: Case) -> None:
    size, p = 1 + case.size % 12, chances(case.p)
    times = [
        mpmath.fsum(math.comb(size, k) * x**k * (1 - x) ** (size - k) for x in p) for k in range(1, size + 1)
    ]
    share = [mpf(k) / size for k in range(1, size + 1)]
    close(statistics.rarefied(case.p, size, case.order), effective(share, times, case.order))


def of_coverage(case: Case) -> None:
    size, counts = 1 + case.size % 12, case.counts
    suppose(size < counts.n <= 10**10)
    missed = sum(
        Fraction(x, counts.n) * Fraction(math.comb(counts.n - x, size), math.comb(counts.n - 1, size))
        for x in counts.counts.tolist()
    )
    close(statistics.rarefied_coverage(counts, size), 1 - missed, rel=1e-11 + 2e-14 * counts.n, smallest=1e-11)


def of_chao_wang_jost(case: Case) -> None:
    counts = case.counts
    suppose(counts.n <= 300)
    x = counts.counts.tolist()
    n = counts.n
    f1 = x.count(1)
    f2 = x.count(2)
    expected = mpmath.fsum(mpf(c) / n * mpmath.fsum(mpf(1) / k for k in range(c, n)) for c in x if c)
    if f2:
        a = mpf(2 * f2) / ((n - 1) * f1 + 2 * f2)
    elif f1:
        a = mpf(2) / ((n - 1) * (f1 - 1) + 2)
    else:
        a = mpf(1)
    if f1 and a != 1:
        series = mpmath.fsum((1 - a) ** r / r for r in range(1, n))
        expected += mpf(f1) / n * (1 - a) ** (1 - n) * (-mpmath.log(a) - series)
    close(statistics.chao_wang_jost(counts), expected, smallest=1e-12)


def tempered_mean(log_p: list[float], b: Any) -> Any:
    """E_{p_b}[log p] over tokens of these log p."""
    top = max(b * mpf(x) for x in log_p)
    weights = [mpmath.exp(b * mpf(x) - top) for x in log_p]
    return mpmath.fsum(w * mpf(x) for w, x in zip(weights, log_p, strict=True)) / mpmath.fsum(weights)


def possible(law: Law) -> list[float]:
    """The log probabilities of the tokens that a temperature can bring."""
    return [float(x) for x in law.log_probs if x > -1e150]


def of_effective_temperature(case: Case) -> None:
    """The mean of log p is increasing in b: on one side of the answer it is below E_q, on the other above."""
    if any(a > -math.inf and b == -math.inf for a, b in zip(case.q.log_probs, case.p.log_probs, strict=True)):
        raise NothingToCompare
    log_p = possible(case.p)
    suppose(np.ptp(log_p) > 1e-6 and min(case.p.log_probs) > -1e150)
    found = statistics.effective_temperature(case.q, case.p).temperature.value
    goal = mpmath.fsum(x * mpf(float(y)) for x, y in zip(chances(case.q), case.p.log_probs, strict=True) if x)
    if found == 0:  # sharper than any b: the other tokens underflow
        assert tempered_mean(log_p, mpf(10) ** 4) <= goal + mpf(10) ** -280 or max(log_p) == goal
        return
    b = mpf(0) if math.isinf(found) else 1 / mpf(found)
    off = mpf(10) ** -6 * max(abs(b), 1 / mpf(float(np.ptp(log_p))) * mpf(10) ** -3)
    assert tempered_mean(log_p, b - off) <= goal <= tempered_mean(log_p, b + off), found


def of_temperature_from_draws(case: Case) -> None:
    """Of two tokens Firth's correction is half a draw more of each: p_b(rare) = (k + 1/2) / (n + 1)."""
    suppose(case.p.vocab == 2 and min(case.p.log_probs) > -1e150)
    log_odds = mpf(float(case.p.log_probs[1])) - mpf(float(case.p.log_probs[0]))
    suppose(abs(log_odds) > 1e-6)
    k, n = int(case.counts.counts[1]), case.counts.n
    b = mpmath.log((k + mpf(1) / 2) / (n - k + mpf(1) / 2)) / log_odds
    found = statistics.temperature_from_draws(case.counts, case.p).value
    # near b = 0 the score has the accuracy of float64 sums: 1e-16 of y, over the information
    scale = 1e-9 * (abs(b) + mpf(10) ** -6 / abs(log_odds))
    assert abs((1 / mpf(found) if found and not math.isinf(found) else 0) - b) <= scale, (found, float(b))


def exponent_of_mean(log_p: list[float], share: list[Any]) -> Any:
    """KL(p_t || p) at the t that has the mean of log p under ``share``, by bisection in b."""
    norm = mpmath.log(mpmath.fsum(mpmath.exp(mpf(x)) for x in log_p))
    goal = mpmath.fsum(w * mpf(x) for w, x in zip(share, log_p, strict=True))
    for end in (max(log_p), min(log_p)):
        if goal == mpf(end):
            at_end = [x for x in log_p if x == end]
            return -mpmath.log(len(at_end)) - mpf(end) + norm
    low, high = mpf(-1), mpf(1)
    while tempered_mean(log_p, low) > goal:
        low *= 2
    while tempered_mean(log_p, high) < goal:
        high *= 2
    for _ in range(260):
        middle = (low + high) / 2
        low, high = (middle, high) if tempered_mean(log_p, middle) < goal else (low, middle)
    top = max(low * mpf(x) for x in log_p)
    log_z = top + mpmath.log(mpmath.fsum(mpmath.exp(low * mpf(x) - top) for x in log_p))
    return (low - 1) * goal - log_z + norm


def of_temperature_test(case: Case) -> None:
    p = dataclasses.replace(case.p, error=0.0)
    log_p = possible(p)
    suppose(len(log_p) == p.vocab and np.ptp(log_p) > 1e-3 and min(log_p) > -740)
    share = [mpf(int(x)) / case.counts.n for x in case.counts.counts]
    expected = case.counts.n * exponent_of_mean(log_p, share)
    # near the null the exponent is a square of differences that float64 has to 1e-16
    got = statistics.temperature_test(case.counts, p)
    close(abs(got.statistic), expected, rel=1e-7, smallest=case.counts.n * 1e-15 + 1e-300)
    close(got.p_value, min(1, 2 * mpmath.exp(-abs(got.statistic))))


def passes_binomial(p: Law, n: int, rate: float) -> float:
    """P(the temperature test passes n draws of two tokens) where token 1 comes with that rate."""
    share = float(chances(p)[1])
    k = np.arange(n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = np.where(k > 0, k * (np.log(k / n) - float(p.log_probs[1])), 0.0)
        other = np.where(k < n, (n - k) * (np.log((n - k) / n) - math.log1p(-share)), 0.0)
    return float(stats.binom.pmf(k, n, rate)[2 * np.exp(-(seen + other)) > 1e-6].sum())


def of_detectable_temperature(case: Case) -> None:
    """Exact binomial power of two tokens: what is called detectable is, and half of it is not."""
    p, n = case.p, 10 + case.total % 1500
    suppose(p.vocab == 2 and p.log_probs[1] > -740 and p.log_probs[1] - p.log_probs[0] < -0.01)
    found = statistics.detectable_temperature(n, p)
    suppose(math.isfinite(found))
    gap = mpf(float(p.log_probs[1])) - mpf(float(p.log_probs[0]))

    def missed(temperature: float) -> float:
        if temperature <= 0:
            return 0.0
        return passes_binomial(p, n, float(1 / (1 + mpmath.exp(-gap / mpf(temperature)))))

    assert missed(1 + found) <= 1e-6 * (1 + 1e-6)
    assert found == 1 or missed(1 - found) <= 1e-6 * (1 + 1e-6)
    assert max(missed(1 + found / 2), missed(1 - found / 2)) > 1e-6


def binomial_tail(k: int, n: int, rate: Any, *, above: bool) -> Any:
    """P(X >= k) or P(X <= k)."""
    ways = range(k, n + 1) if above else range(k + 1)
    return mpmath.fsum(math.comb(n, j) * rate**j * (1 - rate) ** (n - j) for j in ways)


def of_proportion(case: Case) -> None:
    n = 1 + case.total % 60
    k = case.hits % (n + 1)
    suppose(1e-12 < case.rate < 1 - 1e-9)
    found, side = statistics.proportion(k, n, case.rate), (1 - mpf(case.rate)) / 2
    if k:
        close(float(binomial_tail(k, n, mpf(found.low), above=True)), side, rel=1e-6)
    if k < n:
        close(float(binomial_tail(k, n, mpf(found.high), above=False)), side, rel=1e-6)
    wide = statistics.proportion(case.hits, case.total, case.rate)
    assert 0 <= wide.low <= wide.value <= wide.high <= 1


def of_tail_test(case: Case) -> None:
    n = 1 + case.total % 60
    k = case.hits % (n + 1)
    found = statistics.tail_test(k, n, case.rate)
    tails = [binomial_tail(k, n, mpf(case.rate), above=above) for above in (True, False)]
    close(found.p_value, min(1, 2 * min(tails)), smallest=1e-290)
    fails = [j for j in range(n + 1) if statistics.tail_test(j, n, case.rate).failed]
    if math.isfinite(found.detectable):
        for rate in (case.rate * (1 - found.detectable), case.rate * (1 + found.detectable)):
            if 0 <= rate <= 1:
                seen = mpmath.fsum(math.comb(n, j) * mpf(rate) ** j * (1 - mpf(rate)) ** (n - j) for j in fails)
                assert 1 - seen <= 1.001e-6 or found.detectable >= min(1, 1 / case.rate - 1) * (1 - 1e-9)


def of_chi_square(case: Case) -> None:
    p = dataclasses.replace(case.p, error=0.0)
    share, n = chances(p), case.counts.n
    suppose(min(x for x in share if x) * n > 5.001)
    got = statistics.chi_square_test(case.counts, p)
    drawn_never = any(c and not x for c, x in zip(case.counts.counts, share, strict=True))
    expected = mpmath.fsum(
        (int(c) - n * x) ** 2 / (n * x) for c, x in zip(case.counts.counts, share, strict=True) if x
    )
    if drawn_never:
        assert got.p_value == 0
        return
    close(got.statistic, expected, rel=1e-6, smallest=n * 1e-15)
    freedom = max(sum(1 for x in share if x) - 1, 1)
    suppose(got.statistic < 1e4)
    close(got.p_value, mpmath.gammainc(mpf(freedom) / 2, mpf(got.statistic) / 2, regularized=True))


def of_two_sample(case: Case) -> None:
    a, b = case.counts, case.other
    suppose(a.n + b.n < 10**6)
    got = statistics.two_sample_test(a, b, rng=case.rng, false_fail=0.05)
    expected = sum(
        Fraction((b.n * int(x) - a.n * int(y)) ** 2, a.n * b.n * (int(x) + int(y)))
        for x, y in zip(a.counts, b.counts, strict=True)
        if x + y
    )
    close(got.statistic, expected)


def of_two_laws(case: Case) -> None:
    drawn_tokens = case.counts.counts > 0
    suppose(not np.isneginf(case.p.log_probs[drawn_tokens]).any())
    suppose(not np.isneginf(case.q.log_probs[drawn_tokens]).any())
    terms = [
        int(c) * (mpf(float(a)) - mpf(float(b)))
        for c, a, b in zip(case.counts.counts, case.q.log_probs, case.p.log_probs, strict=True)
        if c
    ]
    got = statistics.two_laws_log_likelihood(case.counts, case.q, case.p).value
    close(got, mpmath.fsum(terms), smallest=1e-15 * float(max(abs(x) for x in terms)))


def of_lattice(case: Case) -> None:
    p = chances(case.p)
    suppose(all(x == 0 or mpf(10) ** -290 < x < 1 - mpf(10) ** -12 for x in p))
    d = mpf(2) ** -24
    for centred in (False, True):
        weights = []
        for x in p:
            y = d * (1 - x) / x if x else mpf(1)
            share = y / (2 * mpmath.sinh(y / 2)) if centred else y / mpmath.expm1(y)
            weights.append(x * share)
        total = mpmath.fsum(weights)
        found = statistics.lattice_law(case.p, 24, centred=centred).probs
        for got, weight in zip(found, weights, strict=True):
            close(got, weight / total, rel=1e-7)


def of_agreement(case: Case) -> None:
    p, q = chances(case.p), chances(case.q)
    alone, shared = statistics.agreement(case.p, case.q)
    close(alone, mpmath.fsum(a * b for a, b in zip(p, q, strict=True)))
    both = mpf(0)
    for a, b in zip(p, q, strict=True):
        if a and b:
            both += 1 / mpmath.fsum(max(x / a, y / b) for x, y in zip(p, q, strict=True))
    close(shared, both)


def of_spectrum(case: Case) -> None:
    suppose(not (np.isneginf(case.q.log_probs) | np.isneginf(case.p.log_probs)).any())
    (band,) = statistics.log_odds_spectrum(case.q, case.p, [-np.inf, np.inf])
    suppose(not math.isnan(band.slope) and min(case.p.log_probs) > -300 and np.ptp(case.p.log_probs) > 1e-3)
    w, x = chances(case.p), [mpf(float(v)) for v in case.p.log_probs]
    y = [mpf(float(v)) for v in case.q.log_probs]
    centre, height = (mpmath.fsum(a * b for a, b in zip(w, v, strict=True)) for v in (x, y))
    variance = mpmath.fsum(a * (b - centre) ** 2 for a, b in zip(w, x, strict=True))
    covariance = mpmath.fsum(a * (b - centre) * (c - height) for a, b, c in zip(w, x, y, strict=True))
    close(band.slope, covariance / variance, rel=1e-6, smallest=1e-6)


def of_multiplicity(case: Case) -> None:
    """Holm by closed testing: adjusted p_i is the largest Bonferroni p-value of a set that holds i."""
    p = np.minimum(np.abs(case.values), 1.0)
    places = range(len(p))
    subsets = [s for k in range(1, len(p) + 1) for s in itertools.combinations(places, k)]
    expected = [max(min(1.0, len(s) * min(p[list(s)])) for s in subsets if i in s) for i in places]
    np.testing.assert_allclose(statistics.holm(p).values, expected, rtol=1e-12)
    order = sorted(p)
    step_up = [min(min(1.0, x * len(p) / j) for j, x in enumerate(order, 1) if x >= value) for value in p]
    np.testing.assert_allclose(statistics.benjamini_hochberg(p).values, step_up, rtol=1e-12)


def of_resampling(case: Case) -> None:
    """A power of two times the numbers is the same power times the interval, to the last digit."""
    small = np.ldexp(case.values, -int(np.frexp(np.abs(case.values).max())[1]))
    # what is far below the largest would lose digits in the scaled arithmetic, and is taken away first
    small[np.abs(small) < 1e-60] = 0.0

    def ends(exponent: int) -> tuple[float, ...]:
        x = np.ldexp(small, exponent)
        found = statistics.cluster_bootstrap(lambda at: float(x[at].mean()), len(x), rng=case.rng, resamples=99)
        jack = statistics.cluster_jackknife(lambda at: float(x[at].mean()), len(x))
        return found.low, found.value, found.high, jack.low, jack.high

    plain = ends(0)
    for exponent in (-600, 700):
        assert ends(exponent) == tuple(np.ldexp(plain, exponent).tolist())
    assert plain[0] <= plain[1] + 1e-15
    assert plain[1] <= plain[2] + 1e-15


def of_diversity(case: Case) -> None:
    rows = case.tokens.tolist()
    runs = [max(len(list(same)) for _, same in itertools.groupby(row)) for row in rows]
    assert statistics.longest_run(case.tokens).tolist() == runs
    pairs = [list(itertools.pairwise(row)) for row in rows]
    suppose(len(rows[0]) > 1)
    flat_pairs = [pair for row in pairs for pair in row]
    close(statistics.distinct_n(case.tokens, 2), Fraction(len(set(flat_pairs)), len(flat_pairs)))
    np.testing.assert_allclose(
        statistics.repetition(case.tokens, 2), [1 - len(set(row)) / len(row) for row in pairs], atol=1e-15
    )


def of_e_process(case: Case) -> None:
    """The mean of every factor under the null is 1, and the capital is their product."""
    p = dataclasses.replace(case.p, error=0.0)
    process = statistics.EProcess(p, [case.q], bet=0.5)
    null, other = chances(p), chances(case.q)
    factors = [(a + b) / (2 * a) if a else None for a, b in zip(null, other, strict=True)]
    got = process.log_factors[0]
    for value, factor, x in zip(got, factors, p.log_probs, strict=True):
        if factor is None:
            assert value == math.inf
        elif x > -700:
            close(value, mpmath.log(factor), smallest=1e-13)
    if all(f is not None for f, c in zip(factors, case.counts.counts, strict=True) if c):
        expected = mpmath.fsum(
            int(c) * mpmath.log(f) for c, f in zip(case.counts.counts, factors, strict=True) if c
        )
        suppose(min(p.log_probs[case.counts.counts > 0]) > -700)
        close(process.update(case.counts).log_e, expected, smallest=1e-13 * case.counts.n)


ORACLES: dict[str, Callable[[Case], None]] = {
    name.removeprefix("of_"): check for name, check in list(globals().items()) if name.startswith("of_")
}


def compare(name: str, case: Case) -> bool:
    """Whether the slow twin had something to compare, and it agreed."""
    try:
        with mpmath.workdps(DIGITS):
            ORACLES[name](case)
    except (NothingToCompare, InputError):  # that a refusal is an InputError, and no other, is tested above
        return False
    except AssertionError as error:
        raise AssertionError(f"{name} on {case}: {error}") from error
    return True


@pytest.mark.parametrize("name", ORACLES)
def test_a_fixed_case_agrees_with_a_slow_twin(name: str) -> None:
    assert sum(compare(name, case) for case in FIXED.values()) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ORACLES)
def test_a_drawn_case_agrees_with_a_slow_twin(name: str) -> None:
    compared = 0

    @drawn(200)
    def check(case: Case) -> None:
        nonlocal compared
        compared += compare(name, case)

    check()
    assert compared >= 10


# Levels by enumeration: over every table of counts, P(p-value <= a) <= a.


@functools.cache
def tables(vocab: int, n: int) -> tuple[tuple[int, ...], ...]:
    return tuple(t for t in itertools.product(range(n + 1), repeat=vocab) if sum(t) == n)


LEVELS: dict[str, Callable[[Counts, Law, Law], float]] = {
    "temperature_test": lambda c, p, q: statistics.temperature_test(c, p).p_value,
    "likelihood_ratio_test": lambda c, p, q: statistics.likelihood_ratio_test(c, p, q).p_value,
    "reachability_test": lambda c, p, q: statistics.reachability_test(c, p).p_value,
    "tail_test": lambda c, p, q: statistics.tail_test(int(c.counts[0]), c.n, float(p.probs[0])).p_value,
    "lack_of_fit_test": lambda c, p, q: statistics.lack_of_fit_test(c, p, q).p_value,
    "e_process": lambda c, p, q: statistics.EProcess(p, [q]).update(c).p_value,
}


def check_level(name: str, p: Law, q: Law, n: int) -> bool:
    """Whether the test accepts such laws, and its p-values are uniform or larger under p."""
    share = chances(p)
    found: list[tuple[float, Any]] = []
    for table in tables(p.vocab, n):
        weight = mpmath.factorial(n) * mpmath.fprod(
            x**k / mpmath.factorial(k) for x, k in zip(share, table, strict=True)
        )
        if not weight:
            continue
        try:
            counts = Counts(np.array(table, dtype=np.int64), n)
            found.append((LEVELS[name](counts, p, q), weight))
        except InputError:
            return False
    found.sort(key=lambda pair: pair[0])
    mass = mpf(0)
    for value, weight in found:
        mass += weight
        # a law is normalised to 1e-15; its powers to n times that
        assert mass <= value * (1 + 1e-9) + mpf(10) ** -300, (
            name,
            value,
            float(mass),
            p.log_probs,
            q.log_probs,
        )
    return True


@pytest.mark.parametrize("name", LEVELS)
def test_levels_by_enumeration(name: str) -> None:
    laws = [law_of_gaps(g) for g in ([0.3, 1.0], [5.0, 12.0], [40.0, 50.0])]
    with mpmath.workdps(DIGITS):
        assert sum(check_level(name, p, q, 3) for p, q in itertools.permutations(laws, 2)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", LEVELS)
def test_levels_of_drawn_laws_by_enumeration(name: str) -> None:
    checked = 0

    @drawn(60)
    def check(case: Case) -> None:
        nonlocal checked
        p = Law(case.p.log_probs, "edge", 0.0, Guarantee.EXACT)
        with mpmath.workdps(DIGITS):
            checked += check_level(name, p, case.q, 2 + case.size % 5)

    check()
    assert checked >= 10


def test_the_limit_of_time_stops_what_hangs() -> None:
    """The timer of this process ends a loop that never would."""
    assert "spin" not in CALLS
    CALLS["spin"] = lambda case: _spin()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules[__name__], "LIMIT", 0.2)
            with pytest.raises(AssertionError, match="over"):
                answer("spin", FIXED["flat"])
    finally:
        del CALLS["spin"]


def _spin() -> None:
    while True:
        pass
