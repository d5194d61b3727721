"""Equal logits must be drawn equally often. An argmax that takes the first of equal scores favours low indices."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ...errors import InputError
from ...laws.law import Law, check_logits
from ...types import Array
from .._checks import check_same_vocab
from ..counts import Counts
from ..estimate import proportion
from ._binomial import check_rates, conditional_power, smallest, two_sided
from .result import TestResult, asserting
from .tail import detectable_tail


def tie_order_test(
    counts: Counts, logits: ArrayLike, *, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> TestResult:
    """F of the m draws that fell on tied tokens fell on the first half: F given m is Binomial(m, 1/2). Exact.

    Within each group of equal logits the tokens of lower index are the first half, as many of the highest the last; the
    middle token of an odd group is left out. Under a right sampler every tied token is equally likely, whatever its law,
    so no law is asked for. ``n``: m. ``estimate``: F / m. -inf is no tie.
    """
    check_rates(false_fail, false_pass)
    first, last = tie_halves(logits)
    check_same_vocab(counts.vocab, len(first))
    hits = int(counts.counts[first].sum())
    m = hits + int(counts.counts[last].sum())
    if not m:
        raise InputError("no draw of a tied token", "at least one", "draw more, or take a flatter row")
    return TestResult(
        two_sided(hits, m, 0.5, 0.5),
        (2 * hits - m) / m**0.5,
        m,
        detectable_tie_order(m, false_fail, false_pass),
        false_fail,
        "tie_order_test",
        "relative deviation of the first half's share from 1/2",
        estimate=proportion(hits, m, 1 - false_fail),
        expected=0.5,
    )


assert_tie_order = asserting(tie_order_test)


def detectable_tie_order(m: int, false_fail: float = 1e-6, false_pass: float = 1e-6) -> float:
    """Smallest |2 share - 1| seen with m draws of tied tokens: :func:`detectable_tail` of 1/2."""
    return detectable_tail(m, 0.5, false_fail, false_pass)


def draws_needed_tie_order(
    logits: ArrayLike, alternative: Law, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> int:
    """Draws in all with which the test fails a sampler of the alternative law: m is then binomial. Exact power."""
    check_rates(false_fail, false_pass)
    first, last = tie_halves(logits)
    check_same_vocab(alternative.vocab, len(first))
    low, high = (float(alternative.probs[half].sum()) for half in (first, last))
    if low == high:
        raise InputError(
            "an alternative that treats ties alike", "one that favours an end", "name another alternative"
        )
    share, tied = low / (low + high), min(low + high, 1.0)
    return smallest(lambda n: conditional_power(n, tied, false_fail)(share) >= 1 - false_pass, "ties")


def tie_halves(logits: ArrayLike) -> tuple[Array, Array]:
    """(vocab,) bool masks of the first and the last half of every group of equal finite logits; InputError if none."""
    row = check_logits(np.asarray(logits))
    order = np.argsort(row, kind="stable")
    _, start, size = np.unique(row[order], return_index=True, return_counts=True)
    rank = np.arange(len(row)) - np.repeat(start, size)  # of the token within its group
    of = np.repeat(size, size)
    first, last = np.zeros(len(row), dtype=bool), np.zeros(len(row), dtype=bool)
    finite = np.isfinite(row[order])
    first[order] = finite & (rank < of // 2)
    last[order] = finite & (rank >= of - of // 2)
    if not first.any():
        raise InputError(
            "logits without a tie", "two equal finite logits or more", "use a row with equal logits"
        )
    return first, last
