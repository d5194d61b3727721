"""Tokens that cannot be drawn and were, and tokens that can be drawn and never were."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Array, Float
from .._checks import check_open_unit, check_same_vocab, check_whole
from ..counts import Counts
from ._binomial import check_rates, smallest
from ._chernoff import bernoulli_sum_upper
from .result import TestResult, asserting

_PARTS = 3  # p-values that are combined


def reachability_test(
    counts: Counts, law: Law, *, impossible: ArrayLike | None = None, false_fail: float = 1e-6
) -> TestResult:
    """p = min(1, 3 min(a, b, c)), each valid at every n:

    (a) draws of tokens that cannot be drawn: 0 at the first draw of a token in ``impossible`` ((vocab,)
    bool, zeros by
        construction, say of logit -inf), or of one with p_i = 0 where e = ``law.error`` = 0; else P(Binomial(n, e per
        such token) >= their draws);
    (b) the likeliest token never drawn, of probability x: P(some token of p_i >= x is never drawn)
        <= sum over those of (1 - p_i + e)^n;
    (c) how many tokens were never drawn: Chernoff for independent coins of rate (1 - p_i + e)^n, which
    bounds the true
        count, as the events "token i is never drawn" are negatively associated (Joag-Dev and Proschan 1983).

    ``statistic``: how many possible tokens were never drawn; ``expected``: its mean under the law.
    """
    check_open_unit("false_fail", false_fail)
    check_same_vocab(counts.vocab, law.vocab)
    n, drawn, p = counts.n, counts.counts, law.probs
    forbidden = _mask(impossible, law.vocab)
    if (p[forbidden] > law.error).any():
        raise InputError(
            "impossible tokens that the law draws", "tokens of probability 0", "pass the mask of -inf logits"
        )
    zero = (p == 0) & ~forbidden
    possible = (p > 0) & ~forbidden
    unseen = possible & (drawn == 0)
    missed = _never(law.log_probs, law.error, n)
    a = 0.0
    if not drawn[forbidden].any():
        a = float(stats.binom.sf(drawn[zero].sum() - 1, n, min(zero.sum() * law.error, 1.0)))
    b, c, lost = 1.0, 1.0, int(unseen.sum())
    if lost:
        b = float(missed[possible & (p >= p[unseen].max())].sum())
        c = bernoulli_sum_upper(lost, np.ones(int(possible.sum())), missed[possible])
    p_value = min(1.0, _PARTS * min(a, b, c))
    name, effect = "reachability_test", "probability of a token that is never drawn"
    expected = float(missed[possible].sum())
    detectable = detectable_reachability(n, law, false_fail)
    return TestResult(p_value, float(lost), n, detectable, false_fail, name, effect, expected=expected)


assert_reachability = asserting(reachability_test)


def detectable_reachability(n: int, law: Law, false_fail: float = 1e-6) -> float:
    """The smallest p_i such that the loss of that token, or of any likelier one, is seen for certain; inf
    if none is."""
    check_open_unit("false_fail", false_fail)
    p, bound = _union(check_whole("n", n, 1), law)
    seen = p[bound <= false_fail / _PARTS]
    return float(seen.min()) if len(seen) else math.inf


def draws_needed_reachability(
    law: Law, alternative: Law | float, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> int:
    """Draws that see the loss of a token of the given probability (or likelier), by part (b), for certain.

    An alternative law: the likeliest token that it lost, or, with 1 - ``false_pass``, one that it draws and
    ``law`` cannot (where law.error = 0), whichever needs fewer.
    """
    check_rates(false_fail, false_pass)
    found = []
    least = alternative
    if isinstance(alternative, Law):
        check_same_vocab(alternative.vocab, law.vocab)
        gained = float(alternative.probs[law.probs == 0].sum()) if law.error == 0 else 0.0
        if gained > 0:
            found.append(math.ceil(math.log(false_pass) / math.log1p(-min(gained, 1 - 2.0**-53))))
        least = float(law.probs[alternative.probs == 0].max(initial=0.0))
    assert isinstance(least, float)
    if least > law.error and least <= law.probs.max():

        def enough(n: int) -> bool:
            p, bound = _union(n, law)
            return bool(bound[p >= least].max() <= false_fail / _PARTS)

        found.append(smallest(enough, f"a token of probability {least}"))
    if not found:
        raise InputError(
            "an alternative that loses and gains no token", "a law with other zeros", "use tail_test"
        )
    return min(found)


def _never(log_p: Float, error: float, n: int) -> Float:
    """Bound on P(token i is never drawn in n draws): (1 - p_i + e)^n, 1 - p_i to its own digits."""
    log_p = np.minimum(log_p, 0.0)
    with np.errstate(divide="ignore"):
        rare = np.log1p(-np.maximum(np.minimum(np.exp(log_p), 0.5) - error, 0.0))
        likely = np.log(np.minimum(-np.expm1(log_p) + error, 1.0))
    return np.exp(n * np.where(log_p < -math.log(2), rare, likely))


def _union(n: int, law: Law) -> tuple[Float, Float]:
    """Probabilities, descending, and for each the bound that some token so likely is never drawn (ties
    included)."""
    log_p = np.sort(law.log_probs[law.probs > 0])[::-1]
    p = np.exp(log_p)
    total = np.cumsum(_never(log_p, law.error, n))
    last = np.searchsorted(-p, -p, side="right") - 1
    return p, total[last]


def _mask(tokens: ArrayLike | None, vocab: int) -> Array:
    if tokens is None:
        return np.zeros(vocab, dtype=bool)
    mask = np.asarray(tokens)
    if mask.shape != (vocab,) or mask.dtype != bool:
        raise InputError(f"tokens of shape {mask.shape}, dtype {mask.dtype}", f"({vocab},) bool", "pass a mask")
    return mask
