"""The calls that led to a fault, made again: one generator goes through them all, as it did when the fault
was found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..targets import Target, parse_target
from ..types import Int
from .caller import Caller, Misbehaved, ramp
from .plan import ask

RAMP = "ramp"  # the logits of the probe


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
