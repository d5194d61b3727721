"""Kernels to compare with: Gumbel-max, a word or two a token, fused into one pass over the logits.

Not faithful: in float32 the uniforms of ``tl.rand`` are 2^-31 apart below 1/2 and 2^-24 apart below 1, so that
the noise ends near 17 nats. In float64 it has 53 bits and ends near 37.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def raced(best, place, logits, uniform, index):
    """The best score and its index, lane by lane, with another token each."""
    score = logits - tl.log(-tl.log(uniform))
    better = score > best
    return tl.where(better, score, best), tl.where(better, index, place)


@triton.jit
def uniform_64(high, low):
    """A float64 in (0, 1) of 53 bits of two words of 32, half a step off the ends."""
    word = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    return ((word >> 11).to(tl.float64) + 0.5) * 1.1102230246251565e-16


@triton.jit
def load(start, token_stride, index, vocab, WIDE: tl.constexpr):
    values = tl.load(start + index.to(tl.int64) * token_stride, mask=index < vocab, other=-float("inf"))
    return values.to(tl.float64) if WIDE else values.to(tl.float32)


@triton.jit
def gumbel_max(logits, row_stride, token_stride, vocab, seed, ids, WIDE: tl.constexpr, TILE: tl.constexpr):
    """Program i draws a token of row i into ``ids``, (rows,) int64: the first of the best scores. Four words
    serve four tokens, or two with WIDE."""
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    lane = tl.arange(0, TILE)
    place = tl.zeros((TILE,), tl.int32)
    if WIDE:
        best = tl.full((TILE,), -float("inf"), tl.float64)
        for at in range(0, vocab, 2 * TILE):
            w0, w1, w2, w3 = tl.randint4x(seed, row * vocab + at + lane)
            one = at + lane
            two = one + TILE
            best, place = raced(
                best, place, load(start, token_stride, one, vocab, WIDE), uniform_64(w0, w1), one
            )
            best, place = raced(
                best, place, load(start, token_stride, two, vocab, WIDE), uniform_64(w2, w3), two
            )
    else:
        best = tl.full((TILE,), -float("inf"), tl.float32)
        for at in range(0, vocab, 4 * TILE):
            u0, u1, u2, u3 = tl.rand4x(seed, row * vocab + at + lane)
            one = at + lane
            two = one + TILE
            three = two + TILE
            four = three + TILE
            best, place = raced(best, place, load(start, token_stride, one, vocab, WIDE), u0, one)
            best, place = raced(best, place, load(start, token_stride, two, vocab, WIDE), u1, two)
            best, place = raced(best, place, load(start, token_stride, three, vocab, WIDE), u2, three)
            best, place = raced(best, place, load(start, token_stride, four, vocab, WIDE), u3, four)
    top = tl.max(best, 0)
    tl.store(ids + row, tl.min(tl.where(best == top, place, 2147483647), 0).to(tl.int64))
