"""Kernel: one step of a pipeline, top-k, top-p or min-p, by bisection over the floats; see :mod:`..truncation`.

The state of a row is what is left of it, (edge, first, last) int64: keys above the edge, and of those that
equal it the ones with first <= index < last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..truncation import COUNT as _COUNT
from ..truncation import FIRST as _FIRST
from ..truncation import LAST as _LAST
from ..truncation import RATIO as _RATIO
from .arithmetic import gaps, is_left, joined, keys_of, load_logits, mass_parts, value_of

COUNT = tl.constexpr(_COUNT)
FIRST = tl.constexpr(_FIRST)
LAST = tl.constexpr(_LAST)
RATIO = tl.constexpr(_RATIO)
LOWEST = tl.constexpr(-0x7F800001)  # the key of -inf
HIGHEST = tl.constexpr(0x7FFFFFFF)


@triton.jit
def mean_of(low, high):
    """The mean of two int32, rounded down, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def scan(
    start,
    token_stride,
    vocab,
    peak,
    divisor,
    key,
    edge,
    first,
    last,
    KIND: tl.constexpr,
    TILE: tl.constexpr,
):
    """One pass over what is left of a row: (mass or number above ``key``, how many tokens equal it, the
    largest key not above it, the least above it)."""
    whole_sum = tl.zeros((TILE,), tl.int32)
    small_sum = tl.zeros((TILE,), tl.int32)
    equal = tl.zeros((TILE,), tl.int32)
    lower = tl.full((TILE,), LOWEST, tl.int32)
    upper = tl.full((TILE,), HIGHEST, tl.int32)
    for at in range(0, vocab, TILE):
        index = at + tl.arange(0, TILE)
        values = load_logits(start, token_stride, index, vocab)
        keys = keys_of(values)
        left = is_left(keys, index, edge, first, last)
        above = left & (keys > key)
        if KIND == COUNT:
            small_sum += above.to(tl.int32)
        else:
            whole, small = mass_parts(gaps(values, peak, divisor, True))
            whole_sum += tl.where(above, whole, 0)
            small_sum += tl.where(above, small, 0)
        equal += (left & (keys == key)).to(tl.int32)
        lower = tl.maximum(lower, tl.where(left & (keys <= key), keys, LOWEST))
        upper = tl.minimum(upper, tl.where(above, keys, HIGHEST))
    total = joined(tl.sum(whole_sum.to(tl.int64), 0), tl.sum(small_sum.to(tl.int64), 0))
    return total, tl.sum(equal, 0), tl.max(lower, 0), tl.min(upper, 0)


@triton.jit
def place_of_tie(start, token_stride, vocab, key, edge, first, last, number, TILE: tl.constexpr):
    """The index of the tied token with that number, from 0 on."""
    seen = tl.full((), 0, tl.int32)
    place = tl.full((), 0, tl.int32)
    for at in range(0, vocab, TILE):
        index = at + tl.arange(0, TILE)
        keys = keys_of(load_logits(start, token_stride, index, vocab))
        tied = ((keys == key) & is_left(keys, index, edge, first, last)).to(tl.int32)
        through = seen + tl.cumsum(tied, 0)
        place += tl.sum((through <= number).to(tl.int32), 0)
        seen += tl.sum(tied, 0)
    return place


@triton.jit
def count_in(room, before, weight, tied, dropped):
    """How many tokens of equal mass are in, of the ``tied`` that equal the edge. int64."""
    need = tl.maximum(room - before - dropped, 0)
    count = need // tl.maximum(weight, 1)
    count += tl.where(dropped == 0, (count * weight < need).to(tl.int64), 0)
    count = tl.where(weight > 0, count, tl.where(room > before, tied, 0))
    count = tl.minimum(count, tied)
    return tl.where(before == 0, tl.maximum(count, 1), count)


@triton.jit(do_not_specialize=["room", "over", "dropped", "whole", "ties"])
def cut_row(
    logits,
    row_stride,
    token_stride,
    vocab,
    peaks,
    divisors,
    least,
    shares,
    room,
    over,
    dropped,
    whole,
    ties,
    state,
    KIND: tl.constexpr,
    TILE: tl.constexpr,
):
    """Program i cuts row i: ``state`` is read and written. ``divisors``, (rows,) float32: temperatures, 0 is
    taken for 1. ``least``, (rows,) float64, of min-p; ``shares``, (1,) float64, ``room``, ``over``,
    ``dropped``, ``whole`` and ``ties`` as :class:`..truncation.Cut` has them. A lane sums at most 511
    masses: vocab < 512 TILE."""
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    peak = tl.load(peaks + row)
    edge = tl.load(state + 3 * row).to(tl.int32)
    first = tl.load(state + 3 * row + 1).to(tl.int32)
    last = tl.load(state + 3 * row + 2).to(tl.int32)
    low = edge
    high = keys_of(peak)
    if KIND == RATIO:
        gap = tl.load(least + row)
        while low < high:
            middle = mean_of(low, high)
            inside = value_of(middle).to(tl.float64) - peak.to(tl.float64) >= gap
            high = tl.where(inside, middle, high)
            low = tl.where(inside, low, middle + 1)
        higher = low > edge
        first = tl.where(higher, 0, first)
        last = tl.where(higher, 0, last)
        low = tl.where(higher, low - 1, low)
    else:
        divisor = tl.load(divisors + row)
        divisor = tl.where(divisor == 0, 1.0, divisor)
        limit = tl.full((), 0, tl.int64) + room
        if KIND != COUNT:
            # of the whole row every token is above the least key, also those that were dropped
            least_key = tl.where(whole == 0, edge, LOWEST - 1)
            below_all = tl.where(whole == 0, edge - 1, LOWEST - 1)
            total, _tied, _lower, _upper = scan(
                start, token_stride, vocab, peak, divisor, below_all, least_key, first, last, KIND, TILE
            )
            limit = (total.to(tl.float64) * tl.load(shares)).to(tl.int64) + over
        while low < high:
            middle = mean_of(low, high)
            mass, _tied, lower, upper = scan(
                start, token_stride, vocab, peak, divisor, middle, edge, first, last, KIND, TILE
            )
            inside = mass < limit
            high = tl.where(inside, tl.maximum(lower, low), high)
            low = tl.where(inside, low, upper)
        before, equal, _lower, _upper = scan(
            start, token_stride, vocab, peak, divisor, low, edge, first, last, KIND, TILE
        )
        tied = equal.to(tl.int64)
        weight = tl.full((), 1, tl.int64)
        if KIND != COUNT:
            large, small = mass_parts(gaps(value_of(low), peak, divisor, True))
            weight = joined(large, small)
        count = count_in(limit, before, weight, tied, dropped)
        new_first = tl.where(low == edge, first, 0)
        new_last = tl.where(low == edge, last, vocab)
        if count < tied:
            number = tl.where(ties == FIRST, count - 1, tied - count)
            place = place_of_tie(start, token_stride, vocab, low, edge, first, last, number, TILE)
            new_last = tl.where(ties == FIRST, place + 1, new_last)
            new_first = tl.where(ties == LAST, place, new_first)
        first = tl.where(count == 0, 0, new_first)
        last = tl.where(count == 0, 0, new_last)
    tl.store(state + 3 * row, low.to(tl.int64))
    tl.store(state + 3 * row + 1, first.to(tl.int64))
    tl.store(state + 3 * row + 2, last.to(tl.int64))
