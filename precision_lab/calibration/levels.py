"""False-fail rates: p-values of right samplers, one simulation for every test and target."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from ..laws.law import Law
from ..statistics import (
    Chance,
    Counts,
    TestResult,
    agreement_test,
    benjamini_hochberg,
    blocked_identity_test,
    cells_test,
    chi_square_test,
    coupled_test,
    cross_row_test,
    draft_target_test,
    e_bh,
    holm,
    identity_test,
    likelihood_ratio_test,
    rare_draws_test,
    reachability_test,
    repeated_vector_test,
    serial_test,
    shuffle_test,
    tail_set,
    tail_test,
    temperature_test,
    tie_order_test,
    two_sample_test,
    unmask_rate_test,
    window_test,
)
from ..statistics.row_sharing import Sharing, likely_lag
from ..statistics.row_tests import RowEvidence
from ..types import Array, Float, Guarantee
from .promise import LEVELS, Promise, Rng, Simulation, by_value, draws, law, tokens
from .remembered import remembered
from .targets import CASES, LARGE, SMALL, coarse

A = LEVELS[-1]  # of the test itself; its p-value is read at the others too
FINITE, ASYMPTOTIC = Guarantee.FINITE_SAMPLE, Guarantee.ASYMPTOTIC
CELLS = np.array([0.02, 0.3, 0.6, 0.98])
RATES = np.concatenate([np.repeat(0.01, 8), 1 / np.arange(16.0, 8.0, -1)])  # unmasking rates of 16 steps


def of_counts(test: Callable[[Counts, Rng], TestResult], p: Law, n: int) -> Callable[[], Simulation]:
    def simulate(runs: int, rng: Rng) -> Float:
        with remembered():
            return np.array([test(counts, rng).p_value for counts in draws(p, n, runs, rng)])

    return lambda: simulate


def of_rng(test: Callable[[Rng], float]) -> Callable[[], Simulation]:
    def simulate(runs: int, rng: Rng) -> Float:
        with remembered():
            return np.array([test(rng) for _ in range(runs)])

    return lambda: simulate


def tail(p: Law, n: int) -> Simulation:
    chosen = tail_set(p, coarse(p), n, false_fail=A)
    ask = lambda hits: tail_test(hits, n, chosen.p0, false_fail=A).p_value  # noqa: E731
    return lambda runs, rng: by_value(ask, rng.binomial(n, chosen.p0, runs))


def unmask_rate(positions: int, rates: Float) -> Simulation:
    trials = np.repeat(positions, len(rates))

    def ask(hits: int) -> float:
        k = np.clip(hits - positions * np.arange(len(rates)), 0, positions)  # the test knows the sum alone
        return unmask_rate_test(k, trials, rates, false_fail=A).p_value

    return lambda runs, rng: by_value(ask, rng.binomial(trials, rates, (runs, len(rates))).sum(axis=1))


def ties(p: Law, n: int) -> Simulation:
    """Every token twice: how many draws are of tied tokens is certain for one half of the tokens, random
    for 2 of 3."""
    logits = np.concatenate([p.log_probs, p.log_probs[: len(p.log_probs) // 2]])
    mass = np.exp(logits) / np.exp(logits).sum()
    half = p.vocab // 2
    tied = float(mass[:half].sum())
    first, last = np.zeros((2, len(logits)), dtype=np.int64)
    first[0], last[p.vocab] = 1, 1

    def ask(left: int, right: int) -> float:
        return tie_order_test(Counts(left * first + right * last, left + right), logits, false_fail=A).p_value

    def simulate(runs: int, rng: Rng) -> Float:
        left = rng.binomial(n, tied, runs)
        return by_value(ask, left, rng.binomial(n - left, tied / (1 - tied)))

    return simulate


def coupled(n: int, discordance: float) -> Simulation:
    inside = np.array([False, True])

    def ask(only_a: int, only_b: int) -> float:
        a, b = np.zeros((2, n), dtype=np.int64)
        a[:only_a], b[only_a : only_a + only_b] = 1, 1
        return coupled_test(a, b, inside, false_fail=A).p_value

    def simulate(runs: int, rng: Rng) -> Float:
        n10, n01, _ = rng.multinomial(n, [discordance / 2, discordance / 2, 1 - discordance], runs).T
        return by_value(ask, n10, n01)

    return lambda runs, rng: simulate(runs, rng)


def cells(n: int, rates: Float) -> Simulation:
    """A table of which one margin is random: n trials fall into rows of equal mass."""

    def ask(*counts: int) -> float:
        hits, trials = np.split(np.array(counts), 2)
        return cells_test(hits, trials, rates, false_fail=A).p_value

    def simulate(runs: int, rng: Rng) -> Float:
        trials = rng.multinomial(n, np.full(len(rates), 1 / len(rates)), runs)
        return by_value(ask, *rng.binomial(trials, rates).T, *trials.T)

    return simulate


def sticky(p: Law, shape: tuple[int, int], rng: Rng) -> Array:
    """Sequences in which every other token repeats the one before."""
    rows, repeat = tokens(p, shape, rng), rng.random(shape) < 0.5
    for j in range(1, shape[1]):
        rows[:, j] = np.where(repeat[:, j], rows[:, j - 1], rows[:, j])
    return rows


def rows(count: int, vocab: int, test: str) -> Callable[[], Simulation]:
    """Each draw from a row of normal logits of its own."""

    def one(rng: Rng) -> float:
        logits = rng.normal(0.0, 2.0, (count, vocab))
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        pairs = Sharing(rng.random(count), searched=likely_lag(drawn, vocab)) if test == "sharing" else None
        evidence = RowEvidence((), pairs).update(logits, drawn)
        if pairs is not None:
            return pairs.p_value
        asked = {
            "temperature": lambda: evidence.temperature_test(A, A),
            "tail": lambda: evidence.tail_test(A, A),
            "support": lambda: evidence.support_test(A),
        }
        return asked[test]().p_value

    return of_rng(one)


def failed_in_error(
    adjust: Callable[[Float], Float], *, dependence: float, wrong: int, m: int = 20
) -> Simulation:
    """Of the tests failed at a level one is picked at random: is it of a right sampler? Its mean is the
    false discovery rate. One-sided normal tests, ``dependence`` their correlation (-1: right samplers come
    in opposite pairs)."""

    def simulate(runs: int, rng: Rng) -> Array:
        z = rng.standard_normal((runs, m))
        if dependence < 0:
            z[:, 1::2] = -z[:, ::2]
        else:
            z = np.sqrt(1 - dependence) * z + np.sqrt(dependence) * rng.standard_normal((runs, 1))
        z[:, m - wrong :] += 3.0
        adjusted = np.array([adjust(row) for row in z])
        picked = np.argmax((adjusted[:, :, None] <= LEVELS) * rng.random((runs, m, 1)), axis=1)
        return np.asarray((adjusted.min(axis=1)[:, None] <= LEVELS) & (picked < m - wrong))

    return simulate


def any_right_failed(dependence: float, m: int = 20) -> Simulation:
    """The least of Holm's adjusted values among the right half."""

    def simulate(runs: int, rng: Rng) -> Float:
        z = np.sqrt(1 - dependence) * rng.standard_normal((runs, m)) + np.sqrt(
            dependence
        ) * rng.standard_normal((runs, 1))
        z[:, m // 2 :] += 3.0
        return np.array([holm(stats.norm.sf(row)).values[: m // 2].min() for row in z])

    return simulate


def fail(
    judge: str, target: str, ms: float, build: Callable[[], Simulation], kind: Guarantee = FINITE
) -> Promise:
    return Promise(judge, target, "false fail", kind, ms, build)


def of_case(name: str, p: Law, n: int) -> Iterator[Promise]:
    q, big = coarse(p), p.vocab > 100
    wide = 2 if big else 3
    short = name.removesuffix(f", n = {n}")  # for tests of 300 pairs or vectors, or of more draws
    yield fail("tail", name, 0.01, lambda: tail(p, n))
    yield fail("tie_order", name, 0.2, lambda: ties(p, n))
    yield fail(
        "identity",
        name,
        5 if big else 2,
        of_counts(lambda c, rng: identity_test(c, p, rng=rng, false_fail=A), p, n),
    )
    yield fail(
        "blocked_identity",
        f"{name}, 4 blocks",
        12 if big else 4,
        of_rng(
            lambda rng: blocked_identity_test(list(draws(p, n // 4, 4, rng)), p, rng=rng, false_fail=A).p_value
        ),
    )
    least = int(np.ceil(5 / p.probs.min()))
    yield fail(
        "chi_square",
        short,
        1,
        of_counts(lambda c, rng: chi_square_test(c, p, false_fail=A), p, least),
        ASYMPTOTIC,
    )
    yield fail(
        "likelihood_ratio",
        name,
        3,
        of_counts(lambda c, rng: likelihood_ratio_test(c, p, q, false_fail=A), p, n),
    )
    yield fail("rare_draws", name, 0.3, of_counts(lambda c, rng: rare_draws_test(c, p, false_fail=A), p, n))
    yield fail("reachability", name, 1, of_counts(lambda c, rng: reachability_test(c, p, false_fail=A), p, n))
    yield fail(
        "two_sample",
        f"{name}, n and n/2",
        3 if big else 2,
        of_counts(
            lambda c, rng: two_sample_test(c, next(draws(p, n // 2, 1, rng)), rng=rng, false_fail=A), p, n
        ),
    )
    yield fail(
        "temperature",
        name,
        5 if big else 4,
        of_counts(lambda c, rng: temperature_test(c, p, false_fail=A), p, n),
    )
    if not big:
        unsure = of_counts(lambda c, rng: temperature_test(c, p, false_fail=A, asymptotic=True), p, n)
        yield fail("temperature, asymptotic", name, 4, unsure, ASYMPTOTIC)
    yield fail(
        "agreement",
        short,
        4,
        of_rng(
            lambda rng: (
                agreement_test(tokens(p, (300,), rng), tokens(p, (300,), rng), p, p, false_fail=A).p_value
            )
        ),
    )
    yield fail(
        "serial",
        short,
        4,
        of_rng(lambda rng: serial_test(tokens(p, (600,), rng), p, lag=3, false_fail=A).p_value),
    )
    yield fail(
        "cross_row",
        f"{short}, {wide} rows",
        8,
        of_rng(lambda rng: cross_row_test(tokens(p, (300, wide), rng), p, false_fail=A).p_value),
    )
    yield fail(
        "window",
        f"{short}, {wide} rows",
        4.5,
        of_rng(lambda rng: window_test(tokens(p, (300, wide), rng), p, (1, 2, 3), false_fail=A).p_value),
    )
    yield fail(
        "draft_target",
        short,
        4,
        of_rng(
            lambda rng: (
                draft_target_test(tokens(p, (300,), rng), tokens(q, (300,), rng), p, q, false_fail=A).p_value
            )
        ),
    )
    yield fail(
        "repeated_vector",
        f"{short}, 300 vectors of {2 if big else 4}",
        0.3,
        of_rng(
            lambda rng: (
                repeated_vector_test(
                    tokens(p, (300, 2 if big else 4), rng),
                    Chance.of_draws(p, times=2 if big else 4),
                    false_fail=A,
                ).p_value
            )
        ),
    )


def all_levels() -> Iterator[Promise]:
    for name, (p, n) in CASES.items():
        yield from of_case(name, p, n)
    yield fail("unmask_rate", "one rate, 400 trials", 0.01, lambda: unmask_rate(400, np.array([0.1])))
    yield fail("unmask_rate", "16 rates, 64 positions each", 0.1, lambda: unmask_rate(64, RATES))
    yield fail("cells", "4 cells of 2 % to 98 %, 400 trials", 5, lambda: cells(400, CELLS))
    yield fail("coupled", "60 pairs, 10 % discordant", 0.1, lambda: coupled(60, 0.1))
    yield fail("coupled", "2,000 pairs, 2 % discordant", 4, lambda: coupled(2000, 0.02))
    yield fail(
        "two_sample",
        "10 + 10 sticky sequences of 16, 2,000 tokens",
        1.5,
        of_rng(
            lambda rng: (
                two_sample_test(
                    sticky(LARGE, (10, 16), rng), sticky(LARGE, (10, 16), rng), rng=rng, false_fail=A
                ).p_value
            )
        ),
    )
    yield fail(
        "shuffle",
        "Zipf, 20 tokens, 50 pairs",
        4,
        of_rng(
            lambda rng: (
                shuffle_test(
                    tokens(SMALL, (50,), rng), tokens(SMALL, (50,), rng), rng=rng, resamples=999
                ).p_value
            )
        ),
    )
    yield fail(
        "repeated_vector",
        "2,000 hashes of 20 bits",
        0.5,
        of_rng(
            lambda rng: (
                repeated_vector_test(rng.integers(0, 1 << 20, 2000), Chance.of_bits(20), false_fail=A).p_value
            )
        ),
    )
    for count, vocab, ms in ((60, 30, 2), (40, 500, 8)):
        for test in ("temperature", "tail"):
            yield fail(f"row_{test}", f"{count} rows of {vocab} normal logits", ms, rows(count, vocab, test))
    steep = law(np.arange(200) * np.log(0.9))
    yield fail(
        "rare_draws",
        "geometric, 200 tokens",
        0.3,
        of_counts(lambda c, rng: rare_draws_test(c, steep, false_fail=A), steep, 200),
    )
    yield fail("row_support", "60 rows of 30 normal logits", 1, rows(60, 30, "support"))
    yield fail("row_sharing", "300 rows of 30 normal logits", 10, rows(300, 30, "sharing"))
    yield fail("holm", "10 right of 20, correlation 0.5", 0.1, lambda: any_right_failed(0.5))
    bh = lambda z: benjamini_hochberg(stats.norm.sf(z)).values  # noqa: E731
    by = lambda z: benjamini_hochberg(stats.norm.sf(z), any_dependence=True).values  # noqa: E731
    ebh = lambda z: e_bh(3.0 * z - 4.5).values  # noqa: E731
    yield fail(
        "benjamini_hochberg",
        "10 right of 20, independent",
        0.3,
        lambda: failed_in_error(bh, dependence=0, wrong=10),
    )
    yield fail(
        "benjamini_hochberg",
        "20 right, correlation 0.5",
        0.3,
        lambda: failed_in_error(bh, dependence=0.5, wrong=0),
    )
    yield fail(
        "benjamini_yekutieli",
        "10 right of 20, opposite pairs",
        0.3,
        lambda: failed_in_error(by, dependence=-1, wrong=10),
    )
    yield fail(
        "e_bh",
        "10 right of 20, correlation 0.5",
        0.3,
        lambda: failed_in_error(ebh, dependence=0.5, wrong=10),
        Guarantee.ANYTIME,
    )
