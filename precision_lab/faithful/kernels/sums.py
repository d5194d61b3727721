"""Kernel: the masses of a row, summed in blocks of 256 tokens."""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import gaps, is_left, joined, keys_of, load_logits, mass_parts


@triton.jit(do_not_specialize=["blocks", "tiles_each"])
def block_sums(
    logits,
    row_stride,
    token_stride,
    vocab,
    peaks,
    divisors,
    state,
    sums,
    blocks,
    tiles_each,
    HEAT: tl.constexpr,
    CUT: tl.constexpr,
    PEAK: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Program (row, part) sums the masses of ``tiles_each`` tiles, each of BLOCKS blocks of BLOCK tokens, into
    ``sums``, (rows, blocks) int64.

    WIDTH: tokens that a warp reads at once, at most BLOCK. With BLOCKS warps each has a block of its own,
    of which it reads BLOCK / WIDTH parts, so that no sum crosses warps.

    PEAK: the program has the whole row, and finds its largest logit first, into ``peaks``, (rows,) float32,
    NaN where a logit is; else that is read there. The second pass goes backwards: what was read last is
    still in the cache. HEAT: ``divisors``, (rows,) float32. CUT: ``state``, (rows, 3) int64 of
    :mod:`.cuts`.
    """
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    begin = tl.program_id(1) * tiles_each
    end = tl.minimum(begin + tiles_each, tl.cdiv(blocks, BLOCKS))
    block = tl.arange(0, BLOCKS)
    part = tl.arange(0, BLOCK // WIDTH)
    within = part[:, None, None] * WIDTH + block[None, :, None] * BLOCK + tl.arange(0, WIDTH)[None, None, :]
    if PEAK:
        most = tl.full((BLOCK // WIDTH, BLOCKS, WIDTH), -float("inf"), tl.float32)
        for tile in range(begin, end):
            values = load_logits(start, token_stride, tile * (BLOCKS * BLOCK) + within, vocab)
            most = tl.maximum(most, values, propagate_nan=tl.PropagateNan.ALL)
        unknown = tl.max(tl.max(tl.max((most != most).to(tl.int32), 0), 1), 0)
        peak = tl.max(tl.max(tl.max(most, 0), 1), 0)
        peak = tl.where(unknown > 0, float("nan"), peak)
        tl.store(peaks + row, peak)
    else:
        peak = tl.load(peaks + row)
    divisor = tl.load(divisors + row) if HEAT else 1.0
    if CUT:
        edge = tl.load(state + 3 * row).to(tl.int32)
        first = tl.load(state + 3 * row + 1).to(tl.int32)
        last = tl.load(state + 3 * row + 2).to(tl.int32)
    for back in range(begin, end):
        tile = begin + end - 1 - back
        index = tile * (BLOCKS * BLOCK) + within
        values = load_logits(start, token_stride, index, vocab)
        whole, small = mass_parts(gaps(values, peak, divisor, HEAT))
        if CUT:
            left = is_left(keys_of(values), index, edge, first, last)
            whole = tl.where(left, whole, 0)
            small = tl.where(left, small, 0)
        total = joined(tl.sum(tl.sum(whole, 0), 1), tl.sum(tl.sum(small, 0), 1))
        at = tile * BLOCKS + block
        tl.store(sums + row * blocks + at, total, mask=at < blocks)
