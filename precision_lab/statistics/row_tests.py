"""Draws that each come from another row of logits, seen once and in chunks: temperature, tail, support and
likelihoods."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..errors import InputError
from ..types import Array, Float, Guarantee
from ._row_sums import row_sums
from .estimate import Estimate
from .row_sharing import LEAST, Sharing
from .row_sources import RowSources
from .testing import RareDraws, TestResult, rare_draws_p_value, unmask_rate_test
from .testing._chernoff import pooled

# t = 1/T - 1 of the exponential bounds, both signs: half an octave off costs 11 %
EXCESS = 2.0 ** np.arange(-10, 1)
TAIL_MASS = 0.1
_ROUNDING = 1e-9  # relative, of probabilities and their sums
_ENTRIES = 1 << 18  # of one block of rows in float64


@dataclass(frozen=True)
class DeadRow:
    """A row that is no law: ``index`` in the file, ``top`` its largest logit: -inf, inf or nan."""

    index: int
    top: float


class RowEvidence:
    """``update(logits, tokens)``, then the tests. Memory: a block of rows, 17 bytes a draw, and what
    ``sharing`` keeps.

    With log p_i = log softmax of row i, y_i = log p_i(x_i) - E_{p_i}[log p_i], 0 for tokens of p_i below
    LEAST, and K_i(t) = log E_{p_i} e^(t y): ``score`` = sum y_i, ``variance`` = sum Var y_i, ``cumulant`` =
    sum K_i(t) on the grid -t, t of :data:`EXCESS`. ``lattice``: bits -> sum log q_i(x_i) - log p_i(x_i) of
    the closed-form lattice of so many bits. ``rare``: the chance of each draw, see
    :class:`~.testing.RareDraws`. ``dead``: rows that are all -inf, NaN or +inf; with their draws they are
    set aside. ``n``: the draws judged. ``sharing``: pairs of draws that are looked at, see
    :class:`~.row_sharing.Sharing`.  ``sources``: rows beside, see :class:`~.row_sources.RowSources`.
    Errors: InputError for tokens outside the vocabulary.
    """

    def __init__(
        self,
        bits: tuple[int, ...] = (23, 24),
        sharing: Sharing | None = None,
        sources: RowSources | None = None,
    ) -> None:
        self.n = self.seen = 0
        self.score = self.variance = 0.0
        self.cumulant = np.zeros((2, len(EXCESS)))
        self.lattice = dict.fromkeys(bits, 0.0)
        self.sharing = sharing
        self.sources = sources
        self.rare = RareDraws()
        self.dead: list[DeadRow] = []
        self.certain = True
        self._hits: list[Array] = []
        self._rates: list[Float] = []

    def update(self, logits: Array, tokens: Array, index: Array | None = None) -> RowEvidence:
        """``logits``: (k, vocab) floats; ``tokens``: (k,) integers, the one drawn from each row.

        ``index``: (k,) where the draws are in the file, ascending; by default one after the other.
        """
        if (
            logits.ndim != 2
            or logits.dtype.kind != "f"
            or tokens.shape != logits.shape[:1]
            or tokens.dtype.kind not in "iu"
        ):
            got = f"logits {logits.dtype} {logits.shape}, tokens {tokens.dtype} {tokens.shape}"
            raise InputError(got, "(k, vocab) floats and (k,) integers", "one row a draw")
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < logits.shape[1]:
            got = f"tokens from {tokens.min()} to {tokens.max()}"
            raise InputError(got, f"0 to {logits.shape[1] - 1}", "count from 0, over the logits' vocabulary")
        step = max(1, _ENTRIES // logits.shape[1])
        places = self.seen + np.arange(len(tokens)) if index is None else index
        for first in range(0, len(tokens), step):
            part = slice(first, first + step)
            self._block(logits[part].astype(np.float64), tokens[part].astype(np.int64), places[part])
        self.seen += len(tokens)
        return self

    def _block(self, rows: Float, tokens: Array, index: Array) -> None:
        top = rows.max(axis=1)
        alive = np.isfinite(top)
        if not alive.all():
            self.dead += [DeadRow(int(index[i]), float(top[i])) for i in np.flatnonzero(~alive)]
        if not alive.any():
            return
        rows, tokens, index = rows[alive], tokens[alive], index[alive]
        count = len(tokens)
        p = np.empty_like(rows)
        own_log_p, own_y, variance, as_rare = (np.empty(count) for _ in range(4))
        steps = np.array([2.0**-bits for bits in self.lattice])
        lattice = np.empty((len(steps), count))
        row_sums(
            rows,
            tokens,
            LEAST,
            EXCESS[0],
            steps,
            self.cumulant,
            p,
            own_log_p,
            own_y,
            variance,
            as_rare,
            lattice,
        )
        self.n += count
        self.certain = self.certain and bool((p.max(axis=1) == 1).all())
        self.score += math.fsum(own_y)
        self.variance += math.fsum(variance)
        possible = own_log_p >= math.log(LEAST)
        for bits, each in zip(self.lattice, lattice, strict=True):
            self.lattice[bits] += float(each[possible].sum())
        self.rare.update(np.minimum(as_rare * (1 + _ROUNDING), 1.0), own_log_p, tokens, index)
        edge = _edge(p)
        self._rates.append((p * (p < edge)).sum(axis=1))
        self._hits.append(np.take_along_axis(p, tokens[:, None], 1)[:, 0] < edge[:, 0])
        if self.sharing is not None:
            self.sharing.update(p, tokens, index)
        if self.sources is not None:
            self.sources.update(p, tokens, index)

    def support_test(self, false_fail: float, false_pass: float = 1e-3) -> TestResult:
        """:func:`~.testing.rare_draws_p_value` of the rarest draw. ``statistic``: draws that alone would fail.

        ``detectable``: the share of draws of such tokens that is passed with probability ``false_pass``.
        """
        p_value = rare_draws_p_value(self.rare.least, self.n)
        found = sum(rare.count for rare in self.rare.impossible(self.n, false_fail))
        seen = -math.expm1(math.log(false_pass) / self.n)
        name, effect = "support_test", "share of draws of tokens too rare to be drawn"
        return TestResult(p_value, float(found), self.n, seen, false_fail, name, effect)

    def temperature_test(self, false_fail: float, false_pass: float) -> TestResult:
        """p = 2 min over sides of min_t exp(sum K_i(t) - t sum y_i): Chernoff, at every n. ``statistic``:
        log of its inverse.

        ``detectable`` and ``estimate`` (one Newton step from T = 1) by the normal law with ``variance``:
        asymptotic.
        """
        side = [np.min(c - s * EXCESS * self.score) for s, c in zip((-1, 1), self.cumulant, strict=True)]
        bound = min(0.0, float(min(side)))
        shift = (math.sqrt(2 * math.log(2 / false_fail)) + math.sqrt(2 * math.log(1 / false_pass))) / math.sqrt(
            self.variance
        )
        detectable = 1 / (1 - shift) - 1 if shift < 1 else math.inf
        t, z = self.score / self.variance, float(stats.norm.isf(false_fail / 2)) / math.sqrt(self.variance)
        ends = [1 / (1 + e) if 1 + e > 0 else math.inf for e in (t + z, t, t - z)]
        how = "one Newton step from temperature 1, normal interval"
        found = Estimate(ends[1], ends[0], ends[2], 1 - false_fail, self.n, how, Guarantee.ASYMPTOTIC)
        p_value = min(1.0, 2 * math.exp(bound))
        return TestResult(
            p_value,
            -bound,
            self.n,
            detectable,
            false_fail,
            "row_temperature_test",
            "|temperature - 1|",
            estimate=found if math.isfinite(found.value) else None,
            expected=1.0,
            note="" if math.isfinite(found.value) else "no temperature explains these draws",
        )

    def tail_test(self, false_fail: float, false_pass: float) -> TestResult:
        """:func:`~.unmask_rate.unmask_rate_test` of the rarest :data:`TAIL_MASS` of each row (strictly
        below an edge)."""
        hits, trials, rates = pooled(np.concatenate(self._hits), np.minimum(np.concatenate(self._rates), 1.0))
        return unmask_rate_test(
            hits, trials, rates, predicted_error=1e-12, false_fail=false_fail, false_pass=false_pass
        )

    @property
    def has_tail(self) -> bool:
        """Whether any row has tokens rare enough."""
        return any((rates > 0).any() for rates in self._rates)


def _edge(p: Float) -> Float:
    """(k, 1) the largest value of each row such that the tokens strictly below it hold at most
    :data:`TAIL_MASS`."""
    ordered = np.sort(p, axis=1)
    inside = (np.cumsum(ordered, axis=1) <= TAIL_MASS).sum(axis=1)
    return np.take_along_axis(ordered, np.minimum(inside, p.shape[1] - 1)[:, None], 1)
