"""How the kernels are started: grids, splits of the vocabulary, and what they are given."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from ...errors import InputError
from ..truncation import COUNT, Kept, Plan, least_gaps, tempers
from . import DTYPES
from .choice import choose
from .cuts import cut_row
from .gumbel import gumbel_max as gumbel_kernel
from .sums import block_sums

BLOCK = 256  # tokens whose masses are summed before any is looked at
WARPS = 8  # and blocks summed at a time, one by each
WARPS_ALONE = 32  # of a program with a long row to itself: few rows at a time, so that the cache holds them
LONG = 1 << 16  # tokens
TILE = 2048  # tokens of a pass of a cut
PROGRAMS = 1 << 30  # of one start
SEPARATE = {"enable_fp_fusion": False}  # a product and a sum are rounded each


@dataclass(frozen=True)
class Drawn:
    """``ids``: (n, rows) int64. ``peaks``: (rows,) float32, the largest logit of each row, NaN where one is:
    a row whose peak is not finite has no law, and its ids mean nothing."""

    ids: Tensor
    peaks: Tensor


def words_on(device: torch.device, keys: np.ndarray, numbers: np.ndarray, positions: np.ndarray) -> Tensor:
    """(rows, 5) int64: two words of key, the row's number, two words of counter with the position in them."""
    places = positions.astype(np.uint64)
    low = np.uint64(0xFFFFFFFF)
    both = keys.astype(np.uint64)
    parts = [
        both[:, 0],
        both[:, 1],
        numbers.astype(np.uint64),
        both[:, 2] ^ (places & low),
        both[:, 3] ^ (places >> np.uint64(32)),
    ]
    return torch.from_numpy(np.stack(parts, axis=1).astype(np.int64)).to(device)


def draw(
    rows: Tensor,
    words: Tensor,
    n: int = 1,
    *,
    heat: Tensor | None = None,
    plan: Plan | None = None,
    splits: int | None = None,
) -> Drawn:
    """``n`` tokens of every row of ``rows``, (rows, vocab) with any strides, in float32, float16 or bfloat16.

    ``words``: of :func:`words_on`. ``heat``: (rows,) temperatures, 0 for the first of the largest logits.
    ``plan``: of :func:`..truncation.plan_of`. ``splits``: parts of the vocabulary that are summed side by
    side, by default so many that the card is filled; no token depends on it. Nothing waits for the card.
    """
    check(rows)
    count, vocab = rows.shape
    device = rows.device
    ids = torch.empty((n, count), dtype=torch.int64, device=device)
    if not ids.numel():
        return Drawn(ids, rows.amax(-1).float())
    blocks = triton.cdiv(vocab, BLOCK)
    parts = min(triton.cdiv(blocks, WARPS), splits or splits_for(count, device))
    warps = WARPS_ALONE if parts == 1 and vocab >= LONG else WARPS
    tiles = triton.cdiv(blocks, warps)
    cuts = plan.cuts if plan is not None else ()
    factor = plan.temperature if plan is not None else 1.0
    heated = heat is not None or factor != 1
    divisors = tempers(heat, factor, rows) if heated else rows.new_empty(0, dtype=torch.float32)
    alone = parts == 1 and not cuts
    peaks = torch.empty(count, device=device) if alone else rows.amax(-1).float()
    strides = (rows.stride(0), rows.stride(1), vocab)
    sums = torch.empty((count, blocks), dtype=torch.int64, device=device)
    with on(device):
        state = state_after(rows, peaks, plan, heat) if plan is not None and cuts else sums
        block_sums[(count, parts)](
            rows,
            *strides,
            peaks,
            divisors,
            state,
            sums,
            blocks,
            triton.cdiv(tiles, parts),
            HEAT=heated,
            CUT=bool(cuts),
            PEAK=alone,
            BLOCKS=warps,
            BLOCK=BLOCK,
            WIDTH=width_of(rows),
            num_warps=warps,
            **SEPARATE,
        )
        for first, many in draws_at_once(n, count):
            choose[(many * count,)](
                rows,
                *strides,
                peaks,
                divisors,
                state,
                sums,
                blocks,
                words,
                ids,
                count,
                first,
                HEAT=heated,
                CUT=bool(cuts),
                BLOCK=BLOCK,
                MOST_BLOCKS=max(16, triton.next_power_of_2(blocks)),
                num_warps=4,
                **SEPARATE,
            )
    return Drawn(ids, peaks)


def state_after(rows: Tensor, peaks: Tensor, plan: Plan, heat: Tensor | None) -> Tensor:
    """(rows, 3) int64: what the cuts leave of each row, as :class:`..truncation.Kept` has it; rows of
    temperature 0 are not cut."""
    whole = Kept.all_of(rows)
    uncut = torch.stack([whole.edge, whole.first, whole.last], dim=1)
    state = uncut.clone()
    for cut in plan.cuts:
        share = torch.tensor([cut.share], dtype=torch.float64, device=rows.device)
        cut_row[(len(rows),)](
            rows,
            rows.stride(0),
            rows.stride(1),
            rows.shape[1],
            peaks,
            tempers(heat, cut.temperature, rows),
            least_gaps(cut, heat, rows),
            share,
            cut.room if cut.kind == COUNT else 0,
            cut.over,
            int(cut.dropped),
            int(cut.whole),
            cut.ties,
            state,
            KIND=cut.kind,
            TILE=TILE,
            num_warps=8,
            **SEPARATE,
        )
    return state if heat is None else torch.where((heat == 0)[:, None], uncut, state)


def gumbel_max(rows: Tensor, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(rows,) tokens by Gumbel-max with noise and scores of ``dtype``, float32 or float64: to compare with."""
    check(rows)
    ids = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    if len(rows):
        with on(rows.device):
            gumbel_kernel[(len(rows),)](
                rows,
                rows.stride(0),
                rows.stride(1),
                rows.shape[1],
                seed,
                ids,
                WIDE=dtype == torch.float64,
                TILE=1024,
                num_warps=8,
            )
    return ids


def check(rows: Tensor) -> None:
    """InputError for a dtype that the kernels do not read."""
    if rows.dtype not in DTYPES:
        raise InputError(
            f"logits of {rows.dtype}", "float32, float16 or bfloat16", "float64 goes without kernels"
        )


def splits_for(rows: int, device: torch.device) -> int:
    """So many parts that there are two programs for each multiprocessor, one where the rows are enough."""
    if device.type != "cuda":
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return 1 if rows >= processors else triton.cdiv(2 * processors, rows)


def width_of(rows: Tensor) -> int:
    """Tokens that a warp reads at once: 16 bytes a lane where every row begins and ends on a multiple of them,
    else a token a lane."""
    together = rows.stride(1) == 1 and rows.data_ptr() % 16 == 0
    even = rows.stride(0) % 16 == 0 and rows.shape[1] % 16 == 0
    return 32 * (16 // rows.element_size() if together and even else 1)


def draws_at_once(n: int, rows: int) -> list[tuple[int, int]]:
    """(first draw, how many) of every start."""
    most = max(1, PROGRAMS // rows)
    return [(first, min(most, n - first)) for first in range(0, n, most)]


def on(device: torch.device) -> AbstractContextManager[object]:
    """Kernels are started on the current device: that of the logits."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
