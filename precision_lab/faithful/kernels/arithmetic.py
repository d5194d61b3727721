"""What the kernels compute with: masses, keys and random words, the same to the last bit as :mod:`..masses`,
:mod:`..truncation` and :mod:`..words`.

Every kernel that uses them must be started with ``enable_fp_fusion=False``: a product and a sum are rounded
each. Where ``tl.fma`` stands the product is exact, so that one rounding and two are the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import masses as mass_maps
from .. import words

HALF = tl.constexpr(mass_maps.BITS // 2)
LEAST = tl.constexpr(mass_maps.LEAST)
LOG2E = tl.constexpr(mass_maps._LOG2E)
HIGH = tl.constexpr(mass_maps._HIGH)
LOW = tl.constexpr(mass_maps._LOW)
C7, C6, C5, C4, C3, C2 = (tl.constexpr(term) for term in mass_maps._TERMS)
SCALE_BITS = tl.constexpr((127 + mass_maps.BITS // 2) << 23)

# x + 1.5 2^23 is rounded to a whole number, which stands in its last bits; for x >= 0 so does x + 2^23.
ROUNDER = tl.constexpr(1.5 * 2.0**23)
ROUNDER_BITS = tl.constexpr(0x4B400000)
FLOOR = tl.constexpr(2.0**23)
FLOOR_BITS = tl.constexpr(0x4B000000)
TWO_22 = tl.constexpr(2.0**22)

MAGNITUDE = tl.constexpr(0x7FFFFFFF)
M0, M1 = (tl.constexpr(each) for each in words.MULTIPLIERS)
S0, S1 = (tl.constexpr(each) for each in words.STEPS)
ROUNDS = tl.constexpr(words.ROUNDS)
WORD = tl.constexpr(0xFFFFFFFF)


@triton.jit
def load_logits(start, token_stride, index, vocab):
    """Logits of a row as float32, -inf beyond its end."""
    return tl.load(start + index.to(tl.int64) * token_stride, mask=index < vocab, other=-float("inf")).to(
        tl.float32
    )


@triton.jit
def gaps(logits, peak, divisor, HEAT: tl.constexpr):
    """(l - max l) / T, at least -100. A divisor of 0 leaves the largest at 0 and takes all others away."""
    x = logits - peak
    if HEAT:
        x = tl.div_rn(x, tl.where(divisor == 0, 1.0, divisor))
        most = tl.where(divisor == 0, LEAST, 0.0)
        x = tl.where(x < 0, tl.minimum(x, most), x)
    return tl.maximum(x, LEAST)


@triton.jit
def mass_parts(x):
    """(a, b) int32 with a 2^22 + b = rint(2^44 exp(x)) as :func:`..masses.masses` rounds it; 0 <= a <= 2^22
    and |b| <= 2^21. Sums of 511 of them are whole numbers of 32 bits."""
    turned = x * LOG2E + ROUNDER
    n = turned - ROUNDER
    r = tl.fma(n, -HIGH, x) - n * LOW
    p = r * C7 + C6
    p = p * r + C5
    p = p * r + C4
    p = p * r + C3
    p = p * r + C2
    p = p * r + 1.0
    p = p * r + 1.0
    # n stands in the last bits of the number before; the others are shifted out
    scale = ((turned.to(tl.int32, bitcast=True) << 23) + SCALE_BITS).to(tl.float32, bitcast=True)
    whole = tl.fma(p, scale, FLOOR)
    rest = tl.fma(p, scale, -(whole - FLOOR))
    small = tl.fma(rest, TWO_22, ROUNDER)
    return whole.to(tl.int32, bitcast=True) - FLOOR_BITS, small.to(tl.int32, bitcast=True) - ROUNDER_BITS


@triton.jit
def joined(whole, small):
    """The int64 of two parts, or of two sums of parts."""
    return (whole.to(tl.int64) << HALF) + small.to(tl.int64)


@triton.jit
def keys_of(logits):
    """int32 in the order of the float32 logits; -0 and 0 are equal."""
    bits = tl.where(logits == 0, 0, logits.to(tl.int32, bitcast=True))
    return bits ^ ((bits >> 31) & MAGNITUDE)


@triton.jit
def value_of(key):
    """The float32 of a key."""
    return (key ^ ((key >> 31) & MAGNITUDE)).to(tl.float32, bitcast=True)


@triton.jit
def is_left(key, index, edge, first, last):
    """Whether a token is left, by the state of its row."""
    return (key > edge) | ((key == edge) & (index >= first) & (index < last))


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10: two words of 64 bits. uint64 that hold 32 bits each."""
    for _ in tl.static_range(ROUNDS):
        left = c0 * M0
        right = c2 * M1
        c0 = (right >> 32) ^ c1 ^ k0
        c2 = (left >> 32) ^ c3 ^ k1
        c1 = right & WORD
        c3 = left & WORD
        k0 = (k0 + S0) & WORD
        k1 = (k1 + S1) & WORD
    return (c0 << 32) | c1, (c2 << 32) | c3


@triton.jit
def uniform_below(total, k0, k1, number, c2, c3, draw):
    """A whole number below ``total``, int64 from 1 on: the leading bits of one word after another, the first
    that is below. The others are uint64."""
    bits = tl.sum((((total - 1) >> tl.arange(0, 64).to(tl.int64)) > 0).to(tl.int32), 0)
    shift = tl.minimum(64 - bits, 63).to(tl.uint64)
    found = tl.full((), -1, tl.int64)
    attempt = tl.full((), 0, tl.uint64)
    while found < 0:
        first, second = philox(draw, number | (attempt << 24), c2, c3, k0, k1)
        first_value = (first >> shift).to(tl.int64)
        second_value = (second >> shift).to(tl.int64)
        found = tl.where(second_value < total, second_value, found)
        found = tl.where(first_value < total, first_value, found)
        attempt += 1
    return found
