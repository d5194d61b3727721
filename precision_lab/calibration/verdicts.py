"""What ``check`` and ``audit`` add to the tests of one law: whole batches, laws in doubt, rows of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from ..pipelines import parse_pipeline
from ..statistics.row_sharing import Sharing
from ..statistics.row_sources import RowSources
from ..statistics.row_tests import RowEvidence
from ..targets import Target
from ..types import Array, Float, Guarantee
from ..verdict.batch_rows import Batch
from ..verdict.batches import SMALL, Design, design, row_laws
from ..verdict.company import Alone, Drawn, Evidence, agreements, sign_p_values
from ..verdict.plan import Plan, ask
from ..verdict.processed import judge_each
from .promise import RATES, Promise, Rng, Simulation
from .remembered import remembered

A, B = RATES["false_fail"], RATES["false_pass"]
CHECKED = 1e-7  # level of a stage within a check at 1e-6, about
RARE = 1e-3  # false-pass rate of a check
FINITE, ASYMPTOTIC = Guarantee.FINITE_SAMPLE, Guarantee.ASYMPTOTIC
IN_DOUBT = (2.0, 1.0, 1.0, 1.0, 0.0, -1.0)  # three laws of top_k=3
OF_DOUBT = ("temperature", "support", "streams", "serial")


def small_design() -> Design:
    """Batches of 2 and 3 rows, of 60 draws each, and three rows that are nearly alike."""
    whole = design(0)
    small = [
        replace(batch, n=60)
        for batch in whole.company
        if batch.rows in (2, 3) and batch.vocab == SMALL and batch.kind == "own"
    ]
    small.append(Batch("alike", 3, SMALL, 60, 1))
    alone = [
        replace(batch, n=60)
        for batch in whole.alone
        if batch.kind == "own" and batch.vocab == SMALL and batch.first < 3
    ]
    return replace(whole, company=tuple(small), alone=tuple(alone))


class RightDraws:
    """Draws of a right sampler for every call of a stage, straight from the laws."""

    def __init__(self, asked: Design) -> None:
        self.asked = asked
        self._edges = {id(batch): np.cumsum(batch.probs, axis=1) for batch in (*asked.alone, *asked.company)}

    def ids(self, batch: Batch, rng: Rng) -> Array:
        edges = self._edges[id(batch)]
        u = rng.random((batch.n, batch.rows)) * edges[:, -1]
        found = [np.searchsorted(row, u[:, j], side="right") for j, row in enumerate(edges)]
        return np.stack(found, axis=1)

    def stage(self, rng: Rng) -> tuple[Alone, list[Drawn]]:
        alone = {(b.kind, b.first, b.vocab): self.ids(b, rng)[:, 0] for b in self.asked.alone}
        return alone, [Drawn(b, self.ids(b, rng)) for b in self.asked.company]


def company(asked: Design) -> Simulation:
    """p-values of rows in company: the least of all, times their number."""
    right = RightDraws(asked)

    def one(rng: Rng) -> float:
        alone, drawn = right.stage(rng)
        return min(1.0, Evidence.of(drawn, alone, 0.0).least() * asked.decisions)

    return repeated(one)


def laws_of_rows(asked: Design) -> Simulation:
    right = RightDraws(asked)
    by_rank = asked.by_rank
    return repeated(lambda rng: row_laws(*right.stage(rng), A, RARE, by_rank).p_value)


def row_pairs(rows: int, n: int) -> Simulation:
    """p-values of pairs of rows that agree in one draw and in two."""
    batch = Batch("alike", rows, SMALL, n, 0)
    edges = np.cumsum(batch.probs, axis=1)

    def one(rng: Rng) -> float:
        u = rng.random((n, rows))
        ids = np.stack(
            [np.searchsorted(row, u[:, j] * row[-1], side="right") for j, row in enumerate(edges)], axis=1
        )
        return min(1.0, float(sign_p_values(*agreements(ids)).min()) * (rows * (rows - 1) // 2))

    return repeated(one)


def shared(rows: int, n: int, noise: str) -> Simulation:
    """Whether all rows on one vector of noise, or one uniform number, pass at the level of a check."""
    batch = Batch("alike", rows, SMALL, n, 0)
    level = CHECKED / design(0).decisions
    logits = batch.logits.astype(np.float64)
    edges = np.cumsum(batch.probs, axis=1)

    def one(rng: Rng) -> bool:
        if noise == "race":
            ids = (logits + rng.gumbel(size=(n, 1, SMALL))).argmax(axis=-1)
        else:
            u = rng.random(n)
            ids = np.stack([np.searchsorted(row, u * row[-1], side="right") for row in edges], axis=1)
        return not (sign_p_values(*agreements(ids)) <= level).any()

    return repeated(one)


def in_doubt(which: int) -> Simulation:
    """p-values of a right sampler of one of three laws that an edge leaves open: of all laws the largest."""
    target = Target("tied", np.array(IN_DOUBT), "of the calibration")
    question = replace(ask(target, pipeline=parse_pipeline("top_k=3")), tests=OF_DOUBT)
    plan = Plan((question,), {}, A, B, 1 - 1e-12)  # at such a level every law is tried
    probs = question.laws[which].probs

    def one(rng: Rng) -> float:
        drawn = rng.choice(len(probs), (4, 16, 4), p=probs / probs.sum())
        _, found = judge_each(question, drawn, plan, rng)
        return min(1.0, len(OF_DOUBT) * min(result.p_value for result in found.values()))

    return repeated(one)


def rows_of_file(count: int, vocab: int, test: str) -> Simulation:
    """p-values of draws each from a row of normal logits of its own."""

    def one(rng: Rng) -> float:
        logits = rng.normal(0.0, 2.0, (count, vocab))
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        if test == "sources":
            sources = RowSources(count)
            RowEvidence((), sources=sources).update(logits, drawn)
            return sources.test(A, B).p_value
        pairs = Sharing(rng.random(count), (1,))
        RowEvidence((), pairs).update(logits, drawn)
        return pairs.uniformity_test(A, B, rng).p_value

    return repeated(one)


def sources_seen(count: int, vocab: int, least: float = 0.0) -> Simulation:
    """Whether draws, so many of which are of the row after theirs as these very rows say they see, pass."""

    def one(rng: Rng) -> bool:
        logits = rng.normal(0.0, 2.0, (count, vocab))
        right = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        tried = RowSources(count)
        RowEvidence((), sources=tried).update(logits, right)
        share = max(least, tried.test(A, B).detectable)
        late = rng.random(count) < share
        drawn = np.where(late, np.roll(right, -1), right)
        sources = RowSources(count)
        RowEvidence((), sources=sources).update(logits, drawn)
        return not sources.test(A, B).failed

    return repeated(one)


def repeated(one: Callable[[Rng], float]) -> Simulation:
    def simulate(runs: int, rng: Rng) -> Float:
        with remembered():
            return np.array([one(rng) for _ in range(runs)], dtype=np.float64)

    return simulate


def all_verdicts() -> Iterator[Promise]:
    def fail(judge: str, target: str, ms: float, build: Callable[[], Simulation]) -> Promise:
        return Promise(judge, target, "false fail", FINITE, ms, build)

    yield fail("company", "batches of 2 and 3 rows", 1, lambda: company(small_design()))
    yield fail("company", "all batches of a check", 15, lambda: company(design(0)))
    yield fail("row_laws", "batches of 2 and 3 rows", 1, lambda: laws_of_rows(small_design()))
    yield fail("row_pairs", "8 rows, 192 draws", 0.3, lambda: row_pairs(8, 192))
    yield fail("row_pairs", "64 rows, 192 draws", 5, lambda: row_pairs(64, 192))
    for which in range(3):
        yield fail("judge_each", f"law {which + 1} of 3 in doubt, 256 draws", 5, partial(in_doubt, which))
    yield fail("row_sources", "600 rows of 30 normal logits", 5, lambda: rows_of_file(600, 30, "sources"))
    yield fail("row_uniformity", "400 rows of 8 normal logits", 10, lambda: rows_of_file(400, 8, "uniformity"))
    for rows, n in ((2, 384), (8, 192), (64, 192)):
        for noise, word in (("race", "one vector of noise"), ("uniform", "one uniform number")):
            yield Promise(
                "row_pairs",
                f"{rows} rows on {word}, level of a check",
                "false pass",
                FINITE,
                0.5 if rows < 64 else 8,
                partial(shared, rows, n, noise),
                RARE,
            )
    yield Promise(
        "row_sources",
        "detectable, 600 rows of 30",
        "false pass",
        ASYMPTOTIC,
        10,
        lambda: sources_seen(600, 30),
        B,
    )
