"""Batch invariance: (seed, row, position) -> token, whatever the company, the order, the padding and the
number of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..types import Int
from .batch_rows import STRANGER, Batch
from .caller import Misbehaved

ROWS, VOCAB, DRAWS = 8, 16, 64  # two rows that do not know of each other agree in 64 draws with 2^-71
BITS = 71  # and in as many more with steps that leave few tokens
MOST = 1024  # draws; rows that are more alike than that are not told apart
LARGEST = 2**63 - 1
IDS = 6  # that a message shows


def examine_identity(
    drawer: Any, *, seed: int = 0, like: Batch | None = None, say: Callable[[str], None] = lambda line: None
) -> None:
    """Raises Misbehaved where the ids of a row change with what is around it.

    With seeds by row ("seed" in ``drawer.takes``) a row keeps its ids alone, in every order and company,
    and under another generator; rows of one seed and one law have the same ids, of other seeds others; 0
    and 2^63 - 1 are seeds like others. Without, a row keeps its place: before other rows, before padding,
    and in a smaller batch. A sampler that keeps the promise is never failed; unrelated rows pass as equal
    with 2^-71. ``like``: a batch whose seed, slope and steps are those of all; else of ``seed``, without
    steps.  Where steps leave so few tokens that :data:`MOST` draws have no 71 bits, that other seeds give
    other ids is not asked.
    """
    by_row = "seed" in drawer.takes
    like = Batch("own", 1, VOCAB, 1, seed) if like is None else like
    bits = -math.log2(float((replace(like, rows=1, vocab=VOCAB).probs[0] ** 2).sum()))
    telling = bits * MOST >= BITS
    like = replace(like, n=max(DRAWS, math.ceil(BITS / bits)) if telling else DRAWS)
    seed = like.seed

    def batch_of(kind: str, rows: int, first: int = 0) -> Batch:
        return _of_rows(like, kind, rows, by_row, first)

    whole = batch_of("own", ROWS)
    ids = whole.draw(drawer)
    _same(whole, ids, batch_of("own", ROWS), drawer, "does not repeat its ids")
    for rows in (1, 2, 3):
        _same(whole, ids, batch_of("own", rows), drawer, "depends on the batch size")
    for rows in (ROWS, 2 * ROWS):
        _same(whole, ids, batch_of("padded", rows), drawer, "depends on its neighbours")
    if not by_row:
        say(f"{drawer.spec}: takes no seeds by row, so another order is not asked for")
        return
    _same(whole, ids, replace(whole, seed=seed + 1), drawer, "depends on more than the seeds of its rows")
    for row in range(ROWS):
        _same(whole, ids, batch_of("own", 1, row), drawer, "depends on the batch size")
    _same(whole, ids, batch_of("permuted", ROWS), drawer, "depends on its place in the batch")
    _same(whole, ids, batch_of("joined", 2 * ROWS), drawer, "depends on its neighbours")
    if telling:
        _by_seed(drawer, like)


def _of_rows(like: Batch, kind: str, rows: int, by_row: bool, first: int) -> Batch:
    batch = replace(like, kind=kind, rows=rows, vocab=VOCAB, first=first)
    if not by_row:
        return batch
    return replace(batch, settings={"seed": [_seed_of(int(row), j) for j, row in enumerate(batch.rows_at)]})


def _seed_of(row: int, place: int) -> int:
    """0 and 2^63 - 1 for the first two rows; strangers have seeds of their own."""
    if row == STRANGER:
        return 1000 + place
    return {0: 0, 1: LARGEST}.get(row, row)


def _same(whole: Batch, ids: Int, other: Batch, drawer: Any, what: str) -> None:
    """The rows that both batches hold have the same ids."""
    found = other.draw(drawer)
    at = {int(row): place for place, row in enumerate(whole.rows_at)}
    for place, row in enumerate(other.rows_at):
        if row == STRANGER or np.array_equal(found[:, place], ids[:, at[int(row)]]):
            continue
        there = f"at place {place} of {other.rows}" if other.rows > 1 else "alone"
        said = (
            f"row {row} gets {_some(ids[:, at[int(row)]])} at place {at[int(row)]} of {whole.rows}, and "
            f"{_some(found[:, place])} {there}{_beside(other.kind)}, from the same seed{_seed(whole.settings, at[int(row)])}"
        )
        raise Misbehaved(what, said, f"{whole.call(drawer)}; show({drawer.spec!r}, {other})")


def _by_seed(drawer: Any, like: Batch) -> None:
    """Equal rows: one seed, one vector of ids; another seed, another."""
    seeds = [0, LARGEST, 1, 0, 2, LARGEST, 2**31, 2**32]
    batch = replace(like, kind="equal", rows=ROWS, vocab=VOCAB, settings={"seed": seeds})
    ids = batch.draw(drawer)
    for i in range(ROWS):
        for j in range(i + 1, ROWS):
            alike = np.array_equal(ids[:, i], ids[:, j])
            if alike == (seeds[i] == seeds[j]):
                continue
            they = "the same ids" if alike else f"{_some(ids[:, i])} and {_some(ids[:, j])}"
            said = f"rows {i} and {j}, of equal logits, get {they} from seeds {seeds[i]} and {seeds[j]}"
            raise Misbehaved("ignores row settings", said, batch.call(drawer))


def _beside(kind: str) -> str:
    return {"padded": " before rows of zeros", "joined": " after rows of strangers"}.get(kind, "")


def _seed(settings: Mapping[str, Any], place: int) -> str:
    return f" {settings['seed'][place]}" if "seed" in settings else ""


def _some(ids: Int) -> str:
    return f"{', '.join(map(str, ids[:IDS]))}, ..."
