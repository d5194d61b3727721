"""Noise of the full range in float32: a uniform of 64 bits, of which most tokens need 32, to an exponential E
and a Gumbel value G = -log E, by a fixed sequence of IEEE operations, the same on every machine.

    U = (K + 1/2) 2^-64, K of two words of 32 bits, E = -log(1 - U) c = K where U < 1 - sqrt(1/2), else 2^64 -
    1 - K        the distance from the nearer end, folded v = fl(c + 1/2) 2^-64
    where c < 2^52: one value in 2048 v = fl(c' + 1/2) 2^-32, c' the first word of c           elsewhere: the
    second word is never made E = -log1p(-v) at the lower end, else -log v             near U = 0, where the
    winners lie, floats are dense

log by nine terms of the polynomial of Cephes' logf (Moshier), sums and products each rounded, none fused.
Relative error of E: 0.7 units of 2^-23 against v as held (every float32 was tried), 1.5 with the rounding of
v, and 2^-21 more against all 64 bits. E is from 2^-65 to 45.06, so G from -3.81 to 45.05, off by at most 0.7
units in its last place or 2^-24.

Whose word: Philox keyed by the row (:mod:`.words`). A block of Philox keyed by the row's key, at the counter
(draw, row, position) with the attempt 255, makes the key of a draw, which is no word of
:func:`~precision_lab.faithful.categorical`; token t of that draw has word (t / 256) mod 4 of the block 256 (t
/ 1024) + t mod 256, and its second word from a block of its own."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import words
from .eager import philox

TILE = 1024  # tokens at a time: their words and noise stay in the first cache
QUARTER = TILE // 4  # blocks of Philox for them
FLOOR = 1 << 20  # first words below it, folded, are refined by a second
CUT = round((1 - math.sqrt(0.5)) * 2**32)  # first words below it are the lower end
CEILING = 65 * math.log(2)  # 45.05, the largest Gumbel value
_DERIVING = 255 << 24  # the attempt at which a draw's own key is made
_LOW = 0xFFFFFFFF
_POLYNOMIAL = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_LN2_HIGH = 0.693359375  # 355 / 512
_LN2_LOW = -2.12194440e-4
_SQRT_HALF = 0x3F3504F3  # its bits as a float32
_ONE = 0x3F800000
_MANTISSA = 0x7FFFFF


@cache
def exponential_loops() -> tuple[Any, Any, Any]:
    """Compiled: ``fill(key, tile, first)`` puts the 1,024 first words of a tile, uint32, in their places;
    ``exponentials(first, low, refined, key, start, given, out)`` makes E of them, with the second words of
    ``low`` if ``given`` and those of the key elsewhere, for tokens from ``start``; ``second(key, token)``:
    the second word."""
    import numba

    pair = words.compiled()
    logarithm = compiled_logarithm()
    low_bits, half_word = np.uint64(_LOW), np.uint64(32)
    m0, m1 = np.uint64(words.MULTIPLIERS[0]), np.uint64(words.MULTIPLIERS[1])
    s0, s1 = np.uint64(words.STEPS[0]), np.uint64(words.STEPS[1])
    rounds, quarter = words.ROUNDS, QUARTER
    cut, floor = np.uint32(CUT), np.uint32(FLOOR)
    eight, byte = np.uint32(8), np.uint32(255)
    half = np.float32(0.5)
    scale_high = np.float32(256)
    scale = np.float32(2.0**-32)
    bits_one, bits_root = np.int32(_ONE - _SQRT_HALF), np.int32(_SQRT_HALF)
    mantissa = np.int32(_MANTISSA)
    place = np.int32(23)
    bias = np.int32(127)
    one = np.float32(1)
    tiny = 2.0**-64

    @numba.njit(nogil=True, error_model="numpy")
    def fill(key, tile, first):
        for b in range(quarter):
            c0, c1 = np.uint64(tile * quarter + b), np.uint64(0)
            c2, c3 = key[2], key[3]
            k0, k1 = key[0], key[1]
            for _ in range(rounds):
                left = m0 * c0
                right = m1 * c2
                c0 = (right >> half_word) ^ c1 ^ k0
                c2 = (left >> half_word) ^ c3 ^ k1
                c1 = right & low_bits
                c3 = left & low_bits
                k0 = (k0 + s0) & low_bits
                k1 = (k1 + s1) & low_bits
            first[b] = c0
            first[b + quarter] = c1
            first[b + 2 * quarter] = c2
            first[b + 3 * quarter] = c3

    @numba.njit(nogil=True, error_model="numpy")
    def second(key, token):
        both, _ = pair(key[0], key[1], token, 1, key[2], key[3])
        return both >> half_word

    @numba.njit(nogil=True, error_model="numpy", inline="always")
    def of_folded(v, lower):
        bits = np.int32(np.float32(v).view(np.int32) + bits_one)
        e = np.int32(np.int32(bits >> place) - bias)
        m = np.int32((bits & mantissa) + bits_root).view(np.float32) - one
        x = -v if lower else m
        return -logarithm(x, np.float32(0) if lower else np.float32(e))

    @numba.njit(nogil=True, error_model="numpy")
    def exponentials(first, low, key, start, given, out):
        least = np.uint32(0xFFFFFFFF)
        for i in range(len(out)):
            k = first[i]
            lower = k < cut
            c = np.uint32(k if lower else ~k)
            v = np.float32(np.int32(c >> eight)) * scale_high + (np.float32(np.int32(c & byte)) + half)
            out[i] = of_folded(v * scale, lower)
        for i in range(len(out)):
            least = np.uint32(min(least, min(first[i], np.uint32(~first[i]))))
        if least >= floor:
            return
        for i in range(len(out)):
            lower = first[i] < cut
            c = np.uint32(first[i] if lower else ~first[i])
            if c < floor:
                other = np.uint64(low[i]) if given else second(key, start + i)
                rest = other if lower else other ^ low_bits
                folded = np.float64((np.uint64(c) << half_word) | rest)
                out[i] = of_folded(np.float32((folded + 0.5) * tiny), lower)

    return fill, exponentials, second


@cache
def compiled_logarithm() -> Any:
    """``logarithm(x, e)``: log1p(x) + e log 2 in float32, x from sqrt(1/2) - 1 to sqrt(2) - 1, e a whole
    float32."""
    import numba

    p0, p1, p2, p3, p4, p5, p6, p7, p8 = (np.float32(term) for term in _POLYNOMIAL)
    high = np.float32(_LN2_HIGH)
    low = np.float32(_LN2_LOW)
    half = np.float32(0.5)

    @numba.njit(nogil=True, error_model="numpy", inline="always")
    def logarithm(x, e):
        z = x * x
        y = p0 * x + p1
        y = y * x + p2
        y = y * x + p3
        y = y * x + p4
        y = y * x + p5
        y = y * x + p6
        y = y * x + p7
        y = y * x + p8
        y = y * x * z
        y = y + e * low
        y = y - half * z
        return (x + y) + e * high

    return logarithm


@cache
def gumbel_loop() -> Any:
    """``gumbels(e, out)``: out = -log e, float32, e positive and normal."""
    import numba

    logarithm = compiled_logarithm()
    bits_one, bits_root = np.int32(_ONE - _SQRT_HALF), np.int32(_SQRT_HALF)
    mantissa = np.int32(_MANTISSA)
    place = np.int32(23)
    bias = np.int32(127)
    one = np.float32(1)

    @numba.njit(nogil=True, error_model="numpy")
    def gumbels(e, out):
        for i in range(len(out)):
            bits = np.int32(np.float32(e[i]).view(np.int32) + bits_one)
            n = np.int32(np.int32(bits >> place) - bias)
            m = np.int32((bits & mantissa) + bits_root).view(np.float32) - one
            out[i] = -logarithm(m, np.float32(n))

    return gumbels


@cache
def derive() -> Any:
    """``derived(key, row, position, draw, out)``: the (4,) uint64 key of a draw, compiled."""
    import numba

    pair = words.compiled()
    low_bits = np.uint64(_LOW)
    half_word = np.uint64(32)
    tag = np.uint64(_DERIVING)

    @numba.njit(nogil=True, error_model="numpy")
    def derived(key, row, position, draw, out):
        place = np.uint64(position)
        c2 = np.uint64(key[2]) ^ (place & low_bits)
        c3 = np.uint64(key[3]) ^ (place >> half_word)
        one, two = pair(key[0], key[1], draw, np.uint64(row) | tag, c2, c3)
        out[0], out[1] = one >> half_word, one & low_bits
        out[2], out[3] = two >> half_word, two & low_bits

    return derived


class Pair(NamedTuple):
    """The words of tokens: ``first`` and ``second``, (..., vocab) int64 from 0 to 2^32 - 1."""

    first: Tensor
    second: Tensor


def words_of(keys: Tensor, numbers: Tensor, positions: Tensor, draw: int, vocab: int) -> Pair:
    """Both words of each token of one draw, (rows, vocab), by torch operations one by one: the oracle of the
    compiled loops, and what a GPU runs. ``keys``: (rows, 4) int64; ``numbers``, ``positions``: (rows,)
    int64."""
    counter = (
        torch.full_like(numbers, draw),
        numbers | _DERIVING,
        keys[:, 2] ^ (positions & _LOW),
        keys[:, 3] ^ ((positions >> 32) & _LOW),
    )
    k0, k1, k2, k3 = (word.unsqueeze(-1) for word in philox(counter, keys[:, 0], keys[:, 1]))
    tiles = -(-vocab // TILE)
    blocks = torch.arange(tiles * QUARTER, device=keys.device).expand(len(keys), -1)
    zero = torch.zeros_like(blocks)
    four = torch.stack(philox((blocks, zero, k2 + zero, k3 + zero), k0, k1), dim=-1)
    first = four.reshape(len(keys), tiles, QUARTER, 4).transpose(-1, -2).reshape(len(keys), -1)[:, :vocab]
    tokens = torch.arange(vocab, device=keys.device).expand(len(keys), -1)
    zero = torch.zeros_like(tokens)
    second = philox((tokens, zero + 1, k2 + zero, k3 + zero), k0, k1)[0]
    return Pair(first, second)


def exponentials_of(pair: Pair) -> Tensor:
    """(..., vocab) float32 E of the words, as the compiled loop has it."""
    lower = pair.first < CUT
    c = torch.where(lower, pair.first, pair.first ^ _LOW)
    rest = torch.where(lower, pair.second, pair.second ^ _LOW)
    coarse = ((c >> 8).float() * 256 + ((c & 255).float() + 0.5)) * 2.0**-32
    fine = ((((c << 32) | rest).double() + 0.5) * 2.0**-64).float()
    v = torch.where(c < FLOOR, fine, coarse)
    mantissa, exponent = _split(v)
    x = torch.where(lower, -v, mantissa)
    return -_logarithm(x, torch.where(lower, 0.0, exponent))


def gumbels_of(exponentials: Tensor) -> Tensor:
    """-log E in float32, as the compiled loop has it."""
    return -_logarithm(*_split(exponentials))


def _split(v: Tensor) -> tuple[Tensor, Tensor]:
    """v = (1 + x) 2^e, 1 + x from sqrt(1/2) to sqrt(2): x and e as float32."""
    bits = v.view(torch.int32) + (_ONE - _SQRT_HALF)
    mantissa = ((bits & _MANTISSA) + _SQRT_HALF).view(torch.float32) - 1
    return mantissa, ((bits >> 23) - 127).float()


def _logarithm(x: Tensor, e: Tensor) -> Tensor:
    z = x * x
    y = x * _POLYNOMIAL[0] + _POLYNOMIAL[1]
    for term in _POLYNOMIAL[2:]:
        y = y * x + term
    y = y * x * z
    y = y + e * _LN2_LOW
    y = y - z * 0.5
    return (x + y) + e * _LN2_HIGH
