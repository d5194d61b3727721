"""Samplers with a pipeline inside: the targets on which it is judged, and the null where its edges are in
doubt."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..laws.law import Law, target_law
from ..pipelines import Pipeline
from ..statistics import Counts, TestResult
from ..statistics.tempered import Tempered
from ..targets import Target, parse_target
from ..types import Array
from .caller import Misbehaved, ramp
from .judge import judge
from .misbehaviour import CHANCE_BITS
from .plan import Asked, Plan, Question, rarest

# The rows that are tried for a pipeline, the one most like a model's first. {vocab}: the user's, or few, so
# that the draws that a temperature takes after a truncation fit the smallest budget; the shapes bring the
# large vocabulary.
VOCAB = 1024
CANDIDATES = (
    "zipf[vocab={vocab}]",
    "normal[vocab={vocab}]",
    "geometric[vocab={vocab},ratio=0.99]",
    "geometric[vocab={vocab},ratio=0.95]",
    "geometric[vocab={vocab},ratio=0.9]",
    "geometric[vocab={vocab},ratio=0.8]",
    "geometric[vocab={vocab},ratio=0.6]",
    "geometric[vocab={vocab},ratio=0.4]",
)
EQUAL_ANSWERS = ("ignores its generator", "does not advance its generator")
RARE_BITS = 40
SHAPES = ("ends[vocab={vocab}]", "shifted[vocab=1024,by=1000]", "masked[vocab=1024]")
SHAPE_VALUES = 2**24  # noise values of a shape
SHAPE_DRAWS = 2**9  # and at least so many draws
SHAPE_VOCAB = 151_936


def asked_for(pipeline: Pipeline, wished: dict[str, float], vocab: int | None = None) -> list[Asked]:
    """The questions of a pipeline without targets of the user's.

    The wishes go to the first candidate with nothing in doubt at its edges in float32, two tokens left or
    more and unequal ones among them; else to the first whose doubts are few. Shapes that samplers break on
    come without a wish, those whose edges are too doubtful left out. InputError where no row will do.
    """
    candidates = [parse_target(text.format(vocab=vocab or VOCAB)) for text in CANDIDATES]
    main = next((t for t in candidates if _telling(pipeline, t) and not _doubts(pipeline, t)), None)
    if main is None:
        main = next((t for t in candidates if _telling(pipeline, t) and _few(pipeline, t)), None)
    if main is None and all(_lone(pipeline, t) for t in candidates):
        main = candidates[0]
    if main is None:
        remedy = "name a row with --targets, the rule for ties, or how masses are added (sums=pairwise)"
        raise InputError(f"--pipeline {pipeline}", "an edge that some default row meets clearly", remedy)
    asked = [Asked(main, wished, pipeline=pipeline)]
    for text in SHAPES:
        shape = parse_target(text.format(vocab=vocab or SHAPE_VOCAB))
        if _few(pipeline, shape):
            least = max(SHAPE_DRAWS, min(2**14, SHAPE_VALUES // len(shape.logits)))
            asked.append(Asked(shape, {}, ("temperature", "tail", "lattice"), least, pipeline))
    return asked


def _given(target: Target) -> Array:
    return target.logits.astype(np.float32).astype(np.float64)


def _lone(pipeline: Pipeline, target: Target) -> bool:
    return int(pipeline.kept(_given(target)).sum()) == 1


def _telling(pipeline: Pipeline, target: Target) -> bool:
    law = pipeline.law(_given(target))
    return 0 < float(law.probs.max()) < 1 and not Tempered.of(law).flat


def _doubts(pipeline: Pipeline, target: Target) -> bool:
    return bool(pipeline.doubtful(_given(target), "float32"))


def _few(pipeline: Pipeline, target: Target) -> bool:
    try:
        pipeline.laws_in_doubt(_given(target), "float32")
    except InputError:
        return False
    return True


def judge_each(
    question: Question, tokens: Array, plan: Plan, rng: np.random.Generator
) -> tuple[Question, dict[str, TestResult]]:
    """The tests under the law in doubt that the draws contradict least, and the question with that law.

    The null is that *some* law of the few is the sampler's. The law is chosen whose smallest p-value is
    largest; under the true one of them that value is no larger, so that a right sampler fails no more often
    than by one law alone (an intersection of rejections: Berger 1982, Technometrics 24). Where the first
    law is not rejected, it is taken.
    """
    counts = Counts.from_tokens(tokens, question.law.vocab)
    laws = question.laws or (question.law,)
    forbidden = [int(counts.counts[np.isneginf(law.log_probs)].sum()) for law in laws]
    # a law that forbids what was drawn is rejected already: of these alone one is enough
    possible = [law for law, count in zip(laws, forbidden, strict=True) if not count]
    best: tuple[float, Question, dict[str, TestResult]] | None = None
    for law in possible or [laws[int(np.argmin(forbidden))]]:
        held = under(question, law)
        found = judge(held, tokens, plan, rng)
        least = min((result.p_value for result in found.values()), default=1.0)
        if best is None or least > best[0]:
            best = (least, held, found)
        if least > plan.level:
            break
    assert best is not None
    return best[1], best[2]


def under(question: Question, law: Law) -> Question:
    """The question by another of its laws. A test of a tail that the law lacks is left out."""
    if law is question.law:
        return question
    tail = rarest(law.probs)
    lacking = set() if tail.any() else {"tail"}
    return replace(question, law=law, tail=tail, tests=tuple(t for t in question.tests if t not in lacking))


def rows_after(pipeline: Pipeline, rows: Array, tokens: Array) -> tuple[Array, Array]:
    """Rows of logits as the steps leave them, (counted, vocab), and which draws count, (n,) bool.

    Tokens in doubt are set aside: they are masked, and a draw of one goes with its row. Given that no such
    token was drawn, the others have the law of the tokens surely kept, whatever became of the doubtful
    ones. A row that is no law (NaN, +inf, all -inf) stays as it is.
    """
    left = rows.astype(np.float64)
    counted = np.ones(len(rows), dtype=bool)
    for i, row in enumerate(rows.astype(np.float64)):
        if not np.isfinite(row.max()):  # NaN too
            continue
        left[i] = pipeline.law(row).log_probs
        doubtful = [doubt.token for doubt in pipeline.doubtful(row, "float32")]
        left[i, doubtful] = -np.inf
        counted[i] = tokens[i] not in doubtful and bool(np.isfinite(left[i]).any())
    return left[counted], counted


def refuse_doubt(questions: Iterable[Question], what: str) -> None:
    """InputError where a question has several laws: ``what`` adds up evidence against one."""
    for question in questions:
        if len(question.laws) > 1:
            got = f"{what} on {question.target.name}, where {len(question.laws)} laws are in doubt"
            raise InputError(got, "a row with no token at the pipeline's edge", "choose another row or value")


def with_steps_before(asked: Plan, pipeline: Pipeline) -> Plan:
    """The plan for a sampler that has no steps of its own: it is given the logits as the steps leave them
    in float32."""
    import torch

    given = [
        replace(question, logits=pipeline.apply(torch.from_numpy(question.logits).float()).numpy())
        for question in asked.questions
    ]
    return replace(asked, questions=tuple(given))


def probe(drawer: Any, asked: Plan, seed: int) -> None:
    """The drawer's probe of its generator, where steps inside it may leave so few tokens that right answers
    agree.

    The faults that two equal answers show are then let pass: what ignores its generator fails the tests of
    streams and of returning vectors instead, and a greedy sampler may ignore it.
    """
    vocab = asked.questions[0].law.vocab
    pipelines = [question.pipeline for question in asked.questions if question.pipeline is not None]
    try:
        drawer.probe(vocab, seed)
    except Misbehaved as fault:
        if fault.what not in EQUAL_ANSWERS or not any(_may_agree(pipeline, vocab) for pipeline in pipelines):
            raise


def _may_agree(pipeline: Pipeline, vocab: int) -> bool:
    """Whether two answers of a right sampler to the probe agree with a probability above
    2^-:data:`RARE_BITS`."""
    row = ramp(1, vocab)[0].astype(np.float64)
    plain = float((target_law(row).probs ** 2).sum())
    left = float((pipeline.law(row).probs ** 2).sum())
    ids = 2 * max(8, math.ceil(CHANCE_BITS / (-2 * math.log2(plain))))
    return ids * -math.log2(left) < RARE_BITS
