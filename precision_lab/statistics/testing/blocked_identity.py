"""The identity test at very small levels: blocks of draws with a coarse simulated null each, combined by
Fisher.

A simulated null of B rows cannot say less than 1 / (B + 1), so :func:`~.identity.identity_test` at 1e-7
costs a wrong sampler ten million rows. K independent blocks at p* each need about K / p*, p* =
exp(-chi2_{2K}^{-1}(level) / 2K).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from ...errors import InputError
from ...laws.law import Law
from ...types import Guarantee
from .._checks import check_whole
from ..counts import Counts
from ._binomial import check_rates, smallest
from .identity import detectable_identity, identity_test
from .result import TestResult, asserting

RESAMPLES = 999  # rows of the null of a block, at the least
BLOCKS = 4


def blocked_identity_test(
    blocks: Sequence[Counts],
    law: Law,
    *,
    rng: np.random.Generator,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    resamples: int | None = None,
) -> TestResult:
    """p = P(chi2_{2K} >= -2 sum_k log p_k), p_k from :func:`~.identity.identity_test` of K independent blocks.

    Each p_k is at most u with probability u or less, so the level is finite-sample (Fisher 1932).
    ``statistic``:
    -2 sum log p_k.  ``detectable``: total variation, see :func:`detectable_blocked_identity`.
    ``resamples``: rows of each block's null, by default max(999, 2 / p*).
    Errors: InputError for blocks of unequal n, or fewer resamples than 1 / p* - 1.
    """
    check_rates(false_fail, false_pass)
    sizes = {block.n for block in blocks}
    if len(sizes) != 1:
        raise InputError(
            f"blocks of {sorted(sizes)} draws", "one size, one block or more", "split the draws evenly"
        )
    n, count = sizes.pop() * len(blocks), len(blocks)
    detectable = detectable_blocked_identity(n, law, false_fail, false_pass, blocks=count, resamples=resamples)
    each, rows = block_level(false_fail, count), resamples or default_resamples(false_fail, count)
    p_values = [
        identity_test(
            block, law, rng=rng, false_fail=each, false_pass=false_pass / count, resamples=rows
        ).p_value
        for block in blocks
    ]
    statistic = -2 * math.fsum(math.log(max(p, 1e-300)) for p in p_values)
    name, effect = "blocked_identity_test", "total variation"
    p_value = float(stats.chi2.sf(statistic, 2 * count))
    smallest_said = (
        f"p is the smallest that {count} nulls of {rows} can say" if max(p_values) <= 1 / (rows + 1) else ""
    )
    return TestResult(
        p_value, statistic, n, detectable, false_fail, name, effect, Guarantee.FINITE_SAMPLE, note=smallest_said
    )


assert_blocked_identity = asserting(blocked_identity_test)


def block_level(false_fail: float, blocks: int) -> float:
    """p*: K blocks at p* each fail together at exactly ``false_fail``."""
    return math.exp(-float(stats.chi2.isf(false_fail, 2 * blocks)) / (2 * blocks))


def default_resamples(false_fail: float, blocks: int) -> int:
    return max(RESAMPLES, math.ceil(2 / block_level(false_fail, blocks)))


def detectable_blocked_identity(
    n: int,
    law: Law,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    *,
    blocks: int = BLOCKS,
    resamples: int | None = None,
) -> float:
    """Smallest total variation d seen in n draws, ``n`` split evenly; inf where not even 1 is. Asymptotic in n.

    By Cauchy and Schwarz d sees D^2 = sum (q - p)^2 / w >= 4 d^2 / sum w, w = max(p, 1/vocab); D is what
    every block sees at p* with 1 - ``false_pass`` / K.
    """
    check_rates(false_fail, false_pass)
    each, p = check_whole("n", n, blocks) // blocks, law.probs
    rows = resamples or default_resamples(false_fail, blocks)
    seen = detectable_identity(each, law, block_level(false_fail, blocks), false_pass / blocks, rows)
    d = seen * math.sqrt(float(np.maximum(p, 1 / law.vocab).sum())) / 2
    return d if d <= 1 else math.inf


def draws_needed_blocked_identity(
    law: Law,
    total_variation: float,
    false_fail: float = 1e-6,
    false_pass: float = 1e-6,
    *,
    blocks: int = BLOCKS,
    resamples: int | None = None,
) -> int:
    """Draws that see every sampler at ``total_variation`` or more from the law. Asymptotic."""
    if not 0 < total_variation <= 1:
        raise InputError(
            f"total_variation = {total_variation}", "a number in (0, 1]", "name the deviation to see"
        )

    def enough(n: int) -> bool:
        return (
            detectable_blocked_identity(
                n * blocks, law, false_fail, false_pass, blocks=blocks, resamples=resamples
            )
            <= total_variation
        )

    return blocks * smallest(enough, f"a total variation of {total_variation}")
