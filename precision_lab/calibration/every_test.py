"""Every test of one law by name: the draws it needs to see another law, and its verdict on given draws.

One row of logits, a target p, a sampler's law q. None: the test makes no sense there, or no number of draws would do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .. import statistics as judge
from ..errors import InputError
from ..laws.law import Law
from ..statistics import Counts
from ..types import Float

RATE = 1e-6  # false fail and false pass of the draws needed: the defaults of every test
LEVEL = 1e-3  # false fail of a verdict: what 999 resamples can see
# bits and temperatures of an e-process that expects nothing
BETS = (
    (8, 11, 16, 24, 32),
    (0.9, 0.98, 1.02, 1.1),
)
T = TypeVar("T")

_NEEDS: dict[str, Callable[[Law, Law, Float], int]] = {
    "tail": lambda p, q, logits: judge.draws_needed_tail(p, q),
    "likelihood_ratio": lambda p, q, logits: judge.draws_needed_likelihood_ratio(p, q),
    "e_process": lambda p, q, logits: judge.EProcess(p, judge.alternative_laws(p, *BETS)).draws_needed(q),
    "identity": lambda p, q, logits: judge.draws_needed_identity(p, q),
    "chi_square": lambda p, q, logits: judge.draws_needed_chi_square(p, q),
    "two_sample": lambda p, q, logits: judge.draws_needed_two_sample(p, q),
    "temperature": lambda p, q, logits: judge.draws_needed_temperature(p, q),
    "lack_of_fit": lambda p, q, logits: _on_average(p, judge.effective_temperature(q, p).unexplained),
    "reachability": lambda p, q, logits: judge.draws_needed_reachability(p, q),
    "tie_order": lambda p, q, logits: judge.draws_needed_tie_order(logits, q),
    "unmask_rate": lambda p, q, logits: judge.draws_needed_unmask_rate([_unmask(p)], _unmask(q) / _unmask(p)),
    "coupled": lambda p, q, logits: judge.draws_needed_coupled(judge.total_variation(q, p), 0.0),
}
TESTS = (*_NEEDS, "agreement", "repeated_vector")


def needed(test: str, p: Law, q: Law, logits: Float, *, step: bool) -> float | None:
    """Draws with which ``test`` fails a sampler of law q, RATE either way.

    ``step``: the last token is the mask of an ancestral step. "lack_of_fit": where its e reaches 1 / RATE on average.
    "coupled": at best, of two samplers on the same words that differ only where they must, in the total variation.
    """
    return said(_NEEDS[test], p, q, logits) if step or test != "unmask_rate" else None


def fails(
    test: str,
    counts: Counts,
    p: Law,
    q: Law,
    logits: Float,
    right: Counts,
    *,
    step: bool,
    rng: np.random.Generator,
) -> bool | None:
    """Whether ``test``, set up for the alternative q, fails these draws at LEVEL. ``right``: as many of a right sampler."""
    tests: dict[str, Callable[[], Any]] = {
        "tail": lambda: tail(counts, judge.tail_set(p, q, counts.n, false_fail=LEVEL)),
        "likelihood_ratio": lambda: judge.likelihood_ratio_test(counts, p, q, false_fail=LEVEL),
        "e_process": lambda: judge.EProcess(p, judge.alternative_laws(p, *BETS)).update(counts),
        "identity": lambda: judge.identity_test(counts, p, rng=rng, false_fail=LEVEL),
        "chi_square": lambda: judge.chi_square_test(counts, p, false_fail=LEVEL),
        "two_sample": lambda: judge.two_sample_test(counts, right, rng=rng, false_fail=LEVEL),
        "temperature": lambda: judge.temperature_test(counts, p, false_fail=LEVEL),
        "lack_of_fit": lambda: judge.lack_of_fit_test(counts, p, q, false_fail=LEVEL),
        "reachability": lambda: judge.reachability_test(counts, p, false_fail=LEVEL),
        "tie_order": lambda: judge.tie_order_test(counts, logits, false_fail=LEVEL),
        "unmask_rate": lambda: judge.unmask_rate_test(counts.n - int(counts.counts[-1]), counts.n, _unmask(p)),
    }
    found = said(tests[test]) if test in tests and (step or test != "unmask_rate") else None
    return None if found is None else bool(found.p_value <= LEVEL)


def said(ask: Callable[..., T], *args: Any) -> T | None:
    """The answer, None for an InputError."""
    try:
        return ask(*args)
    except InputError:
        return None


def tail(counts: Counts, chosen: judge.TailSet) -> judge.TestResult:
    return judge.tail_test(chosen.successes(counts), counts.n, chosen.p0, false_fail=LEVEL)


def _unmask(law: Law) -> float:
    return float(law.probs[:-1].sum())


def _on_average(p: Law, nats: float) -> int:
    if not 1e-13 < nats < math.inf or np.ptp(p.log_probs[~np.isneginf(p.log_probs)]) == 0:
        raise InputError(
            "a flat target, or nothing or too much to explain",
            "tokens of two probabilities",
            "use another test",
        )
    return math.ceil(math.log(1 / RATE) / nats)
