"""Draws that each come from another row of logits: do some of them share their noise?"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from ..errors import InputError
from ..laws.law import Law
from ..types import Array, Float, Guarantee, Int
from .counts import Counts
from .testing import TestResult, blocked_identity_test
from .testing._binomial import smallest
from .testing._chernoff import bernoulli_sum_upper, pooled
from .testing.blocked_identity import BLOCKS

# Tokens below are left out of temperatures, likelihoods and agreements: 2^24 of them hold less than 2e-13,
# and one draw of them fails the support test. A masked token of logit -1e4 would otherwise outweigh all
# other draws.
LEAST = 1e-20
CELLS = 64  # equal parts of the scale of cumulative sums, for the test of uniformity
NEAR = (1 / 64, 1 / 8)  # distances of two uniforms that count as near
FARTHEST = 4096  # lag that is thought of
KEPT = 1 << 24  # probabilities of rows that wait for their partner
MOST = 1 << 26  # probabilities of the rows that are looked at, from the first one on
FEWEST = 128  # draws from which a lag is looked for
SEARCHED = 1 << 16  # draws in which it is looked for
_SAMPLED = 1 << 22  # probabilities from which the power is taken
EFFECT = "share of the pairs with one vector of noise"


def likely_lag(tokens: Array, vocab: int) -> int | None:
    """The lag of 3 or more at which the first half of the tokens agree most, an agreement weighing -log of its
    token's frequency; None where there are too few.

    Any choice will do: the test of it looks at the second half alone.
    """
    seen = tokens[: min(len(tokens) // 2, SEARCHED)]
    most = min(len(seen) // 8, FARTHEST, KEPT // vocab)
    if len(tokens) < FEWEST or most < 3:
        return None
    count = np.bincount(seen, minlength=vocab)
    weight = -np.log(np.maximum(count, 1) / len(seen))[seen]
    scores = [
        float(weight[lag:][seen[lag:] == seen[:-lag]].sum()) / (len(seen) - lag) for lag in range(3, most + 1)
    ]
    return 3 + int(np.argmax(scores))


@dataclass
class _Lag:
    """The pairs (t, t + lag), t >= start and in the first half of a block of 2 lag draws, so that none
    shares a draw."""

    lag: int
    start: int
    agreed: list[Array]
    rates: list[Float]
    near: Int
    pairs: int = 0


class Sharing:
    """Agreements, and nearness on the scale of cumulative sums, of draws ``lag`` apart; gathered block by
    block.

    ``uniforms``: (n,) uniform numbers of our own, one a draw. With v of them, u_i = F_i(x_i - 1) + v
    p_i(x_i), F the cumulative sums, is uniform whatever the row. Two draws are then independent only if
    they agree with probability sum_k p_ik p_jk, and if |u_i - u_j| <= d with probability 2 d - d^2.
    Gumbel-max and exponential races on one vector of noise agree more often, searches in a cumulative sum
    by one uniform are nearer. ``lags``: of any pairs, and ``searched``, a lag found in the first half of
    the draws and tried on the second.
    """

    def __init__(self, uniforms: Float, lags: tuple[int, ...] = (1, 2), searched: int | None = None) -> None:
        self.uniforms = uniforms
        starts = dict.fromkeys(lags, 0)
        if searched is not None:
            starts[searched] = min(len(uniforms), 2 * SEARCHED) // 2
        none = np.zeros(len(NEAR), dtype=np.int64)
        self.lags = [_Lag(lag, start, [], [], none.copy()) for lag, start in starts.items()]
        self._reach = max(starts)
        self._blocks: deque[tuple[Float, Int, Int, Float]] = deque()
        self._shared = _Shared()
        self._left = MOST
        self.rows = 0
        self._cells: list[Array] = []

    def update(self, p: Float, tokens: Int, index: Int) -> None:
        """``p``: (k, vocab) probabilities; ``tokens``: (k,) draws of them; ``index``: (k,) their places,
        ascending."""
        if self._left < p.size:
            return
        self._left -= p.size
        self.rows += len(p)
        before = np.where(np.arange(p.shape[1]) < tokens[:, None], p, 0.0).sum(axis=1)
        own = np.take_along_axis(p, tokens[:, None], 1)[:, 0]
        u = np.clip(before + self.uniforms[index] * own, 0.0, 1.0)
        tokens = np.where(own < LEAST, -1 - np.arange(len(own)), tokens)
        u = np.where(own < LEAST, self.uniforms[index], u)
        self._cells.append(np.minimum(u * CELLS, CELLS - 1).astype(np.uint8))
        self._blocks.append((p, tokens, index, u))
        while self._blocks[0][2][-1] < index[0] - self._reach:
            self._blocks.popleft()
        for lag in self.lags:
            for earlier in self._blocks:
                self._pair(lag, earlier, self._blocks[-1])

    def _pair(
        self, lag: _Lag, earlier: tuple[Float, Int, Int, Float], later: tuple[Float, Int, Int, Float]
    ) -> None:
        wanted = earlier[2] + lag.lag
        if wanted[-1] < later[2][0] or wanted[0] > later[2][-1]:
            return
        _, a, b = np.intersect1d(wanted, later[2], assume_unique=True, return_indices=True)
        first = earlier[2][a]
        used = (first // lag.lag % 2 == 0) & (first >= lag.start)
        a, b = a[used], b[used]
        if not len(a):
            return
        p, q = earlier[0][a], later[0][b]
        lag.pairs += len(a)
        lag.agreed.append((earlier[1][a] == later[1][b]) & (later[1][b] >= 0))
        lag.rates.append(np.minimum(np.einsum("ij,ij->i", p, q), 1.0))
        apart = np.abs(earlier[3][a] - later[3][b])
        lag.near += [int((apart <= distance).sum()) for distance in NEAR]
        self._shared.update(p, q)

    def test(self, false_fail: float, false_pass: float) -> TestResult:
        """p = min(1, events x the least): by lag, the agreements (Chernoff and Hoeffding for coins of
        different rates) and the near pairs (exact binomial). Valid at every n.

        ``statistic``: pairs that agree beyond the number due, at the lag of the least p.  ``n``: pairs at
        that lag. ``detectable``: share of the pairs of the first lag with one vector of noise, of
        Gumbel-max or a race, by their agreements alone; those pairs taken for like the first ones. inf: no
        share is seen.
        """
        least, worst, excess, events = self._least()
        if worst is None:
            return TestResult(1.0, 0.0, 0, math.inf, false_fail, "row_sharing_test", EFFECT)
        first = next(lag for lag in self.lags if lag.pairs)
        detectable = self._detectable(first, false_fail / events, false_pass)
        return TestResult(
            min(1.0, events * least),
            excess,
            worst.pairs,
            detectable,
            false_fail,
            "row_sharing_test",
            f"{EFFECT}; least p at draws {worst.lag} apart",
        )

    @property
    def p_value(self) -> float:
        """That of :meth:`test`, without its power."""
        least, _, _, events = self._least()
        return min(1.0, events * least)

    def _least(self) -> tuple[float, _Lag | None, float, int]:
        """The least p-value, its lag, the pairs that agree beyond the number due there, and of how many it is
        the least."""
        asked = [lag for lag in self.lags if lag.pairs]
        events = len(asked) * (1 + len(NEAR))
        worst = None
        least = 1.0
        excess = 0.0
        for lag in asked:
            hits, trials, rates = self.pooled(lag)
            agreed = int(hits.sum())
            p_values = [
                bernoulli_sum_upper(agreed, trials.astype(np.float64), np.minimum(rates * (1 + 1e-9), 1.0))
            ]
            for near, distance in zip(lag.near, NEAR, strict=True):
                p_values.append(float(stats.binom.sf(near - 1, lag.pairs, 2 * distance - distance**2)))
            if worst is None or min(p_values) < least:
                worst, least = lag, min(p_values)
                excess = agreed - float(trials @ rates)
        return least, worst, excess, events

    def uniformity_test(self, false_fail: float, false_pass: float, rng: np.random.Generator) -> TestResult:
        """:func:`~.testing.blocked_identity_test` of the u_i of the rows looked at, in :data:`CELLS` equal
        parts, each of which is as likely whatever the rows are. ``n``: a multiple of 4. InputError for fewer
        draws than 4."""
        cells = np.concatenate(self._cells)
        size = len(cells) // BLOCKS
        if not size:
            raise InputError(f"{len(cells)} draws", f"{BLOCKS} or more", "record more")
        blocks = [Counts.from_tokens(cells[i * size : (i + 1) * size], CELLS) for i in range(BLOCKS)]
        equal = Law.from_probs(np.full(CELLS, 1 / CELLS), "equal parts", 0.0, Guarantee.EXACT)
        return blocked_identity_test(blocks, equal, rng=rng, false_fail=false_fail, false_pass=false_pass)

    def evidence(self) -> tuple[str, float] | None:
        """How the lag that says most agrees or is near beyond chance, and the nats it says against
        independence.

        Of k events where m are due: k log(k / m) - (k - m), less log(pairs) / 2 for the choice of the
        share. None below 0.
        """
        found: list[tuple[float, str]] = []
        for lag in self.lags:
            if not lag.pairs:
                continue
            hits, trials, rates = self.pooled(lag)
            said = [(int(hits.sum()), float(trials @ rates), "agree")]
            for near, distance in zip(lag.near, NEAR, strict=True):
                due = lag.pairs * (2 * distance - distance**2)
                said.append((int(near), due, f"are within {distance:g} on the scale of cumulative sums"))
            for seen, due, word in said:
                if seen > due:
                    log = special.xlogy(seen, seen / max(due, 1e-300)) - (seen - due) - math.log(lag.pairs) / 2
                    found.append(
                        (
                            float(log),
                            f"draws {lag.lag} apart: {seen:,} of {lag.pairs:,} pairs {word}, expected {due:,.3g}",
                        )
                    )
        if not found or max(found)[0] <= 0:
            return None
        log, how = max(found)
        return how, log

    def looked_at(self) -> str:
        """What pairs were looked at, and what that cannot show."""
        lags = ", ".join(str(lag.lag) for lag in self.lags if lag.pairs)
        where = "in the file" if self.rows == len(self.uniforms) else f"in its first {self.rows:,} rows"
        return (
            f"shared noise was looked for between draws {lags or 'none'} apart {where}; noise shared at other "
            "distances, or by rows that have no likely token in common, cannot be seen"
        )

    @staticmethod
    def pooled(lag: _Lag) -> tuple[Int, Int, Float]:
        return pooled(np.concatenate(lag.agreed), np.concatenate(lag.rates))

    def _detectable(self, lag: _Lag, false_fail: float, false_pass: float) -> float:
        _, trials, rates = self.pooled(lag)
        coins = trials.astype(np.float64)
        alone, shared = self._shared.means()
        if not shared - alone > 1e-9:
            return math.inf

        def fails(k: int) -> bool:
            return (
                k > lag.pairs
                or bernoulli_sum_upper(k, coins, np.minimum(rates * (1 + 1e-9), 1.0)) <= false_fail
            )

        least = smallest(fails, "agreements")
        if least > lag.pairs:
            return math.inf
        mean = float(special.gammainccinv(least, false_pass))  # fewer than least fall short of it so often
        share = (mean - float(coins @ rates)) / (lag.pairs * (shared - alone))
        return max(share, 0.0) if share <= 1 else math.inf


class _Shared:
    """Mean probability of agreement of the first pairs: independent, and with one vector of noise."""

    def __init__(self) -> None:
        self.left = _SAMPLED
        self.alone = self.shared = 0.0
        self.pairs = 0

    def update(self, p: Float, q: Float) -> None:
        count = min(len(p), self.left // p.shape[1] + (self.pairs == 0))
        if count < 1:
            return
        self.left -= count * p.shape[1]
        self.pairs += count
        self.alone += float((p[:count] * q[:count]).sum())
        self.shared += float(shared_agreement(p[:count], q[:count]).sum())

    def means(self) -> tuple[float, float]:
        if not self.pairs:
            return 0.0, 0.0
        return self.alone / self.pairs, self.shared / self.pairs


def shared_agreement(p: Float, q: Float) -> Float:
    """(k,) sum_i 1 / sum_j max(p_j / p_i, q_j / q_i): both rows of a pair draw one token from one vector of
    noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(q) - np.log(p)
    order = np.argsort(np.where(np.isnan(ratio), 0.0, ratio), axis=1)
    a, b = np.take_along_axis(p, order, 1), np.take_along_axis(q, order, 1)
    after = np.cumsum(b[:, ::-1], axis=1)[:, ::-1] - b
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        each = 1 / (np.cumsum(a, axis=1) / a + after / b)
    return np.where((a > 0) & (b > 0), each, 0.0).sum(axis=1)
