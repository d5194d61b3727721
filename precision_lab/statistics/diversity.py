"""How varied sequences of tokens are, as papers on masked diffusion and on text degeneration measure it.

Every one of these moves with the length of a sequence, some with the number of sequences: equal shapes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, unknown_name
from ..types import Float, Int
from ._checks import check_tokens, check_whole
from .counts import Counts
from .entropies import chao_wang_jost, entropy, miller_madow
from .estimate import Estimate, difference
from .resampling import cluster_bootstrap, cluster_jackknife

Measure = Callable[
    [Int], "Float | float"
]  # of tokens (sequences, length): one number a sequence, or one of the whole
_ENTROPIES = {"plug-in": entropy, "miller-madow": miller_madow, "chao-wang-jost": chao_wang_jost}


def sequence_entropy(
    tokens: ArrayLike, estimator: Literal["plug-in", "miller-madow", "chao-wang-jost"] = "plug-in"
) -> Float:
    """Entropy of the tokens inside each sequence, nats: (sequences, length) ids -> (sequences,).

    "plug-in": -sum_v (c_v / length) log(c_v / length), as published for masked diffusion models (ReMDM main.py, BD3-LMs
    and Duo metrics.py: in float32, all tokens, special ones too, and the mean over sequences). At most log(length), and
    biased low by an amount that depends on the length. The other two correct for that, the last one best.
    """
    if estimator not in _ENTROPIES:
        raise unknown_name("estimator", estimator, _ENTROPIES)
    of = _ENTROPIES[estimator]
    counted = (np.unique(row, return_counts=True)[1].astype(np.int64) for row in check_tokens(tokens))
    return np.array([of(Counts(counts, int(counts.sum()))) for counts in counted])


def type_token_ratio(tokens: ArrayLike) -> Float:
    """Different tokens / tokens of each sequence, in (0, 1]: (sequences, length) ids -> (sequences,)."""
    return np.array([len(np.unique(row)) / len(row) for row in check_tokens(tokens)])


def repetition(tokens: ArrayLike, n: int) -> Float:
    """rep-n of each sequence: 1 - different n-grams / n-grams, in [0, 1): (sequences, length) -> (sequences,).

    Welleck et al. 2020, arXiv:1908.04319 (as a share; others print per cent).
    """
    grams = _grams(tokens, n)
    return np.array([1 - len(np.unique(row)) / grams.shape[1] for row in grams])


def longest_run(tokens: ArrayLike) -> Int:
    """Length of the longest run of one token in each sequence: (sequences, length) ids -> (sequences,)."""
    rows = check_tokens(tokens)
    best, run = np.ones((2, len(rows)), dtype=np.int64)
    for same in (rows[:, 1:] == rows[:, :-1]).T:
        run = np.where(same, run + 1, 1)
        best = np.maximum(best, run)
    return best


def distinct_n(tokens: ArrayLike, n: int) -> float:
    """Different n-grams / all n-grams over all sequences, in (0, 1]: (sequences, length) ids, 1 <= n <= length.

    Li et al. 2016, arXiv:1510.03055. Falls with the number of sequences too.
    """
    grams = _grams(tokens, n)
    return len(np.unique(grams)) / grams.size


def diversity(
    tokens: ArrayLike, measure: Measure, *, rng: np.random.Generator, confidence: float = 0.95
) -> Estimate:
    """A measure of this module with its interval over sequences, ``n`` of them.

    ``measure(tokens)``: (sequences,): the mean of that, BCa cluster bootstrap; a number: that, cluster jackknife.
    """
    rows = check_tokens(tokens)
    each = np.asarray(measure(rows), dtype=np.float64)
    if each.ndim == 0:
        return cluster_jackknife(lambda at: float(np.asarray(measure(rows[at]))), len(rows), confidence)
    return cluster_bootstrap(lambda at: float(each[at].mean()), len(rows), rng=rng, confidence=confidence)


def diversity_difference(
    first: ArrayLike, second: ArrayLike, measure: Measure, *, rng: np.random.Generator, confidence: float = 0.95
) -> Estimate:
    """:func:`diversity` of the first less that of the second, which are independent.

    Errors: InputError for unequal lengths, or for a measure of the whole unequal numbers of sequences.
    """
    rows = [check_tokens(tokens) for tokens in (first, second)]
    (sequences, length), (others, other_length) = (each.shape for each in rows)
    if length != other_length or (sequences != others and np.ndim(measure(rows[0])) == 0):
        raise InputError(
            f"{sequences} sequences of {length} tokens against {others} of {other_length}",
            "equal lengths, and for a measure of the whole equal numbers",
            "crop to the shorter, or rarefy: hill_difference(..., size=...)",
        )
    return difference(*(diversity(each, measure, rng=rng, confidence=confidence) for each in rows))


def _grams(tokens: ArrayLike, n: int) -> Int:
    """(sequences, length - n + 1): one number for each n-gram, equal where the n-grams are."""
    rows, n = check_tokens(tokens), check_whole("n", n, 1)
    if n > rows.shape[1]:
        raise InputError(f"n = {n}", f"at most the length, {rows.shape[1]}", "ask for shorter n-grams")
    ids = _number(rows)
    grams, base = ids, int(ids.max()) + 1
    for k in range(1, n):
        grams = _number(grams[:, :-1] * base + ids[:, k:])  # numbered afresh, so that no product overflows
    return grams


def _number(values: Int) -> Int:
    """Each value replaced by its rank among the different values."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)
