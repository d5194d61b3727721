"""Is this a first-hitting sampler? Tests that anyone can run on an implementation of Prop. 4.1 of arXiv:2409.02908.

The implementation decodes a small network whose every answer is a table, and which is told the time and remembers what it
was asked. What was asked and what came out is then judged: exactly where nothing is random, else with a declared rate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ..errors import InputError
from ..laws.law import Law
from ..statistics._checks import check_open_unit, check_whole
from ..statistics.independence import agreement_test
from ..statistics.testing import TestResult
from ..types import Float, Guarantee
from .schedule import LINEAR, Schedule, checked

Decode = Callable[
    ..., Any
]  # (network, *, batch, length, rng) -> (batch, length) token ids, a tensor or an array
_LARGEST = 1 << 24  # numbers in a probe's table: 134 MB


@dataclass(frozen=True)
class ProbeConfig:
    vocab: int
    timed: bool = True

    @property
    def mask_id(self) -> int:
        return self.vocab


@dataclass
class Probe:
    """A network by its table: a random prediction at every position of every partly masked state, the same at all times.

    ``asked``: the (tokens, t) of every call. ``hidden(tokens, t)`` gives places in the table, ``log_probs`` looks there; on
    the CPU, with answers on the device of the question. InputError for a table of more than 2^24 numbers.
    """

    length: int
    vocab: int
    seed: int = 0
    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        states = (check_whole("vocab", self.vocab, 1) + 1) ** check_whole("length", self.length, 1)
        if states * self.length * self.vocab > _LARGEST:
            got = f"a probe of {self.length} positions of {self.vocab} tokens, {states:.3g} states"
            raise InputError(
                got, f"a table of at most {_LARGEST} numbers", "length = vocab = 3 shows most mistakes"
            )
        self.config = ProbeConfig(self.vocab)
        self.place = (self.vocab + 1) ** torch.arange(self.length)
        logits = np.random.default_rng(self.seed).normal(size=(states * self.length, self.vocab))
        self.table = torch.log_softmax(torch.from_numpy(logits), dim=-1)

    def hidden(self, tokens: Tensor, t: Tensor) -> Tensor:
        state = tokens.detach().clone().cpu()
        self.asked.append((state, torch.as_tensor(t, dtype=torch.float64).expand(len(tokens)).clone().cpu()))
        return self.answer(state).to(tokens.device)

    def answer(self, tokens: Tensor) -> Tensor:
        return (tokens * self.place).sum(-1, keepdim=True) * self.length + torch.arange(self.length)

    def log_probs(self, hidden: Tensor) -> Tensor:
        return self.table[hidden.cpu()].to(hidden.device)

    def law(self) -> Law:
        """The exact law of the final sequence, (vocab^length,), the first position the slowest: with k masked, each of them
        is next with probability 1/k and its token comes from the prediction."""
        mask, law = self.vocab, {(self.vocab,) * self.length: 1.0}
        for k in range(self.length, 0, -1):
            after: dict[tuple[int, ...], float] = {}
            for state, p in law.items():
                mu = self.log_probs(self.answer(torch.tensor([state])))[0].exp().numpy()
                for l in (l for l, token in enumerate(state) if token == mask):
                    for token in range(mask):
                        to = (*state[:l], token, *state[l + 1 :])
                        after[to] = after.get(to, 0.0) + p / k * float(mu[l, token])
            law = after
        probs = np.array([law[text] for text in itertools.product(range(mask), repeat=self.length)])
        return Law.from_probs(probs, "every order and every token", 1e-13, Guarantee.CERTIFIED)


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
    """Five verdicts on ``decode(network, batch=, length=, rng=)``, each at ``false_fail`` / 5, or the first alone if it fails,
    for then the others mean nothing; ``batch`` even.

    one_token_per_hit (exact): ``length`` calls on the whole batch; one mask fewer at each; what came stays.
    uniform_position: all ``length``! orders are as likely (exact binomial tests, union).
    hitting_times: asked at the *new* time, for (s_k / s_(k-1))^n is uniform, s the masked share of the schedule at the time
    asked, n the masks left before (Kolmogorov-Smirnov, exact; a query at the old time gives 1 at once).
    within_batch: rows 2i and 2i + 1 share nothing: neither text, nor order, nor times (agreement tests).
    final_law: the text has the law of the reverse process, by enumeration (the same).
    """
    probe, each = Probe(length, vocab), check_open_unit("false_fail", false_fail) / 5
    if check_whole("batch", batch, 2) % 2:
        raise InputError(f"batch = {batch}", "an even number", "rows are compared in pairs")
    checked(schedule)
    tokens = _ids(decode(probe, batch=batch, length=length, rng=rng))
    states = [*(state for state, _ in probe.asked), tokens]
    first = _one_token_per_hit(states, batch, length, vocab, each)
    if first.failed:
        return [first]
    codes = (tokens * vocab ** torch.arange(length - 1, -1, -1)).sum(1).numpy()
    orders = list(itertools.permutations(range(length)))
    came = torch.stack([((a != b) & (a == vocab)).int().argmax(1) for a, b in itertools.pairwise(states)], 1)
    order = np.array([orders.index(tuple(row)) for row in came.tolist()])
    share = np.stack([schedule.masked(t.numpy()) for _, t in probe.asked], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        before = np.concatenate([np.ones((batch, 1)), share[:, :-1]], 1)
        pit = np.clip(np.nan_to_num((share / before) ** np.arange(length, 0, -1)), 0, 1)
    flat = Law.from_probs(np.full(len(orders), 1 / len(orders)), "equally likely", 0.0, Guarantee.EXACT)
    law = probe.law()
    return [
        first,
        _each_outcome(order, flat, "uniform_position", each),
        _hitting_times(pit, each),
        _within_batch([(codes, law), (order, flat), *((_eighths(v), EIGHTHS) for v in pit.T)], each),
        _each_outcome(codes, law, "final_law", each),
    ]


def _ids(tokens: object) -> Tensor:
    """What a decoder returned, on the CPU."""
    try:
        found = torch.as_tensor(tokens).cpu()
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.is_floating_point() or found.is_complex():
        got = type(tokens).__name__ if found is None else str(found.dtype)
        raise InputError(f"decode() that returns {got}", "(batch, length) token ids", "return its tokens")
    return found.long()


def assert_first_hitting_conformance(decode: Decode, *, rng: object, **options: object) -> None:
    """AssertionError with every verdict, if one fails; options of :func:`first_hitting_conformance`."""
    results = first_hitting_conformance(decode, rng=rng, **options)  # type: ignore[arg-type]
    if any(result.failed for result in results):
        raise AssertionError("not a first-hitting sampler:\n" + "\n".join(map(str, results)))


def _one_token_per_hit(states: list[Tensor], batch: int, length: int, mask: int, level: float) -> TestResult:
    whole = len(states) == length + 1 and all(tuple(state.shape) == (batch, length) for state in states)
    whole = whole and all(bool(((state >= 0) & (state <= mask)).all()) for state in states)
    fewer = whole and all(bool(((s == mask).sum(1) == length - k).all()) for k, s in enumerate(states))
    stays = fewer and all(bool((a == b)[a != mask].all()) for a, b in itertools.pairwise(states))
    p = 1.0 if stays else 0.0
    return TestResult(p, float(len(states) - 1), batch, 0.0, level, "one_token_per_hit", "any", Guarantee.EXACT)


def _hitting_times(pit: Float, level: float) -> TestResult:
    found = [stats.kstest(column, "uniform", method="exact") for column in pit.T]
    p = min(1.0, len(found) * min(float(f.pvalue) for f in found))
    worst, seen = (
        max(float(f.statistic) for f in found),
        math.sqrt(math.log(2 * len(found) / level) / (2 * len(pit))),
    )
    effect = "distance of the distribution function"
    return TestResult(p, worst, len(pit), 2 * seen, level, "hitting_times", effect, Guarantee.FINITE_SAMPLE)


def _within_batch(pairs: list[tuple[np.ndarray, Law]], level: float) -> TestResult:
    found = [
        agreement_test(values[0::2], values[1::2], law, law, false_fail=level / len(pairs))
        for values, law in pairs
    ]
    worst = min(found, key=lambda result: result.p_value)
    return replace(worst, p_value=min(1.0, len(pairs) * worst.p_value), false_fail=level, test="within_batch")


def _each_outcome(drawn: np.ndarray, law: Law, name: str, level: float) -> TestResult:
    """Every outcome's count is binomial: p = outcomes x the least of their exact two-sided p-values."""
    counts, n = np.bincount(drawn, minlength=law.vocab), len(drawn)
    found = [float(stats.binomtest(int(k), n, float(p)).pvalue) for k, p in zip(counts, law.probs, strict=True)]
    rarest = float(law.probs.min())
    seen = 2 * stats.norm.isf(level / 2 / law.vocab) * math.sqrt((1 - rarest) / (n * rarest))
    worst, effect = float(np.argmin(found)), "relative deviation of the rarest outcome, about"
    p_value = min(1.0, law.vocab * min(found))
    return TestResult(p_value, worst, n, seen, level, name, effect, Guarantee.FINITE_SAMPLE)


def _eighths(pit: Float) -> np.ndarray:
    return np.minimum((8 * pit).astype(np.int64), 7)


EIGHTHS = Law.from_probs(np.full(8, 0.125), "eighths", 0.0, Guarantee.EXACT)
