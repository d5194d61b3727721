"""``precision-lab check``: plan, probe, draw, judge, and say what the draws look like."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..devices import checked
from ..errors import InputError
from ..statistics import Counts, EProcess, Ledger, TestResult, alternative_laws
from ..targets import Target, load_capture, parse_target
from ..types import Array, Budget, Int
from .batches import BATCHES, examine_batches
from .batches import Drawer as RowDrawer
from .caller import MOST_VALUES, Misbehaved
from .judge import impossible, judge
from .plan import DEFAULT_DETECT, ROWS, STREAMS, Plan, Question, parse_detect, plan
from .replay import with_replay
from .report import Fault, Report, judged_all
from .suspects import suspects, with_fit

# Full also asks the step of masked diffusion, whose temperature needs a million draws.
TARGETS = {
    Budget.SMOKE: ("zipf[vocab=8192]",),
    Budget.CI: ("zipf[vocab=50257]", "normal[vocab=50257]"),
    Budget.FULL: ("zipf[vocab=50257]", "normal[vocab=128256]", "mdm_step[vocab=8192,unmask=0.001]"),
}
CALLS = 32  # of each stream, or more: a fault of the state between calls needs calls
Say = Callable[[str], None]


class Drawer(RowDrawer, Protocol):
    """A Caller, here or in a child process."""

    def probe(self, vocab: int, seed: int) -> None: ...
    def draw(self, stream: int, logits: np.ndarray, n: int) -> Int: ...


def targets_of(specs: Sequence[str], budget: Budget, vocab: int | None = None) -> list[Target]:
    """Targets by name, or every row of a .safetensors file of logits (``FILE:ROW``: one row). ``vocab``: of
    the named ones."""
    if vocab is not None and vocab < 2:
        raise InputError(f"vocab = {vocab}", "2 or more", "a law of one token says nothing")
    if vocab is not None and not specs:
        specs = [f"zipf[vocab={vocab}]", f"normal[vocab={vocab}]"][: 1 if budget is Budget.SMOKE else 2]
        specs += [f"mdm_step[vocab={vocab}]"] if budget is Budget.FULL else []
    found: list[Target] = []
    for spec in specs or TARGETS[budget]:
        path, _, row = spec.partition(".safetensors")
        if _:
            capture = load_capture(Path(path + _))
            if row and not row[1:].isdigit():
                raise InputError(
                    f"target {spec!r}", "FILE.safetensors or FILE.safetensors:ROW", "rows count from 0"
                )
            rows = [int(row[1:])] if row else range(len(capture.logits))
            found += [capture.row(i) for i in rows]
        elif vocab is not None and "[" not in spec:
            found.append(parse_target(f"{spec}[vocab={vocab}]"))
        else:
            found.append(parse_target(spec))
    names = [target.name for target in found]
    if len(set(names)) < len(names):
        raise InputError(f"target {max(names, key=names.count)!r} twice", "different targets", "name each once")
    return found


def check(
    sampler: str,
    *,
    targets: Sequence[str] = (),
    vocab: int | None = None,
    detect: str | Iterable[str] = DEFAULT_DETECT,
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
    budget: Budget = Budget.SMOKE,
    seed: int = 0,
    timeout: float = 60.0,
    ledger: Path | None = None,
    device: str = "cpu",
    batch: bool = False,
    say: Say | None = None,
) -> Report:
    """The verdict on a sampler named as for :func:`~precision_lab.resolve`, run in a process of its own.

    Fails a right sampler at most ``false_fail`` often, over all tests of all targets (Holm); passes only
    where every test that must see a wished effect (``detect``) sees it with 1 - ``false_pass`` at this n,
    else inconclusive.
    ``budget`` caps the draws.  ``timeout``: seconds for one call.  ``ledger``: folder that keeps an
    e-process for each target over runs, one more test, at ``false_fail`` over all of them together; every
    run needs a new seed.
    ``device``: where the sampler draws.  ``batch``: it must be batch invariant, see :mod:`.invariance`.
    Errors: InputError for anything the user can mend; what the sampler does wrong is in the report.
    """
    from .child import Child

    wished = parse_detect(detect)
    drawn = targets_of(targets, budget, vocab)
    asked = plan(
        drawn,
        wished,
        budget=budget,
        false_fail=false_fail,
        false_pass=false_pass,
        extra=["ledger"] if ledger else [],
    )
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    options: dict[str, Any] = {"slow": budget is Budget.FULL, "ledger": ledger, "batch": batch, "say": say}
    try:
        with Child(sampler, timeout, checked(device)) as child:
            return examine(child, asked, seed, _command(sampler, locals()), code=child.code, **options)
    except Misbehaved as fault:  # before the first call
        return _faulty(fault, sampler, asked, seed, _command(sampler, locals()))


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
    say: Say = lambda line: None,
) -> Report:
    """Probe, whole batches, draw, judge. ``drawer``: a Caller or a Child."""
    results: dict[str, dict[str, TestResult]] = {}
    counts: list[Counts] = []
    first, *seeds, batches = np.random.SeedSequence(seed).spawn(len(asked.questions) + 3)
    # consecutive seeds follow: 32 bits are all that some generators read
    base = int(first.generate_state(1)[0])
    try:
        vocab = asked.questions[0].law.vocab
        say(f"{drawer.spec}: generator, shape, dtype, global state")
        drawer.probe(vocab, base)
        start = int(batches.generate_state(1)[0])
        results[BATCHES] = examine_batches(
            drawer, seed=start, level=asked.level, false_pass=asked.false_pass, identity=batch, say=say
        )
        for i, question in enumerate(asked.questions):
            tokens = draw(drawer, question, base + 2 + i * STREAMS, say)
            count = Counts.from_tokens(tokens, question.law.vocab)
            counts.append(count)
            found = judge(question, tokens, asked, np.random.default_rng(seeds[i]))
            if ledger is not None and not impossible(count, question.law):
                found["ledger"] = accumulate(ledger, drawer.spec, code, question, count, seed, asked)
            results[question.target.name] = found
    except Misbehaved as fault:
        return _faulty(fault, drawer.spec, asked, seed, command)
    say("likelihood of known recipes")
    listed = suspects(asked.questions, counts, slow=slow)
    listed[0] = with_fit(listed[0], asked.questions, counts, np.random.default_rng(seeds[-1]))
    needed = {q.target.name: most for q in asked.questions if (most := max(q.needed.values())) > q.n}
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
    )


def draw(drawer: Drawer, question: Question, base: int, say: Say) -> Array:
    """(streams, calls, rows) int32: n draws from :data:`~.plan.ROWS` equal rows, :data:`~.plan.STREAMS`
    seeds from ``base``."""
    logits = np.tile(question.logits, (ROWS, 1))
    calls = question.n // (STREAMS * ROWS)
    most = max(1, min(MOST_VALUES // logits.size, calls // CALLS))
    # calls hold whole vectors
    most = max(most // question.length, 1) * question.length if most >= question.length else most
    tokens = np.empty((STREAMS, calls, ROWS), dtype=np.int32)
    start = said = time.monotonic()
    say(f"{question.target.name}: {question.n:,} draws")
    for stream in range(STREAMS):
        for i in range(0, calls, most):
            n = min(most, calls - i)
            try:
                tokens[stream, i : i + n] = drawer.draw(base + stream, logits, n)
            except Misbehaved as fault:
                raise with_replay(fault, drawer, base + stream, most, i, n, question.target, ROWS) from None
            if (now := time.monotonic()) - said > 5:
                said, done = now, (stream * calls + i + n) * ROWS
                left = (now - start) * (question.n - done) / done
                say(f"{question.target.name}: {done:,} of {question.n:,} draws, {left:.0f} s left")
    return tokens


def accumulate(
    folder: Path, name: str, code: str, question: Question, count: Counts, seed: int, asked: Plan
) -> TestResult:
    """The e-process of all recorded runs of this code on this target, and this one: p = 1 / max e, valid at
    any stopping."""
    process = EProcess(question.law, alternative_laws(question.law))
    key = re.sub(r"[^\w.+-]+", "_", f"{Path(name).name}-{question.target.name}")
    book = Ledger(folder, key, code or "unknown")
    book.resume(process).update(count)
    book.record(process, f"seed-{seed}")
    return TestResult(
        process.p_value, process.log_e, process.n, float("nan"), asked.level, "ledger", "not known in advance"
    )


def _faulty(fault: Misbehaved, name: str, asked: Plan, seed: int, command: str) -> Report:
    return Report(
        name,
        fault=Fault(fault.what, fault.detail, fault.call),
        false_fail=asked.false_fail,
        false_pass=asked.false_pass,
        seed=seed,
        command=command,
    )


def _command(sampler: str, given: dict[str, Any]) -> str:
    """The command line that gives this verdict again."""
    detect = given["detect"]
    words = ["precision-lab", "check", sampler]
    for target in given["targets"]:
        words += ["--targets", target]
    words += ["--vocab", str(given["vocab"])] if given["vocab"] is not None else []
    for part in [detect] if isinstance(detect, str) else detect:
        words += ["--detect", part]
    words += ["--false-fail", f"{given['false_fail']:g}", "--false-pass", f"{given['false_pass']:g}"]
    words += ["--device", given["device"]] if given["device"] != "cpu" else []
    words += ["--batch"] if given["batch"] else []
    return shlex.join([*words, "--budget", str(given["budget"]), "--seed", str(given["seed"])])
