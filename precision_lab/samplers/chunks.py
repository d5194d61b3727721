"""Draws in chunks: noise for all draws of all rows at once need not fit in memory, and fits the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VALUES_IN_MEMORY = 1 << 19  # noise values at a time on a CPU: two megabytes of float32, which stay in the cache
VALUES_ON_DEVICE = 1 << 22  # elsewhere, where a call costs more than what it computes


def draw_in_chunks(
    decide: Callable[[Tensor, int], Tensor], inputs: Tensor, n: int, *, values_per_row: int
) -> Tensor:
    """``n`` tokens for each row, (n, rows) int64: ``decide(part, count)`` draws ``count`` tokens for each
    row of a part of ``inputs`` (rows, ...), as (count, rows of the part).

    A chunk holds at most :data:`VALUES_IN_MEMORY` values where one draw of one row takes
    ``values_per_row``, but one draw of one row at least. The chunks use the generator in order of draws,
    then of rows: for a generator whose values do not depend on how many are asked for at once, as torch's and
    NumPy's are on a CPU, the tokens of a seed do not depend on the size of a chunk.
    """
    on_cpu = inputs.device.type == "cpu"
    most = VALUES_IN_MEMORY if on_cpu else VALUES_ON_DEVICE
    if on_cpu:
        _keep_freed_memory()
    rows_at_once = max(most // values_per_row, 1)
    draws_at_once = max(rows_at_once // len(inputs), 1)
    out = torch.empty((n, len(inputs)), dtype=torch.int64, device=inputs.device)
    for i in range(0, n, draws_at_once):
        count = min(draws_at_once, n - i)
        for j in range(0, len(inputs), rows_at_once):
            out[i : i + count, j : j + rows_at_once] = decide(inputs[j : j + rows_at_once], count)
    return out


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of one chunk for the next.

    glibc gives freed blocks above a threshold back to the system, which clears every page when it is asked
    again: up to half of the time of a draw. A larger block that comes and goes, here one of 16 MB that nobody
    writes to, lifts the threshold above the blocks of a chunk (mallopt(3), M_MMAP_THRESHOLD). Elsewhere it does
    nothing, at a cost of microseconds.
    """
    torch.empty(VALUES_ON_DEVICE, dtype=torch.float32)
