"""Draws that each come from another row of logits, seen once and in chunks: temperature, tail, support and likelihoods."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..errors import InputError
from ..types import Array, Float, Guarantee
from .estimate import Estimate
from .row_sharing import LEAST, Sharing
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
    """``update(logits, tokens)``, then the tests. Memory: a block of rows, 17 bytes a draw, and what ``sharing`` keeps.

    With log p_i = log softmax of row i, y_i = log p_i(x_i) - E_{p_i}[log p_i], 0 for tokens of p_i below LEAST,
    and K_i(t) = log E_{p_i} e^(t y): ``score`` = sum y_i, ``variance`` = sum Var y_i, ``cumulant`` = sum K_i(t) on the
    grid -t, t of :data:`EXCESS`. ``lattice``: bits -> sum log q_i(x_i) - log p_i(x_i) of the closed-form lattice of so
    many bits. ``rare``: the chance of each draw, see :class:`~.testing.RareDraws`.
    ``dead``: rows that are all -inf, NaN or +inf; with their draws they are set aside. ``n``: the draws judged.
    ``sharing``: pairs of draws that are looked at, see :class:`~.row_sharing.Sharing`.
    Errors: InputError for tokens outside the vocabulary.
    """

    def __init__(self, bits: tuple[int, ...] = (23, 24), sharing: Sharing | None = None) -> None:
        self.n = self.seen = 0
        self.score = self.variance = 0.0
        self.cumulant = np.zeros((2, len(EXCESS)))
        self.lattice = dict.fromkeys(bits, 0.0)
        self.sharing = sharing
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
        rows, tokens, index, top = rows[alive], tokens[alive], index[alive], top[alive]
        with np.errstate(over="ignore"):  # a mask of the least float64 below a row of large logits
            log_p = rows - top[:, None]
        p = np.exp(log_p)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        log_p -= np.log(total)
        drawn = tokens[:, None]
        self.n += len(tokens)
        self.certain = self.certain and bool((p.max(axis=1) == 1).all())
        self._temperature(log_p, p, drawn)
        own = np.take_along_axis(log_p, drawn, 1)
        for bits in self.lattice:
            self.lattice[bits] += self._lattice(p, drawn, own[:, 0] >= math.log(LEAST), bits)
        as_rare = np.where(log_p <= own, p, 0.0).sum(axis=1)
        self.rare.update(np.minimum(as_rare * (1 + _ROUNDING), 1.0), own[:, 0], tokens, index)
        edge = _edge(p)
        self._rates.append((p * (p < edge)).sum(axis=1))
        self._hits.append(np.take_along_axis(p, drawn, 1)[:, 0] < edge[:, 0])
        if self.sharing is not None:
            self.sharing.update(p, tokens, index)

    def _temperature(self, log_p: Float, p: Float, drawn: Array) -> None:
        """The exponentials on the grid by squaring: t doubles from one entry of EXCESS to the next."""
        possible = p >= LEAST
        y = np.where(possible, log_p, 0.0)
        y -= (p * y).sum(axis=1, keepdims=True)
        y *= possible
        self.score += math.fsum(np.take_along_axis(y, drawn, 1)[:, 0])
        self.variance += float((p * y**2).sum())
        grown = np.exp(EXCESS[0] * y)
        for side, power in ((1, grown), (0, 1 / grown)):
            for j in range(len(EXCESS)):
                self.cumulant[side, j] += float(np.log((p * power).sum(axis=1)).sum())
                power *= power

    @staticmethod
    def _lattice(p: Float, drawn: Array, alive: Array, bits: int) -> float:
        """As :func:`~.alternatives.lattice_law`, row by row: log q - log p = log(y / (e^y - 1)), normalised."""
        with np.errstate(divide="ignore", over="ignore"):
            y = 2.0**-bits * (1 - p) / p
        # log(y / (e^y - 1)) = -y/2 - y^2/24 + y^4/2880 - ..., the next term is below 1e-19
        small = y < 2.0**-8
        share = np.where(small, y, 0.0)
        square = share * share
        share *= -0.5
        share -= square * (1 / 24 - square / 2880)
        large = ~small
        beyond = y[large]
        with np.errstate(divide="ignore", invalid="ignore"):
            exact = np.log(beyond) - np.log(-np.expm1(-beyond)) - beyond
        share[large] = np.where(np.isposinf(beyond), -np.inf, exact)
        log_z = np.log((p * np.exp(share)).sum(axis=1))
        return float((np.take_along_axis(share, drawn, 1)[:, 0] - log_z)[alive].sum())

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
        """p = 2 min over sides of min_t exp(sum K_i(t) - t sum y_i): Chernoff, at every n. ``statistic``: log of its inverse.

        ``detectable`` and ``estimate`` (one Newton step from T = 1) by the normal law with ``variance``: asymptotic.
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
        name, effect = "row_temperature_test", "|temperature - 1|"
        p_value = min(1.0, 2 * math.exp(bound))
        return TestResult(
            p_value, -bound, self.n, detectable, false_fail, name, effect, estimate=found, expected=1.0
        )

    def tail_test(self, false_fail: float, false_pass: float) -> TestResult:
        """:func:`~.unmask_rate.unmask_rate_test` of the rarest :data:`TAIL_MASS` of each row (strictly below an edge)."""
        hits, trials, rates = pooled(np.concatenate(self._hits), np.minimum(np.concatenate(self._rates), 1.0))
        return unmask_rate_test(
            hits, trials, rates, predicted_error=1e-12, false_fail=false_fail, false_pass=false_pass
        )

    @property
    def has_tail(self) -> bool:
        """Whether any row has tokens rare enough."""
        return any((rates > 0).any() for rates in self._rates)


def _edge(p: Float) -> Float:
    """(k, 1) the largest value of each row such that the tokens strictly below it hold at most :data:`TAIL_MASS`."""
    ordered = np.sort(p, axis=1)
    inside = (np.cumsum(ordered, axis=1) <= TAIL_MASS).sum(axis=1)
    return np.take_along_axis(ordered, np.minimum(inside, p.shape[1] - 1)[:, None], 1)
