"""``precision-lab audit``: the verdict from files, for samplers that cannot be imported."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import interpolate, special

from ..errors import InputError
from ..pipelines import Pipeline, parse_pipeline
from ..recorded import Recorded
from ..statistics import Counts, TestResult
from ..statistics.row_tests import EXCESS, RowEvidence
from ..targets import Target
from ..types import Array
from .plan import DEFAULT_DETECT, STREAMS, Plan, ask, draws_needed, parse_detect, vector_length
from .processed import judge_each, rows_after
from .report import Report, judged_all
from .suspects import FAITHFUL, TEMPERATURE, Suspect, suspects, with_fit
from .truncations import RowTruncations

UNKNOWN = ("rows", "streams")  # tests of a layout that a file of draws does not have


def audit(
    draws: Path,
    logits: Path,
    *,
    detect: str | Iterable[str] = DEFAULT_DETECT,
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
    seed: int = 0,
    slow: bool = False,
    pipeline: str | Pipeline | None = None,
) -> Report:
    """``draws``: ``tokens`` (n,) integers in the order they were drawn. ``logits``: ``logits`` (n, vocab), the row that
    each was drawn from, or one row, (vocab,) or (1, vocab), of them all. Parquet, npz or safetensors; npy holds one array.

    Rows are read in chunks, each once. One shared row is judged as by ``check``, except for what needs batches and seeds;
    a row for each draw by temperature, tail and support. The draws must be independent given their rows.
    ``pipeline``: the logits are raw, and these steps, in float32 or better, are between them and the draws; with a row a
    draw, draws of tokens in doubt at an edge are set aside.
    Errors: InputError for files that are missing, empty, broken, of unequal length or with NaN, and for ids out of range.
    """
    wished = parse_detect(detect)
    for name, rate in (("false_fail", false_fail), ("false_pass", false_pass)):
        if not 1e-9 <= rate < 0.5:
            raise InputError(f"{name} = {rate}", "1e-9 to 0.5", "1e-6 and 1e-3 are the defaults")
    ids, rows = Recorded(draws, "tokens"), Recorded(logits, "logits")
    if len(ids.shape) != 1 or len(rows.shape) > 2:
        raise InputError(
            f"tokens {ids.shape}, logits {rows.shape}", "(n,) and (n, vocab) or (vocab,)", "flatten them"
        )
    words = ["precision-lab", "audit", str(draws), "--logits", str(logits)]
    for part in [detect] if isinstance(detect, str) else detect:
        words += ["--detect", part]
    words += ["--false-fail", f"{false_fail:g}", "--false-pass", f"{false_pass:g}", "--seed", str(seed)]
    steps = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    words += ["--pipeline", str(steps)] if steps is not None else []
    command, n = shlex.join(words), ids.shape[0]
    if len(rows.shape) == 1 or rows.shape[0] == 1:
        return _shared(ids, rows, wished, false_fail, false_pass, seed, slow, command, steps)
    if rows.shape[0] != n:
        raise InputError(
            f"{n} tokens and {rows.shape[0]} rows of logits", "a row a draw, or one", "record them together"
        )
    return _each(ids, rows, wished, false_fail, false_pass, seed, command, steps)


def _shared(
    ids: Recorded, rows: Recorded, wished: dict[str, float], false_fail: float, false_pass: float, seed: int, slow: bool,
    command: str, pipeline: Pipeline | None,
) -> Report:  # fmt: skip
    row = np.concatenate([chunk.reshape(-1) for chunk in rows.chunks()])
    if row.dtype.kind != "f":
        raise InputError(f"logits of dtype {row.dtype}", "a floating dtype", "save the logits, not token ids")
    target = Target(rows.path.name, row.astype(np.float64), f"read from {rows.path}")
    tokens = np.concatenate([_checked(chunk, len(row)) for chunk in ids.chunks()])
    n = len(tokens) // (2 * STREAMS) * 2 * STREAMS
    if not n:
        raise InputError(f"{len(tokens)} draws", f"{2 * STREAMS} or more", "record more")
    question = ask(target, without=UNKNOWN, dtype=np.float64, pipeline=pipeline)
    level = false_fail / len(question.tests)
    wished = {} if question.lone else wished
    needed = {
        effect: draws_needed(question, effect, size, level, false_pass) for effect, size in wished.items()
    }
    question = question.planned(needed, n, vector_length(question.law, n, level))
    asked = Plan((question,), wished, false_fail, false_pass, level)
    streams = np.random.SeedSequence(seed).spawn(2)
    question, found = judge_each(
        question, tokens[:n].reshape(STREAMS, -1, 1), asked, np.random.default_rng(streams[0])
    )
    asked = replace(asked, questions=(question,))
    counts = [Counts.from_tokens(tokens[:n], len(row))]
    listed = [] if question.lone else suspects(asked.questions, counts, slow=slow)
    if listed:
        listed[0] = with_fit(listed[0], asked.questions, counts, np.random.default_rng(streams[1]))
    wanted = {question.target.name: most} if (most := max(needed.values(), default=0)) > n else {}
    return Report(
        ids.path.name, judged_all({question.target.name: found}, asked), tuple(listed), None, false_fail, false_pass,
        seed, wanted, command,
    )  # fmt: skip


def _each(
    ids: Recorded,
    rows: Recorded,
    wished: dict[str, float],
    false_fail: float,
    false_pass: float,
    seed: int,
    command: str,
    pipeline: Pipeline | None,
) -> Report:
    if "tv" in wished:
        raise InputError(
            "tv with a row of logits a draw", "temperature or tail", "total variation needs one shared row"
        )
    evidence, cut = RowEvidence(), RowTruncations()
    kept, source = np.empty(0, dtype=np.int64), ids.chunks()
    for chunk in rows.chunks():
        while len(kept) < len(chunk):
            kept = np.concatenate([kept, _checked(next(source), rows.shape[1])])
        taken, kept = kept[: len(chunk)], kept[len(chunk) :]
        if pipeline is not None:
            chunk, taken = rows_after(pipeline, chunk, taken)
        if len(taken):
            evidence.update(chunk, taken)
            cut.update(chunk, taken)
    if not evidence.variance > 1e-12 * evidence.n:  # what rounding makes of equal logits is below
        raise InputError(
            f"{rows.path}, every row of which is flat or certain", "rows with a temperature", "record others"
        )
    level, name = false_fail / (2 + evidence.has_tail), rows.path.name
    found: dict[str, TestResult] = {
        "temperature": evidence.temperature_test(level, false_pass),
        "support": evidence.support_test(level),
    }
    if evidence.has_tail:
        found["tail"] = evidence.tail_test(level, false_pass)
    asked = Plan((), wished, false_fail, false_pass, level)
    wanted = {
        test: math.ceil(evidence.n * (found[test].detectable / size) ** 2)
        for test, size in asked.wish_of.items()
        if test in found and size < found[test].detectable < math.inf
    }
    return Report(
        ids.path.name, judged_all({name: found}, asked), tuple(_row_suspects(evidence, cut)), None, false_fail, false_pass, seed,
        {name: max(wanted.values())} if wanted else {}, command,
    )  # fmt: skip


def _checked(tokens: Array, vocab: int) -> Array:
    if tokens.dtype.kind not in "iu":
        raise InputError(f"tokens of dtype {tokens.dtype}", "an integer dtype", "save token ids")
    if tokens.min() < 0 or tokens.max() >= vocab:
        raise InputError(
            f"tokens from {tokens.min()} to {tokens.max()}", f"0 to {vocab - 1}", "ids of the logits' axis"
        )
    return tokens.astype(np.int64)


def _row_suspects(evidence: RowEvidence, cut: RowTruncations) -> list[Suspect]:
    """Faithful, lattices in closed form, and one temperature for all rows (Laplace, T uniform in its logarithm)."""
    found = {FAITHFUL: ("softmax in float64", 0.0)}
    names = {24: "float32 noise, truncated", 23: "23-bit noise (JAX, TensorFlow GPU)"}
    for bits, log in evidence.lattice.items():
        found[names[bits]] = (f"lattice of {bits} bits, closed form", log)
    t = np.concatenate([-EXCESS[::-1], [0.0], EXCESS])
    values = np.concatenate([evidence.cumulant[0][::-1], [0.0], evidence.cumulant[1]])
    fine = np.linspace(-0.5, 1.0, 30_001)  # temperatures from 1/2 to 2
    gain = fine * evidence.score - interpolate.CubicSpline(t, values)(fine)
    best = int(gain.argmax())
    b = 1 + float(fine[best])
    sd = 1 / math.sqrt(evidence.variance) / b
    prior = math.log(min(1.0, math.sqrt(2 * math.pi) * sd / (2 * math.log(2))))
    found[TEMPERATURE] = (f"T = {1 / b:.5g} +- {1.96 * sd / b:.2g} (95 %)", float(gain[best]) + prior)
    found |= {recipe: (how, log) for recipe, how, log in cut.found()}
    logs = np.array([log for _, log in found.values()])
    share = np.exp(logs - special.logsumexp(logs))
    listed = [
        Suspect(recipe, how, log, float(posterior), evidence.n)
        for (recipe, (how, log)), posterior in zip(found.items(), share, strict=True)
    ]
    return sorted(listed, key=lambda suspect: -suspect.log_likelihood)
