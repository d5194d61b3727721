"""The calls that led to a fault, made again: one generator goes through them all, as it did when the fault
was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from ..errors import InputError
from ..pipelines import parse_pipeline
from ..targets import Target, parse_target
from ..types import Float, Int
from .caller import Caller, Misbehaved, ramp
from .plan import ROWS, Question, ask

RAMP = "ramp"  # the logits of the probe
PLAIN = 1e-6  # p-value from which one call shows that a token comes too often or too seldom
SHOWN = 8  # ids, and half as many tokens


def replay(
    sampler: str,
    target: str,
    *,
    rows: int,
    seed: int,
    calls: Sequence[int],
    device: str = "cpu",
    call: str | None = None,
) -> Int:
    """Tokens (n, rows) of the last of ``calls``, each the n of one call, in order, with a generator seeded
    ``seed``.

    Logits are ``rows`` equal rows of ``target`` as ``check`` gives them, or for "ramp[vocab=V]" those of
    the probe. ``call``: how the sampler is called, where that was stated. Raises what the sampler raises,
    and Misbehaved where an answer is wrong.
    """
    name, _, vocab = target.partition("[vocab=")
    if name == RAMP:
        logits = ramp(rows, int(vocab.rstrip("]")))
    else:
        logits = np.tile(ask(parse_target(target)).logits, (rows, 1))
    caller = Caller.of(sampler, device=device, call=call)
    ids = np.empty((0, rows), dtype=np.int64)
    for n in calls:
        try:
            ids = caller.draw(seed, logits, n)
        except Misbehaved as fault:
            if fault.__cause__ is not None:
                raise fault.__cause__ from None
            raise
    return ids


def replayed(
    sampler: str,
    target: str,
    rows: int,
    seed: int,
    calls: Sequence[int],
    device: str = "cpu",
    call: str | None = None,
) -> str:
    """Python that calls :func:`replay`, on one line."""
    first, last = calls[0], calls[-1]
    listed = f"[{first}] * {len(calls)}" if first == last else f"[{first}] * {len(calls) - 1} + [{last}]"
    where = "" if device == "cpu" else f", device={device!r}"
    where += f", call={call!r}" if call else ""
    return (
        "from precision_lab.verdict.replay import replay; "
        f"print(replay({sampler!r}, {target!r}, rows={rows}, seed={seed}, calls={listed}{where}))"
        f"  # resolve({sampler!r}), called {len(calls)} times with one generator"
    )


def named(target: Target, logits: np.ndarray) -> str | None:
    """The target's name, if it gives these very logits again."""
    try:
        again = ask(parse_target(target.name)).logits
    except InputError:
        return None
    return target.name if np.array_equal(again, logits) else None


def show(
    sampler: str,
    target: str,
    *,
    seed: int,
    n: int,
    pipeline: str | None = None,
    device: str = "cpu",
    call: str | None = None,
) -> Int:
    """Draws ``n`` times from :data:`~.plan.ROWS` equal rows of ``target``, with a generator seeded ``seed``,
    and prints the row, the first ids, and the tokens that came furthest from what is due. Returns the ids,
    (n, rows)."""
    question = ask(parse_target(target), pipeline=parse_pipeline(pipeline) if pipeline else None)
    logits = question.logits
    ids = Caller.of(sampler, device=device, call=call).draw(seed, np.tile(logits, (ROWS, 1)), n)
    finite = logits[np.isfinite(logits)]
    print(f"row {question.target.name}: logits {', '.join(f'{x:g}' for x in logits[:4])}, ... ", end="")
    print(f"from {finite.min():g} to {finite.max():g}")
    print(f"ids {', '.join(map(str, ids.ravel()[:SHOWN]))}, ... of {ids.size}")
    p_values = of_tokens(question, ids)
    due = ids.size * question.law.probs
    counts = np.bincount(ids.ravel(), minlength=len(logits))
    for token in np.argsort(p_values, kind="stable")[: SHOWN // 2]:
        print(f"token {token}, logit {logits[token]:g}: {counts[token]} draws, {due[token]:.3g} expected")
    return ids


def of_tokens(question: Question, ids: Int) -> Float:
    """(vocab,) two-sided exact p-values of how often each token came."""
    n, probs = ids.size, question.law.probs
    counts = np.bincount(ids.ravel(), minlength=len(probs))
    rarer = stats.binom.cdf(counts, n, probs)
    often = stats.binom.sf(counts - 1, n, probs)
    return np.minimum(1.0, 2 * np.minimum(rarer, often))


def shown_by(
    spec: str, question: Question, seed: int, ids: Int, device: str = "cpu", call: str | None = None
) -> str:
    """Python that calls :func:`show`, on one line, where the first call of a stream, ``ids``, shows that some
    token comes too often or too seldom; else empty, as where the target cannot be made again from its
    name."""
    steps = "" if question.pipeline is None else str(question.pipeline)
    name = question.target.name.removesuffix(f" > {steps}")
    if named(replace(question.target, name=name), question.logits) is None:
        return ""
    if not len(question.law.probs) * of_tokens(question, ids).min() <= PLAIN:
        return ""
    where = f", pipeline={steps!r}" if steps else ""
    where += "" if device == "cpu" else f", device={device!r}"
    where += f", call={call!r}" if call else ""
    return (
        "from precision_lab.verdict.replay import show; "
        f"show({spec!r}, {name!r}, seed={seed}, n={len(ids)}{where})"
    )
