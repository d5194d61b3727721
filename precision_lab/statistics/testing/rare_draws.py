"""Draws too rare to be drawn at all: whether a logit is -inf or only far down does not matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...laws.law import Law
from ...types import Array, Float, Int
from .._checks import check_open_unit, check_same_vocab, check_whole
from ..counts import Counts
from ._binomial import check_rates
from .result import TestResult, asserting

_KEPT = 1e-3  # a draw of a greater chance is impossible at no level asked here
EFFECT = "share of draws of tokens too rare to be drawn"


@dataclass(frozen=True)
class RareToken:
    """A token whose draws are impossible: ``count`` of them, the ``first`` at this index.

    ``log_p``: natural log of its probability there. ``chance``: bound on P(any of n draws is as rare).
    """

    token: int
    count: int
    first: int
    log_p: float
    chance: float


class RareDraws:
    """The draws of the smallest chances, gathered in chunks. The chance of a draw x ~ p: g = sum of the p_j
    <= p_x.

    P(g <= u) <= u for every u, as those tokens hold at most u together. ``least``: the smallest g of all draws.
    """

    def __init__(self) -> None:
        self.least = 1.0
        self._kept: list[tuple[Float, Float, Int, Int]] = []

    def update(self, chance: Float, log_p: Float, tokens: Int, index: Int) -> None:
        """All (k,): g of each draw, log p of its token, the token, and where the draw is in the file."""
        if not len(chance):
            return
        self.least = min(self.least, float(chance.min()))
        rare = np.flatnonzero(chance <= _KEPT)
        if len(rare):
            self._kept.append((chance[rare], log_p[rare], tokens[rare], index[rare]))

    def impossible(self, n: int, false_fail: float) -> list[RareToken]:
        """Tokens that were drawn where one such draw among ``n`` has a chance of ``false_fail`` or less,
        most first."""
        if not self._kept:
            return []
        chance, log_p, tokens, index = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        bad = rare_draws_p_values(chance, n) <= false_fail
        chance, log_p, tokens, index = chance[bad], log_p[bad], tokens[bad], index[bad]
        if not len(tokens):
            return []
        order = np.lexsort((index, tokens))
        different, first, counts = np.unique(tokens[order], return_index=True, return_counts=True)
        at = order[first]
        p_values = rare_draws_p_values(chance[at], n)
        found = [
            RareToken(int(token), int(count), int(index[i]), float(log_p[i]), float(p_value))
            for token, count, i, p_value in zip(different, counts, at, p_values, strict=True)
        ]
        return sorted(found, key=lambda rare: (-rare.count, rare.first))


def rare_draws_p_values(chance: Float, n: int) -> Float:
    """1 - (1 - g)^n, elementwise: P(some of n independent draws has a chance of g or less) is at most that."""
    with np.errstate(divide="ignore"):
        return -np.expm1(n * np.log1p(-np.minimum(chance, 1.0)))


def rare_draws_p_value(chance: float, n: int) -> float:
    """:func:`rare_draws_p_values` of one g."""
    return float(rare_draws_p_values(np.array([chance]), n)[0])


def chances(law: Law, relative: float = math.inf) -> Float:
    """(vocab,) g of every token: the mass of those at most as likely, each p raised to min(p + error, p (1
    + relative))."""
    p = law.probs
    with np.errstate(invalid="ignore"):
        raised = np.minimum(p + law.error, np.where(p > 0, p * (1 + relative), 0.0 if relative < 1 else np.inf))
    order = np.argsort(law.log_probs, kind="stable")
    total = np.cumsum(raised[order])
    ordered = law.log_probs[order]
    last = np.searchsorted(ordered, ordered, side="right") - 1
    found = np.empty(law.vocab)
    found[order] = np.minimum(total[last], 1.0)
    return found


def rare_draws_test(
    counts: Counts,
    law: Law,
    *,
    relative: float = math.inf,
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
) -> TestResult:
    """p = 1 - (1 - g)^n, g the mass of all tokens at most as likely as the rarest one drawn.

    Valid at every n and for every law: each draw has P(its g <= u) <= u, whatever u, so the rarest of n has
    at most 1 - (1 - u)^n. A token of probability 0 gives p = 0. ``relative``: bound on |p_i / truth - 1| of
    every token, for a law that is known so (a softmax of given logits); else ``law.error`` stands for what
    a token may have. ``statistic``: draws that alone would fail. ``detectable``:
    :func:`detectable_rare_draws`.
    """
    check_rates(false_fail, false_pass)
    check_same_vocab(counts.vocab, law.vocab)
    n, drawn = counts.n, counts.counts
    p_values = rare_draws_p_values(chances(law, relative), n)
    found = int(drawn[p_values <= false_fail].sum())
    p_value = float(p_values[drawn > 0].min())
    seen = detectable_rare_draws(n, law, false_fail, false_pass, relative=relative)
    return TestResult(p_value, float(found), n, seen, false_fail, "rare_draws_test", EFFECT)


assert_rare_draws = asserting(rare_draws_test)


def detectable_rare_draws(
    n: int, law: Law, false_fail: float = 1e-6, false_pass: float = 1e-3, *, relative: float = math.inf
) -> float:
    """Smallest share of draws, of tokens that alone fail at this n, that is passed at most ``false_pass``
    often.

    1 - false_pass^(1/n), exact; inf where the law has no token so rare.
    """
    check_rates(false_fail, false_pass)
    n = check_whole("n", n, 1)
    if not _forbidden(n, law, false_fail, relative).any():
        return math.inf
    return -math.expm1(math.log(false_pass) / n)


def draws_needed_rare_draws(
    law: Law, share: float, false_fail: float = 1e-6, false_pass: float = 1e-3, *, relative: float = math.inf
) -> int:
    """Draws that show a ``share`` of draws of tokens too rare, with 1 - ``false_pass``: log false_pass /
    log(1 - share).

    InputError where the law has no token that is too rare at that many draws.
    """
    check_rates(false_fail, false_pass)
    check_open_unit("share", share)
    n = math.ceil(math.log(false_pass) / math.log1p(-share))
    if not _forbidden(n, law, false_fail, relative).any():
        raise InputError(
            f"a law whose every token can be among {n} draws", "a token that cannot", "use tail_test"
        )
    return n


def _forbidden(n: int, law: Law, false_fail: float, relative: float) -> Array:
    return np.asarray(rare_draws_p_values(chances(law, relative), n) <= false_fail)
