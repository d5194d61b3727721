"""Is this a first-hitting sampler, Prop. 4.1 of arXiv:2409.02908?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import stats

from ...laws.law import Law
from ...statistics.testing import TestResult
from ...types import Float, Guarantee
from ..schedule import LINEAR, Schedule, checked
from .probe import Decode, Probe, checked_size, codes_of, ids_of
from .verdicts import (
    broken_rules,
    each_outcome,
    of_rows,
    raise_if_failed,
    rule,
    text_said,
    together,
)

EIGHTHS = Law.from_probs(np.full(8, 0.125), "eighths", 0.0, Guarantee.EXACT)


def first_hitting_conformance(
    decode: Decode,
    *,
    rng: object,
    batch: int = 4096,
    length: int = 3,
    vocab: int = 3,
    false_fail: float = 1e-6,
    schedule: Schedule = LINEAR,
) -> list[TestResult]:
    """Five verdicts on ``decode(network, batch=, length=, rng=)``, each at ``false_fail`` / 5, or the first
    alone if it fails, for then the others mean nothing; ``batch`` even. What fails says in its note which
    rule is broken, and where.

    one_token_per_hit (exact): ``length`` calls on the whole batch; one mask fewer at each; what came stays.
    uniform_position: all ``length``! orders are as likely (exact binomial tests, union). hitting_times:
    asked at the *new* time, for (s_k / s_(k-1))^n is uniform, s the masked share of the schedule at the
    time asked, n the masks left before (Kolmogorov-Smirnov, exact; a query at the old time gives 1 at
    once). within_batch: rows 2i and 2i + 1 share nothing: neither text, nor order, nor times (agreement
    tests). final_law: the text has the law of the reverse process, by enumeration (the same).
    """
    probe, each = Probe(length, vocab), checked_size(batch, false_fail, 5)
    checked(schedule)
    tokens = ids_of(decode(probe, batch=batch, length=length, rng=rng))
    states = [*(state for state, _ in probe.asked), tokens]
    broken = broken_rules(states, batch, length, vocab, range(length, -1, -1))
    first = rule("one_token_per_hit", broken, len(states) - 1, batch, each)
    if first.failed:
        return [first]
    codes = codes_of(tokens, vocab)
    orders = list(itertools.permutations(range(length)))
    came = torch.stack([((a != b) & (a == vocab)).int().argmax(1) for a, b in itertools.pairwise(states)], 1)
    order = np.array([orders.index(tuple(row)) for row in came.tolist()])
    share = np.stack([schedule.masked(t.numpy()) for _, t in probe.asked], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        before = np.concatenate([np.ones((batch, 1)), share[:, :-1]], 1)
        pit = np.clip(np.nan_to_num((share / before) ** np.arange(length, 0, -1)), 0, 1)
    flat = Law.from_probs(np.full(len(orders), 1 / len(orders)), "equally likely", 0.0, Guarantee.EXACT)
    law = probe.law()
    shared = [of_rows("whole texts", codes, law), of_rows("orders", order, flat)]
    shared += [
        of_rows(f"times of hit {k} (by eighths)", _eighths(column), EIGHTHS) for k, column in enumerate(pit.T)
    ]
    return [
        first,
        each_outcome(
            order,
            flat,
            "uniform_position",
            each,
            lambda i: f"places in the order {', '.join(map(str, orders[i]))}",
        ),
        _hitting_times(pit, each),
        together(shared, "within_batch", each),
        each_outcome(codes, law, "final_law", each, text_said(length, vocab)),
    ]


def assert_first_hitting_conformance(decode: Decode, *, rng: object, **options: object) -> None:
    """AssertionError with every verdict, if one fails; options of :func:`first_hitting_conformance`."""
    results = first_hitting_conformance(decode, rng=rng, **options)  # type: ignore[arg-type]
    raise_if_failed("not a first-hitting sampler", results)


def _hitting_times(pit: Float, level: float) -> TestResult:
    found = [stats.kstest(column, "uniform", method="exact") for column in pit.T]
    p_values = [float(each.pvalue) for each in found]
    p = min(1.0, len(found) * min(p_values))
    worst = max(float(each.statistic) for each in found)
    seen = math.sqrt(math.log(2 * len(found) / level) / (2 * len(pit)))
    note = ""
    if p <= level:
        hit = int(np.argmin(p_values))
        if (pit[:, hit] == 1).mean() > 0.5:
            note = f"hit {hit}: the network is asked at the time before the hit, not at the hit's own"
        else:
            note = (
                f"hit {hit}: (s_k / s_(k-1))^n is on average {pit[:, hit].mean():.3g}, 0.5 where it is uniform"
            )
    effect = "distance of the distribution function"
    guarantee = Guarantee.FINITE_SAMPLE
    return TestResult(p, worst, len(pit), 2 * seen, level, "hitting_times", effect, guarantee, note=note)


def _eighths(pit: Float) -> np.ndarray:
    return np.minimum((8 * pit).astype(np.int64), 7)
