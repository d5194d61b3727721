"""Draws in chunks: noise for all draws of all rows at once need not fit in memory, and fits the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

VALUES_IN_MEMORY = 1 << 19  # noise values at a time on a CPU: two megabytes of float32, which stay in the cache
VALUES_ON_DEVICE = 1 << 22  # elsewhere, where a call costs more than what it computes


def draw_in_chunks(
    decide: Callable[[Tensor, int], Tensor],
    inputs: Tensor,
    n: int,
    *,
    values_per_row: int,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``n`` tokens for each row, (n, rows) int64: ``decide(part, count)`` draws ``count`` tokens for each
    row of a part of ``inputs`` (rows, ...), as (count, rows of the part).

    A chunk holds at most :data:`VALUES_IN_MEMORY` values where one draw of one row takes
    ``values_per_row``, but one draw of one row at least. ``prepare``: what a part becomes before ``decide`` has
    it, row by row; all rows at once where ``inputs`` are no larger than a chunk, else a part again for every
    draw, so that memory is that of a chunk. The chunks use the generator in order of draws,
    then of rows: for a generator whose values do not depend on how many are asked for at once, as torch's and
    NumPy's are on a CPU, the tokens of a seed do not depend on the size of a chunk.
    """
    on_cpu = inputs.device.type == "cpu"
    most = VALUES_IN_MEMORY if on_cpu else VALUES_ON_DEVICE
    if on_cpu:
        _keep_freed_memory()
    if prepare is not None and inputs.numel() <= most:
        inputs = prepare(inputs)
        prepare = None
    rows_at_once = max(most // values_per_row, 1)
    draws_at_once = max(rows_at_once // len(inputs), 1)
    out = torch.empty((n, len(inputs)), dtype=torch.int64, device=inputs.device)
    for i in range(0, n, draws_at_once):
        count = min(draws_at_once, n - i)
        for j in range(0, len(inputs), rows_at_once):
            part = inputs[j : j + rows_at_once]
            if prepare is not None:
                part = prepare(part)
            out[i : i + count, j : j + rows_at_once] = decide(part, count)
    return out


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep the memory of one chunk for the next: for the whole process, from the first call
    on.

    glibc gives freed blocks above a threshold back to the system, which clears every page when it is asked
    again: up to half of the time of a draw. A larger block that comes and goes, here one of 16 MB that nobody
    writes to, lifts the threshold above the blocks of a chunk (mallopt(3), M_MMAP_THRESHOLD). Elsewhere it does
    nothing.
    """
    torch.empty(VALUES_ON_DEVICE, dtype=torch.float32)
