"""Draws in chunks: noise for all draws of all rows at once need not fit in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VALUES_IN_MEMORY = 1 << 22  # noise values at a time


def draw_in_chunks(
    decide: Callable[[Tensor, int], Tensor],
    inputs: Tensor,
    n: int,
    *,
    values_per_row: int,
    rows_outermost: bool = False,
) -> Tensor:
    """``n`` tokens for each row, (n, rows) int64: ``decide(part, count)`` draws ``count`` tokens for each
    row of a part of ``inputs`` (rows, ...), as (count, rows of the part).

    A chunk holds at most :data:`VALUES_IN_MEMORY` values where one draw of one row takes
    ``values_per_row``. The chunks use the generator in order of draws, then of rows; or of rows, then of
    draws, if ``rows_outermost``.
    """
    rows_at_once = max(VALUES_IN_MEMORY // values_per_row, 1)
    draws_at_once = max(rows_at_once // len(inputs), 1)
    draw_starts = range(0, n, draws_at_once)
    row_starts = range(0, len(inputs), rows_at_once)
    if rows_outermost:
        starts = [(i, j) for j in row_starts for i in draw_starts]
    else:
        starts = [(i, j) for i in draw_starts for j in row_starts]
    out = torch.empty((n, len(inputs)), dtype=torch.int64, device=inputs.device)
    for i, j in starts:
        count = min(draws_at_once, n - i)
        out[i : i + count, j : j + rows_at_once] = decide(inputs[j : j + rows_at_once], count)
    return out
