"""False-pass rates: samplers off by exactly what ``detectable_x`` says, or drawn from as often as
``draws_needed_x`` says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ..laws.law import Law
from ..statistics import (
    Chance,
    Counts,
    EProcess,
    TestResult,
    agreement_test,
    alternative_laws,
    blocked_identity_test,
    cells_test,
    chi_square_test,
    coupled_test,
    detectable_blocked_identity,
    detectable_cells,
    detectable_chi_square,
    detectable_coupled,
    detectable_identity,
    detectable_likelihood_ratio,
    detectable_rare_draws,
    detectable_reachability,
    detectable_sharing,
    detectable_shortfall,
    detectable_state_bits,
    detectable_tail,
    detectable_temperature,
    detectable_tie_order,
    detectable_two_sample,
    detectable_unmask_rate,
    draft_target_test,
    draws_needed_coupled,
    draws_needed_identity,
    draws_needed_likelihood_ratio,
    draws_needed_rare_draws,
    draws_needed_reachability,
    draws_needed_sharing,
    draws_needed_state_bits,
    draws_needed_tail,
    draws_needed_temperature,
    draws_needed_tie_order,
    draws_needed_two_sample,
    draws_needed_unmask_rate,
    effective_temperature,
    identity_test,
    lack_of_fit_test,
    likelihood_ratio_test,
    rare_draws_test,
    reachability_test,
    repeated_vector_test,
    tail_set,
    tail_test,
    temperature_test,
    tie_order_test,
    two_sample_test,
    unmask_rate_test,
    window_test,
)
from ..statistics.row_sharing import Sharing
from ..statistics.row_tests import RowEvidence
from ..types import Array, Float, Guarantee
from .levels import RATES as UNMASKING
from .promise import RATES, Promise, Rng, Simulation, by_value, draws, law, of_probs, tokens
from .remembered import remembered
from .targets import LARGE, MIDDLE, SMALL, at_temperature, at_total_variation, coarse, waved

A, B = RATES["false_fail"], RATES["false_pass"]
CERTIFIED, ASYMPTOTIC = Guarantee.CERTIFIED, Guarantee.ASYMPTOTIC


def passed(test: Callable[[Counts, Rng], TestResult], sampler: Law, n: int) -> Simulation:
    def simulate(runs: int, rng: Rng) -> Array:
        with remembered():
            return np.array([not test(counts, rng).failed for counts in draws(sampler, n, runs, rng)])

    return simulate


def each(one: Callable[[Rng], TestResult]) -> Simulation:
    def simulate(runs: int, rng: Rng) -> Array:
        with remembered():
            return np.array([not one(rng).failed for _ in range(runs)])

    return simulate


def hits(ask: Callable[..., TestResult], n: int, rate: float) -> Simulation:
    return lambda runs, rng: by_value(lambda k: not ask(k).failed, rng.binomial(n, rate, runs))


def tail(n: int, p0: float, side: int) -> Simulation:
    rate = p0 * (1 + side * detectable_tail(n, p0, A, B))
    return hits(lambda k: tail_test(k, n, p0, **RATES), n, rate)


def shortfall(n: int, p0: float) -> Simulation:
    rate = p0 * (1 - detectable_shortfall(n, p0, A, B))
    return hits(lambda k: tail_test(k, n, p0, **RATES), n, rate)


def tail_of_laws(p: Law) -> Simulation:
    n = draws_needed_tail(p, coarse(p), A, B)
    chosen = tail_set(p, coarse(p), n, false_fail=A)
    return hits(lambda k: tail_test(k, n, chosen.p0, **RATES), n, chosen.p1)


def unmask_rate(positions: int, rates: Float, multiplier: float) -> Simulation:
    trials, truth = np.repeat(positions, len(rates)), np.minimum(1.0, multiplier * rates)

    def ask(total: int) -> bool:
        k = np.clip(total - positions * np.arange(len(rates)), 0, positions)
        return not unmask_rate_test(k, trials, rates, **RATES).failed

    return lambda runs, rng: by_value(ask, rng.binomial(trials, truth, (runs, len(rates))).sum(axis=1))


def cells(side: int) -> Simulation:
    """The larger of two cells sees most, and is the one that is off."""
    trials, due = np.array([400, 50]), np.array([0.3, 0.3])
    rate = due[0] + side * detectable_cells(trials, due, A, B)

    def ask(first: int, second: int) -> bool:
        return not cells_test([first, second], trials, due, **RATES).failed

    return lambda runs, rng: by_value(ask, rng.binomial(400, rate, runs), rng.binomial(50, due[1], runs))


def unmask_detectable(side: int) -> Simulation:
    d = detectable_unmask_rate(np.repeat(64, len(UNMASKING)), UNMASKING, A, B)
    return unmask_rate(64, UNMASKING, 1 + side * d)


def identity(p: Law, n: int) -> Simulation:
    wrong = waved(p, detectable_identity(n, p, A, B) ** 2, np.maximum(p.probs, 1 / p.vocab))
    return passed(lambda c, rng: identity_test(c, p, rng=rng, **RATES), wrong, n)


def blocked_identity(p: Law, n: int) -> Simulation:
    wrong = at_total_variation(p, detectable_blocked_identity(n, p, A, B))

    def one(rng: Rng) -> TestResult:
        return blocked_identity_test(list(draws(wrong, n // 4, 4, rng)), p, rng=rng, **RATES)

    return each(one)


def identity_needed(p: Law) -> Simulation:
    n = draws_needed_identity(p, coarse(p), A, B)
    return passed(lambda c, rng: identity_test(c, p, rng=rng, **RATES), coarse(p), n)


def chi_square(p: Law) -> Simulation:
    n = int(np.ceil(5 / p.probs.min()))
    wrong = waved(p, detectable_chi_square(n, p, A, B) ** 2, p.probs)
    return passed(lambda c, _: chi_square_test(c, p, **RATES), wrong, n)


def likelihood_ratio(p: Law, n: int | None) -> Simulation:
    q = coarse(p)
    share = 1.0 if n is None else detectable_likelihood_ratio(n, p, q, A, B)
    n = n or draws_needed_likelihood_ratio(p, q, A, B)
    return passed(
        lambda c, _: likelihood_ratio_test(c, p, q, **RATES),
        of_probs((1 - share) * p.probs + share * q.probs),
        n,
    )


def two_sample(p: Law, n: int) -> Simulation:
    """Both off by half of it, so that their mean is p."""
    a = waved(p, detectable_two_sample(n, p, A, B) ** 2 / 4, p.probs)
    b = of_probs(2 * p.probs / p.probs.sum() - a.probs)
    return passed(lambda c, rng: two_sample_test(c, next(draws(b, n, 1, rng)), rng=rng, **RATES), a, n)


def two_sample_needed(p: Law) -> Simulation:
    q = coarse(p)
    n = draws_needed_two_sample(p, q, A, B)
    return passed(lambda c, rng: two_sample_test(c, next(draws(q, n, 1, rng)), rng=rng, **RATES), p, n)


def rare_draws(p: Law, n: int | None) -> Simulation:
    """A masked token of 1e-12, drawn as seldom as is seen, or in a hundredth of the draws that are needed
    for that."""
    rare = law(np.append(p.log_probs, math.log(1e-12)))
    share = 0.01 if n is None else detectable_rare_draws(n, rare, A, B)
    wrong = of_probs(np.append((1 - share) * p.probs, share))
    n = n or draws_needed_rare_draws(rare, share, A, B)
    return passed(lambda c, _: rare_draws_test(c, rare, **RATES), wrong, n)


def row_sharing(count: int, vocab: int, *, cumulative: bool) -> Simulation:
    """Pairs of rows that follow each other, in the share that is seen, on one vector of Gumbel noise; or
    all draws on one uniform number two by two, by a search in the cumulative sum."""

    def passes(rng: Rng) -> bool:
        logits = rng.normal(0.0, 2.0, (count, vocab))
        if cumulative:
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            u = np.repeat(rng.random(count // 2), 2)
            drawn = (np.cumsum(p, axis=1) < u[:, None]).sum(axis=1)
        else:
            tried = Sharing(rng.random(count), (1,))
            RowEvidence((), tried).update(logits, np.zeros(count, dtype=np.int64))
            share = tried.test(A, B).detectable
            noise = rng.gumbel(size=(count, vocab))
            noise[1::2] = np.where(rng.random((count // 2, 1)) < share, noise[::2], noise[1::2])
            drawn = (logits + noise).argmax(axis=1)
        pairs = Sharing(rng.random(count), (1,))
        RowEvidence((), pairs).update(logits, np.minimum(drawn, vocab - 1))
        return pairs.p_value > A

    return lambda runs, rng: np.array([passes(rng) for _ in range(runs)])


def reachability(p: Law, n: int) -> Simulation:
    lost = detectable_reachability(n, p, A)
    probs = np.where(p.probs == lost, 0.0, p.probs)
    return passed(lambda c, _: reachability_test(c, p, false_fail=A), of_probs(probs), n)


def reachability_gained(p: Law) -> Simulation:
    null = law(np.append(p.log_probs, -np.inf))
    wrong = of_probs(np.append(0.99 * p.probs, 0.01))
    n = draws_needed_reachability(null, wrong, A, B)
    return passed(lambda c, _: reachability_test(c, null, false_fail=A), wrong, n)


def ties_needed(vocab: int) -> Simulation:
    logits, wrong = np.zeros(vocab), law(np.linspace(0.2, 0.0, vocab))
    n = draws_needed_tie_order(logits, wrong, A, B)
    return passed(lambda c, _: tie_order_test(c, logits, **RATES), wrong, n)


def ties(m: int) -> Simulation:
    share = (1 + detectable_tie_order(m, A, B)) / 2
    ask = lambda k: tie_order_test(Counts(np.array([k, m - k]), m), [0.0, 0.0], **RATES)  # noqa: E731
    return hits(ask, m, share)


def coupled(n: int, p10: float, p01: float) -> Simulation:
    inside = np.array([False, True])

    def ask(only_a: int, only_b: int) -> bool:
        a, b = np.zeros((2, n), dtype=np.int64)
        a[:only_a], b[only_a : only_a + only_b] = 1, 1
        return not coupled_test(a, b, inside, **RATES).failed

    return lambda runs, rng: by_value(ask, *rng.multinomial(n, [p10, p01, 1 - p10 - p01], runs).T[:2])


def coupled_detectable(n: int, discordance: float) -> Simulation:
    d = detectable_coupled(n, discordance, A, B)
    return coupled(n, (discordance + d) / 2, (discordance - d) / 2)


def temperature(p: Law, n: int, side: int, asymptotic: bool) -> Simulation:
    t = 1 + side * detectable_temperature(n, p, A, B, asymptotic)
    return passed(lambda c, _: temperature_test(c, p, **RATES, asymptotic=asymptotic), at_temperature(p, t), n)


def temperature_needed(p: Law, wrong: Law) -> Simulation:
    n = draws_needed_temperature(p, wrong, A, B)
    return passed(lambda c, _: temperature_test(c, p, **RATES), wrong, n)


def lack_of_fit(p: Law) -> Simulation:
    q = coarse(p)
    n = int(np.ceil(np.log(1 / A) / effective_temperature(q, p).unexplained))
    return passed(lambda c, _: lack_of_fit_test(c, p, q, false_fail=A), q, n)


def race(p: Law, q: Law, n: int, share: float, rng: Rng, shift: int = 0) -> tuple[Array, Array]:
    """n pairs of draws; in a ``share`` of them with one vector of Gumbel noise, read ``shift`` entries
    further on by q."""
    noise = rng.gumbel(size=(n, p.vocab + shift))
    other = np.where(rng.random((n, 1)) < share, noise, rng.gumbel(size=noise.shape))
    return (p.log_probs + noise[:, : p.vocab]).argmax(axis=1), (q.log_probs + other[:, shift:]).argmax(axis=1)


def row_temperature(count: int, vocab: int, side: int) -> Simulation:
    """Other rows in every run, each drawn at 1 -/+ what these very rows say they see."""

    def one(rng: Rng) -> TestResult:
        logits, cold = rng.normal(0.0, 2.0, (count, vocab)), RowEvidence(())
        seen = cold.update(logits, np.zeros(count, dtype=np.int64)).temperature_test(A, B).detectable
        drawn = (logits / (1 + side * seen) + rng.gumbel(size=logits.shape)).argmax(axis=1)
        return RowEvidence(()).update(logits, drawn).temperature_test(A, B)

    return each(one)


def sharing(p: Law, n: int | None) -> Simulation:
    """Of one law with itself a shared pair is twice the same token."""
    share = 0.05 if n is None else detectable_sharing(n, p, p, false_fail=A, false_pass=B)
    n = n or draws_needed_sharing(p, p, share, false_fail=A, false_pass=B)

    def one(rng: Rng) -> TestResult:
        a, b = tokens(p, (2, n), rng)
        return agreement_test(a, np.where(rng.random(n) < share, a, b), p, p, **RATES)

    return each(one)


def draft_target(p: Law, q: Law) -> Simulation:
    n = draws_needed_sharing(p, q, 0.3, false_fail=A, false_pass=B)
    return each(lambda rng: draft_target_test(*race(p, q, n, 0.3, rng), p, q, **RATES))


def window(vocab: int, shift: int) -> Simulation:
    flat = law(np.zeros(vocab))
    n = draws_needed_sharing(flat, flat, 1.0, shift, 1, A, B)
    return each(
        lambda rng: window_test(np.stack(race(flat, flat, n, 1.0, rng, shift), axis=1), flat, (shift,), **RATES)
    )


def state(k: int | None, bits: float) -> Simulation:
    null = Chance.of_bits(64)
    k = k or draws_needed_state_bits(bits, null, A, B)
    states = int(2 ** (bits or detectable_state_bits(k, null, A, B)))
    return each(lambda rng: repeated_vector_test(rng.integers(0, states, k), null, **RATES))


def e_process(p: Law) -> Simulation:
    q, bets = coarse(p), alternative_laws(p, bits=(4, 6, 10, 12), temperatures=(0.9, 1.1))
    n = EProcess(p, bets).draws_needed(q, A, B)

    def simulate(runs: int, rng: Rng) -> Array:
        return np.array([not EProcess(p, bets).update(counts).rejected(A) for counts in draws(q, n, runs, rng)])

    return simulate


def miss(
    judge: str,
    target: str,
    ms: float,
    build: Callable[[], Simulation],
    kind: Guarantee = CERTIFIED,
    stated: float = B,
) -> Promise:
    return Promise(judge, target, "false pass", kind, ms, build, stated)


def of_shortfalls() -> Iterator[Promise]:
    yield miss("shortfall", "detectable, n = 500, p0 = 0.1", 0.1, lambda: shortfall(500, 0.1))
    yield miss("shortfall", "detectable, n = 50,000, p0 = 0.001", 0.1, lambda: shortfall(50_000, 0.001))


def of_side(s: int, word: str) -> Iterator[Promise]:
    yield miss("tail", f"detectable, n = 500, p0 = 0.1, {word}", 0.1, lambda: tail(500, 0.1, s))
    yield miss("tail", f"detectable, n = 5,000, p0 = 0.01, {word}", 0.1, lambda: tail(5000, 0.01, s))
    yield miss("cells", f"detectable, 400 and 50 trials at 0.3, {word}", 1, lambda: cells(s))
    yield miss("unmask_rate", f"detectable, 16 rates x 64, {word}", 0.5, lambda: unmask_detectable(s))
    yield miss(
        "temperature", f"detectable, Zipf 20, n = 400, {word}", 5, lambda: temperature(SMALL, 400, s, False)
    )
    yield miss(
        "temperature",
        f"detectable, Zipf 2,000, n = 1,000, {word}",
        15,
        lambda: temperature(LARGE, 1000, s, False),
    )
    yield miss(
        "temperature, asymptotic",
        f"detectable, Zipf 20, n = 400, {word}",
        5,
        lambda: temperature(SMALL, 400, s, True),
        ASYMPTOTIC,
    )


def of_law(name: str, p: Law) -> Iterator[Promise]:
    big = p.vocab > 100
    yield miss("tail", f"draws needed, {name}, lattice", 0.1, lambda: tail_of_laws(p))
    yield miss(
        "identity", f"draws needed, {name}, lattice", 6 if big else 3, lambda: identity_needed(p), ASYMPTOTIC
    )
    yield miss("chi_square", f"detectable, {name}, n p >= 5", 2, lambda: chi_square(p), ASYMPTOTIC)
    yield miss("likelihood_ratio", f"draws needed, {name}, lattice", 8, lambda: likelihood_ratio(p, None))
    yield miss(
        "two_sample",
        f"draws needed, {name}, lattice",
        10 if big else 3,
        lambda: two_sample_needed(p),
        ASYMPTOTIC,
    )
    yield miss(
        "reachability",
        f"detectable, {name}, lost for certain",
        1,
        lambda: reachability(p, 1000 if big else 300),
        stated=0.0,
    )
    yield miss("reachability", f"draws needed, {name}, 1 % impossible", 1, lambda: reachability_gained(p))
    yield miss(
        "temperature",
        f"draws needed, {name}, temperature 0.9",
        6 if big else 5,
        lambda: temperature_needed(p, at_temperature(p, 0.9)),
    )
    yield miss(
        "temperature",
        f"draws needed, {name}, lattice",
        6 if big else 5,
        lambda: temperature_needed(p, coarse(p)),
    )
    yield miss(
        "lack_of_fit",
        f"detectable on average, {name}, lattice",
        6 if big else 5,
        lambda: lack_of_fit(p),
        Guarantee.HEURISTIC,
        0.5,
    )
    yield miss("agreement", f"detectable share, {name}, 300 pairs", 2, lambda: sharing(p, 300))
    yield miss("agreement", f"draws needed, {name}, share 0.05", 2, lambda: sharing(p, None))
    yield miss("e_process", f"draws needed, {name}, lattice", 1, lambda: e_process(p))


def all_powers() -> Iterator[Promise]:
    yield from of_shortfalls()
    for side, word in ((1, "above"), (-1, "below")):
        yield from of_side(side, word)
    for name, p in (("Zipf 20", SMALL), ("Zipf 2,000", LARGE)):
        yield from of_law(name, p)
    yield miss("identity", "detectable, Zipf 20, n = 400", 3, lambda: identity(SMALL, 400), ASYMPTOTIC)
    yield miss("identity", "detectable, Zipf 2,000, n = 1,900", 6, lambda: identity(LARGE, 1900), ASYMPTOTIC)
    yield miss(
        "blocked_identity",
        "detectable, Zipf 20, n = 1,600",
        5,
        lambda: blocked_identity(SMALL, 1600),
        ASYMPTOTIC,
    )
    yield miss(
        "blocked_identity",
        "detectable, Zipf 200, n = 4,000",
        25,
        lambda: blocked_identity(MIDDLE, 4000),
        ASYMPTOTIC,
    )
    for t, word in ((1, "above"), (-1, "below")):
        yield miss(
            "row_temperature",
            f"detectable, 60 rows of 30, {word}",
            4,
            partial(row_temperature, 60, 30, t),
            ASYMPTOTIC,
        )
    yield miss("rare_draws", "detectable, Zipf 20 and 1e-12, n = 400", 1, lambda: rare_draws(SMALL, 400))
    yield miss("rare_draws", "draws needed, Zipf 20 and 1e-12, share 0.01", 1, lambda: rare_draws(SMALL, None))
    yield miss(
        "row_sharing",
        "detectable, 1,000 rows of 30 normal logits",
        40,
        lambda: row_sharing(1000, 30, cumulative=False),
        ASYMPTOTIC,
    )
    yield miss(
        "row_sharing",
        "1,000 rows of 30 normal logits, one uniform for two",
        20,
        lambda: row_sharing(1000, 30, cumulative=True),
        ASYMPTOTIC,
    )
    yield miss("two_sample", "detectable, Zipf 20, n = 400", 3, lambda: two_sample(SMALL, 400), ASYMPTOTIC)
    yield miss(
        "two_sample", "detectable, Zipf 2,000, n = 20,000", 25, lambda: two_sample(LARGE, 20_000), ASYMPTOTIC
    )
    yield miss("likelihood_ratio", "detectable, Zipf 20, n = 2,000", 4, lambda: likelihood_ratio(SMALL, 2000))
    yield miss(
        "unmask_rate",
        "draws needed, three rates, 0.8 of them",
        0.5,
        lambda: unmask_rate(
            draws_needed_unmask_rate([0.02, 0.1, 0.5], 0.8, A, B), np.array([0.02, 0.1, 0.5]), 0.8
        ),
    )
    yield miss("tie_order", "detectable, m = 500", 0.1, lambda: ties(500))
    yield miss("tie_order", "draws needed, 20 equal tokens", 5, lambda: ties_needed(20))
    yield miss("coupled", "detectable, 2,000 pairs, 10 % discordant", 2, lambda: coupled_detectable(2000, 0.1))
    yield miss(
        "coupled",
        "draws needed, 2 % against 1 %",
        2,
        lambda: coupled(draws_needed_coupled(0.02, 0.01, A, B), 0.02, 0.01),
    )
    yield miss(
        "draft_target",
        "draws needed, Zipf 20 and lattice, share 0.3",
        2,
        lambda: draft_target(SMALL, coarse(SMALL)),
    )
    yield miss("window", "draws needed, 50 equal tokens, shift 3", 2, lambda: window(50, 3))
    yield miss("repeated_vector", "detectable bits, 2,000 vectors", 0.5, lambda: state(2000, 0.0))
    yield miss("repeated_vector", "draws needed, state of 20 bits", 1, lambda: state(None, 20.0))
