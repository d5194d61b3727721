"""The calls of a long stream again, up to the one that was answered wrongly: it depends on all that came before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..targets import Target
from ..types import Array, Budget, Int
from .caller import Caller, Misbehaved


def replay(
    sampler: Any,
    stream: int,
    calls: Sequence[tuple[int, int]],
    logits: str | Array,
    rows: int,
    device: str = "cpu",
) -> Int | None:
    """Draws from one generator seeded ``stream``, call after call, and prints what is wrong with the last.

    ``calls``: (times, n) in order, n draws for each of ``rows`` equal rows.  ``logits``: a target as ``check`` names it, or
    the row itself, (vocab,).
    Returns None where a call is answered wrongly, which is printed, with its number; else the ids of the last, (n, rows).
    """
    from .check import targets_of

    row = targets_of([logits], Budget.SMOKE)[0].logits if isinstance(logits, str) else logits
    given = np.tile(np.asarray(row, dtype=np.float32), (rows, 1))
    caller = Caller.of(sampler, device=device)
    sizes = [n for times, n in calls for _ in range(times)]
    ids = None
    for number, n in enumerate(sizes, 1):
        try:
            ids = caller.draw(stream, given, n)
        except Misbehaved as wrong:
            print(f"call {number} of {len(sizes)}, {n} draws for each of {rows} rows: {wrong}")
            return None
    print(f"{len(sizes)} calls, each answered with ids that can be drawn")
    return ids


def with_replay(
    fault: Misbehaved, drawer: Any, stream: int, most: int, before: int, n: int, target: Target, rows: int
) -> Misbehaved:
    """The fault of a stream's call of ``n``, after ``before`` draws in calls of ``most``, with the line that repeats it."""
    calls = [(before // most + 1, most)] if n == most else [(before // most, most), (1, n)]
    calls = [(times, size) for times, size in calls if times]
    device = getattr(drawer, "device", "cpu")
    where = "" if device == "cpu" else f", device={device!r}"
    named, note = _named(target)
    call = (
        "from precision_lab.verdict.replay import replay; "
        f"replay({drawer.spec!r}, {stream}, {calls}, {named}, {rows}{where}){note}"
    )
    return Misbehaved(fault.what, fault.detail, call)


def _named(target: Target) -> tuple[str, str]:
    """Python for the target's logits, and a comment where that is a name to be filled in."""
    from .check import targets_of

    try:
        same = np.array_equal(targets_of([target.name], Budget.SMOKE)[0].logits, target.logits)
    except InputError:
        same = False
    return (repr(target.name), "") if same else ("logits", f"  # logits: {target.name}, {target.provenance}")
