"""E-values of right samplers: their mean at fixed and data-dependent stops, and how often they are ever large."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import logsumexp

from ..laws.law import Law
from ..statistics import EProcess, alternative_laws, combined_e, lack_of_fit_test, unmask_rate_e_value
from ..types import Array, Float, Guarantee
from .promise import Promise, Rng, Simulation, draws, tokens
from .targets import CASES, at_temperature, coarse

STOP = 20.0  # the e at which an eager reader stops


def paths(p: Law, n: int, runs: int, rng: Rng) -> Float:
    """(runs, n) log e after every draw: :attr:`EProcess.log_e` of the running sums of its factors."""
    process = EProcess(p, alternative_laws(p, bits=(4, 6, 10, 12), temperatures=(0.9, 0.95, 1.05, 1.1)))
    found = []
    for _ in range(runs):
        wealth = np.cumsum(process.log_factors[:, tokens(p, (n,), rng)], axis=1)
        found.append(logsumexp(wealth, axis=0, b=process.weights[:, None]))
    return np.array(found)


def stopped(log_e: Float) -> Float:
    """(runs, n) -> (runs,) e at the first one of STOP or more, else at the last."""
    reached = log_e >= np.log(STOP)
    at = np.where(reached.any(axis=1), reached.argmax(axis=1), log_e.shape[1] - 1)
    return np.exp(log_e[np.arange(len(log_e)), at])


def unmask_run(rng: Rng, positions: int = 32, steps: int = 16) -> float:
    """A whole run, stopped at e >= STOP: how many are masked depends on all earlier steps."""
    masked = np.zeros(steps - 1, dtype=np.int64)
    unmasked, rates = masked.copy(), 1 / np.arange(steps, 1.0, -1)
    left, log_e = positions, 0.0
    for i in range(steps - 1):
        masked[i], unmasked[i] = left, rng.binomial(left, rates[i])
        left -= unmasked[i]
        log_e = unmask_rate_e_value(
            unmasked[: i + 1], masked[: i + 1], rates[: i + 1], multipliers=(0.5, 0.8, 1.25, 2.0)
        )
        if log_e >= np.log(STOP) or not left:
            break
    return float(np.exp(log_e))


def combined(independent: bool) -> Simulation:
    """Of 10 e-values exp(z/2 - 1/8), z normal: independent, or of correlation 0.5."""

    def simulate(runs: int, rng: Rng) -> Float:
        z = rng.standard_normal((runs, 10))
        if not independent:
            z = np.sqrt(0.5) * (z + rng.standard_normal((runs, 1)))
        return np.exp([combined_e(row / 2 - 0.125, independent=independent) for row in z])

    return simulate


def lack_of_fit(p: Law, n: int, alternative: Law | Float) -> Simulation:
    null = at_temperature(p, 0.8)
    return lambda runs, rng: np.exp(
        [lack_of_fit_test(counts, p, alternative).statistic for counts in draws(null, n, runs, rng)]
    )


def by_run(one: Callable[[Rng], float]) -> Simulation:
    def simulate(runs: int, rng: Rng) -> Array:
        return np.array([one(rng) for _ in range(runs)])

    return simulate


def e(judge: str, target: str, ms: float, build: Callable[[], Simulation]) -> Promise:
    return Promise(judge, target, "e-value", Guarantee.ANYTIME, ms, build)


def of_case(name: str, p: Law) -> Iterator[Promise]:
    big = p.vocab > 100
    yield e(
        "e_process",
        f"{name}, after 50 draws",
        0.2,
        lambda: lambda runs, rng: np.exp(paths(p, 50, runs, rng)[:, -1]),
    )
    yield e(
        "e_process",
        f"{name}, stopped at 20 or 300 draws",
        0.5,
        lambda: lambda runs, rng: stopped(paths(p, 300, runs, rng)),
    )
    yield Promise(
        "e_process, ever",
        f"{name}, looked at after each of 500 draws",
        "false fail",
        Guarantee.ANYTIME,
        1.0,
        lambda: lambda runs, rng: np.exp(-paths(p, 500, runs, rng).max(axis=1)),
    )
    edges = np.quantile(p.log_probs, [0.3, 0.7])
    yield e(
        "lack_of_fit",
        f"{name}, bands, 100 draws",
        5 if big else 2,
        lambda: lack_of_fit(p, 100, edges),
    )
    if not big:
        yield e("lack_of_fit", f"{name}, lattice, 100 draws", 4, lambda: lack_of_fit(p, 100, coarse(p)))


def all_e_values() -> Iterator[Promise]:
    for name, (p, n) in CASES.items():
        yield from of_case(name.removesuffix(f", n = {n}"), p)
    yield e("unmask_rate_e_value", "whole runs, stopped at 20", 1.5, lambda: by_run(unmask_run))
    yield e("combined_e", "mean of 10, correlation 0.5", 0.05, lambda: combined(False))
    yield e("combined_e", "product of 10, independent", 0.05, lambda: combined(True))
