"""Coverage of every 95 % interval, of the number that its docstring says it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ..laws.law import Law
from ..statistics import (
    Counts,
    Estimate,
    Rows,
    chao_wang_jost,
    cluster_bootstrap,
    cluster_jackknife,
    coverage_estimate,
    difference,
    diversity,
    draw_jackknife,
    entropy,
    hill,
    hill_difference,
    hill_number,
    likelihood_ratio_test,
    mean,
    miller_madow,
    proportion,
    rarefied,
    ratio_of_proportion,
    sequence_entropy,
    spectrum_from_draws,
    temperature_from_draws,
    temperature_from_rows,
    two_laws_log_likelihood,
    unmask_rate_test,
)
from ..types import Array, Float, Guarantee
from .levels import RATES, sticky
from .promise import Promise, Rng, Simulation, by_value, draws, tokens
from .targets import CASES, LARGE, SMALL, at_temperature, coarse

FINITE, ASYMPTOTIC = Guarantee.FINITE_SAMPLE, Guarantee.ASYMPTOTIC
SPREAD = 0.8  # of log-normal values: skewness 3.7


def holds(one: Callable[[Rng], Estimate], truth: float) -> Callable[[], Simulation]:
    return lambda: lambda runs, rng: np.array([one(rng).contains(truth) for _ in range(runs)])


def of_counts(
    estimate: Callable[[Counts], Estimate], p: Law, n: int, truth: float | None = None
) -> Callable[[], Simulation]:
    """``truth`` None: the expectation of the estimator, taken as the mean of its values over the runs."""

    def simulate(runs: int, rng: Rng) -> Array:
        found = [estimate(counts) for counts in draws(p, n, runs, rng)]
        aim = float(np.mean([each.value for each in found])) if truth is None else truth
        return np.array([each.contains(aim) for each in found])

    return lambda: simulate


def seen_mass(p: Law, n: int) -> Simulation:
    """The mass on the tokens that these very draws saw."""
    probs = p.probs

    def simulate(runs: int, rng: Rng) -> Array:
        return np.array(
            [
                coverage_estimate(c).contains(float(probs[c.counts > 0].sum() / probs.sum()))
                for c in draws(p, n, runs, rng)
            ]
        )

    return simulate


def binomial(n: int, rate: float, over: float) -> Simulation:
    ask = lambda k: (ratio_of_proportion(k, n, over) if over < 1 else proportion(k, n)).contains(rate / over)  # noqa: E731
    return lambda runs, rng: by_value(ask, rng.binomial(n, rate, runs))


def unmasking(runs: int, rng: Rng) -> Array:
    trials = np.repeat(64, len(RATES))

    def ask(total: int) -> bool:
        k = np.clip(total - 64 * np.arange(len(RATES)), 0, 64)
        found = unmask_rate_test(k, trials, RATES, false_fail=0.05).estimate
        return found is not None and found.contains(1.0)

    return by_value(ask, rng.binomial(trials, RATES, (runs, len(RATES))).sum(axis=1))


def rows(rng: Rng, sequences: int = 30, length: int = 8) -> list[Rows]:
    """A row of normal logits a draw, sampled at temperature 0.9; every other token of a sequence repeats its row and draw."""
    logits = rng.normal(0.0, 2.0, (sequences * length, 50))
    noise = rng.gumbel(size=logits.shape)
    copied = (np.arange(len(logits)) % length > 0) & (rng.random(len(logits)) < 0.5)
    source = np.maximum.accumulate(np.where(copied, 0, np.arange(len(logits))))
    drawn = (logits / 0.9 + noise).argmax(axis=1)
    return [Rows(logits[source], drawn[source], np.repeat(np.arange(sequences), length))]


def ratio_of_sums(at: Array, x: Float) -> float:
    return float(x[at, 0].sum() / x[at, 1].sum())


def log_ratio(p: Law, q: Law) -> Callable[[Counts], Estimate]:
    def one(counts: Counts) -> Estimate:
        found = likelihood_ratio_test(counts, p, q, false_fail=0.05).estimate
        assert found is not None  # neither law has a zero
        return found

    return one


def means(clusters: int, way: str) -> Callable[[Rng], Estimate]:
    """Of log-normal values, or the ratio of the sums of two of them."""

    def one(rng: Rng) -> Estimate:
        x = rng.lognormal(0.0, SPREAD, (clusters, 2))
        if way == "bootstrap":
            return cluster_bootstrap(lambda at: float(x[at, 0].mean()), clusters, rng=rng, resamples=500)
        if way == "jackknife":
            return cluster_jackknife(lambda at: ratio_of_sums(at, x), clusters)
        return mean(x[:, 0]) if way == "mean" else difference(mean(x[:, 0]), mean(x[:, 1]))

    return one


def sequences_hill() -> Simulation:
    def simulate(runs: int, rng: Rng) -> Array:
        found = [hill(sticky(SMALL, (40, 16), rng), 1) for _ in range(runs)]
        aim = float(np.mean([each.value for each in found]))
        return np.array([each.contains(aim) for each in found])

    return simulate


def cover(
    judge: str, target: str, ms: float, build: Callable[[], Simulation], kind: Guarantee = ASYMPTOTIC
) -> Promise:
    return Promise(judge, target, "coverage", kind, ms, build)


def band_rate(name: str, p: Law, sampler: Law, n: int, edges: list[float]) -> Iterator[Promise]:
    below = (p.log_probs >= edges[0]) & (p.log_probs < edges[1])
    truth = float(sampler.probs[below].sum() / p.probs[below].sum())
    rate = of_counts(lambda c: spectrum_from_draws(c, p, edges)[0].rate, sampler, n, truth)
    yield cover("spectrum_from_draws, rate", f"{name}, rarer half", 5, rate, FINITE)


def of_case(name: str, p: Law, n: int) -> Iterator[Promise]:
    big, q, cool = p.vocab > 100, coarse(p), at_temperature(p, 0.9)
    slope = [float(x) for x in np.quantile(p.log_probs, [0, 0.5, 1])]
    edges = [slope[0] - 1, slope[1], 1.0]
    yield cover(
        "temperature_from_draws",
        name,
        5 if big else 2,
        of_counts(lambda c: temperature_from_draws(c, p), cool, n, 0.9),
    )
    yield cover(
        "temperature_from_draws",
        f"{name.removesuffix(f', n = {n}')}, 40 sticky sequences of 16",
        5 if big else 2,
        holds(lambda rng: temperature_from_draws(sticky(cool, (40, 16), rng), p), 0.9),
    )
    yield cover(
        "spectrum_from_draws, slope",
        f"{name}, rarer half",
        8 if big else 5,
        of_counts(lambda c: spectrum_from_draws(c, p, edges)[0].slope, cool, n, 1 / 0.9),
    )
    if not big:
        yield from band_rate(name, p, cool, n, edges)
    yield cover(
        "two_laws_log_likelihood",
        f"{name}, against lattice",
        0.5,
        of_counts(
            lambda c: two_laws_log_likelihood(c, p, q),
            p,
            n,
            n * float(p.probs @ (p.log_probs - q.log_probs)),
        ),
    )
    yield cover(
        "likelihood_ratio, estimate",
        f"{name}, lattice",
        8 if big else 3,
        of_counts(log_ratio(p, q), p, n, float(p.probs @ (q.log_probs - p.log_probs))),
    )
    for order in (0, 1, 2):
        ms, number = 3 if big else 1, hill_number(p, order)
        yield cover(
            f"hill {order}", f"{name}, estimator's mean", ms, of_counts(partial(hill, order=order), p, n)
        )
        yield cover(
            f"hill {order}",
            f"{name}, the law's number",
            ms,
            of_counts(partial(hill, order=order), p, n, number),
        )
        smaller, number = partial(hill, order=order, size=n // 2), rarefied(p, n // 2, order)
        yield cover(f"hill {order}, rarefied", f"{name}, to n/2", 3 * ms, of_counts(smaller, p, n, number))
    for measure in (entropy, miller_madow, chao_wang_jost):
        name_of, left_out = f"draw_jackknife, {measure.__name__}", partial(draw_jackknife, measure)
        yield cover(
            name_of, f"{name}, the law's number", 3 if big else 1, of_counts(left_out, p, n, entropy(p))
        )
    yield cover(
        "hill_difference 1",
        f"{name}, equal n",
        6 if big else 2,
        holds(
            lambda rng: hill_difference(next(draws(p, n, 1, rng)), next(draws(q, n, 1, rng)), 1),
            hill_number(p, 1) - hill_number(q, 1),
        ),
    )
    few = n if big else 60  # of 400 draws all 20 tokens are seen
    yield cover("coverage_estimate", f"{name}, mass seen by {few:,}", 2, lambda: seen_mass(p, few))


def all_coverages() -> Iterator[Promise]:
    centre = float(np.exp(SPREAD**2 / 2))
    for n, rate in ((50, 0.01), (50, 0.3), (2000, 0.001), (2000, 0.1)):
        yield cover("proportion", f"n = {n:,}, rate {rate:g}", 0.01, partial(binomial, n, rate, 1.0), FINITE)
    yield cover(
        "ratio_of_proportion",
        "n = 2,000, rate 0.008 over 0.01",
        0.01,
        lambda: binomial(2000, 0.008, 0.01),
        FINITE,
    )
    yield cover("unmask_rate, estimate", "16 rates, 64 positions each", 0.5, lambda: unmasking, FINITE)
    yield cover("mean", "5 normal values", 0.1, holds(lambda rng: mean(rng.standard_normal(5)), 0.0))
    for n in (20, 500):
        yield cover("mean", f"{n} log-normal values", 0.1, holds(means(n, "mean"), centre))
        yield cover(
            "difference", f"of two means of {n} log-normal values", 0.2, holds(means(n, "difference"), 0.0)
        )
    for n in (20, 100):
        yield cover(
            "cluster_bootstrap", f"mean of {n} log-normal values", 8, holds(means(n, "bootstrap"), centre)
        )
        yield cover(
            "cluster_jackknife", f"ratio of sums over {n} clusters", 0.5, holds(means(n, "jackknife"), 1.0)
        )
    yield cover(
        "difference",
        "of two proportions, n = 200",
        1,
        holds(
            lambda rng: difference(
                proportion(int(rng.binomial(200, 0.05)), 200), proportion(int(rng.binomial(200, 0.02)), 200)
            ),
            0.03,
        ),
    )
    for name, (p, n) in CASES.items():
        yield from of_case(name, p, n)
    yield cover("hill 1", "40 sticky sequences of 16, estimator's mean", 8, sequences_hill)
    yield cover(
        "diversity, sequence_entropy",
        "40 sequences of 64, Zipf 2,000",
        12,
        holds(
            lambda rng: diversity(tokens(LARGE, (40, 64), rng), sequence_entropy, rng=rng),
            float(np.log(rarefied(LARGE, 64, 1))),
        ),
    )
    yield cover(
        "temperature_from_rows",
        "30 sequences of 8 rows, 50 tokens",
        12,
        holds(lambda rng: temperature_from_rows(rows(rng)), 0.9),
    )
