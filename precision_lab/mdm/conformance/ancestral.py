"""Is this ancestral sampling, Eq. 10 of arXiv:2409.02908?"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from ...laws.law import Law
from ...statistics._checks import check_whole
from ...statistics.testing import TestResult
from ...types import Float, Guarantee
from ..schedule import LINEAR, Schedule, unmask_probabilities
from .probe import Decode, Ids, Probe, State, checked_size, codes_of, ids_of
from .verdicts import (
    drawn_again,
    each_outcome,
    in_context,
    listed,
    masks_left,
    of_rows,
    raise_if_failed,
    rule,
    state_said,
    text_said,
    together,
    wrong_forms,
)

BINS = (
    32  # groups of steps, of which the times are counted; the first and the last step are groups of their own
)
NEAR = 0.25  # of a step: how far from its grid a time may be, as where the smallest time is not quite 0


def ancestral_conformance(
    decode: Decode,
    *,
    rng: object,
    steps: int,
    batch: int = 4096,
    length: int = 3,
    vocab: int = 3,
    false_fail: float = 1e-6,
    schedule: Schedule = LINEAR,
    one_by_one: bool = False,
) -> list[TestResult]:
    """Six verdicts on ``decode(network, batch=, length=, rng=)``, which takes ``steps`` steps; each at
    ``false_fail`` / 6, or the first alone if it fails; ``batch`` even. What fails says in its note which
    rule is broken, and where.

    steps (exact): asked about the whole batch at t = 1 - i / steps, once for each step before which masks
    are left; what came stays, and no mask is left at the end. unmasking_times: every place comes in step i
    with probability m(t_i) - m(t_(i+1)), m the masked share of the schedule. token_law: what comes at a
    place follows the prediction for the state before the step, of every state and place; and at two places
    in one step independently. within_text: places of a text come independently of each other (agreement
    tests). within_batch: texts 2i and 2i + 1 share nothing: neither text nor times (the same). final_law:
    the text has the law of ``steps`` steps, by enumeration.

    Exact binomial tests with a union where nothing else is said. ``one_by_one``: for a decoder that does
    not ask about finished texts: each is decoded as a batch of one, and what they share within a call is
    not seen.
    """
    probe, each = Probe(length, vocab), checked_size(batch, false_fail, 6)
    r = unmask_probabilities(check_whole("steps", steps, 1), schedule)
    if one_by_one:
        states, broken = _one_by_one(decode, probe, rng, steps, batch)
    else:
        tokens = ids_of(decode(probe, batch=batch, length=length, rng=rng))
        states, broken = _walk(probe.asked, tokens, steps, batch, length, vocab)
    first = rule("steps", broken, steps, batch, each)
    if first.failed:
        return [first]
    tokens = states[-1]
    came = (
        torch.stack([(state == vocab) for state in states[1:]]).sum(0).numpy()
    )  # (batch, length): the step of each
    law_of_step = Law.from_probs(_shares(r), "differences of the schedule", 1e-13, Guarantee.CERTIFIED)
    edges = _edges(steps)
    binned = np.searchsorted(edges, came, side="right") - 1
    binned_law = Law.from_probs(
        np.add.reduceat(law_of_step.probs, edges), "the same by groups", 1e-13, Guarantee.CERTIFIED
    )
    codes, law = codes_of(tokens, vocab), _final_law(probe, r)
    places = list(itertools.combinations(range(length), 2))
    texts = [
        (f"steps of places {a} and {b} of a text", binned[:, a], binned[:, b], binned_law) for a, b in places
    ]
    rows = [of_rows("whole texts", codes, law)]
    rows += [of_rows(f"steps of place {place}", binned[:, place], binned_law) for place in range(length)]

    def group_said(group: int) -> str:
        end = edges[group + 1] if group + 1 < len(edges) else steps
        return f"step {edges[group]}" if end == edges[group] + 1 else f"steps {edges[group]} to {end - 1}"

    return [
        first,
        each_outcome(binned.ravel(), binned_law, "unmasking_times", each, group_said),
        _token_law(probe, states, each),
        *([together(texts, "within_text", each)] if texts else []),
        together(rows, "within_batch", each),
        each_outcome(codes, law, "final_law", each, text_said(length, vocab)),
    ]


def assert_ancestral_conformance(decode: Decode, *, rng: object, steps: int, **options: object) -> None:
    """AssertionError with every verdict, if one fails; options of :func:`ancestral_conformance`."""
    results = ancestral_conformance(decode, rng=rng, steps=steps, **options)  # type: ignore[arg-type]
    raise_if_failed(f"no ancestral sampling in {steps} steps", results)


def _walk(
    asked: list[tuple[Tensor, Tensor]], tokens: Tensor, steps: int, batch: int, length: int, mask: int
) -> tuple[list[Tensor], list[str]]:
    """(steps + 1 states, before each step and at the end; rules that are broken). Where all masks are gone,
    nothing need be asked."""
    calls = [state for state, _ in asked]
    if wrong := wrong_forms([*calls, tokens], batch, length, mask):
        return [], wrong
    broken = masks_left(tokens, mask) + drawn_again([*calls, tokens], mask)
    numbers, wrong = _numbers(asked, steps)
    broken += wrong
    if not numbers and not broken:
        broken = ["the network is never asked"]
    if broken:
        return [], broken
    for step, number in enumerate(numbers):
        if number > step:
            time = 1 - step / steps
            return [], [f"step {step} (t = {time:.6g}) is not asked about, though masks are left"]
    return [*calls, *[tokens] * (steps + 1 - len(calls))], []


def _numbers(asked: list[tuple[Tensor, Tensor]], steps: int) -> tuple[list[int], list[str]]:
    """The step of every call, by its time."""
    numbers: list[int] = []
    for call, (_, t) in enumerate(asked):
        time = float(t[0])
        if (t != t[0]).any():
            return [], [
                f"call {call} asks at different times of its texts: {time:.6g} and {float(t[t != t[0]][0]):.6g}"
            ]
        step = round((1 - time) * steps) if np.isfinite(time) else -1
        if not 0 <= step < steps or abs((1 - time) * steps - step) > NEAR:
            return [], [
                f"call {call} asks at t = {time:.6g}, where 1 - i / {steps} is due, i from 0 to {steps - 1}"
            ]
        if numbers and step <= numbers[-1]:
            said = "again" if step == numbers[-1] else f"after step {numbers[-1]}"
            return [], [f"call {call} asks about step {step} (t = {time:.6g}) {said}"]
        numbers.append(step)
    return numbers, []


def _one_by_one(
    decode: Decode, probe: Probe, rng: object, steps: int, batch: int
) -> tuple[list[Tensor], list[str]]:
    found: list[list[Tensor]] = []
    for text in range(batch):
        probe.asked.clear()
        tokens = ids_of(decode(probe, batch=1, length=probe.length, rng=rng))
        states, broken = _walk(probe.asked, tokens, steps, 1, probe.length, probe.vocab)
        if broken:
            return [], [f"decoded alone, text {text}: {each}" for each in broken]
        found.append(states)
    return [torch.cat(each) for each in zip(*found, strict=True)], []


def _shares(r: Float) -> Float:
    """Probability to come in each step: r_i times what is left."""
    left = np.concatenate([[1.0], np.cumprod(1 - r[:-1])])
    shares: Float = r * left
    return shares


def _edges(steps: int) -> np.ndarray:
    """First step of every group."""
    if steps <= BINS:
        return np.arange(steps)
    inner = np.linspace(1, steps - 1, BINS - 1).astype(np.int64)
    return np.unique(np.concatenate([[0], inner]))


def _final_law(probe: Probe, r: Float) -> Law:
    mask = probe.vocab
    mus = {state: probe.mu(state) for state in probe.states()}
    law: dict[State, float] = {probe.start(): 1.0}
    for rate in r:
        after: dict[State, float] = {}
        for state, p in law.items():
            if mask not in state:
                after[state] = after.get(state, 0.0) + p
                continue
            mu = mus[state]
            choices = [
                [(token, 1.0)]
                if token != mask
                else [(mask, 1 - rate), *((new, rate * float(mu[place, new])) for new in range(mask))]
                for place, token in enumerate(state)
            ]
            for change in itertools.product(*choices):
                to = tuple(token for token, _ in change)
                share = float(np.prod([q for _, q in change]))
                after[to] = after.get(to, 0.0) + p * share
        law = after
    return probe.law_of_texts(law, f"{len(r)} steps by enumeration")


def _token_law(probe: Probe, states: list[Tensor], level: float) -> TestResult:
    """Contexts are (state, one place or two): what a text draws there depends on nothing but the state, and
    of two places that come in one step on nothing of the other."""
    mask = probe.vocab
    laws: dict[tuple[State, Ids], dict[Ids, float]] = {}
    for state in probe.states():
        mu = probe.mu(state)
        masked = [place for place, token in enumerate(state) if token == mask]
        for places in _ones_and_twos(masked):
            outcomes = itertools.product(range(mask), repeat=len(places))
            laws[state, places] = {
                tokens: float(np.prod([mu[place, token] for place, token in zip(places, tokens, strict=True)]))
                for tokens in outcomes
            }
    seen: Counter[tuple[tuple[State, Ids], Ids]] = Counter()
    for before, after in itertools.pairwise(states):
        changed = (before != after).any(1)
        for old, new in zip(before[changed].tolist(), after[changed].tolist(), strict=True):
            came = [place for place in range(probe.length) if old[place] != new[place]]
            for places in _ones_and_twos(came):
                seen[(tuple(old), places), tuple(new[place] for place in places)] += 1

    def said(context: tuple[State, Ids], tokens: Ids) -> str:
        state, places = context
        return f"{listed('token', tokens)} at {listed('place', places)} of {state_said(state, mask)}"

    return in_context(seen, laws, "token_law", level, said)


def _ones_and_twos(places: list[int]) -> list[Ids]:
    return [(place,) for place in places] + list(itertools.combinations(places, 2))
