"""Diversity at a smaller sample: the expected value of what m draws would show, exactly. The cure for
unequal n.

From counts: over all subsets of m of the n draws (hypergeometric). From a law: over all samples of m
(binomial). Gotelli and Colwell 2001; Chao and Jost 2012, doi:10.1890/11-1952.1; Chao et al. 2014,
doi:10.1890/13-0133.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import special

from ..errors import InputError
from ..laws.law import Law
from ..types import Float, Int
from ._checks import check_open_unit, check_whole
from .counts import Counts
from .entropies import rare

_MOST_DRAWS = 10**10  # of counts: the log-gamma of more has no digits to spare
_MOST_SIZE = 10**8  # 2 GiB of expected counts
_ENTRIES = 1 << 20  # of one block of (tokens, k): 8 MiB


def rarefied(source: Counts | Law, size: int, order: float = 0.0) -> float:
    """Hill number at ``size`` = m draws: D = (sum_k (k/m)^q E f_k)^(1/(1-q)), f_k the number of tokens
    drawn k times.

    q = 0: the expected number of different tokens. q = 1: exp of the expected plug-in entropy, so that its
    logarithm is what :func:`~.diversity.sequence_entropy` reads on average off m independent draws. q = 2:
    1 / E sum (k/m)^2. At m = n of the counts: :func:`~.richness.hill_number`. Relative error about 1e-15 n
    (log-gamma).
    Errors: InputError for order < 0, m < 1, m > 10^8 (memory), m > n of Counts, or n > 10^10 (digits).
    """
    m, q = check_whole("size", size, 1), check_order(order)
    if m > _MOST_SIZE:
        raise InputError(f"size {m}", f"at most {_MOST_SIZE:.0e}", "rarefy to fewer draws")
    if isinstance(source, Counts):
        _check_digits(source)
    if isinstance(source, Counts) and m > source.n:
        raise InputError(f"size {m} of {source.n} draws", f"at most {source.n}", "rarefaction only goes down")
    expected = np.zeros(m + 1)  # of f_k
    for times, k, probs in _drawn(source, m):
        expected[k[0] : k[0] + len(k)] += times @ probs
    share = np.arange(1, m + 1) / m
    if q == 0:
        return math.fsum(expected[1:])
    if q == 1:
        return math.exp(-math.fsum(share * np.log(share) * expected[1:]))
    return effective_number(share, expected[1:], q)


def effective_number(p: Float, times: Float, order: float) -> float:
    """(sum_i times_i p_i^q)^(1/(1-q)), q != 1, p > 0, sum_i times_i p_i = 1 but for rounding.

    Near q = 1, where the sum is 1 and its rounding would be divided by 1 - q, from sum times p (p^(q-1) -
    1) over the sum of times p, by expm1; above q = 16, where p^q underflows, by logarithms.
    """
    excess = order - 1
    if abs(excess) < 1 / 16:
        grown = math.fsum(times * p * np.expm1(excess * np.log(p)))
        return math.exp(-math.log1p(grown / math.fsum(times * p)) / excess)
    if order > 16:
        drawn = times > 0
        return math.exp(-float(special.logsumexp(order * np.log(p[drawn]), b=times[drawn])) / excess)
    return math.fsum(p**order * times) ** (1 / (1 - order))


def rarefied_coverage(counts: Counts, size: int) -> float:
    """Estimated sample coverage of m of the n draws: 1 - sum_i X_i / n C(n - X_i, m) / C(n - 1, m), m < n;
    unbiased.

    m = n: 1 - f1 / n (1 - A), as :func:`~.richness.sample_coverage`. Errors: InputError as of :func:`rarefied`.
    """
    m, n, x = check_whole("size", size, 1), counts.n, counts.counts[counts.counts > 0]
    if m > n:
        raise InputError(f"size {m} of {n} draws", f"at most {n}", "rarefaction only goes down")
    if m == n:
        f1, a = rare(counts)
        return 1 - f1 / n * (1 - a)
    _check_digits(counts)
    x = x[x <= n - m]
    missed = special.gammaln(n - x + 1) - special.gammaln(n - x - m + 1) + math.lgamma(n - m) - math.lgamma(n)
    return 1 - math.fsum(x / n * np.exp(missed))


def size_at_coverage(counts: Counts, coverage: float) -> float:
    """The m, 1 <= m <= n, at which :func:`rarefied_coverage` is ``coverage``, linear between whole numbers.

    Errors: InputError where the counts do not reach that coverage, or one draw exceeds it.
    """
    target, few, many = check_open_unit("coverage", coverage), 1, counts.n
    least, most = rarefied_coverage(counts, few), rarefied_coverage(counts, many)
    if not least <= target <= most:
        raise InputError(
            f"coverage {target}", f"{least:.6g} to {most:.6g} with these draws", "draw more, or ask less"
        )
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if rarefied_coverage(counts, middle) <= target else (few, middle)
    low, high = rarefied_coverage(counts, few), rarefied_coverage(counts, many)
    return few + (target - low) / (high - low) if high > low else float(many)


def rarefied_to_coverage(counts: Counts, coverage: float, order: float = 0.0) -> float:
    """Hill number at the size of :func:`size_at_coverage`, linear between whole sizes: laws are compared
    where the same share of their mass has been seen, not after the same number of draws."""
    size = size_at_coverage(counts, coverage)
    low, part = math.floor(size), size - math.floor(size)
    below = rarefied(counts, low, order)
    return below + part * (rarefied(counts, low + 1, order) - below) if part else below


def _check_digits(counts: Counts) -> None:
    """The logarithms of factorials of n are known to 1e-16 n log n, which must stay far below 1."""
    if counts.n > _MOST_DRAWS:
        raise InputError(
            f"{counts.n:.3g} draws", f"at most {_MOST_DRAWS:.0e}", "draws so many need no rarefaction"
        )


def check_order(order: float) -> float:
    if not 0 <= order < math.inf:
        raise InputError(
            f"order {order}", "a number, 0 or more", "0 counts tokens, 1 is exp(entropy), 2 weighs the common"
        )
    return float(order)


def _drawn(source: Counts | Law, m: int) -> Iterator[tuple[Float, Int, Float]]:
    """(how many tokens (tokens,), k >= 1 (ks,), P(such a token is drawn k times) (tokens, ks)), all tokens
    in turn."""
    n = source.n if isinstance(source, Counts) else 1
    each = source.counts if isinstance(source, Counts) else np.minimum(source.probs, 1.0)
    values, times = np.unique(each[each > 0], return_counts=True)
    mean = m * values / n
    # beyond mean -/+ far lies less than e^-40, binomial or hypergeometric (Bernstein)
    far = 9 * np.sqrt(mean) + 40
    few, many = np.floor(mean - far), np.ceil(mean + far)
    first = 0
    while first < len(values):
        last = int(np.searchsorted(many, 2 * many[first], side="right"))  # of similar mean
        k = np.arange(max(1, int(few[first])), min(m, int(many[last - 1])) + 1)
        last = min(last, first + max(1, _ENTRIES // len(k)))
        rows = values[first:last, None]
        if isinstance(source, Counts):
            log = _choose(rows, k) + _choose(n - rows, m - k) - _choose(n, m)
        else:
            log = _choose(m, k) + special.xlogy(k, rows) + special.xlog1py(m - k, -rows)
        yield times[first:last].astype(np.float64), k, np.exp(log)
        first = last


def _choose(n: Int | int, k: Int | int) -> Float:
    """log C(n, k), -inf where k > n."""
    ahead: Float = special.gammaln(n + np.int64(1)) - special.gammaln(k + np.int64(1))
    return ahead - special.gammaln(n - k + np.int64(1))
