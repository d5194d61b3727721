"""Random words by counter: Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011), keyed for every row.

A word is a function of (key, position, row, draw, attempt) and of nothing else: no row sees another's, and
a row's words do not depend on the batch that it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
MOST_ROWS = 1 << 24  # of one generator: the row's number has so many bits of the counter
Randomness: TypeAlias = "torch.Generator | Sequence[torch.Generator] | Tensor | Sequence[int]"


def keys_of(generator: Randomness, rows: int) -> np.ndarray:
    """(rows, 4) uint32: two words of key, two of counter.

    One torch.Generator: 126 bits drawn from it, and the row's number in the key's place of the counter
    keeps rows apart. A sequence of generators, one a row: 126 bits from each. Seeds, one a row, as integers
    or an int64 tensor: the seed is the key, so that equal seeds draw alike, wherever the rows are.
    InputError for anything else, and for another number of rows.
    """
    if isinstance(generator, torch.Generator):
        if rows > MOST_ROWS:
            raise InputError(f"{rows} rows of one generator", f"at most {MOST_ROWS}", "draw them in parts")
        return np.repeat(_drawn(generator)[None], rows, axis=0)
    if isinstance(generator, Tensor):
        if generator.dtype.is_floating_point or generator.dim() != 1:
            raise InputError(
                f"seeds of dtype {generator.dtype} and shape {tuple(generator.shape)}",
                "(rows,) integers",
                "give a seed for every row",
            )
        generator = generator.tolist()
    if not isinstance(generator, Sequence) or isinstance(generator, str):
        raise InputError(
            f"a generator of type {type(generator).__name__}",
            "a torch.Generator, or one (or a whole-number seed) for every row",
            "for example torch.Generator().manual_seed(0)",
        )
    if len(generator) != rows:
        raise InputError(
            f"{len(generator)} generators or seeds for {rows} rows", "one for every row", "repeat them"
        )
    found = np.zeros((rows, 4), dtype=np.uint32)
    for i, each in enumerate(generator):
        if isinstance(each, torch.Generator):
            found[i] = _drawn(each)
        elif isinstance(each, int | np.integer) and not isinstance(each, bool) and -(2**63) <= each < 2**64:
            found[i, 0] = int(each) & 0xFFFFFFFF
            found[i, 1] = (int(each) >> 32) & 0xFFFFFFFF
        else:
            raise InputError(
                f"{each!r} for row {i}", "a torch.Generator or a seed of 64 bits", "take it modulo 2^64"
            )
    return found


def words_from(generator: torch.Generator) -> np.ndarray:
    """(2,) int64: two words of 63 bits, drawn from the generator."""
    return torch.randint(0, 2**63 - 1, (2,), generator=generator, device=generator.device).cpu().numpy()


def _drawn(generator: torch.Generator) -> np.ndarray:
    return words_from(generator).view(np.uint32)


@cache
def compiled() -> Any:
    """``pair(k0, k1, c0, c1, c2, c3)``: two uint64 words of one Philox block, compiled."""
    import numba

    m0, m1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
    s0, s1 = np.uint64(STEPS[0]), np.uint64(STEPS[1])
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)

    @numba.njit(nogil=True, error_model="numpy")
    def pair(k0, k1, c0, c1, c2, c3):
        k0, k1 = np.uint64(k0), np.uint64(k1)
        c0, c1, c2, c3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
        for _ in range(ROUNDS):
            left = m0 * c0
            right = m1 * c2
            c0 = (right >> half) ^ c1 ^ k0
            c2 = (left >> half) ^ c3 ^ k1
            c1 = right & low
            c3 = left & low
            k0 = (k0 + s0) & low
            k1 = (k1 + s1) & low
        return (c0 << half) | c1, (c2 << half) | c3

    return pair


@cache
def below() -> Any:
    """``uniform_below(total, key, row, position, draw)``: a whole number below total, uniform, compiled."""
    import numba

    pair = compiled()

    @numba.njit(nogil=True, error_model="numpy")
    def uniform_below(total, key, row, position, draw):
        """A whole number below total: the leading bits of one word after another, the first that is below."""
        shift = np.uint64(64)
        left = total - 1
        while left > 0:
            left >>= 1
            shift -= np.uint64(1)
        if shift == np.uint64(64):
            return np.int64(0)
        attempt = 0
        while True:
            tag = np.uint64(row) | (np.uint64(attempt) << np.uint64(24))
            place = np.uint64(position)
            c2 = np.uint64(key[2]) ^ (place & np.uint64(0xFFFFFFFF))
            c3 = np.uint64(key[3]) ^ (place >> np.uint64(32))
            first, second = pair(key[0], key[1], draw, tag, c2, c3)
            if np.int64(first >> shift) < total:
                return np.int64(first >> shift)
            if np.int64(second >> shift) < total:
                return np.int64(second >> shift)
            attempt += 1

    return uniform_below
