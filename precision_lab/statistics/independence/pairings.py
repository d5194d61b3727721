"""Which draws to pair: consecutive calls, rows of a batch, sliding windows, a draft and its target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ...errors import InputError
from ...laws.law import Law
from ...types import Float
from .._checks import check_open_unit, check_whole
from ..testing import TestResult, asserting
from .agreement import CLASSES, agreement_test, paired

Laws: TypeAlias = "Law | Float | Sequence[Law | Float]"


def serial_test(
    tokens: ArrayLike,
    law: Law | Float,
    *,
    lag: int = 1,
    classes: int = CLASSES,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
) -> TestResult:
    """Is a token independent of the one ``lag`` calls before? ``tokens``: (calls,), all of one law.

    :func:`agreement_test` of the pairs (t, t + lag), t in the first half of each block of 2 lag calls. Pairs that share
    a token are not independent of each other, and their count is not binomial.
    """
    drawn, width = paired(tokens, tokens, None)[0], check_whole("lag", lag, 1)
    if len(drawn) < 2 * width:
        raise InputError(
            f"{len(drawn)} tokens", f"2 lag = {2 * width} or more", "draw more, or shorten the lag"
        )
    blocks = drawn[: len(drawn) // (2 * width) * 2 * width].reshape(-1, 2, width)
    early, late = blocks[:, 0].ravel(), blocks[:, 1].ravel()
    result = agreement_test(
        early, late, law, law, classes=classes, false_fail=false_fail, false_pass=false_pass
    )
    return replace(result, test="serial_test")


def cross_row_test(
    tokens: ArrayLike, laws: Laws, *, classes: int = CLASSES, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> TestResult:
    """Are the rows of a batch independent? ``tokens``: (calls, batch); ``laws``: one for all rows, or one for each.

    :func:`agreement_test` of every two rows; p = min(1, pairs of rows x the least).
    """
    return replace(
        _over_rows(tokens, laws, math.inf, (0,), classes, false_fail, false_pass), test="cross_row_test"
    )


def window_test(
    tokens: ArrayLike, laws: Laws, shifts: Iterable[int], *, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> TestResult:
    """Does a row's noise slide over its neighbour's? ``tokens``: (calls, batch); rows r and r + 1, p as for all rows.

    If row r + 1 reads one table of noise s entries further on, the entry that won at token i of row r tends to win again
    at i - s: P(s) is :func:`agreement` at shift s, for flat logits (vocab - s) / (vocab + s) where 1 / vocab is due.
    """
    return replace(_over_rows(tokens, laws, 1, tuple(shifts), 0, false_fail, false_pass), test="window_test")


def draft_target_test(
    draft: ArrayLike,
    target: ArrayLike,
    draft_law: Law | Float,
    target_law: Law | Float,
    *,
    classes: int = CLASSES,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
) -> TestResult:
    """Is the target's draw independent of the draft's, q and p? (n,) tokens each: :func:`agreement_test` of the pairs.

    Of the rejections of speculative decoding: ``draft`` the rejected tokens, of law (q - p)+ / sum, ``target`` those
    drawn in their place, of law (p - q)+ / sum. They never agree; the two-way table sees that they know of each other.
    """
    laws = (draft_law, target_law)
    result = agreement_test(draft, target, *laws, classes=classes, false_fail=false_fail, false_pass=false_pass)
    return replace(result, test="draft_target_test")


def shuffle_test(
    first: ArrayLike,
    second: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = 9999,
    false_fail: float = 1e-3,
) -> TestResult:
    """Do two rows agree more often than with one of them shuffled? p = (b + 1) / (resamples + 1), b shuffles not below.

    Right whatever the two laws are, if the draws of a row are exchangeable: for laws in doubt. ``statistic``: the excess
    of agreements over the shuffled mean, in shuffled standard deviations.
    """
    if check_open_unit("false_fail", false_fail) * (check_whole("resamples", resamples, 1) + 1) < 1:
        raise InputError(
            f"{resamples} resamples for false_fail = {false_fail}", "1 / false_fail - 1 or more", "add some"
        )
    a, b = paired(first, second, None)
    agreed = int(np.count_nonzero(a == b))
    shuffled = np.array([np.count_nonzero(a == rng.permutation(b)) for _ in range(resamples)])
    spread = float(shuffled.std())
    z = (agreed - float(shuffled.mean())) / spread if spread > 0 else 0.0
    p_value = (int(np.sum(shuffled >= agreed)) + 1) / (resamples + 1)
    return TestResult(p_value, z, len(a), math.nan, false_fail, "shuffle_test", "not known without the laws")


assert_serial = asserting(serial_test)
assert_cross_row = asserting(cross_row_test)
assert_window = asserting(window_test)
assert_draft_target = asserting(draft_target_test)
assert_shuffle = asserting(shuffle_test)


def _over_rows(
    tokens: ArrayLike,
    laws: Laws,
    reach: float,
    shifts: tuple[int, ...],
    classes: int,
    false_fail: float,
    false_pass: float,
) -> TestResult:
    """:func:`agreement_test` of the rows at most ``reach`` apart, each at false_fail / number of them."""
    drawn = np.asarray(tokens)
    if drawn.ndim != 2 or drawn.shape[1] < 2:
        raise InputError(
            f"tokens of shape {drawn.shape}", "(calls, batch), batch >= 2", "one column for each row"
        )
    one = isinstance(laws, Law) or (isinstance(laws, np.ndarray) and laws.ndim == 1)
    each: Sequence[Law | Float] = [laws] * drawn.shape[1] if one else list(laws)  # type: ignore[arg-type, list-item]
    if len(each) != drawn.shape[1]:
        raise InputError(f"{len(each)} laws for {drawn.shape[1]} rows", "one law, or one for each", "repeat it")
    pairs = [(i, j) for j in range(len(each)) for i in range(j) if j - i <= reach]
    results = [
        agreement_test(
            drawn[:, i],
            drawn[:, j],
            each[i],
            each[j],
            shifts=shifts,
            classes=classes,
            false_fail=check_open_unit("false_fail", false_fail) / len(pairs),
            false_pass=false_pass,
        )
        for i, j in pairs
    ]
    worst = min(results, key=lambda result: result.p_value)
    p_value, detectable = min(1.0, len(pairs) * worst.p_value), max(result.detectable for result in results)
    return replace(worst, p_value=p_value, detectable=detectable, false_fail=false_fail)
