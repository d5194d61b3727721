"""A promise of the judge, a simulation that tries it, and the verdict on what was counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from ..laws.law import Law
from ..statistics import Counts, proportion
from ..targets.synthetic import normalise
from ..types import Array, Float, Guarantee

Rng = np.random.Generator
Simulation = Callable[[int, Rng], Array]
Kind = Literal["false fail", "false pass", "coverage", "e-value"]

LEVELS = (0.01, 0.001)  # false-fail rates that 10,000 runs can see
RATES: dict[str, Any] = {"false_fail": 0.01, "false_pass": 0.05}  # of every claim of power
COVERAGE = 0.95
SURE = 0.9999  # of the interval behind a verdict: some 200 true promises are then all upheld in 98 of 100 repetitions
PROVED = (Guarantee.EXACT, Guarantee.CERTIFIED, Guarantee.FINITE_SAMPLE, Guarantee.ANYTIME)


@dataclass(frozen=True)
class Promise:
    """``judge`` promises something of ``target``. ``build()`` prepares ``simulate(runs, rng)``, which returns by kind

    - false fail: (runs,) p-values of a right sampler, or (runs, 2) whether each of LEVELS was met;
    - false pass: (runs,) whether a sampler off by the stated discrepancy passed at RATES;
    - coverage: (runs,) whether a 95 % interval held the truth;
    - e-value: (runs,) e-values of a right sampler.

    ``stated``: the rate promised, where it is not the kind's own.  ``ms``: milliseconds a run, about, to size the work.
    """

    judge: str
    target: str
    kind: Kind
    guarantee: Guarantee
    ms: float
    build: Callable[[], Simulation]
    stated: float | None = None

    @property
    def key(self) -> str:
        return f"{self.kind}: {self.judge}: {self.target}"

    def tally(self, runs: int, rng: Rng) -> list[dict[str, Any]]:
        """One row a quantity: how many of ``runs`` met it (``total``), or sum and sum of squares of e."""
        found = np.asarray(self.build()(runs, rng), dtype=np.float64)
        rows: list[tuple[str, float, Array]]
        if self.kind in ("false pass", "coverage"):
            stated = {"false pass": RATES["false_pass"], "coverage": COVERAGE}[self.kind]
            rows = [(self.kind, stated if self.stated is None else self.stated, found)]
        elif self.kind == "false fail":
            events = found.T if found.ndim == 2 else [found <= level for level in LEVELS]
            rows = [(f"false fail at {level:g}", level, met) for level, met in zip(LEVELS, events, strict=True)]
        else:
            rows = [("mean of e", 1.0, found)]
            rows += [(f"P(e >= {1 / level:g})", level, found >= (1 - 1e-12) / level) for level in LEVELS]
        head = {"judge": self.judge, "target": self.target, "kind": self.kind, "guarantee": str(self.guarantee)}
        return [
            head | {"quantity": name, "stated": stated, "runs": runs, "total": float(np.sum(each)),
                    "squares": float(np.sum(np.asarray(each, dtype=np.float64) ** 2))}
            for name, stated, each in rows
        ]  # fmt: skip


def judged(
    quantity: str, guarantee: str, stated: float, runs: int, total: float, squares: float
) -> dict[str, object]:
    """measured, low, high, verdict of one promise.

    Clopper and Pearson's interval at SURE; for a mean of e Student's. "holds": measured on the right side of stated;
    "holds within interval": the interval reaches it; "broken", or for what claims no finite sample "off".
    """
    if quantity == "mean of e":
        measured, variance = total / runs, max(0.0, squares - total**2 / runs) / (runs - 1)
        half = float(stats.t.isf((1 - SURE) / 2, runs - 1)) * math.sqrt(variance / runs)
        low, high = measured - half, measured + half
    else:
        found = proportion(round(total), runs, SURE)
        measured, low, high = found.value, found.low, found.high
    at_least = quantity == "coverage"
    good, possible = (measured >= stated, high >= stated) if at_least else (measured <= stated, low <= stated)
    bad = "broken" if guarantee in PROVED else "off"
    verdict = "holds" if good else "holds within interval" if possible else bad
    return {"measured": measured, "low": low, "high": high, "verdict": verdict}


def law(log_weights: Float) -> Law:
    """The law as it stands, with no error: what is simulated from it is right by construction."""
    return Law(normalise(np.asarray(log_weights, dtype=np.float64)), "stated", 0.0, Guarantee.EXACT)


def of_probs(probs: Float) -> Law:
    with np.errstate(divide="ignore"):
        return law(np.log(probs))


def tokens(p: Law, shape: tuple[int, ...], rng: Rng) -> Array:
    """Independent tokens of law p, by its cumulative sum in float64."""
    edges = np.cumsum(p.probs)
    return np.minimum(np.searchsorted(edges / edges[-1], rng.random(shape), side="right"), p.vocab - 1)


def draws(p: Law, n: int, runs: int, rng: Rng) -> Iterator[Counts]:
    """``runs`` Counts of n draws each."""
    probs = p.probs / p.probs.sum()
    for _ in range(runs):
        if n > 4 * p.vocab:
            yield Counts(rng.multinomial(n, probs).astype(np.int64), n)
        else:
            yield Counts.from_tokens(tokens(p, (n,), rng), p.vocab)


def by_value(function: Callable[..., float], *values: Array) -> Float:
    """function(*row) of every row of ``values``, asked once for each different row: where few outcomes are possible."""
    rows, at = np.unique(np.stack(values, axis=1), axis=0, return_inverse=True)
    return np.array([function(*map(int, row)) for row in rows])[at.ravel()]
