"""Is this confidence-ordered decoding, as LLaDA and Dream have it?"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from torch import Tensor

from ...errors import InputError
from ...laws.law import Law
from ...statistics._checks import check_whole
from ...statistics.testing import TestResult
from ...types import Float
from ..decode.confidence import Order
from .probe import Decode, Ids, Probe, State, checked_size, codes_of, ids_of
from .verdicts import (
    broken_rules,
    each_outcome,
    in_context,
    listed,
    of_rows,
    raise_if_failed,
    rule,
    state_said,
    text_said,
    together,
)


def confidence_conformance(
    decode: Decode,
    *,
    rng: object,
    order: Order = "confidence",
    greedy: bool = False,
    per_call: Sequence[int] | None = None,
    batch: int = 4096,
    length: int = 3,
    vocab: int = 3,
    false_fail: float = 1e-6,
) -> list[TestResult]:
    """Five verdicts on ``decode(network, batch=, length=, rng=)``, each at ``false_fail`` / 5, or the first
    alone if it fails, for then the others mean nothing; ``batch`` even. What fails says in its note which
    rule is broken, and where.

    At each call every masked place proposes a token: drawn from its prediction mu, or with ``greedy`` its
    likeliest. The surest proposals stay. ``order``: what makes one sure, as in
    :func:`~..decode.confidence.confidence_ordered`: "confidence", mu of the proposed token; "margin", the
    largest mu less the second; "entropy", minus that of mu; "random". ``per_call``: tokens that stay at
    each call; by default one.

    tokens_per_call (exact): so many calls on the whole batch, so many masks fewer at each; what came stays;
    no mask is left. order: which places come, of every state, by enumeration of the proposals. token_law:
    which tokens come there, given the places; the surest of several draws are not a draw of mu.
    within_batch: texts 2i and 2i + 1 do not share their text (agreement test); left out where all texts are
    one. final_law: the text has the law of the whole decoder, by enumeration.

    Exact binomial tests with a union where nothing else is said. The times that the network is asked at are
    not judged.
    """
    if order not in get_args(Order):
        raise InputError(f"order {order!r}", f"one of {', '.join(get_args(Order))}", "choose one of these")
    probe, each = Probe(length, check_whole("vocab", vocab, 2)), checked_size(batch, false_fail, 5)
    counts = [1] * length if per_call is None else [check_whole("per_call", k, 1) for k in per_call]
    if sum(counts) != length:
        raise InputError(f"per_call of {sum(counts)} tokens", f"{length} in all", "one for each place")
    tokens = ids_of(decode(probe, batch=batch, length=length, rng=rng))
    states = [*(state for state, _ in probe.asked), tokens]
    due = [length, *(length - np.cumsum(counts)).tolist()]
    broken = broken_rules(states, batch, length, vocab, due)
    first = rule("tokens_per_call", broken, len(states) - 1, batch, each)
    if first.failed:
        return [first]
    count_at = dict(zip(due, counts, strict=False))
    laws = {
        state: moves(probe, state, count_at[state.count(vocab)], order, greedy)
        for state in probe.states()
        if state.count(vocab) in count_at
    }
    codes, law = codes_of(tokens, vocab), _final_law(probe, laws)
    varied = float(law.probs.max()) < 1 - 1e-9
    return [
        first,
        *_places_and_tokens(states, laws, vocab, each),
        *([together([of_rows("whole texts", codes, law)], "within_batch", each)] if varied else []),
        each_outcome(codes, law, "final_law", each, text_said(length, vocab)),
    ]


def assert_confidence_conformance(decode: Decode, *, rng: object, **options: object) -> None:
    """AssertionError with every verdict, if one fails; options of :func:`confidence_conformance`."""
    results = confidence_conformance(decode, rng=rng, **options)  # type: ignore[arg-type]
    raise_if_failed("no confidence-ordered decoding", results)


def moves(probe: Probe, state: State, count: int, order: Order, greedy: bool) -> dict[State, float]:
    """The law of the state after one call, by enumeration of what the masked places propose; ties of
    confidence go to the leftmost."""
    mask, mu = probe.vocab, probe.mu(state)
    where = [place for place, token in enumerate(state) if token == mask]
    found: dict[State, float] = {}
    for proposal in itertools.product(range(mask), repeat=len(where)):
        if greedy:
            p = float(
                all(int(mu[place].argmax()) == token for place, token in zip(where, proposal, strict=True))
            )
        else:
            p = math.prod(float(mu[place, token]) for place, token in zip(where, proposal, strict=True))
        if p == 0:
            continue
        kept = _kept(mu[where], proposal, count, order)
        for places in kept:
            after = list(state)
            for i in places:
                after[where[i]] = proposal[i]
            to = tuple(after)
            found[to] = found.get(to, 0.0) + p / len(kept)
    return found


def _kept(mu: Float, proposal: tuple[int, ...], count: int, order: Order) -> list[tuple[int, ...]]:
    """Which of the masked places stay, all sets of them equally likely. ``mu``: (masked, vocab)."""
    if order == "random":
        return list(itertools.combinations(range(len(proposal)), count))
    if order == "confidence":
        sure = mu[np.arange(len(proposal)), list(proposal)]
    elif order == "margin":
        top = np.sort(mu, axis=1)
        sure = top[:, -1] - top[:, -2]
    else:
        sure = (mu * np.log(mu)).sum(axis=1)
    return [tuple(np.argsort(-sure, kind="stable")[:count].tolist())]


def _final_law(probe: Probe, laws: Mapping[State, Mapping[State, float]]) -> Law:
    law: dict[State, float] = {probe.start(): 1.0}
    while any(probe.vocab in state for state in law):
        after: dict[State, float] = {}
        for state, p in law.items():
            for to, q in laws[state].items():
                after[to] = after.get(to, 0.0) + p * q
        law = after
    return probe.law_of_texts(law, "every proposal")


def _places_and_tokens(
    states: Sequence[Tensor], laws: Mapping[State, Mapping[State, float]], mask: int, level: float
) -> list[TestResult]:
    """The places that come in every state, and what comes there given the places; where none of the places
    can come, the first alone."""
    places: dict[State, dict[Ids, float]] = {}
    tokens: dict[tuple[State, Ids], dict[Ids, float]] = {}
    for state, law in laws.items():
        of_places: dict[Ids, float] = {}
        for to, p in law.items():
            where, what = _came(state, to)
            of_places[where] = of_places.get(where, 0.0) + p
            tokens.setdefault((state, where), {})[what] = p
        places[state] = of_places
        for where, total in of_places.items():
            of_tokens = tokens[state, where]
            tokens[state, where] = {what: p / total for what, p in of_tokens.items()}
    seen_places: Counter[tuple[State, Ids]] = Counter()
    seen_tokens: Counter[tuple[tuple[State, Ids], Ids]] = Counter()
    for before, after in itertools.pairwise(states):
        for old, new in zip(before.tolist(), after.tolist(), strict=True):
            state = tuple(old)
            where, what = _came(state, tuple(new))
            seen_places[state, where] += 1
            if (state, where) in tokens:  # else the order is wrong, and says so
                seen_tokens[(state, where), what] += 1

    def said_places(state: State, where: Ids) -> str:
        return f"of {state_said(state, mask)} {listed('place', where)} first"

    def said_tokens(context: tuple[State, Ids], what: Ids) -> str:
        state, where = context
        return f"{listed('token', what)} at {listed('place', where)} of {state_said(state, mask)}"

    order = in_context(seen_places, places, "order", level, said_places)
    if not seen_tokens:
        return [order]
    return [order, in_context(seen_tokens, tokens, "token_law", level, said_tokens)]


def _came(state: State, to: State) -> tuple[Ids, Ids]:
    """(places, tokens) that are new."""
    where = tuple(place for place, (old, new) in enumerate(zip(state, to, strict=True)) if old != new)
    return where, tuple(to[place] for place in where)
