"""A sequential test of a law that may be looked at, and stopped, after every draw.

Against alternatives q_k with prior weights w_k, after draws x_1, x_2, ... the capital is

    e_t = sum_k w_k prod_{s <= t} f_k(x_s),   f_k(i) = ((1 - b) p_i + b q_k,i) / (p_i + e) / c_k,

a nonnegative martingale from 1 under the null p (supermartingale for every truth within e = Law.error of p,
where c_k <= 1 is the worst truth's mean, see ``testing._widen``). By Ville's inequality P(ever e_t >= 1/a)
<= a: no sampler that is right is rejected more than ``false_fail`` often, however often one looks. With the
safe bet b = 1/2 no factor is below 1/2 where e = 0, so that one draw loses log 2 at most and (p + q) / 2
gains on every truth more than about a quarter of the way from p to q.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ..errors import InputError
from ..laws.law import Law
from ..types import Float
from ._checks import check_open_unit, check_same_vocab
from .counts import Counts
from .testing._binomial import MOST_DRAWS, check_rates, smallest
from .testing._chernoff import S, log_upper
from .testing._widen import worst_mean


class EProcess:
    """``EProcess(null, alternatives, weights=None, bet=0.5)``; memory (alternatives, vocab) float64 and no
    draws.

    ``n``: draws so far.  ``log_wealth``: (alternatives,) log prod f_k.  ``log_e``: log e_t, nats.
    ``peak``: the largest log e_t at the end of any update. Errors: InputError for no alternatives, other
    vocabularies, weights that are no distribution, a bet outside (0, 1].
    """

    def __init__(
        self, null: Law, alternatives: Sequence[Law], weights: ArrayLike | None = None, *, bet: float = 0.5
    ) -> None:
        if not len(alternatives):
            raise InputError("no alternatives", "one law or more", "see alternatives.alternative_laws")
        if not 0 < bet <= 1:
            raise InputError(f"bet = {bet}", "a share in (0, 1]", "1/2 is the safe bet")
        self.null, self.alternatives, self.bet = null, tuple(alternatives), bet
        self.weights = _weights(weights, len(self.alternatives))
        self.log_factors = np.stack([_log_factor(null, law, bet) for law in self.alternatives])
        self.n, self.log_wealth, self.peak = 0, np.zeros(len(self.alternatives)), 0.0

    def update(self, tokens: ArrayLike | Counts) -> EProcess:
        """Bet on further draws: token ids of any shape, or their Counts. Their order within one update does
        not matter."""
        counts = tokens if isinstance(tokens, Counts) else Counts.from_tokens(tokens, self.null.vocab)
        check_same_vocab(counts.vocab, self.null.vocab)
        drawn = np.flatnonzero(counts.counts)
        if np.isposinf(self.log_factors[0, drawn]).any():
            self.log_wealth = np.full_like(self.log_wealth, np.inf)
        elif not np.isposinf(self.log_wealth).any():
            self.log_wealth = self.log_wealth + self.log_factors[:, drawn] @ counts.counts[drawn].astype(
                np.float64
            )
        self.n += counts.n
        self.peak = max(self.peak, self.log_e)
        return self

    @property
    def log_e(self) -> float:
        """log e_t; inf once a token was drawn that the null certainly cannot draw."""
        return float(special.logsumexp(self.log_wealth, b=self.weights))

    @property
    def p_value(self) -> float:
        """1 / max e_t, an anytime-valid p-value."""
        return math.exp(-self.peak)

    def rejected(self, false_fail: float = 1e-6) -> bool:
        """Whether e_t ever reached 1 / false_fail at the end of an update."""
        return self.peak >= -math.log(check_open_unit("false_fail", false_fail))

    def growth(self, truth: Law) -> Float:
        """(alternatives,) E log f_k, nats a draw, under ``truth``; where it is positive for some k the null
        will fall."""
        check_same_vocab(truth.vocab, self.null.vocab)
        at = truth.probs > 0
        return self.log_factors[:, at] @ truth.probs[at]

    def draws_needed(self, truth: Law, false_fail: float = 1e-6, false_pass: float = 1e-6) -> int:
        """Draws by which a sampler of law ``truth`` is rejected with 1 - ``false_pass``. Certified.

        Chernoff on the best single bet: P(w_k prod f_k < 1/a) <= min_s (E f_k^-s)^n (w_k a)^-s. The median
        stop is near log(1 / (a w_k)) / growth, about a third of it at equal rates.
        """
        check_rates(false_fail, false_pass)
        best, at = int(self.growth(truth).argmax()), truth.probs > 0
        with np.errstate(over="ignore", divide="ignore"):  # log 0: every draw of the truth is beyond the null
            log_miss = np.log([truth.probs[at] @ np.exp(-s * self.log_factors[best, at]) for s in S])
        aim = math.log(self.weights[best] * false_fail)

        def enough(n: int) -> bool:
            return n <= MOST_DRAWS and log_upper(aim, n, log_miss) <= math.log(false_pass)

        return smallest(enough, "a truth on which no bet gains")


def assert_e_process(process: EProcess, false_fail: float = 1e-6) -> None:
    """AssertionError with n, log e and the level where the process has rejected its null."""
    if process.rejected(false_fail):
        leader = process.alternatives[int(process.log_wealth.argmax())].how
        raise AssertionError(
            f"sampler rejected by e-process: e reached exp({process.peak:.6g}) >= 1/{false_fail:g} within n = {process.n} "
            f"draws (valid at any stopping); the draws speak most for: {leader}"
        )


def _weights(weights: ArrayLike | None, count: int) -> Float:
    w = np.full(count, 1 / count) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (count,) or not (w > 0).all() or w.sum() > 1 + 1e-9:
        raise InputError(
            f"weights of shape {w.shape}", f"{count} positive numbers with a sum of at most 1", "normalise"
        )
    return w


def _log_factor(null: Law, alternative: Law, bet: float) -> Float:
    """(vocab,) log f; inf at tokens that the null certainly cannot draw."""
    check_same_vocab(alternative.vocab, null.vocab)
    p, error = null.probs, null.error
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed = np.logaddexp(
            math.log1p(-bet) + null.log_probs if bet < 1 else -np.inf, math.log(bet) + alternative.log_probs
        )
        log_f = mixed - (np.log(p + error) if error else null.log_probs)
    log_f[(p == 0) & (error == 0)] = np.inf
    with np.errstate(over="ignore"):
        return log_f - min(math.log(worst_mean(p, error, np.exp(log_f))), 0.0) if error else log_f
