"""Philox4x32-10: the counter-based generator of curand, torch on CUDA and Triton. Salmon et al. (2011)."""

from __future__ import annotations

import numpy as np

from ..types import Array

_MASK = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


def philox4x32(counter: tuple[Array | int, ...], key: tuple[Array | int, ...]) -> tuple[Array, ...]:
    """Philox4x32-10: four uint32 counters and two uint32 keys, broadcast, to four uint32 arrays."""
    c0, c1, c2, c3, k0, k1 = (np.asarray(x).astype(np.uint64) & _MASK for x in (*counter, *key))
    for _ in range(10):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (right >> np.uint64(32)) ^ c1 ^ k0
        c2 = (left >> np.uint64(32)) ^ c3 ^ k1
        c1 = right & _MASK
        c3 = left & _MASK
        k0 = (k0 + _KEY_STEPS[0]) & _MASK
        k1 = (k1 + _KEY_STEPS[1]) & _MASK
    return tuple(np.asarray(x, dtype=np.uint32) for x in (c0, c1, c2, c3))
