"""Draws that each come from another row of logits: do they fit the rows beside which they stand better than
their own?

The rows must not be made from the draws. The next row of one text is: a token that it has just drawn may be
likely there, and a right sampler then seems to draw from the row after its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from ..types import Array, Float, Int
from .row_sharing import LEAST, MOST
from .testing import TestResult

FARTHEST = 64  # rows between a draw and the row that it fits, at most
NEAREST = 8  # of large vocabularies, of which so many rows are kept
KEPT = 1 << 22  # probabilities of rows that wait for their neighbours
LOOKED = 1 << 15  # draws that are looked at, from the first one on
SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)  # of batches
FEWEST = 8  # batches of each half of the draws
PRICE = 3.0  # nats, and log of the rows to choose from, that another row's law must gain to be chosen
SHARES = (0.1, 0.5, 0.95)  # of the draws of a place that may be of the other row
NAME, EFFECT = "row_sources_test", "share of draws that are of the row after theirs"


@dataclass(frozen=True)
class Sources:
    """``size``: rows of a batch; 1: of every row alike.  ``sources``: place in the batch -> place of the row
    whose law its draws follow; with ``size`` 1, {0: rows further on}.  ``share``: of the draws, about.
    ``log``: nats that they say for it and against their own rows, less the choice of it."""

    size: int
    sources: dict[int, int]
    share: float
    log: float


class RowSources:
    """Probabilities of each draw under the rows up to :data:`FARTHEST` before and after its own; gathered
    block by block.

    The first half of the draws chooses: for every size of a batch in :data:`SIZES`, and for every row alike,
    the row of the batch whose law explains a place best. The second half is judged by that choice alone. Of
    draws x_i of p_i the product of (1 - w) + w q_i(x_i) / p_i(x_i) has mean 1, whichever law q_i is that does
    not depend on x_i, so that its inverse is a p-value (Ville). Rows after x_i that were made from it, as
    those of one text are, depend on it: then the p-value is none. Batches are taken to begin with the first
    row of the file. ``count``: draws that will come, about. Memory: 4 (2 FARTHEST + 1) bytes a draw
    looked at, and the rows that wait.
    """

    def __init__(self, count: int) -> None:
        self._most = min(count, LOOKED)
        self._left = MOST
        self.n = 0
        self._far = FARTHEST
        self._waiting: list[tuple[Array, Int, Int]] = []
        self._old = 0  # of the rows that wait, those whose pairs among each other are done
        self._beside = np.empty((0, 0), dtype=np.float32)
        self._index = np.empty(self._most, dtype=np.int64)

    def update(self, p: Float, tokens: Int, index: Int) -> None:
        """``p``: (k, vocab) probabilities; ``tokens``: (k,) draws of them; ``index``: (k,) their places,
        ascending."""
        if not self._beside.size:
            self._far = min(FARTHEST, max(NEAREST, KEPT // p.shape[1]))
            self._beside = np.full((self._most, 2 * self._far + 1), np.nan, dtype=np.float32)
        count = min(len(p), self._most - self.n, self._left // p.shape[1])
        if count < 1:
            self._left = 0
            return
        self._left -= count * p.shape[1]
        self._index[self.n : self.n + count] = index[:count]
        self.n += count
        self._waiting.append((p[:count].astype(np.float32), tokens[:count], index[:count]))
        if sum(len(each) for _, each, _ in self._waiting) - self._old >= 2 * self._far:
            self._gather()

    def _gather(self) -> None:
        """All pairs of rows that wait, one of which at least is new."""
        if not self._waiting:
            return
        p, tokens, index = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        slot = self.n - len(p) + np.arange(len(p))
        self._beside[slot[self._old :], self._far] = p[np.arange(self._old, len(p)), tokens[self._old :]]
        new = np.arange(self._old, len(p))
        for apart in range(1, self._far + 1):
            before = np.searchsorted(index, index[new] - apart)
            there = index[before] == index[new] - apart  # rows may have been set aside
            later, earlier = new[there], before[there]
            self._beside[slot[earlier], self._far + apart] = p[later, tokens[earlier]]
            self._beside[slot[later], self._far - apart] = p[earlier, tokens[later]]
        self._old = min(self._far, len(p))
        self._waiting = [(p[-self._old :], tokens[-self._old :], index[-self._old :])]

    def _ratios(self) -> Float:
        """(n, 2 far + 1) q(x) / p(x) by the row beside; 1 where there is none."""
        self._gather()
        own = np.maximum(self._beside[: self.n, self._far].astype(np.float64), LEAST)
        ratios = self._beside[: self.n].astype(np.float64) / own[:, None]
        ratios[:, self._far] = 1.0
        return np.where(np.isnan(ratios), 1.0, ratios)

    def test(self, false_fail: float, false_pass: float) -> TestResult:
        """p = 1 / mean over :data:`SHARES` of the product over the second half. Valid at every n, for rows
        that were not made from the draws.

        ``statistic``: log of the inverse of p.  ``detectable``: share of the draws that are of the row after
        theirs, by the normal law with the moments of these draws: asymptotic.
        """
        ratios = self._ratios()
        chosen = self._chosen(ratios)
        second = np.arange(self.n) >= self.n // 2
        log = 0.0 if chosen is None else _log_e(self._by(chosen, ratios)[second])
        p_value = min(1.0, math.exp(-max(log, 0.0)))
        seen = self._detectable(ratios, false_fail, false_pass)
        return TestResult(p_value, log, int(second.sum()), seen, false_fail, NAME, EFFECT)

    def found(self) -> Sources | None:
        """What the first half chose, and what all the draws looked at say for it; None where that is
        nothing."""
        ratios = self._ratios()
        chosen = self._chosen(ratios)
        if chosen is None:
            return None
        size, sources = chosen
        by = self._by(chosen, ratios)
        moved = by if size == 1 else by[np.isin(self._index[: self.n] % size, list(sources))]
        shares = np.linspace(0.02, 0.98, 49)
        logs = [float(np.log1p(share * (moved - 1)).sum()) for share in shares]
        best = int(np.argmax(logs))
        log = logs[best] - len(sources) * _price(size if size > 1 else 2 * self._far)
        return Sources(size, sources, float(shares[best]), log) if log > 0 else None

    def _chosen(self, ratios: Float) -> tuple[int, dict[int, int]] | None:
        """(size, sources) by the first half."""
        half = self.n // 2
        if half < FEWEST:
            return None
        gains = np.log(0.5 + 0.5 * ratios[:half])
        alike = gains.sum(axis=0)
        shift = int(alike.argmax()) - self._far
        best = float(alike.max()) - _price(2 * self._far)
        chosen = (1, {0: shift}) if best > 0 else None
        for size in SIZES:
            if size > self._far + 1 or half < FEWEST * size:
                break
            sources: dict[int, int] = {}
            total = 0.0
            at = self._index[:half] % size
            for place in range(size):
                of_rows = gains[at == place, self._far - place : self._far - place + size].sum(axis=0)
                source = int(of_rows.argmax())
                gain = float(of_rows[source]) - _price(size)
                if gain > 0:
                    sources[place] = source
                    total += gain
            if total > best:
                best = total
                chosen = (size, sources)
        return chosen

    def _by(self, chosen: tuple[int, dict[int, int]], ratios: Float) -> Float:
        """(n,) q(x) / p(x) of each draw by the row chosen for its place."""
        size, sources = chosen
        if size == 1:
            return ratios[:, self._far + sources[0]]
        further = np.array([sources.get(place, place) - place for place in range(size)])
        return ratios[np.arange(self.n), self._far + further[self._index[: self.n] % size]]

    def _detectable(self, ratios: Float, false_fail: float, false_pass: float) -> float:
        """By draws of the next row taken for draws of this one, at a share of one half."""
        half = self.n - self.n // 2
        if self.n < FEWEST:
            return math.inf
        right = np.log(0.5 + 0.5 * ratios[:-1, self._far + 1])
        wrong = np.log(0.5 + 0.5 / np.maximum(ratios[1:, self._far - 1], LEAST))
        z, wanted = float(stats.norm.isf(false_pass)), math.log(len(SHARES) / false_fail)
        for share in np.linspace(0.01, 1.0, 100):
            mean = (1 - share) * right.mean() + share * wrong.mean()
            square = (1 - share) * (right**2).mean() + share * (wrong**2).mean()
            if half * mean - z * math.sqrt(half * max(square - mean**2, 0.0)) >= wanted:
                return float(share)
        return math.inf


def _log_e(ratios: Float) -> float:
    logs = [float(np.log1p(share * (ratios - 1)).sum()) for share in SHARES]
    return float(special.logsumexp(logs)) - math.log(len(logs))


def _price(rows: int) -> float:
    return PRICE + math.log(rows)
