"""Two samplers, or two precisions, on the same random words: only the draws in which they differ carry evidence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from ...errors import InputError
from ...types import Array
from .._checks import check_whole
from ..estimate import proportion
from ._binomial import check_rates, conditional_power, smallest, two_sided
from .result import TestResult, asserting


def coupled_test(
    a: ArrayLike, b: ArrayLike, tokens: ArrayLike, *, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> TestResult:
    """Does sampler a draw the set ``tokens`` as often as b? McNemar's exact test on the pairs that disagree.

    a, b: integer tokens of one shape, drawn pair by pair from the same words; ``tokens``: (vocab,) bool, chosen before.
    With n10 pairs in the set for a only and n01 for b only, n10 given m = n10 + n01 is Binomial(m, 1/2) where the two
    rates are equal: exact for independent pairs, however strongly a pair is coupled.
    ``estimate``: n10 / m. ``detectable``: with the discordance m / n as found.
    """
    check_rates(false_fail, false_pass)
    in_a, in_b = _membership(a, b, tokens)
    n, n10, n01 = in_a.size, int((in_a & ~in_b).sum()), int((in_b & ~in_a).sum())
    m = n10 + n01
    return TestResult(
        two_sided(n10, m, 0.5, 0.5) if m else 1.0,
        (n10 - n01) / n,
        n,
        detectable_coupled(n, m / n, false_fail, false_pass) if m else math.inf,
        false_fail,
        "coupled_test",
        "difference of the two rates, at this discordance",
        estimate=proportion(n10, m, 1 - false_fail) if m else None,
        expected=0.5,
    )


assert_coupled = asserting(coupled_test)


def detectable_coupled(n: int, discordance: float, false_fail: float = 1e-6, false_pass: float = 1e-6) -> float:
    """Smallest |p10 - p01| seen where p10 + p01 = ``discordance``; inf where even p01 = 0 is not. Exact power."""
    check_rates(false_fail, false_pass)
    check_whole("n", n, 1)
    if not 0 < discordance <= 1:
        raise InputError(
            f"discordance = {discordance}", "a rate in (0, 1]", "the share of pairs that differ on the set"
        )

    power = conditional_power(n, discordance, false_fail)
    if power(1.0) < 1 - false_pass:
        return math.inf
    share = float(optimize.brentq(lambda x: power(x) - (1 - false_pass), 0.5, 1.0, xtol=1e-9))
    return discordance * (2 * share - 1)


def draws_needed_coupled(p10: float, p01: float, false_fail: float = 1e-6, false_pass: float = 1e-6) -> int:
    """Pairs with which the test sees P(set for a only) = p10, P(set for b only) = p01. Exact power."""
    check_rates(false_fail, false_pass)
    if not (min(p10, p01) >= 0 and p10 + p01 <= 1 and p10 != p01):
        raise InputError(
            f"p10 = {p10}, p01 = {p01}", "unequal rates, sum at most 1", "of one disagreement each"
        )
    total, share = p10 + p01, max(p10, p01) / (p10 + p01)
    return smallest(
        lambda n: conditional_power(n, total, false_fail)(share) >= 1 - false_pass, "rates that nearly agree"
    )


def _membership(a: ArrayLike, b: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
    left, right, mask = np.asarray(a), np.asarray(b), np.asarray(tokens)
    if (
        left.shape != right.shape
        or not left.size
        or left.dtype.kind not in "iu"
        or right.dtype.kind not in "iu"
    ):
        raise InputError(
            f"tokens of shapes {left.shape} and {right.shape}",
            "integer tokens, pair by pair",
            "same words, same n",
        )
    if mask.ndim != 1 or mask.dtype != bool:
        raise InputError(f"a set of shape {mask.shape}, dtype {mask.dtype}", "(vocab,) bool", "pass a mask")
    if min(left.min(), right.min()) < 0 or max(left.max(), right.max()) >= len(mask):
        raise InputError(
            "tokens outside the vocabulary", f"0 to {len(mask) - 1}", "pass the mask of the whole vocabulary"
        )
    return mask[left], mask[right]
