"""Calls of a few rows, where what Python and torch do around the loop is most of the time: one compiled call
finds the largest logits, looks for bad rows and draws. The tokens are those of the longer way."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .words import Randomness

MOST_VALUES = 1 << 17


def quick_rows(logits: Tensor, generator: Randomness, position: int | Tensor) -> np.ndarray | None:
    """(rows, vocab) float32 that a compiled loop may read as it is, of a call on a CPU with one generator and
    one position; None for any other call."""
    if type(logits) is not Tensor or logits.dtype is not torch.float32 or not 0 < logits.numel() <= MOST_VALUES:
        return None
    if type(generator) is not torch.Generator or type(position) is not int or not 0 <= position < 2**63:
        return None
    if logits.dim() not in (1, 2) or logits.requires_grad or not logits.is_contiguous():
        return None
    if logits.device.type != "cpu" or generator.device.type != "cpu":
        return None
    array = logits.numpy()
    return array if array.ndim == 2 else array[None]


@cache
def with_words(draw: Any) -> Any:
    """``whole(logits, words, position, ids)``, compiled, of ``draw(logits, peaks, keys, numbers, positions,
    ids)``: returns the first row whose largest logit is not finite, and draws if there is none."""
    import numba

    place = np.int32(31)
    magnitude = np.int32(0x7FFFFFFF)
    low = np.int64(0xFFFFFFFF)
    half_word = np.int64(32)

    @numba.njit(nogil=True, error_model="numpy")
    def largest(row):
        """NaN if there is one. Whole numbers that are ordered as the floats of their bits are compared, which a
        processor does many at a time."""
        bits = row.view(np.int32)
        most = np.int32(-magnitude)
        strange = 0
        for i in range(len(row)):
            strange += row[i] != row[i]
            most = np.int32(max(most, np.int32(bits[i] ^ ((bits[i] >> place) & magnitude))))
        if strange:
            return np.float32(np.nan)
        return np.int32(most ^ ((most >> place) & magnitude)).view(np.float32)

    @numba.njit(nogil=True, error_model="numpy")
    def whole(logits, words, position, ids):
        rows = len(logits)
        peaks = np.empty(rows, dtype=np.float32)
        keys = np.empty((rows, 4), dtype=np.uint32)
        for r in range(rows):
            peaks[r] = largest(logits[r])
            if not np.isfinite(peaks[r]):
                return r
            for half in range(2):
                keys[r, 2 * half] = words[half] & low
                keys[r, 2 * half + 1] = (words[half] >> half_word) & low
        draw(logits, peaks, keys, np.arange(rows), np.full(rows, position), ids)
        return -1

    return whole
