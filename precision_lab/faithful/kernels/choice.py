"""Kernel: a whole number below the sum of the sums of a row, its block, its token."""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import gaps, is_left, joined, keys_of, load_logits, mass_parts, uniform_below


@triton.jit(do_not_specialize=["blocks", "rows", "draw_from"])
def choose(
    logits,
    row_stride,
    token_stride,
    vocab,
    peaks,
    divisors,
    state,
    sums,
    blocks,
    words,
    ids,
    rows,
    draw_from,
    HEAT: tl.constexpr,
    CUT: tl.constexpr,
    BLOCK: tl.constexpr,
    MOST_BLOCKS: tl.constexpr,
):
    """Program i makes draw ``draw_from`` + i // rows of row i % rows, into ``ids``, (draws, rows) int64.

    ``words``: (rows, 5) int64 of two words of key, the row's number and two words of counter. A divisor of 0
    takes the first of the largest logits. The other arguments as :func:`.sums.block_sums` has them.
    """
    program = tl.program_id(0)
    row = (program % rows).to(tl.int64)
    draw = draw_from + program // rows
    blocks_at = tl.arange(0, MOST_BLOCKS)
    sum_of = tl.load(sums + row * blocks + blocks_at, mask=blocks_at < blocks, other=0)
    running = tl.cumsum(sum_of, 0)
    total = tl.maximum(tl.sum(sum_of, 0), 1)  # a row that is refused afterwards may have none
    own = words + 5 * row
    below = uniform_below(
        total,
        tl.load(own).to(tl.uint64),
        tl.load(own + 1).to(tl.uint64),
        tl.load(own + 2).to(tl.uint64),
        tl.load(own + 3).to(tl.uint64),
        tl.load(own + 4).to(tl.uint64),
        draw.to(tl.uint64),
    )
    divisor = tl.load(divisors + row) if HEAT else 1.0
    if HEAT:
        below = tl.where(divisor == 0, 0, below)
    at = tl.sum((running <= below).to(tl.int32), 0)
    below -= tl.max(tl.where(running <= below, running, 0), 0)
    index = at * BLOCK + tl.arange(0, BLOCK)
    values = load_logits(logits + row * row_stride, token_stride, index, vocab)
    whole, small = mass_parts(gaps(values, tl.load(peaks + row), divisor, HEAT))
    if CUT:
        edge = tl.load(state + 3 * row).to(tl.int32)
        first = tl.load(state + 3 * row + 1).to(tl.int32)
        last = tl.load(state + 3 * row + 2).to(tl.int32)
        left = is_left(keys_of(values), index, edge, first, last)
        whole = tl.where(left, whole, 0)
        small = tl.where(left, small, 0)
    through = tl.cumsum(joined(whole, small), 0)
    place = tl.sum((through <= below).to(tl.int32), 0)
    tl.store(ids + draw.to(tl.int64) * rows + row, (at * BLOCK + place).to(tl.int64))
