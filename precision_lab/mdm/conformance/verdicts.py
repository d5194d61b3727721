"""The verdicts that several decoders share: rules that are broken or not, and counts against exact laws."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ...laws.law import Law
from ...statistics.independence import agreement_test
from ...statistics.testing import TestResult
from ...types import Guarantee

Context = TypeVar("Context", bound=Hashable)
Outcome = TypeVar("Outcome", bound=Hashable)


def rule(name: str, broken: Sequence[str], calls: int, batch: int, level: float) -> TestResult:
    """p = 0 where a rule is broken, and which; else 1. ``statistic``: calls of the network."""
    p = 0.0 if broken else 1.0
    note = "; ".join(broken)
    return TestResult(p, float(calls), batch, 0.0, level, name, "any", Guarantee.EXACT, note=note)


def raise_if_failed(what: str, results: Iterable[TestResult]) -> None:
    """AssertionError with every verdict, if one fails."""
    listed = list(results)
    if any(result.failed for result in listed):
        raise AssertionError(f"{what}:\n" + "\n".join(map(str, listed)))


def wrong_forms(states: Sequence[Tensor], batch: int, length: int, mask: int) -> list[str]:
    """Of the states asked about, and the tokens returned as the last of them: other shapes, and ids that
    are none."""
    *asked, last = states
    for call, state in enumerate(asked):
        if tuple(state.shape) != (batch, length):
            said = f"call {call} asks about {_shape(state)} in place of all ({batch}, {length}) ids"
            return [f"{said}: finished texts must stay in the batch"]
    if tuple(last.shape) != (batch, length):
        return [f"it returns {_shape(last)} ids in place of ({batch}, {length})"]
    for call, state in enumerate(states):
        wrong = (state < 0) | (state > mask)
        if wrong.any():
            row, place = first_of(wrong)
            where = f"call {call}" if call < len(asked) else "the returned tokens"
            said = f"{where}: text {row}, place {place} holds id {int(state[row, place])}"
            return [f"{said}, where 0 to {mask - 1} are tokens and {mask} is the mask"]
    return []


def masks_left(last: Tensor, mask: int) -> list[str]:
    left = (last == mask).any(1)
    if not left.any():
        return []
    return [
        f"masks are left at the end in {int(left.sum()):,} of {len(last):,} texts, text {int(left.int().argmax())} first"
    ]


def drawn_again(states: Sequence[Tensor], mask: int) -> list[str]:
    """Places that hold a token and hold another, or the mask, at the next call."""
    for call, (before, after) in enumerate(itertools.pairwise(states)):
        changed = (before != after) & (before != mask)
        if changed.any():
            row, place = first_of(changed)
            held, holds = int(before[row, place]), int(after[row, place])
            said = "is masked again" if holds == mask else f"holds {holds}"
            return [
                f"what is there is drawn again: text {row}, place {place} holds {held} at call {call} and {said} after it, "
                f"and so do {int(changed.sum()) - 1:,} more"
            ]
    return []


def masks_due(states: Sequence[Tensor], mask: int, due: Sequence[int]) -> list[str]:
    """``due``: masks of every text at each call, and at the end."""
    if len(states) != len(due):
        return [f"the network is asked {len(states) - 1} times, where {len(due) - 1} calls are due"]
    for call, (state, number) in enumerate(zip(states, due, strict=True)):
        found = (state == mask).sum(1)
        wrong = found != number
        if wrong.any():
            row = int(wrong.int().argmax())
            when = f"at call {call}" if call < len(due) - 1 else "at the end"
            return [f"text {row} has {int(found[row])} masks {when}, where {number} are due"]
    return []


def broken_rules(states: Sequence[Tensor], batch: int, length: int, mask: int, due: Sequence[int]) -> list[str]:
    """Every rule that is broken of a decoder that has ``due`` masks at each call and at the end; shapes and
    ids alone where they are wrong, for then the others mean nothing."""
    if wrong := wrong_forms(states, batch, length, mask):
        return wrong
    return masks_left(states[-1], mask) + drawn_again(states, mask) + masks_due(states, mask, due)


def each_outcome(
    drawn: np.ndarray, law: Law, name: str, level: float, said: Callable[[int], str] = str
) -> TestResult:
    """Every outcome's count is binomial: p = outcomes x the least of their exact two-sided p-values.
    ``said``: an outcome."""
    counts, n = np.bincount(drawn, minlength=law.vocab), len(drawn)
    found = [two_sided(int(k), n, float(p)) for k, p in zip(counts, law.probs, strict=True)]
    worst = int(np.argmin(found))
    p_value = min(1.0, law.vocab * min(found))
    note = (
        f"{said(worst)}: {counts[worst]:,} of {n:,}, {n * law.probs[worst]:,.0f} due"
        if p_value <= level
        else ""
    )
    return TestResult(
        p_value,
        float(worst),
        n,
        rarest_seen(law.probs, n, level / law.vocab),
        level,
        name,
        "relative deviation of the rarest outcome, about",
        Guarantee.FINITE_SAMPLE,
        note=note,
    )


def in_context(
    seen: Counter[tuple[Context, Outcome]],
    laws: Mapping[Context, Mapping[Outcome, float]],
    name: str,
    level: float,
    said: Callable[[Context, Outcome], str],
) -> TestResult:
    """Counts of (context, outcome) against the law of every context: given the visits of a context, which
    do not depend on what is drawn there, each count is binomial. p = all pairs that there are x the least
    of their exact p-values.

    An outcome that its context cannot have gives p = 0."""
    visits: Counter[Context] = Counter()
    for (context, _), count in seen.items():
        visits[context] += count
    pairs = sum(len(law) for law in laws.values())
    least = 1.0
    worst: tuple[Context, Outcome] | None = None
    for context, n in visits.items():
        law = laws[context]
        for outcome in {*law, *(o for c, o in seen if c == context)}:
            p = two_sided(seen[context, outcome], n, law.get(outcome, 0.0))
            if p < least or worst is None:
                least, worst = p, (context, outcome)
    assert worst is not None
    context, outcome = worst
    p_value = min(1.0, pairs * least)
    due = visits[context] * laws[context].get(outcome, 0.0)
    note = f"{said(context, outcome)}: {seen[worst]:,} of {visits[context]:,}, {due:,.0f} due"
    often = max(visits, key=lambda each: visits[each])
    detectable = rarest_seen(np.array(list(laws[often].values())), visits[often], level / pairs)
    return TestResult(
        p_value,
        float(seen[worst]),
        sum(visits.values()),
        detectable,
        level,
        name,
        "relative deviation of the rarest outcome of the commonest context, about",
        Guarantee.FINITE_SAMPLE,
        note=note if p_value <= level else "",
    )


def together(pairs: Sequence[tuple[str, np.ndarray, np.ndarray, Law]], name: str, level: float) -> TestResult:
    """Two things of one law that must not know of each other, each with its name: the worst
    :func:`agreement_test`."""
    each = level / len(pairs)
    found = [agreement_test(a, b, law, law, false_fail=each) for _, a, b, law in pairs]
    place = int(np.argmin([result.p_value for result in found]))
    worst, (said, a, b, law) = found[place], pairs[place]
    p_value = min(1.0, len(pairs) * worst.p_value)
    alone = float((law.probs**2).sum())
    note = f"{said} agree in {(a == b).sum():,} of {len(a):,} pairs, {len(a) * alone:,.0f} if independent"
    note = note if p_value <= level else ""
    return replace(worst, p_value=p_value, false_fail=level, test=name, note=note)


def of_rows(said: str, values: np.ndarray, law: Law) -> tuple[str, np.ndarray, np.ndarray, Law]:
    """A pair for :func:`together`: rows 2i and 2i + 1."""
    return f"{said} of rows 2i and 2i + 1", values[0::2], values[1::2], law


def two_sided(count: int, n: int, p: float) -> float:
    """Exact binomial p-value. p beyond 1 by rounding is 1."""
    return float(stats.binomtest(count, n, min(1.0, p)).pvalue)


def rarest_seen(probs: np.ndarray, n: int, level: float) -> float:
    rarest = float(probs[probs > 0].min())
    return float(2 * stats.norm.isf(level / 2) * math.sqrt((1 - rarest) / (n * rarest)))


def first_of(wrong: Tensor) -> tuple[int, int]:
    row, place = torch.nonzero(wrong)[0].tolist()
    return row, place


def text_said(length: int, vocab: int) -> Callable[[int], str]:
    """How the code of a text is said."""

    def said(code: int) -> str:
        places = [code // vocab**k % vocab for k in range(length - 1, -1, -1)]
        return f"text {' '.join(map(str, places))}"

    return said


def state_said(state: Sequence[int], mask: int) -> str:
    """Such as "1 _ 0", with _ for the mask."""
    return " ".join("_" if token == mask else str(token) for token in state)


def listed(noun: str, values: Sequence[int]) -> str:
    """Such as "places 0, 2"."""
    return f"{noun}{'s' if len(values) > 1 else ''} {', '.join(map(str, values))}"


def _shape(state: Tensor) -> str:
    return "(" + ", ".join(map(str, state.shape)) + ")"
