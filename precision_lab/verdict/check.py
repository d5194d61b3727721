"""``precision-lab check``: plan, probe, draw, judge, and say what the draws look like."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..devices import checked
from ..errors import InputError, printable
from ..pipelines import Pipeline, parse_pipeline
from ..samplers import SAMPLERS
from ..statistics import Counts, TestResult
from ..targets import Target, Use, is_file_of_logits, load_capture, load_row, parse_target, parse_use
from ..types import Array, Budget, Int
from .batches import BATCHES, examine_batches
from .budget import TESTS, Seconds, Spend, affordable, parse_budget
from .caller import MOST_VALUES, Misbehaved
from .crew import Crew, by_lane
from .evidence import Evidence
from .harm import rows_of
from .judge import impossible, impossible_draws
from .own_law import OwnLaw
from .plan import DEFAULT_DETECT, ROWS, STREAMS, Asked, Plan, Question, parse_detect, plan
from .processed import asked_for, judge_each, probe, refuse_doubt, with_steps_before
from .replay import named, replayed, shown_by
from .report import Fault, Impossible, Report, judged_all
from .suspects import Pairs, pairs_of, suspects, with_fit
from .uses import asked_in, default_budget

CALLS = 32  # of each stream, or more: a fault of the state between calls needs calls
LAW_VOCAB = 8192  # tokens of the rows whose laws are asked
LAW_PATIENCE = 20.0  # seconds that a law is waited for after the draws
Say = Callable[[str], None]


class Drawer(Protocol):
    """A Caller, here or in a child process, or a Crew of these. ``lanes``: streams s and t may be drawn at
    once where they differ modulo ``lanes``.  ``note``: how the sampler is called, known after the probe."""

    spec: str

    @property
    def lanes(self) -> int: ...
    @property
    def takes(self) -> frozenset[str]: ...
    @property
    def note(self) -> str: ...
    def probe(self, vocab: int, seed: int) -> None: ...
    def draw(self, stream: int, logits: np.ndarray, n: int) -> Int: ...
    def fresh(self, seed: int, logits: np.ndarray, n: int, **options: Any) -> Int: ...


def targets_of(specs: Sequence[str], vocab: int | None = None) -> list[Target]:
    """Targets by name, or every row of a file of logits (``FILE:ROW``: one row). ``vocab``: of the named
    ones."""
    found: list[Target] = []
    for spec in specs:
        path, _, row = spec.rpartition(":")
        if is_file_of_logits(spec):
            capture = load_capture(spec)
            found += [capture.row(i) for i in range(len(capture.logits))]
        elif path and is_file_of_logits(path):
            if not row.isdecimal():
                raise InputError(f"target {spec!r}", "FILE or FILE:ROW", "rows count from 0")
            found.append(load_row(path, int(row)))
        elif vocab is not None and "[" not in spec:
            found.append(parse_target(f"{spec}[vocab={vocab}]"))
        else:
            found.append(parse_target(spec))
    names = [target.name for target in found]
    if len(set(names)) < len(names):
        raise InputError(f"target {max(names, key=names.count)!r} twice", "different targets", "name each once")
    return found


def asked_of(
    use: Use,
    targets: Sequence[str],
    wished: dict[str, float],
    budget: Spend,
    vocab: int | None,
    pipeline: Pipeline | None = None,
) -> list[Asked]:
    """The user's targets in the use, each with all the wishes; without any, the use's own questions, or the
    pipeline's."""
    if vocab is not None and vocab < 2:
        raise InputError(f"vocab = {vocab}", "2 or more", "a law of one token says nothing")
    if pipeline is not None and use.name != "lm":
        raise InputError(f"--pipeline with --for {use.name}", "--for lm", "pipelines are of next tokens")
    if targets:
        return [Asked(use.of(target), wished, pipeline=pipeline) for target in targets_of(targets, vocab)]
    if pipeline is not None:
        return asked_for(pipeline, wished, vocab)
    return list(asked_in(use, wished, budget if isinstance(budget, Budget) else Budget.SMOKE, vocab))


def check(
    sampler: str,
    *,
    targets: Sequence[str] = (),
    vocab: int | None = None,
    use: str = "lm",
    detect: str | Iterable[str] = DEFAULT_DETECT,
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
    budget: str | Spend | None = None,
    seed: int = 0,
    timeout: float = 60.0,
    ledger: Path | None = None,
    device: str = "cpu",
    law: bool = True,
    call: str | None = None,
    batch: bool = False,
    pipeline: str | Pipeline | None = None,
    say: Say | None = None,
) -> Report:
    """The verdict on a sampler named as for :func:`~precision_lab.resolve`, run in processes of its own.

    Fails a right sampler at most ``false_fail`` often, over all tests of all targets (Holm); passes only
    where every test that must see a wished effect (``detect``) sees it with 1 - ``false_pass`` at this n,
    else inconclusive.
    ``use``: lm (next tokens), mdm:N (N ancestral steps of masked diffusion) or first-hitting; without
    ``targets`` it brings its own, chosen by the laws of known recipes: :mod:`.uses`.
    ``budget``: smoke, ci, full; seconds (``20s``, ``1m``); or noise values. By default smoke, and for
    mdm:N as many values as 24-bit noise takes.  ``timeout``: seconds for one call.  ``ledger``: folder that
    keeps an e-process for each target over runs, one more test, at ``false_fail`` over all of them
    together; every run needs a new seed.
    ``device``: where the sampler draws.  ``law``: ask for the sampler's own law too, where it can be had.
    ``batch``: it must be batch invariant, see :mod:`.invariance`.  ``call``: how a function is called where
    the names of its arguments do not tell, such as ``"sample(probs, seed=seed)"``, see
    :data:`~.conventions.GRAMMAR`.
    ``pipeline``: the steps inside the sampler, which is given raw logits and judged by the law that they mean
    (its own law is not asked then, see ``law --pipeline``). Before a sampler by name, which has no steps of
    its own, they run in float32.
    Errors: InputError for anything the user can mend; what the sampler does wrong is in the report.
    """
    started = time.monotonic()
    chosen = parse_use(use)
    spend = parse_budget(budget) if budget is not None else default_budget(chosen)
    wished = parse_detect(detect)
    steps = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    asked_targets = asked_of(chosen, targets, wished, spend, vocab, steps)
    if ledger and isinstance(spend, Seconds):
        raise InputError(
            f"--budget {spend} with a ledger", "a budget that repeats", "give smoke, ci, full or noise values"
        )
    rates: dict[str, Any] = {"false_fail": false_fail, "false_pass": false_pass}
    rates["extra"] = ["ledger"] if ledger else []
    # what is wrong with the wishes is said before anything is drawn
    asked = plan(asked_targets, wished, budget=Budget.FULL if isinstance(spend, Seconds) else spend, **rates)
    if steps is not None and sampler in SAMPLERS:
        asked = with_steps_before(asked, steps)
    if ledger is not None:
        refuse_doubt(asked.questions, "--ledger")
    say = say or (lambda line: print(printable(line), file=sys.stderr, flush=True))
    options: dict[str, Any] = {"slow": spend is Budget.FULL, "ledger": ledger, "batch": batch, "say": say}
    options["use"] = chosen
    given = {name: value for name, value in locals().items() if name in _REPEATED}
    try:
        with contextlib.ExitStack() as beside, Crew(sampler, timeout, checked(device), call) as crew:
            if law and device == "cpu" and steps is None:
                steps_drawn = [(chosen, q.target) for q in asked.questions if q.target.mask is not None]
                own = OwnLaw(sampler, [*rows_of(chosen, vocab or LAW_VOCAB), *steps_drawn[:1]], call)
                options["own_law"] = beside.enter_context(own)
            if isinstance(spend, Seconds):
                say(f"{crew.spec}: the speed of a draw")
                crew.probe(asked.questions[0].law.vocab, seed % 2**32)
                left = spend.value - (time.monotonic() - started)
                given["budget"] = affordable(crew, asked.questions, left)
                asked = plan(asked_targets, wished, budget=given["budget"], **rates)
                if steps is not None and sampler in SAMPLERS:
                    asked = with_steps_before(asked, steps)
                options["until"] = started + spend.value * (1 - TESTS)
                options["ends"] = started + spend.value
            return examine(crew, asked, seed, _command(sampler, given), code=crew.code, **options)
    except Misbehaved as fault:  # before the first call
        return _faulty(fault, sampler, asked, seed, _command(sampler, given))


def examine(
    drawer: Drawer,
    asked: Plan,
    seed: int,
    command: str,
    *,
    code: str = "",
    slow: bool = False,
    ledger: Path | None = None,
    batch: bool = False,
    use: Use | None = None,
    own_law: OwnLaw | None = None,
    until: float = math.inf,
    ends: float = math.inf,
    say: Say = lambda line: None,
) -> Report:
    """Probe, whole batches, draw, judge. ``drawer``: a Caller, a Child or a Crew.  ``own_law``: at work
    meanwhile.

    ``until``: when, by ``time.monotonic``, to stop drawing; what was not drawn by then lacks, and the tests
    are judged at the draws that there are.  ``ends``: when no law is waited for any more.
    """
    results: dict[str, dict[str, TestResult]] = {}
    counts: list[Counts] = []
    held: list[Question] = []  # with the law by which each was judged
    pairs: list[list[Pairs]] = []
    rare: list[Impossible] = []
    first, batches, *seeds = np.random.SeedSequence(seed).spawn(len(asked.questions) + 3)
    # consecutive seeds follow: 32 bits are all that some generators read
    base = int(first.generate_state(1)[0])
    notes: list[str] = []
    shown = ""  # a call that shows what failed
    evidence = None if ledger is None else Evidence(ledger, drawer.spec, code, asked, seed)
    try:
        if evidence is not None:
            evidence.begin()
        say(f"{drawer.spec}: generator, shape, dtype, global state")
        probe(drawer, asked, base)
        notes += [drawer.note] if drawer.note else []
        start = int(batches.generate_state(1)[0])
        notes += [note for question in asked.questions for note in question.notes]
        pipeline = asked.questions[0].pipeline
        results[BATCHES] = examine_batches(
            drawer,
            seed=start,
            level=asked.level,
            false_pass=asked.false_pass,
            identity=batch,
            pipeline=pipeline,
            before=pipeline is not None and drawer.spec in SAMPLERS,
            say=say,
        )
        notes += [] if results[BATCHES] else ["batches of rows that differ were not judged"]
        progress = Progress(sum(question.n * question.law.vocab for question in asked.questions), say)
        for i, question in enumerate(asked.questions):
            tokens = draw(drawer, question, base + 2 + i * STREAMS, progress, until)
            count = Counts.from_tokens(tokens, question.law.vocab)
            counts.append(count)
            pairs.append(pairs_of(tokens))
            name = question.target.name
            question, found = judge_each(question, tokens, asked, np.random.default_rng(seeds[i]))
            held.append(question)
            rare += [Impossible.of(name, each) for each in impossible_draws(tokens, question.law, asked.level)]
            if evidence is not None and not impossible(count, question.law):
                found["ledger"] = evidence.add(question, count)
            results[question.target.name] = found
            if not shown and any(result.failed for result in found.values()):
                first_call = tokens[0, : calls_at_once(question)].astype(np.int64)
                device, call = getattr(drawer, "device", "cpu"), getattr(drawer, "stated", None)
                shown = shown_by(drawer.spec, question, base + 2 + i * STREAMS, first_call, device, call)
    except Misbehaved as fault:
        faulty = _faulty(fault, drawer.spec, asked, seed, command, use)
        return replace(faulty, notes=tuple(notes))
    asked = replace(asked, questions=tuple(held))
    say("likelihood of known recipes")
    chosen = telling(asked)
    questions = [asked.questions[i] for i in chosen]
    drawn = [counts[i] for i in chosen]
    listed = suspects(questions, drawn, slow=slow, pairs=[pairs[i] for i in chosen]) if questions else []
    if listed:
        listed[0] = with_fit(listed[0], questions, drawn, np.random.default_rng(seeds[-1]))
    if evidence is not None:
        evidence.finish()
    needed = {
        question.target.name: most
        for question, count in zip(asked.questions, counts, strict=True)
        if (most := max(question.needed.values(), default=0)) > count.n
    }
    harms, no_law = own_law.wait(max(0.0, min(ends - time.monotonic(), LAW_PATIENCE))) if own_law else ([], "")
    drawn_of = {question.target.name: count for question, count in zip(asked.questions, counts, strict=True)}
    harms = [
        harm.confirmed_by(drawn_of[harm.target], np.random.default_rng(seeds[-1]))
        if harm.target in drawn_of
        else harm
        for harm in harms
    ]
    return Report(
        drawer.spec,
        judged_all(results, asked),
        tuple(listed),
        None,
        asked.false_fail,
        asked.false_pass,
        seed,
        needed,
        command,
        impossible=tuple(rare),
        notes=tuple(notes),
        use=use,
        harms=tuple(harms),
        no_law=no_law,
        shown=shown,
    )


def telling(asked: Plan) -> list[int]:
    """The places of the questions with a wish, by which recipes are told apart; where none has one, of all but
    those that leave one token."""
    open_ones = [i for i, question in enumerate(asked.questions) if not question.lone]
    return [i for i in open_ones if asked.questions[i].wished] or open_ones


def draw(drawer: Drawer, question: Question, base: int, progress: Progress, until: float = math.inf) -> Array:
    """(streams, calls, rows) int32: n draws from :data:`~.plan.ROWS` equal rows, :data:`~.plan.STREAMS`
    seeds from ``base``, each lane of the drawer at once. Fewer calls, the same of every stream, where the
    time is up."""
    logits = np.tile(question.logits, (ROWS, 1))
    calls = question.n // (STREAMS * ROWS)
    most = calls_at_once(question)
    tokens = np.empty((STREAMS, calls, ROWS), dtype=np.int32)
    done = [0] * STREAMS
    progress.begins(question.target.name, question.n)

    def lane(which: int) -> None:
        streams = range(which, STREAMS, drawer.lanes)
        for i in range(0, calls, most):
            if i >= 2 and time.monotonic() > until:
                return
            n = min(most, calls - i)
            for stream in streams:
                try:
                    tokens[stream, i : i + n] = drawer.draw(base + stream, logits, n)
                except Misbehaved as fault:
                    made = [most] * (i // most) + [n]
                    raise _replayable(fault, drawer, question, base + stream, made) from fault.__cause__
                done[stream] = i + n
                progress.adds(n * logits.size)

    by_lane(lane, min(drawer.lanes, STREAMS))
    return tokens[:, : min(done) // 2 * 2]


def calls_at_once(question: Question) -> int:
    """Draws of each row in one call: at most MOST_VALUES noise values, a part of a stream in CALLS, and whole
    vectors."""
    calls = question.n // (STREAMS * ROWS)
    most = max(1, min(MOST_VALUES // (ROWS * len(question.logits)), calls // CALLS))
    return most // question.length * question.length if most >= question.length else most


class Progress:
    """Says every five seconds how far the draws are, and how long they will go on at the present speed."""

    def __init__(self, values: int, say: Say) -> None:
        self._values, self._say = values, say
        self._done = 0
        self._start = self._said = time.monotonic()
        self._lock = threading.Lock()
        self._name = ""

    def begins(self, name: str, n: int) -> None:
        self._name = name
        self._say(f"{name}: {n:,} draws")

    def adds(self, values: int) -> None:
        with self._lock:
            self._done += values
            now = time.monotonic()
            if now - self._said > 5 and self._done < self._values:
                self._said = now
                left = (now - self._start) * (self._values - self._done) / self._done
                self._say(f"{self._name}: {self._done / self._values:.0%} of all draws, {left:.0f} s left")


def _replayable(
    fault: Misbehaved, drawer: Drawer, question: Question, seed: int, calls: Sequence[int]
) -> Misbehaved:
    """The fault with the calls of its stream that led to it, where the target can be made again from its
    name."""
    name = named(question.target, question.logits)
    if name is None:
        return fault
    device, call = getattr(drawer, "device", "cpu"), getattr(drawer, "stated", None)
    shown = replayed(drawer.spec, name, ROWS, seed, calls, device, call)
    return Misbehaved(fault.what, fault.detail, shown)


def _faulty(
    fault: Misbehaved, name: str, asked: Plan, seed: int, command: str, use: Use | None = None
) -> Report:
    return Report(
        name,
        fault=Fault(fault.what, fault.detail, fault.call),
        false_fail=asked.false_fail,
        false_pass=asked.false_pass,
        seed=seed,
        command=command,
        use=use,
    )


_RATES = ("detect", "false_fail", "false_pass")
_REPEATED = ("targets", "vocab", "use", *_RATES, "budget", "device", "seed", "call", "batch", "pipeline", "law")


def _command(sampler: str, given: dict[str, Any]) -> str:
    """The command line that gives this verdict again; seconds become the noise values that they bought."""
    detect = given["detect"]
    words = ["precision-lab", "check", sampler]
    for target in given["targets"]:
        words += ["--targets", target]
    words += ["--vocab", str(given["vocab"])] if given["vocab"] is not None else []
    words += ["--pipeline", str(given["pipeline"])] if given["pipeline"] is not None else []
    words += ["--for", given["use"]] if given["use"] != "lm" else []
    for part in [detect] if isinstance(detect, str) else detect:
        words += ["--detect", part]
    words += ["--false-fail", f"{given['false_fail']:g}", "--false-pass", f"{given['false_pass']:g}"]
    words += ["--device", given["device"]] if given["device"] != "cpu" else []
    words += ["--call", given["call"]] if given["call"] is not None else []
    words += ["--batch"] if given["batch"] else []
    words += [] if given["law"] else ["--no-law"]
    words += ["--budget", str(given["budget"])] if given["budget"] is not None else []
    return shlex.join([*words, "--seed", str(given["seed"])])
