"""Vectors of draws that come back: the birthday test of a generator's state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ...errors import InputError
from ...laws.law import Law
from ...types import Float
from .._checks import check_open_unit, check_whole, log_probs_of
from ..testing import TestResult, asserting
from ..testing._binomial import smallest


@dataclass(frozen=True)
class Chance:
    """Of vectors v under independence, or bounds: ``pair`` = sum_v P(v)^2, two are alike; ``most`` = max_v P(v)."""

    pair: float
    most: float

    def __post_init__(self) -> None:
        if not 0 <= self.pair <= self.most <= 1:
            raise InputError(
                f"chances {self.pair}, {self.most}", "0 <= pair <= most <= 1", "use of_draws or of_bits"
            )

    @staticmethod
    def of_draws(*laws: Law | Float, times: int = 1) -> Chance:
        """Vectors of tokens, a position for each law and all of them ``times`` over: pair = (prod_r sum_i p_ri^2)^times.

        Each p_ri is raised by its law's error.
        """
        logs, repeat = [_raised(law) for law in laws], check_whole("times", times, 1)
        most = min(0.0, repeat * math.fsum(log.max() for log in logs))
        pair = repeat * math.fsum(special.logsumexp(2 * log) for log in logs)
        return Chance(math.exp(min(most, pair)), math.exp(most))

    @staticmethod
    def of_bits(bits: float) -> Chance:
        """Uniform on 2^bits vectors: hashes, or words of a generator."""
        if not bits >= 0:
            raise InputError(f"bits = {bits}", "0 or more", "a 64-bit hash has 64")
        return Chance(2.0**-bits, 2.0**-bits)


def repeated_vector_test(
    vectors: ArrayLike, null: Chance, *, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> TestResult:
    """Do vectors come back? ``vectors``: (k,) hashes, or (k, m) tokens or noise, a row for each (seed, position).

    ``statistic``: R, the rows that equal an earlier one. p = min(C(k, 2) pair / R, P(Poisson(C(k, 2) most) >= R)): Markov's
    bound; and the i-th row returns with probability (i - 1) most or less, so that R stays below a sum of independent
    trials, and that below a Poisson variable beyond its mean (Hoeffding 1956, Theorem 4; Anderson and Samuels 1967).
    ``detectable``: :func:`detectable_state_bits`.
    """
    rows = np.ascontiguousarray(vectors)
    if rows.ndim not in (1, 2) or len(rows) < 2 or not rows.size or rows.dtype.kind not in "iuf":
        raise InputError(
            f"vectors of shape {rows.shape}, dtype {rows.dtype}", "(k,) or (k, m), k >= 2", "stack them"
        )
    k = len(rows)
    whole = np.dtype((np.void, rows.nbytes // k))  # a row as one value, compared bit by bit
    repeats = k - len(np.unique(rows.reshape(k, -1).view(whole)))
    bits = detectable_state_bits(k, null, false_fail, false_pass)
    p_value, expected = _by_chance(repeats, k, null), k * (k - 1) / 2 * null.pair
    name, effect = "repeated_vector_test", "bits of the state"
    return TestResult(p_value, float(repeats), k, bits, false_fail, name, effect, expected=expected)


assert_repeated_vector = asserting(repeated_vector_test)


def detectable_state_bits(k: int, null: Chance, false_fail: float = 1e-6, false_pass: float = 1e-6) -> float:
    """Largest b such that k vectors made from 2^b equally likely states are passed at most ``false_pass`` often.

    While fewer than c of them repeat, the i-th does with probability (i - c) / 2^b or more; so fewer than c repeat with
    at most P(Poisson((k - c) (k - c + 1) / 2^(b + 1)) < c), c the least number that fails, and never where 2^b <= k - c.
    -inf where no number of repeats would be a surprise.
    """
    k = check_whole("k", k, 2)
    side, miss = check_open_unit("false_fail", false_fail), check_open_unit("false_pass", false_pass)
    least = smallest(lambda c: c >= k or _by_chance(c, k, null) <= side, "repeats")
    if least >= k:
        return -math.inf
    mean = max(float(least), float(special.gammainccinv(least, miss)))
    return math.log2(max(k - least, (k - least) * (k - least + 1) / (2 * mean)))


def draws_needed_state_bits(
    bits: float, null: Chance, false_fail: float = 1e-6, false_pass: float = 1e-6
) -> int:
    """Vectors with which :func:`repeated_vector_test` fails a state of 2^bits values with at least 1 - ``false_pass``."""

    def enough(k: int) -> bool:
        return k > 1 and detectable_state_bits(k, null, false_fail, false_pass) >= bits

    return smallest(enough, f"a state of {bits} bits")


def _by_chance(repeats: int, k: int, null: Chance) -> float:
    """Bound on P(at least so many repeats among k independent vectors)."""
    if repeats < 1:
        return 1.0
    mean = (pairs := k * (k - 1) / 2) * null.most
    tail = float(special.gammainc(repeats, mean)) if repeats >= mean + 1 else 1.0
    return min(1.0, pairs * null.pair / repeats, tail)


def _raised(law: Law | Float) -> Float:
    """log(p + e)."""
    error = law.error if isinstance(law, Law) else 0.0
    return np.logaddexp(log_probs_of(law), math.log(error) if error else -math.inf)
