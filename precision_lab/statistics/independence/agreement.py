"""Pairs of draws that know of each other: they agree too often, or fill the wrong cells of a two-way table."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Float, Int
from .._checks import check_open_unit, check_same_vocab, check_whole, log_probs_of
from ..estimate import proportion
from ..testing import TestResult, asserting
from ..testing._binomial import detected_rates, smallest

CLASSES = 4  # 16 cells and the agreements: 17 events


def agreement(p: Law | Float, q: Law | Float, shift: int = 0) -> tuple[float, float]:
    """P(first - second = shift), first ~ p and second ~ q: (independent, with one vector of noise).

    ``sum_i p_i q_{i-shift}``, and ``sum_i 1 / sum_j max(p_j / p_i, q_j / q_i)`` for Gumbel-max or an
    exponential race, where q's logits meet the table of noise ``shift`` entries further on. The second is
    never the smaller.
    """
    first, second = np.exp(log_probs_of(p)), np.exp(log_probs_of(q))
    check_same_vocab(len(second), len(first))
    vocab = len(first)
    if not abs(shift) < vocab:
        raise InputError(
            f"shift = {shift}", f"less than the vocabulary, {vocab}", "tokens cannot differ by more"
        )
    table = np.zeros((2, vocab + abs(shift)))
    table[0, max(0, -shift) :][:vocab], table[1, max(0, shift) :][:vocab] = first, second
    a, b = table[:, table.any(axis=0)]
    with np.errstate(divide="ignore"):
        order = np.argsort(np.log(b) - np.log(a), kind="stable")
    a, b = a[order], b[order]
    both = (a > 0) & (b > 0)
    # of q where p / q is smaller; before and here p / p_i leads
    after = np.append(np.cumsum(b[::-1])[::-1][1:], 0.0)
    with np.errstate(over="ignore"):  # beside a probability near 5e-324: 1 / inf, which is 0 to its last digit
        shared = math.fsum(1 / (np.cumsum(a)[both] / a[both] + after[both] / b[both]))
    return min(1.0, float(a @ b)), min(1.0, shared)


def agreement_test(
    first: ArrayLike,
    second: ArrayLike,
    p: Law | Float,
    q: Law | Float,
    *,
    shifts: Iterable[int] = (0,),
    classes: int = CLASSES,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
) -> TestResult:
    """Are (first_t, second_t), t = 1..n, independent draws of p and q? The pairs must be independent of
    each other.

    Events: first - second = s for each of ``shifts``, and the cells of the two-way table of ``classes``
    runs of tokens of about equal mass under each law (0: none). Each count is binomial with the product
    law's probability, or any within the laws' errors; p = min(1, events x the least two-sided exact
    p-value), Holm's first step. ``statistic``: z of that event, ``estimate``: its rate. ``detectable``:
    :func:`detectable_sharing` of the worst shift. Choose shifts and classes before seeing the draws.
    """
    law_a, law_b = np.exp(log_probs_of(p)), np.exp(log_probs_of(q))
    check_same_vocab(len(law_b), len(law_a))
    a, b = paired(first, second, len(law_a))
    n, steps, error = len(a), sorted(set(shifts)), _error(p) + _error(q)
    hits = [int(np.count_nonzero(a - b == s)) for s in steps]
    rates = [agreement(law_a, law_b, s)[0] for s in steps]
    low, high = [rate - error for rate in rates], [rate + error for rate in rates]
    if check_whole("classes", classes, 0) > 1:
        (of_a, rows, off_a), (of_b, columns, off_b) = _classes(law_a, classes, p), _classes(law_b, classes, q)
        hits += np.bincount(of_a[a] * classes + of_b[b], minlength=classes**2).tolist()
        rates += np.outer(rows, columns).ravel().tolist()
        low += np.outer((rows - off_a).clip(0), (columns - off_b).clip(0)).ravel().tolist()
        high += np.outer(rows + off_a, columns + off_b).ravel().tolist()
    if not hits:
        raise InputError("no shifts and no classes", "an event to count", "shifts=(0,) counts agreements")
    fewer = stats.binom.cdf(hits, n, np.clip(low, 0, 1))
    more = stats.binom.sf(np.subtract(hits, 1), n, np.clip(high, 0, 1))
    p_values = np.minimum(1.0, 2 * np.minimum(fewer, more))
    worst, events = int(p_values.argmin()), len(hits)
    excess, spread = hits[worst] - n * rates[worst], math.sqrt(n * rates[worst] * max(0.0, 1 - rates[worst]))
    z = excess / spread if spread > 0 else math.copysign(math.inf, excess) if excess else 0.0
    shares = [detectable_sharing(n, p, q, s, events, false_fail, false_pass) for s in steps]
    return TestResult(
        min(1.0, events * float(p_values[worst])),
        z,
        n,
        max(shares, default=math.inf),
        false_fail,
        "agreement_test",
        "share of pairs with one vector of noise",
        estimate=proportion(hits[worst], n),
        expected=rates[worst],
    )


assert_agreement = asserting(agreement_test)


def detectable_sharing(
    n: int,
    p: Law | Float,
    q: Law | Float,
    shift: int = 0,
    events: int = CLASSES**2 + 1,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
) -> float:
    """Smallest share of n pairs with one vector of noise that :func:`agreement_test` passes at most
    ``false_pass`` often.

    By the agreements at this shift alone, so the test may see less. inf where it does not even see a share
    of 1.
    """
    alone, shared = agreement(p, q, shift)
    side = check_open_unit("false_fail", false_fail) / check_whole("events", events, 1)
    n, miss, most = (
        check_whole("n", n, 1),
        check_open_unit("false_pass", false_pass),
        alone + _error(p) + _error(q),
    )
    if not most < shared:
        return math.inf
    rate = detected_rates(n, most, most, side, miss)[1]
    return (rate - alone) / (shared - alone) if rate <= shared else math.inf


def draws_needed_sharing(
    p: Law | Float,
    q: Law | Float,
    share: float = 1.0,
    shift: int = 0,
    events: int = CLASSES**2 + 1,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
) -> int:
    """Pairs with which :func:`agreement_test` fails noise shared in a ``share`` of them, with at least 1 -
    false_pass."""
    if not 0 < share <= 1:
        raise InputError(f"share = {share}", "0 < share <= 1", "1 is noise that is always shared")

    def enough(n: int) -> bool:
        return detectable_sharing(n, p, q, shift, events, false_fail, false_pass) <= share

    return smallest(enough, f"noise shared in {share:g} of the pairs")


def paired(first: ArrayLike, second: ArrayLike, vocab: int | None) -> tuple[Int, Int]:
    """Two rows of token ids, (n,) each, as int64; InputError for anything else, and for ids not in
    0..vocab-1."""
    a, b = np.asarray(first), np.asarray(second)
    for ids in (a, b):
        if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
            raise InputError(
                f"tokens of shape {ids.shape}, dtype {ids.dtype}", "(n,) integers, n >= 1", "pass token ids"
            )
        if vocab is not None and not (ids.min() >= 0 and ids.max() < vocab):
            raise InputError(
                f"tokens from {ids.min()} to {ids.max()}", f"0 to {vocab - 1}", "pass the law they follow"
            )
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} tokens", "pairs: equally many", "draw both in the same calls")
    return a.astype(np.int64), b.astype(np.int64)


def _classes(mass: Float, classes: int, law: Law | Float) -> tuple[Int, Float, Float]:
    """A label 0..classes-1 for each token, runs of about equal mass; the mass of each label, and how wrong
    it can be."""
    middle = np.cumsum(mass) - mass / 2
    labels = np.clip((classes * middle).astype(np.int64), 0, classes - 1)
    size, share = np.bincount(labels, minlength=classes), np.bincount(labels, weights=mass, minlength=classes)
    return labels, share.astype(np.float64), _error(law) * size.astype(np.float64)


def _error(law: Law | Float) -> float:
    return law.error if isinstance(law, Law) else 0.0
