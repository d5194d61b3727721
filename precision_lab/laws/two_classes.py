"""A head and many equal tokens: the law of an argmax in one sum, whatever their number."""

from __future__ import annotations

import math

import numpy as np

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FP32, FP64, FloatFormat
from ..types import Array, Guarantee
from .argmax import Combine, _Table
from .law import Law

_DEPTH = 40.0  # scores of the head below which no tail token lies with probability e^-40 are one class


def two_class_law(
    head: float, tail: float, count: int, noise: Atoms, *, combine: Combine, score: FloatFormat
) -> Law:
    """The law over (the head, all of the tail together), (2,), of argmax(score(weight, noise)) over one
    token of weight ``head`` and then ``count`` tokens of weight ``tail``; the first of equal scores wins,
    so ties go to the head.

        P(tail) = sum_s m(s) (1 - (1 - A(s))^count),

    m(s) = P(score of the head = s), A(s) = P(score of one tail token > s), both in whole words. ``combine``
    "add" or "divide", ``score``: as in :func:`~precision_lab.laws.argmax.argmax_law`, which this equals, in
    milliseconds and for any ``count``. Error below 1e-12, of float64 sums of positive terms and of the
    tail's depth, e^-40.
    InputError for weights that are not finite (or, to divide, not positive), count < 1, or another ``combine``.
    """
    if combine not in ("add", "divide"):
        raise InputError(f"combine {combine!r}", "add or divide", "use argmax_law")
    if not (math.isfinite(head) and math.isfinite(tail)) or (combine == "divide" and min(head, tail) <= 0):
        raise InputError(f"weights {head} and {tail}", "finite ones, above 0 to divide", "change them")
    if count < 1:
        raise InputError(f"count = {count}", "at least 1 tail token", "change it")
    table = _Table.of(noise, combine, score)
    total = 1 << noise.bits
    reached = total - math.ceil(min(_DEPTH / count, 1.0) * total)
    levels = int(np.count_nonzero(table.remaining > reached))
    falling = _negated_scores(head, table.noise, combine, score)
    tail_scores = _negated_scores(tail, table.noise[:levels], combine, score)
    # Head words that score at least as much as the k-th best tail value: the first k - 1 of these beat the
    # others, at most.
    not_below = total - table.remaining[np.searchsorted(falling, tail_scores, side="right")]
    words = np.diff(np.append(not_below, total))
    above = np.ldexp((total - table.remaining[1 : levels + 1]).astype(np.float64), -noise.bits)
    with np.errstate(divide="ignore"):
        some_above = -np.expm1(count * np.log1p(-above))
    won = float(np.ldexp(words.astype(np.float64), -noise.bits) @ some_above)
    how = f"one sum over {levels} values of the tail's score, ties to the head"
    return Law.from_probs(np.array([1.0 - won, won]), how, 1e-12, Guarantee.EXACT)


def _negated_scores(weight: float, noise: Array, combine: Combine, score: FloatFormat) -> Array:
    """Minus the scores of the noise in order of favour: ascending."""
    held = noise.dtype.type(weight)
    with np.errstate(divide="ignore", over="ignore"):
        scores = -(held + noise) if combine == "add" else -held / noise
    if score in (FP32, FP64):
        return scores
    return score.round(scores.astype(np.float64))
