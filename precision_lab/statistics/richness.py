"""How many tokens there are in effect: Hill numbers and coverage, as seen and as estimated, with intervals.

The Hill number of order q, (sum_i p_i^q)^(1/(1-q)), counts equally likely tokens that would be as diverse:
0 counts all, 1 is exp(entropy), 2 is 1 / P(two draws are alike).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..laws.law import Law
from ..types import Int
from ._checks import check_tokens
from .counts import Counts
from .entropies import chao_wang_jost, entropy
from .estimate import Estimate, difference
from .rarefaction import check_order, effective_number, rarefied, rarefied_coverage, rarefied_to_coverage
from .resampling import cluster_jackknife, draw_jackknife

Draws = Counts | ArrayLike


def hill_number(source: Law | Counts, order: float) -> float:
    """(sum_i p_i^q)^(1/(1-q)), q >= 0; of Counts the plug-in value, biased low."""
    q = check_order(order)
    if q == 1:
        return math.exp(entropy(source))
    p = source.probs[source.probs > 0]
    return effective_number(p, np.ones(len(p)), q)


def chao_jost(counts: Counts, order: Literal[0, 1, 2]) -> float:
    """Hill number of the law behind the counts, order 0, 1 or 2.

    0: S + (n-1)/n f1^2 / (2 f2), or (n-1)/n f1 (f1-1) / 2 where f2 = 0: a lower bound in expectation (Chao
    1984). 1: exp of :func:`~.entropies.chao_wang_jost`. 2: n (n-1) / sum X (X-1), inf where nothing was
    drawn twice. Chao and Jost 2015, doi:10.1111/2041-210X.12349.
    """
    n, x = counts.n, counts.counts
    if order == 0:
        f1, f2 = int((x == 1).sum()), int((x == 2).sum())
        unseen = f1**2 / (2 * f2) if f2 else f1 * (f1 - 1) / 2
        return int((x > 0).sum()) + (n - 1) / n * unseen
    if order == 1:
        return math.exp(chao_wang_jost(counts))
    if order == 2:
        pairs = math.fsum(x.astype(np.float64) * (x - 1))
        return n * (n - 1) / pairs if pairs else math.inf
    raise InputError(f"order {order}", "0, 1 or 2", "use hill_number or rarefied for other orders")


def sample_coverage(counts: Counts) -> float:
    """Share of the law's mass on the tokens seen: 1 - f1 / n (1 - A), Good's 1 - f1 / n but for A.

    Chao and Jost 2012, doi:10.1890/11-1952.1, A as in :func:`~.entropies.rare`. For independent draws: a
    token that repeats its neighbour is seen once less often than it should be, and the share then reads too
    high.
    """
    return rarefied_coverage(counts, counts.n)


def hill(
    draws: Draws,
    order: Literal[0, 1, 2],
    *,
    size: int | None = None,
    coverage: float | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Hill number with its jackknife interval: :func:`chao_jost`, or rarefied to a ``size`` in draws or a
    ``coverage``.

    ``draws``: Counts of independent draws, or token ids (sequences, length), of which whole sequences are
    left out. The interval holds the expectation of the estimator, which lies below the law's number where
    much is unseen, most for order 0, and where draws inside a sequence are alike. With 500 draws of Zipf
    over 2,000 tokens a 95 % interval holds the law's number 0.03, 0.71 and 0.95 of the time for orders 0,
    1, 2 (judge_calibration).
    Errors: InputError for a size above n less one draw (sequence), or a coverage that is not reached
    without one.
    """
    return _jackknife(_measure(order, size, coverage), draws, confidence)


def coverage_estimate(draws: Draws, confidence: float = 0.95) -> Estimate:
    """:func:`sample_coverage` with its jackknife interval, over draws or sequences as in :func:`hill`.

    Over draws it holds the mass that these very draws saw, whose error has the variance (f1 + 2 f2) / n^2
    of the jackknife (Esty 1983), more than that of the estimate.
    """
    return _jackknife(sample_coverage, draws, confidence)


def hill_difference(
    first: Draws,
    second: Draws,
    order: Literal[0, 1, 2],
    *,
    size: int | None = None,
    coverage: float | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """:func:`hill` of the first less that of the second, which are independent.

    Errors: InputError for unequal numbers of draws, unless rarefied: every estimator still moves with n.
    """
    sizes = [_counts(draws).n for draws in (first, second)]
    if sizes[0] != sizes[1] and size is None and coverage is None:
        raise InputError(
            f"{sizes[0]} draws against {sizes[1]}",
            "equal numbers",
            f"rarefy both: size={min(sizes) * 9 // 10}, or a coverage that both reach",
        )
    measure = _measure(order, size, coverage)
    return difference(*(_jackknife(measure, draws, confidence) for draws in (first, second)))


def _measure(order: Literal[0, 1, 2], size: int | None, coverage: float | None) -> Callable[[Counts], float]:
    if size is not None and coverage is not None:
        raise InputError("a size and a coverage", "one of them", "choose what to hold equal")
    if size is not None:
        return lambda counts: rarefied(counts, size, order)
    if coverage is not None:
        return lambda counts: rarefied_to_coverage(counts, coverage, order)
    return lambda counts: chao_jost(counts, order)


def _counts(draws: Draws) -> Counts:
    if isinstance(draws, Counts):
        return draws
    rows = _renumbered(draws)
    return Counts.from_tokens(rows, int(rows.max()) + 1)


def _renumbered(draws: ArrayLike) -> Int:
    """Tokens (sequences, length) numbered from 0 by rank, since only which are alike counts, and ids may be
    large."""
    rows = check_tokens(draws)
    if rows.min() < 0:
        raise InputError(f"a token of {rows.min()}", "ids of 0 or more", "leave out the padding")
    return np.unique(rows, return_inverse=True)[1].reshape(rows.shape).astype(np.int64)


def _jackknife(measure: Callable[[Counts], float], draws: Draws, confidence: float) -> Estimate:
    if isinstance(draws, Counts):
        return draw_jackknife(measure, draws, confidence)
    rows = _renumbered(draws)
    vocab = int(rows.max()) + 1
    return cluster_jackknife(lambda at: measure(Counts.from_tokens(rows[at], vocab)), len(rows), confidence)
