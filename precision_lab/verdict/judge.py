"""From draws to test results, by name. Every p-value holds at every n; powers are those of :mod:`.plan`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..laws.law import Law
from ..statistics import (
    Chance,
    Counts,
    TestResult,
    agreement_test,
    blocked_identity_test,
    cross_row_test,
    detectable_shortfall,
    likelihood_ratio_test,
    rare_draws_test,
    reachability_test,
    repeated_vector_test,
    serial_test,
    tail_test,
    temperature_test,
    tie_order_test,
)
from ..statistics.row_sharing import LEAST
from ..statistics.testing import RareDraws, RareToken, chances
from ..types import Array
from .lattice import detectable_lattice, lattice_bet
from .plan import Plan, Question

FEWEST = 8  # vectors that can return
FEWEST_TIED = 64  # fewer could not fail at any level asked here
LIKELY = 0.005  # probability from which a token is judged alone
RELATIVE = 1e-9  # of the softmax of given logits: vocab 2^-53 and the rounding of a gap of some hundred nats


def judge(question: Question, tokens: Array, plan: Plan, rng: np.random.Generator) -> dict[str, TestResult]:
    """``tokens``: (streams, calls, rows), all of one law. The tests of the question that so many draws allow.

    A test of ties with fewer than 64 draws of a tied token, and of returning vectors with fewer than 8
    vectors, are left out: that loses no level, as the level of each was set before.
    """
    law = question.law
    rates: dict[str, Any] = {"false_fail": plan.level, "false_pass": plan.false_pass}
    counts = Counts.from_tokens(tokens, law.vocab)
    rows = tokens.shape[2]
    # one after another: an even number of calls, so that no pair crosses two
    sequences = tokens.transpose(0, 2, 1)

    def tail() -> TestResult:
        mass, error = question.tail_mass
        return tail_test(int(counts.counts[question.tail].sum()), counts.n, mass, p0_error=error, **rates)

    def unmask() -> TestResult:
        rate, error = question.unmask_rate
        unmasked = counts.n - int(counts.counts[question.target.mask])
        result = tail_test(unmasked, counts.n, rate, p0_error=error, **rates)
        seen = detectable_shortfall(counts.n, rate, plan.level, plan.false_pass, error)
        effect = "share of the unmaskings that are missing"
        return replace(result, test="unmask_test", detectable=seen, effect=effect)

    def lattice() -> TestResult:
        result = likelihood_ratio_test(counts, law, lattice_bet(law), **rates)
        seen = detectable_lattice(counts.n, law, plan.level, plan.false_pass)
        return replace(
            result, test="lattice_test", detectable=seen, effect="share of the way to a 24-bit lattice"
        )

    def identity() -> TestResult:
        blocks = [Counts.from_tokens(stream, law.vocab) for stream in tokens]
        return blocked_identity_test(blocks, law, rng=rng, **rates)

    ways: dict[str, Callable[[], TestResult | None]] = {
        "temperature": lambda: None if impossible(counts, law) else temperature_test(counts, law, **rates),
        "tail": tail,
        "unmask": unmask,
        "lattice": lambda: None if impossible(counts, law) else lattice(),
        "identity": identity,
        "tokens": lambda: likely_tokens(counts, law, plan),
        "support": lambda: support(counts, law, plan),
        "rows": lambda: cross_row_test(tokens.reshape(-1, rows), law, **rates),
        "serial": lambda: serial_test(sequences.ravel(), law, **rates),
        "streams": lambda: agreement_test(tokens[0::2].ravel(), tokens[1::2].ravel(), law, law, **rates),
        "repeats": lambda: repeats(sequences, law, question.length, plan),
        "ties": lambda: ties(counts, question, plan),
    }
    results = {name: ways[name]() for name in question.tests if name in ways}
    return {name: result for name, result in results.items() if result is not None}


def likely_tokens(counts: Counts, law: Law, plan: Plan) -> TestResult | None:
    """Every token of probability :data:`LIKELY` or more alone: k times the least of :func:`tail_test` of k
    such tokens.

    For rows with many tokens and few draws, where the identity test sees nothing. ``detectable``: the
    relative deviation of the least likely of them. ``note``: the worst, where it fails.
    """
    tokens = np.flatnonzero((law.probs >= LIKELY) & (law.probs < 1))
    if not len(tokens):
        return None
    each = plan.level / len(tokens)

    def judged(token: int) -> TestResult:
        rate = float(law.probs[token])
        hits = int(counts.counts[token])
        rates = {"false_fail": each, "false_pass": plan.false_pass}
        return tail_test(hits, counts.n, rate, p0_error=law.error, **rates)

    found = [judged(int(token)) for token in tokens]
    place = int(np.argmin([result.p_value for result in found]))
    worst, token = found[place], int(tokens[place])
    note = f"token {token}: {counts.counts[token]:,} draws, {counts.n * law.probs[token]:,.0f} expected"
    return replace(
        worst,
        p_value=min(1.0, len(tokens) * worst.p_value),
        false_fail=plan.level,
        test="likely_tokens_test",
        detectable=max(result.detectable for result in found),
        effect="relative deviation of the rate of one token",
        note=note if worst.p_value <= each else "",
    )


def impossible(counts: Counts, law: Law) -> bool:
    """Whether a token below :data:`~..statistics.row_sharing.LEAST` was drawn: the support test fails then,
    and it would outweigh all others in a likelihood."""
    return bool(counts.counts[law.log_probs < math.log(LEAST)].any())


def support(counts: Counts, law: Law, plan: Plan) -> TestResult:
    """Tokens that cannot be drawn and were, -inf or only far down, and tokens that can and never were.

    Twice the least of :func:`reachability_test` and :func:`rare_draws_test`, each at half the level.
    """
    never = np.isneginf(law.log_probs)
    half = plan.level / 2
    lost = reachability_test(counts, law, impossible=never, false_fail=half)
    rare = rare_draws_test(counts, law, relative=RELATIVE, false_fail=half)
    return replace(lost, p_value=min(1.0, 2 * min(lost.p_value, rare.p_value)), false_fail=plan.level)


def impossible_draws(tokens: Array, law: Law, level: float) -> list[RareToken]:
    """The tokens whose draws alone fail the support test at ``level``. ``tokens``: any shape, in the order
    drawn."""
    drawn, each = tokens.ravel(), chances(law, RELATIVE)
    found = RareDraws()
    index = np.flatnonzero(each[drawn] <= level)
    at = drawn[index].astype(np.int64)
    found.update(each[at], law.log_probs[at], at, index)
    return found.impossible(drawn.size, level / 2)


def repeats(sequences: Array, law: Law, length: int, plan: Plan) -> TestResult | None:
    """Vectors of ``length`` consecutive draws that return, a vector for each (stream, row, place)."""
    whole = sequences[:, :, : sequences.shape[2] // length * length].reshape(-1, length)
    if len(whole) < FEWEST:
        return None
    null = Chance.of_draws(law, times=length)
    return repeated_vector_test(whole, null, false_fail=plan.level, false_pass=plan.false_pass)


def ties(counts: Counts, question: Question, plan: Plan) -> TestResult | None:
    from ..statistics.testing.tie_order import tie_halves

    first, last = tie_halves(question.logits)
    if counts.counts[first | last].sum() < FEWEST_TIED:
        return None
    return tie_order_test(counts, question.logits, false_fail=plan.level, false_pass=plan.false_pass)
