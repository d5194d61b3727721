"""Rows shared out among torch's threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

WORTH_A_THREAD = 1 << 19  # values


def over_rows(part: Callable[[int, int], None], rows: int, vocab: int) -> None:
    """``part(start, stop)`` for ranges that cover all ``rows``, side by side where there is enough to do."""
    lanes = min(torch.get_num_threads(), rows, max(1, rows * vocab // WORTH_A_THREAD))
    ends = [rows * lane // lanes for lane in range(lanes + 1)]
    if lanes == 1:
        part(0, rows)
        return
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(part, ends[:-1], ends[1:]))
