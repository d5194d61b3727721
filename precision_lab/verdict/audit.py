"""``precision-lab audit``: the verdict from files, for samplers that cannot be imported."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import interpolate, special

from ..errors import InputError
from ..laws.law import target_law
from ..pipelines import Pipeline, parse_pipeline
from ..recorded import Recorded
from ..statistics import Counts, TestResult
from ..statistics.row_sharing import CELLS, Sharing, likely_lag
from ..statistics.row_sources import RowSources, Sources
from ..statistics.row_tests import EXCESS, DeadRow, RowEvidence
from ..statistics.testing import RareToken
from ..targets import Target
from ..types import Array, Int
from .company import WHOLE, sources_said
from .judge import impossible_draws, support
from .plan import (
    DEFAULT_DETECT,
    FLAT_TV,
    OF_UNEQUAL,
    STREAMS,
    Plan,
    ask,
    draws_needed,
    parse_detect,
    seeable,
    vector_length,
)
from .processed import judge_each, rows_after
from .report import Fault, Impossible, Report, judged_all
from .suspects import (
    FAITHFUL,
    MIXED,
    SHARED,
    TEMPERATURE,
    WIDEST,
    Suspect,
    looks_like_probabilities,
    pairs_of,
    suspects,
    temperature_said,
    with_fit,
)
from .truncations import RowTruncations

UNKNOWN = ("rows", "streams")  # tests of a layout that a file of draws does not have
MOST_DRAWS = 1 << 28
LOOKED_AT = 1 << 20  # numbers of the logits that are tried for being probabilities
REFITTED = 1 << 27  # logits that are read a second time, to see whether the best temperature explains the draws
SHOWN = 5  # rows set aside that are named
OF_ROWS = frozenset({"serial", "sources"})  # tests that compare a draw with other rows
NOT_OF_DRAWS = "this supposes rows that were not made from the draws, as consecutive rows of one text are"


@dataclass(frozen=True)
class _Asked:
    """What was asked of the files, and what of them is no draw of a row.

    ``outside``: (k,) places of ids beyond the vocabulary.  ``beyond``: (k,) these ids.
    """

    name: str
    wished: dict[str, float]
    false_fail: float
    false_pass: float
    seed: int
    command: str
    vocab: int
    outside: Int
    beyond: Int
    notes: tuple[str, ...]
    pipeline: Pipeline | None = None

    def report(self, judged: dict[str, dict[str, TestResult]], plan: Plan, **rest: object) -> Report:
        return Report(
            self.name,
            judged_all(judged, plan),
            false_fail=self.false_fail,
            false_pass=self.false_pass,
            seed=self.seed,
            command=self.command,
            **rest,  # type: ignore[arg-type]
        )

    def named(self, target: str, rare: list[RareToken], place: str) -> tuple[Impossible, ...]:
        """Ids beyond the vocabulary, then tokens too rare to be drawn."""
        why = f"beyond the vocabulary, 0 to {self.vocab - 1}"
        ids, first, counts = np.unique(self.beyond, return_index=True, return_counts=True)
        found = [
            Impossible(target, int(token), int(count), int(self.outside[at]), why, place)
            for token, at, count in zip(ids, first, counts, strict=True)
        ]
        found.sort(key=lambda each: (-each.count, each.first))
        for each in rare:
            found.append(Impossible.of(target, each, place))
        return tuple(found)


def audit(
    draws: Path | str,
    logits: Path | str,
    *,
    detect: str | Iterable[str] = DEFAULT_DETECT,
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
    seed: int = 0,
    slow: bool = False,
    pipeline: str | Pipeline | None = None,
) -> Report:
    """``draws``: ``tokens`` (n,) integers in the order they were drawn. ``logits``: ``logits`` (n, vocab),
    the row that each was drawn from, or one row, (vocab,) or (1, vocab), of them all. Files as
    :class:`..recorded.Recorded` reads them.

    Rows are read in chunks, each once. One shared row is judged as by ``check``, except for what needs
    batches and seeds; a row for each draw by temperature, tail, support, by shared noise of draws some rows
    apart, and by whether the draws fit other rows of their batch better than their own. The draws must be
    independent given their rows; for the last two tests the rows must not be made from the draws either, as
    consecutive rows of one text are, and the report says so where these alone fail.
    ``pipeline``: the logits are raw, and these steps, in float32 or better, are between them and the
    draws; with a row a draw, draws of tokens in doubt at an edge are set aside. Ids beyond the vocabulary,
    and draws of tokens too rare to be drawn, fail and are named. Rows that are no law
    (all -inf, NaN, +inf) are set aside with their draws, and the report says how many. Errors: InputError
    for files that are missing, empty, broken or of unequal length, and where no row is a law.
    """
    wished = parse_detect(detect)
    for name, rate in (("false_fail", false_fail), ("false_pass", false_pass)):
        if not 1e-9 <= rate < 0.5:
            raise InputError(f"{name} = {rate}", "1e-9 to 0.5", "1e-6 and 1e-3 are the defaults")
    ids, rows = Recorded(draws, "tokens"), Recorded(logits, "logits")
    column = len(ids.shape) == 2 and ids.shape[1] == 1
    if not (len(ids.shape) == 1 or column) or len(rows.shape) > 2:
        got = f"tokens {ids.shape}, logits {rows.shape}"
        remedy = "flatten them: tokens.reshape(-1), logits.reshape(-1, vocab)"
        raise InputError(got, "(n,) and (n, vocab) or (vocab,)", remedy)
    if ids.dtype.kind not in "iu":
        got = f"{ids.name} of dtype {ids.dtype} as token ids"
        raise InputError(got, "an integer dtype", "save token ids, under the name 'tokens'")
    if rows.dtype.kind != "f":
        got = f"{rows.name} of dtype {rows.dtype} as logits"
        raise InputError(got, "floats", "save the logits, not token ids, under the name 'logits'")
    words = ["precision-lab", "audit", str(draws), "--logits", str(logits)]
    for part in [detect] if isinstance(detect, str) else detect:
        words += ["--detect", part]
    words += ["--false-fail", f"{false_fail:g}", "--false-pass", f"{false_pass:g}", "--seed", str(seed)]
    steps = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    words += ["--pipeline", str(steps)] if steps is not None else []
    one = len(rows.shape) == 1 or rows.shape[0] == 1
    if not one and rows.shape[0] != ids.shape[0]:
        raise InputError(
            f"{ids.shape[0]} tokens and {rows.shape[0]} rows of logits",
            "a row a draw, or one",
            "record them together",
        )
    vocab = rows.shape[-1]
    drawn = ids.whole(MOST_DRAWS).reshape(-1)
    inside = (drawn >= 0) & (drawn < vocab)
    outside = np.flatnonzero(~inside)
    asked = _Asked(
        ids.path.name,
        wished,
        false_fail,
        false_pass,
        seed,
        shlex.join(words),
        vocab,
        outside,
        drawn[outside],
        _hints(rows),
        steps,
    )
    if not inside.any():
        return _nothing(asked, rows.path.name)
    if one:
        return _shared(drawn, inside, rows, asked, slow)
    return _each(drawn, inside, rows, asked)


def _hints(rows: Recorded) -> tuple[str, ...]:
    """What the numbers look like, if not like logits."""
    first = next(rows.chunks()).reshape(-1, rows.shape[-1])[: max(1, LOOKED_AT // rows.shape[-1])]
    if looks_like_probabilities(first):
        return (
            "these look like probabilities (all in [0, 1], every row sums to 1): if they are, save their logarithms as logits",
        )
    return ()


def _nothing(asked: _Asked, target: str) -> Report:
    """Where no id is within the vocabulary."""
    place = int(asked.outside[0])
    more = len(asked.outside) - 1
    detail = (
        f"token {asked.beyond[0]} at draw {place}, and {more:,} more: no id is among 0 to {asked.vocab - 1}"
    )
    return Report(
        asked.name,
        fault=Fault("draws ids beyond the vocabulary", detail, f"tokens[{place}] of {asked.name}"),
        false_fail=asked.false_fail,
        false_pass=asked.false_pass,
        seed=asked.seed,
        command=asked.command,
        impossible=asked.named(target, [], "draw"),
        notes=asked.notes,
    )


def _shared(drawn: Array, inside: Array, rows: Recorded, asked: _Asked, slow: bool) -> Report:
    row = rows.whole().reshape(-1)
    target = Target(rows.path.name, row.astype(np.float64), f"read from {rows.path}")
    places = np.flatnonzero(inside)
    tokens = drawn[places].astype(np.int64)
    law = target_law(target.logits) if asked.pipeline is None else asked.pipeline.law(target.logits)
    if asked.pipeline is None and float(law.probs.max()) == 1:
        return _certain(tokens, places, target, asked)
    n = len(tokens) // (2 * STREAMS) * 2 * STREAMS
    if not n:
        raise InputError(f"{len(tokens)} draws", f"{2 * STREAMS} or more", "record more")
    question = ask(target, without=UNKNOWN, dtype=np.float64, pipeline=asked.pipeline)
    level = asked.false_fail / len(question.tests)
    wished, cannot = seeable(question, asked.wished, UNKNOWN)
    needed = {
        effect: draws_needed(question, effect, size, level, asked.false_pass) for effect, size in wished.items()
    }
    question = replace(question, wished=wished).planned(needed, n, vector_length(question.law, n, level))
    plan = Plan((question,), wished, asked.false_fail, asked.false_pass, level)
    streams = np.random.SeedSequence(asked.seed).spawn(2)
    shaped = tokens[:n].reshape(STREAMS, -1, 1)
    question, found = judge_each(question, shaped, plan, np.random.default_rng(streams[0]))
    plan = replace(plan, questions=(question,))
    name = question.target.name
    counts = [Counts.from_tokens(tokens[:n], len(row))]
    pairs = [pair for pair in pairs_of(shaped) if "follow" in pair.which]
    listed = [] if question.lone else suspects(plan.questions, counts, slow=slow, pairs=[pairs])
    if listed:
        listed[0] = with_fit(listed[0], plan.questions, counts, np.random.default_rng(streams[1]))
    drawn_rare = impossible_draws(tokens[:n], question.law, level)
    rare = [replace(each, first=int(places[each.first])) for each in drawn_rare]
    most = max(needed.values(), default=0)
    return asked.report(
        {name: _with_outside(found, asked)},
        plan,
        suspects=tuple(listed),
        needed={name: most} if most > n else {},
        impossible=asked.named(name, rare, "draw"),
        notes=(*asked.notes, *cannot),
    )


def _certain(tokens: Int, places: Int, target: Target, asked: _Asked) -> Report:
    """A row of one token: every other token is impossible, and nothing else can be asked."""
    law = target_law(target.logits)
    plan = Plan((), {}, asked.false_fail, asked.false_pass, asked.false_fail)
    counts = Counts.from_tokens(tokens, law.vocab)
    rare = [replace(each, first=int(places[each.first])) for each in impossible_draws(tokens, law, plan.level)]
    note = f"the row is certain: token {int(law.probs.argmax())} is its every draw, and nothing else can be asked of it"
    return asked.report(
        {target.name: _with_outside({"support": support(counts, law, plan)}, asked)},
        plan,
        impossible=asked.named(target.name, rare, "draw"),
        notes=(*asked.notes, note),
    )


def _with_outside(found: dict[str, TestResult], asked: _Asked) -> dict[str, TestResult]:
    """The support test fails where an id is beyond the vocabulary."""
    if len(asked.outside):
        found["support"] = replace(found["support"], p_value=0.0)
    return found


def _each(drawn: Array, inside: Array, rows: Recorded, asked: _Asked) -> Report:
    cut = RowTruncations()
    evidence = _read(drawn, inside, rows, asked, cut=cut)
    name = rows.path.name
    if not evidence.n:
        dead = evidence.dead[0]
        raise InputError(
            f"a largest logit of {dead.top} in row {dead.index} of {rows.path}, and no row that is a law",
            "a finite one",
            "mask by -inf, and record the logits that the draws were made from",
        )
    # what rounding makes of equal logits is below
    alike = not evidence.variance > 1e-12 * evidence.n
    if alike and not evidence.certain:
        return _flat(evidence, rows, asked)
    if "tv" in asked.wished:
        raise InputError(
            "tv with a row of logits a draw", "temperature or tail", "total variation needs one shared row"
        )
    level = asked.false_fail / (1 if alike else 4 + evidence.has_tail)
    found: dict[str, TestResult] = {"support": evidence.support_test(level, asked.false_pass)}
    notes = [*asked.notes, *_set_aside(evidence.dead)]
    if alike:
        notes.append("every row is certain: one token is its every draw, and nothing else can be asked of it")
        plan = Plan((), {}, asked.false_fail, asked.false_pass, level)
    else:
        plan = Plan((), asked.wished, asked.false_fail, asked.false_pass, level)
        found = {"temperature": evidence.temperature_test(level, asked.false_pass), **found}
        if evidence.has_tail:
            found["tail"] = evidence.tail_test(level, asked.false_pass)
        assert evidence.sharing is not None
        assert evidence.sources is not None
        found["serial"] = evidence.sharing.test(level, asked.false_pass)
        found["sources"] = evidence.sources.test(level, asked.false_pass)
        notes += [evidence.sharing.looked_at(), f"{' and '.join(sorted(OF_ROWS))}: {NOT_OF_DRAWS}"]
    wanted = {
        test: math.ceil(evidence.n * (found[test].detectable / size) ** 2)
        for test, size in plan.wish_of.items()
        if test in found and size < found[test].detectable < math.inf
    }
    listed = [] if alike else _row_suspects(evidence, cut)
    report = asked.report(
        {name: _with_outside(found, asked)},
        plan,
        suspects=tuple(listed),
        needed={name: max(wanted.values())} if wanted else {},
        impossible=asked.named(name, evidence.rare.impossible(evidence.n, level), "row"),
        set_aside=len(evidence.dead),
        notes=tuple(notes),
        what=_mixed(evidence) if listed and listed[0].recipe == MIXED and found["sources"].failed else "",
        supposes=_supposed(found),
    )
    if listed and listed[0].recipe == TEMPERATURE and report.exit_code == 1:
        fit = _fit_of_temperature(listed[0], drawn, inside, rows, asked)
        report = replace(report, suspects=(replace(listed[0], fit=fit), *listed[1:]))
    return report


def _supposed(found: dict[str, TestResult]) -> str:
    """For the headline: what a failure of the tests of rows, and of no other, supposes."""
    failed = {test for test, result in found.items() if result.failed}
    return NOT_OF_DRAWS if failed and failed <= OF_ROWS else ""


def _flat(evidence: RowEvidence, rows: Recorded, asked: _Asked) -> Report:
    """Where the tokens of every row are equally likely, or one is certain: the support, the independence, and
    whether each is drawn as often, by the places of the draws on the scale of cumulative sums."""
    level = asked.false_fail / 3
    name = rows.path.name
    sharing = evidence.sharing
    assert sharing is not None
    lost = [effect for effect in OF_UNEQUAL if effect in asked.wished]
    wished = {effect: size for effect, size in asked.wished.items() if effect not in lost}
    size = wished.setdefault("tv", FLAT_TV)
    plan = Plan((), wished, asked.false_fail, asked.false_pass, level)
    # the places of the draws were made from the seed itself
    rng = np.random.default_rng(np.random.SeedSequence(asked.seed).spawn(1)[0])
    found = {
        "identity": sharing.uniformity_test(level, asked.false_pass, rng),
        "support": evidence.support_test(level, asked.false_pass),
        "serial": sharing.test(level, asked.false_pass),
    }
    note = (
        f"every row of {name} is flat or certain: {' and '.join(lost) or 'temperature'} cannot be estimated "
        f"there; tv={size:g} is looked for on the scale of cumulative sums, in {CELLS} equal parts"
    )
    seen = found["identity"].detectable
    return asked.report(
        {name: _with_outside(found, asked)},
        plan,
        needed={name: math.ceil(evidence.n * (seen / size) ** 2)} if size < seen < math.inf else {},
        impossible=asked.named(name, evidence.rare.impossible(evidence.n, level), "row"),
        set_aside=len(evidence.dead),
        notes=(*asked.notes, *_set_aside(evidence.dead), note, sharing.looked_at()),
        supposes=_supposed(found),
    )


def _read(
    drawn: Array,
    inside: Array,
    rows: Recorded,
    asked: _Asked,
    temperature: float | None = None,
    cut: RowTruncations | None = None,
) -> RowEvidence:
    """All rows once, with their draws; at another temperature for the fit of it, and then without
    likelihoods."""
    sharing = None
    if temperature is None:
        rng = np.random.default_rng(asked.seed)
        searched = likely_lag(drawn[inside].astype(np.int64), asked.vocab)
        sharing = Sharing(rng.random(len(drawn)), searched=searched)
    sources = RowSources(len(drawn))
    evidence = RowEvidence((), None) if sharing is None else RowEvidence(sharing=sharing, sources=sources)
    start = 0
    for chunk in rows.chunks():
        part = slice(start, start + len(chunk))
        used = np.flatnonzero(inside[part])
        logits = chunk if len(used) == len(chunk) else chunk[used]
        tokens = drawn[part][used].astype(np.int64)
        if asked.pipeline is not None:
            logits, counted = rows_after(asked.pipeline, logits, tokens)
            tokens, used = tokens[counted], used[counted]
        if temperature is not None:
            logits = logits.astype(np.float64) / temperature
        if len(tokens):
            evidence.update(logits, tokens, start + used)
        if cut is not None:
            cut.update(logits, tokens)
        start += len(chunk)
    return evidence


def _set_aside(dead: list[DeadRow]) -> list[str]:
    if not dead:
        return []
    said = {-math.inf: "all -inf", math.inf: "+inf in it"}
    each = ", ".join(f"row {row.index} ({said.get(row.top, 'NaN in it')})" for row in dead[:SHOWN])
    more = f", and {len(dead) - SHOWN:,} more" if len(dead) > SHOWN else ""
    rows = "1 row is no law and was" if len(dead) == 1 else f"{len(dead):,} rows are no law and were"
    return [f"{rows} set aside with its draw: {each}{more}; the rest is judged"]


def _fit_of_temperature(
    best: Suspect, drawn: Array, inside: Array, rows: Recorded, asked: _Asked
) -> float | None:
    """P-value of the tail and the support under the best temperature; None where there is too much to read
    again."""
    if math.prod(rows.shape) > REFITTED:
        return None
    temperature = float(best.how.split()[2].rstrip(","))
    again = _read(drawn, inside, rows, asked, temperature)
    p_values = [again.support_test(0.001).p_value]
    if again.has_tail:
        p_values.append(again.tail_test(0.001, 0.001).p_value)
    return min(1.0, len(p_values) * min(p_values))


def _mixed(evidence: RowEvidence) -> str:
    """The rows that the draws follow, for the headline."""
    found = evidence.sources.found() if evidence.sources is not None else None
    return "" if found is None else f"has its rows mixed up: {_placed(found)}"


def _placed(found: Sources) -> str:
    part = found.share < WHOLE
    if found.size == 1:
        rows = found.sources[0]
        way = "after" if rows > 0 else "before"
        often = "part of the draws are" if part else "every draw is"
        return f"{often} of the row {abs(rows)} {way} its own"
    return f"in batches of {found.size}, {sources_said(found.sources, found.size, part)}"


def _row_suspects(evidence: RowEvidence, cut: RowTruncations) -> list[Suspect]:
    """Faithful, lattices in closed form, one temperature for all rows (Laplace, T uniform in its
    logarithm), and shared noise. Draws of tokens too rare to be drawn are in none of them."""
    found = {FAITHFUL: ("softmax in float64", 0.0)}
    names = {24: "float32 noise, truncated", 23: "23-bit noise (JAX, TensorFlow GPU)"}
    for bits, log in evidence.lattice.items():
        found[names[bits]] = (f"lattice of {bits} bits, closed form", log)
    t = np.concatenate([-EXCESS[::-1], [0.0], EXCESS])
    values = np.concatenate([evidence.cumulant[0][::-1], [0.0], evidence.cumulant[1]])
    fine = np.linspace(math.exp(-WIDEST) - 1, math.exp(WIDEST) - 1, 30_001)  # temperatures from 2 to 1/2
    gain = fine * evidence.score - interpolate.CubicSpline(t, values)(fine)
    best = int(gain.argmax())
    b = 1 + float(fine[best])
    sd = 1 / math.sqrt(evidence.variance) / b
    prior = math.log(min(1.0, math.sqrt(2 * math.pi) * sd / (2 * math.log(2))))
    found[TEMPERATURE] = (temperature_said(1 / b, 1.96 * sd / b), float(gain[best]) + prior)
    if evidence.sharing is not None and (shared := evidence.sharing.evidence()) is not None:
        found[SHARED] = shared
    if evidence.sources is not None and (mixed := evidence.sources.found()) is not None:
        # of the draws that were looked at; the others say nothing for it
        found[MIXED] = (_placed(mixed), mixed.log)
    found |= {recipe: (how, log) for recipe, how, log in cut.found()}
    logs = np.array([log for _, log in found.values()])
    share = np.exp(logs - special.logsumexp(logs))
    listed = [
        Suspect(recipe, how, log, float(posterior), evidence.n)
        for (recipe, (how, log)), posterior in zip(found.items(), share, strict=True)
    ]
    return sorted(listed, key=lambda suspect: -suspect.log_likelihood)
