"""Draws in chunks: noise for all draws of all rows at once need not fit in memory, and fits the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VALUES_IN_MEMORY = 1 << 17  # noise values at a time on a CPU: half a megabyte of float32, which a core's cache holds
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
    most = VALUES_IN_MEMORY if inputs.device.type == "cpu" else VALUES_ON_DEVICE
    rows_at_once = max(most // values_per_row, 1)
    draws_at_once = max(rows_at_once // len(inputs), 1)
    out = torch.empty((n, len(inputs)), dtype=torch.int64, device=inputs.device)
    for i in range(0, n, draws_at_once):
        count = min(draws_at_once, n - i)
        for j in range(0, len(inputs), rows_at_once):
            out[i : i + count, j : j + rows_at_once] = decide(inputs[j : j + rows_at_once], count)
    return out
