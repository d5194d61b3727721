"""Draws that each come from another row of logits, seen once and in chunks: temperature, tail, support and likelihoods."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from ..errors import InputError
from ..types import Array, Float, Guarantee
from .estimate import Estimate
from .testing import TestResult, unmask_rate_test

# t = 1/T - 1 of the exponential bounds, both signs: half an octave off costs 11 %
EXCESS = 2.0 ** np.arange(-10, 1)
TAIL_MASS = 0.1
_ENTRIES = 1 << 18  # of one block of rows in float64


class RowEvidence:
    """``update(logits, tokens)``, then the tests. Memory: a block of rows, and 9 bytes a draw.

    With log p_i = log softmax of row i, y_i = log p_i(x_i) - E_{p_i}[log p_i] and K_i(t) = log E_{p_i} e^(t y):
    ``score`` = sum y_i, ``variance`` = sum Var y_i, ``cumulant`` = sum K_i(t) on the grid -t, t of :data:`EXCESS`.
    ``lattice``: bits -> sum log q_i(x_i) - log p_i(x_i) of the closed-form lattice of so many bits.
    Errors: InputError for logits that are NaN, +inf or all -inf, and for tokens outside the vocabulary.
    """

    def __init__(self, bits: tuple[int, ...] = (23, 24)) -> None:
        self.n = self.impossible = 0
        self.score = self.variance = 0.0
        self.cumulant = np.zeros((2, len(EXCESS)))
        self.lattice = dict.fromkeys(bits, 0.0)
        self._hits: list[Array] = []
        self._rates: list[Float] = []

    def update(self, logits: Array, tokens: Array) -> RowEvidence:
        """``logits``: (k, vocab) floats; ``tokens``: (k,) integers, the one drawn from each row."""
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
        for first in range(0, len(tokens), step):
            self._block(
                logits[first : first + step].astype(np.float64), tokens[first : first + step].astype(np.int64)
            )
        return self

    def _block(self, rows: Float, tokens: Array) -> None:
        top = rows.max(axis=1, keepdims=True)
        if not np.isfinite(top).all():
            at = int(np.flatnonzero(~np.isfinite(top[:, 0]))[0])
            raise InputError(
                f"a largest logit of {top[at, 0]} in row {self.n + at}", "a finite one", "mask by -inf"
            )
        log_p = rows - top
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p, drawn = np.exp(log_p), tokens[:, None]
        finite = np.where(np.isneginf(log_p), 0.0, log_p)
        centre = (p * finite).sum(axis=1, keepdims=True)
        y = np.where(np.isneginf(log_p), -np.inf, finite - centre)
        own = np.take_along_axis(y, drawn, 1)[:, 0]
        alive = np.isfinite(own)
        self.n, self.impossible = self.n + len(tokens), self.impossible + int((~alive).sum())
        self.score += math.fsum(own[alive])
        self.variance += float((p * np.where(p > 0, finite - centre, 0.0) ** 2).sum())
        for side, sign in enumerate((-1.0, 1.0)):
            for j, t in enumerate(EXCESS):
                with np.errstate(over="ignore"):
                    grown = np.where(
                        np.isneginf(y), 0.0, p * np.exp(sign * t * np.where(np.isneginf(y), 0.0, y))
                    )
                self.cumulant[side, j] += float(np.log(grown.sum(axis=1)).sum())
        for bits in self.lattice:
            self.lattice[bits] += self._lattice(log_p, p, drawn, alive, bits)
        edge = _edge(p)
        self._rates.append((p * (p < edge)).sum(axis=1))
        self._hits.append(np.take_along_axis(p, drawn, 1)[:, 0] < edge[:, 0])

    @staticmethod
    def _lattice(log_p: Float, p: Float, drawn: Array, alive: Array, bits: int) -> float:
        """As :func:`~.alternatives.lattice_law`, row by row."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            y = 2.0**-bits * (1 - p) / p
            share = np.log(y) - np.log(-np.expm1(-y)) - y
        share = np.where(p >= 1, 0.0, np.where(np.isposinf(y), -np.inf, share))
        log_z = np.log((p * np.exp(share)).sum(axis=1))
        return float((np.take_along_axis(share, drawn, 1)[:, 0] - log_z)[alive].sum())

    def support_test(self, false_fail: float) -> TestResult:
        """p = 0 at the first draw of a token of logit -inf, else 1. ``statistic``: such draws."""
        p_value, name, effect = float(not self.impossible), "support_test", "one draw of a token of logit -inf"
        return TestResult(p_value, float(self.impossible), self.n, 1.0 / self.n, false_fail, name, effect)

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
        ends = [1 / max(1 + e, 1e-12) for e in (t + z, t, t - z)]
        how = "one Newton step from temperature 1, normal interval"
        found = Estimate(ends[1], ends[0], ends[2], 1 - false_fail, self.n, how, Guarantee.ASYMPTOTIC)
        name, effect = "row_temperature_test", "|temperature - 1|"
        p_value = min(1.0, 2 * math.exp(bound))
        return TestResult(
            p_value, -bound, self.n, detectable, false_fail, name, effect, estimate=found, expected=1.0
        )

    def tail_test(self, false_fail: float, false_pass: float) -> TestResult:
        """:func:`~.unmask_rate.unmask_rate_test` of the rarest :data:`TAIL_MASS` of each row (strictly below an edge)."""
        hits, rates = np.concatenate(self._hits), np.concatenate(self._rates)
        return unmask_rate_test(
            hits.astype(np.int64), np.ones(self.n, dtype=np.int64), np.minimum(rates, 1.0), predicted_error=1e-12,
            false_fail=false_fail, false_pass=false_pass,
        )  # fmt: skip

    @property
    def has_tail(self) -> bool:
        """Whether any row has tokens rare enough."""
        return any((rates > 0).any() for rates in self._rates)


def _edge(p: Float) -> Float:
    """(k, 1) the largest value of each row such that the tokens strictly below it hold at most :data:`TAIL_MASS`."""
    ordered = np.sort(p, axis=1)
    inside = (np.cumsum(ordered, axis=1) <= TAIL_MASS).sum(axis=1)
    return np.take_along_axis(ordered, np.minimum(inside, p.shape[1] - 1)[:, None], 1)
