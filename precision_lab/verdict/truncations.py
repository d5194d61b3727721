"""Draws of a truncated law: which top-k, top-p or min-p they speak for, by exact likelihood.

Truncated to its m likeliest tokens, a law p becomes p / P_m on them, P_m their mass, and nothing beyond. So
n draws that all lie among them have the likelihood P_m^-n against p, and none where one lies beyond: the
smallest m that holds every draw fits best, and the evidence of a family averages the likelihood over its
parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ..laws.law import Law
from ..statistics import Counts
from ..types import Array, Float, Guarantee, Int

LEAST_RATIO = 1e-6  # of min-p, whose logarithm is uniform from here to 1
LIKELY = 0.95  # of an interval for a parameter


@dataclass(frozen=True, eq=False)
class Prefixes:
    """One law, its likeliest tokens first, and its draws.

    ``tokens``: (support,) in falling order; of equal ones those that were drawn come first.  ``mass``:
    (support,) of the 1, 2, ... likeliest.  ``log_p``: (support,).  ``least``: how many hold every draw.
    ``n``: draws that the law allows.
    """

    tokens: Int
    mass: Float
    log_p: Float
    least: int
    n: int

    @staticmethod
    def of(law: Law, counts: Counts) -> Prefixes:
        drawn = counts.counts > 0
        ranked = np.lexsort((~drawn, -law.log_probs))
        ranked = ranked[: int((~np.isneginf(law.log_probs)).sum())]
        log_p = law.log_probs[ranked]
        mass = np.minimum(np.cumsum(np.exp(log_p)), 1.0)
        mass[-1] = 1.0
        hit = np.flatnonzero(drawn[ranked])
        least = int(hit[-1]) + 1 if len(hit) else 1
        return Prefixes(ranked, mass, log_p, least, int(counts.counts[ranked].sum()))

    def cut(self, law: Law, size: int) -> Law:
        """The law on its ``size`` likeliest tokens."""
        kept = self.tokens[:size]
        log_probs = np.full(law.vocab, -np.inf)
        log_probs[kept] = law.log_probs[kept] - special.logsumexp(law.log_probs[kept])
        return Law(log_probs, f"{law.how}, truncated to {len(kept)} tokens", law.error, Guarantee.HEURISTIC)


@dataclass(frozen=True, eq=False)
class Truncation:
    """``recipe``, ``how``: in words.  ``evidence``: nats above the law without truncation.  ``sizes``:
    tokens kept, by law."""

    recipe: str
    how: str
    evidence: float
    sizes: tuple[int, ...]
    _prefixes: tuple[Prefixes, ...]

    def laws(self, laws: Sequence[Law]) -> list[Law]:
        """The laws, truncated."""
        each = zip(self._prefixes, laws, self.sizes, strict=True)
        return [prefix.cut(law, size) for prefix, law, size in each]


def truncations(laws: Sequence[Law], counts: Sequence[Counts]) -> list[Truncation]:
    """top-k, top-p and min-p with one parameter for all laws, where they explain the draws better than no
    truncation."""
    prefixes = tuple(Prefixes.of(law, count) for law, count in zip(laws, counts, strict=True))
    found = [_top_k(prefixes), _top_p(prefixes), _min_p(prefixes)]
    return [truncation for truncation in found if truncation is not None and truncation.evidence > 0]


def _best(
    name: str,
    prefixes: tuple[Prefixes, ...],
    values: Float,
    log_prior: Float,
    sizes: Callable[[Prefixes], Int],
    show: Callable[[float], str],
) -> Truncation | None:
    """``values``: (m,) of the parameter.  ``log_prior``: (m,) of each.  ``sizes``: (m,) tokens kept of a
    law at each."""
    log_l = np.zeros(len(values))
    kept = [sizes(prefix) for prefix in prefixes]
    for prefix, size in zip(prefixes, kept, strict=True):
        log_l -= prefix.n * np.log(prefix.mass[size - 1])
        log_l[size < prefix.least] = -np.inf
    total = log_l + log_prior
    evidence = float(special.logsumexp(total))
    if not np.isfinite(evidence):
        return None
    share = np.exp(total - evidence)
    best = int(share.argmax())
    order = np.argsort(values)
    reached = np.cumsum(share[order])
    ends = [
        values[order[np.searchsorted(reached, edge)]] for edge in ((1 - LIKELY) / 2, (1 + LIKELY) / 2 - 1e-9)
    ]
    how = f"{name} from {show(ends[0])} to {show(ends[1])} ({LIKELY:.0%})"
    chosen = tuple(int(size[best]) for size in kept)
    return Truncation(f"truncated: {name} about {show(float(values[best]))}", how, evidence, chosen, prefixes)


def _top_k(prefixes: tuple[Prefixes, ...]) -> Truncation | None:
    """The prior of k is in proportion to 1 / k."""
    k = np.arange(1, max(len(prefix.tokens) for prefix in prefixes) + 1)
    log_prior = -np.log(k) - math.log(np.sum(1 / k))
    return _best(
        "top-k",
        prefixes,
        k.astype(np.float64),
        log_prior,
        lambda prefix: np.minimum(k, len(prefix.tokens)),
        lambda value: f"{value:.0f}",
    )


def _top_p(prefixes: tuple[Prefixes, ...]) -> Truncation | None:
    """The prior of p is uniform; the sets change where p passes a mass."""
    ends = np.unique(np.concatenate([prefix.mass for prefix in prefixes]))
    widths = np.diff(ends, prepend=0.0)
    middles = ends - widths / 2
    with np.errstate(divide="ignore"):
        log_prior = np.log(widths)
    return _best(
        "top-p",
        prefixes,
        middles,
        log_prior,
        lambda prefix: np.minimum(np.searchsorted(prefix.mass, middles, side="left") + 1, len(prefix.tokens)),
        lambda value: f"{value:.3g}",
    )


def _min_p(prefixes: tuple[Prefixes, ...]) -> Truncation | None:
    """The prior of the ratio is uniform in its logarithm, from :data:`LEAST_RATIO` to 1."""
    least = math.log(LEAST_RATIO)
    heights = [prefix.log_p - prefix.log_p[0] for prefix in prefixes]
    ends = np.unique(np.concatenate([[least, 0.0], *[height[height > least] for height in heights]]))
    widths = np.diff(ends)
    middles = ends[:-1] + widths / 2
    return _best(
        "min-p",
        prefixes,
        np.exp(middles),
        np.log(widths / -least),
        lambda prefix: np.searchsorted(-(prefix.log_p - prefix.log_p[0]), -middles, side="right"),
        lambda value: f"{value:.2g}",
    )


class RowTruncations:
    """The same with a row of logits a draw: ``update(logits, tokens)``, then :meth:`found`. Memory: a few
    hundred numbers.

    On grids of the parameters: the smallest that keeps every draw, and the log mass that each value would
    have kept.
    """

    def __init__(self) -> None:
        self.k = np.unique(np.round(np.geomspace(1, 2**17, 160)).astype(np.int64))
        self.p = np.concatenate([np.arange(1, 200) / 200, [0.999]])
        self.ratio = np.geomspace(1e-4, 1, 121)[:-1]
        self._kept = [np.zeros(len(self.k)), np.zeros(len(self.p)), np.zeros(len(self.ratio))]
        self._rank = 1
        self._before = 0.0
        self._height = 1.0

    def update(self, logits: Array, tokens: Array) -> RowTruncations:
        """``logits``: (n, vocab); ``tokens``: (n,). Left out: draws of a token of logit -inf, and rows that
        are no law."""
        for row, token in zip(logits.astype(np.float64), tokens, strict=True):
            if not np.isfinite(row[token]) or not np.isfinite(row.max()):
                continue
            weights = np.sort(np.exp(row - row.max()))[::-1]
            mass = np.minimum(np.cumsum(weights) / weights.sum(), 1.0)
            ahead = int((row > row[token]).sum())
            self._rank = max(self._rank, ahead + 1)
            self._before = max(self._before, float(mass[ahead - 1]) if ahead else 0.0)
            self._height = min(self._height, math.exp(row[token] - row.max()))
            last = len(weights)
            sizes = (
                np.minimum(self.k, last),
                np.minimum(np.searchsorted(mass, self.p, side="left") + 1, last),
                np.searchsorted(-weights, -self.ratio, side="right"),
            )
            for total, size in zip(self._kept, sizes, strict=True):
                total += np.log(mass[size - 1])
        return self

    def found(self) -> list[tuple[str, str, float]]:
        """(recipe, how, evidence in nats above the rows' own law) of each family that beats no truncation."""
        grids: list[tuple[str, Float, Array, Float]] = [
            ("top-k", self.k.astype(np.float64), self.k >= self._rank, self._kept[0]),
            ("top-p", self.p, self.p > self._before, self._kept[1]),
            ("min-p", self.ratio, self.ratio <= self._height, self._kept[2]),
        ]
        listed = []
        for name, values, possible, kept in grids:
            if not possible.any():
                continue
            log_l = np.where(possible, -kept, -np.inf)
            evidence = float(special.logsumexp(log_l)) - math.log(len(values))
            if evidence > 0:
                best = float(values[int(log_l.argmax())])
                edge = {"top-k": self._rank, "top-p": self._before, "min-p": self._height}[name]
                how = f"no draw beyond {name} {edge:.3g}; values on a grid"
                listed.append((f"truncated: {name} about {best:.3g}", how, evidence))
        return listed
