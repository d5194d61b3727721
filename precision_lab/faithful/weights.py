"""Draws from weights, such as probabilities: with replacement, and without as one draw after another from
what is left.

The masses are m_i = rint(w_i 2^s), s such that the largest lies in [2^43, 2^44]
(:func:`.masses.masses_of_weights`). Without replacement each draw has the masses of the weights that are
left, with an s of their own, so that what remains when the head is gone is drawn as finely as the head was.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from . import masses as mass_maps
from . import words
from .eager import uniform_below
from .threads import over_rows

BLOCK = 256  # tokens whose masses are summed before any is looked at
CHUNK = 1 << 17  # values of half-precision weights that are widened at once


def checked_weights(weights: Tensor) -> Tensor:
    """(rows, vocab), detached: finite, at least 0 and one of a row above; InputError with the row's number
    otherwise."""
    if not isinstance(weights, Tensor) or not weights.dtype.is_floating_point:
        got = str(weights.dtype) if isinstance(weights, Tensor) else type(weights).__name__
        raise InputError(
            f"weights of type {got}", "a floating tensor, (..., vocab)", "convert it with .float()"
        )
    if weights.dim() < 1 or not 1 <= weights.shape[-1] <= mass_maps.MOST_VOCAB:
        got = f"weights of shape {tuple(weights.shape)}"
        raise InputError(got, f"(..., vocab), 1 to {mass_maps.MOST_VOCAB} tokens", "check the axis")
    rows = weights.detach().reshape(-1, weights.shape[-1])
    if not len(rows):
        return rows
    least = rows.amin(-1)
    most = rows.amax(-1)
    bad = ~((least >= 0) & (most > 0) & most.isfinite())
    if bool(bad.any()):
        at = int(bad.long().argmax())
        low, high = float(least[at]), float(most[at])
        what = "NaN" if low != low else f"{low:.6g}" if low < 0 else "+inf" if high > 0 else "nothing but 0"
        raise InputError(f"{what} in row {at} of the weights", "numbers from 0 on, one above", "mend that row")
    return rows


def draw_weights(
    rows: Tensor, keys: np.ndarray, numbers: np.ndarray, n: int, *, replacement: bool = True
) -> Tensor:
    """(n, rows) tokens of ``rows``, (rows, vocab), checked. ``keys``: (rows, 4) of :func:`.words.keys_of`;
    ``numbers``: what sets rows of one key apart. Draw j takes the words of draw j; the same on every
    device. Without replacement InputError where a row has fewer than n weights above 0.
    """
    count, vocab = rows.shape
    if not replacement and count:
        fewest, at = (rows > 0).sum(-1).min(0)
        if int(fewest) < n:
            got = f"{n} draws without replacement from {int(fewest)} weights above 0 in row {int(at)}"
            raise InputError(got, "as many weights as draws", "draw fewer, or with replacement")
    if rows.device.type != "cpu":
        return draw_weights_eagerly(rows, keys, numbers, n, replacement=replacement)
    ids = np.empty((n, count), dtype=np.int64)
    step = max(1, CHUNK // vocab)
    loop = _loop()
    peaks = rows.amax(-1).double().numpy()
    kept = replacement or n == 1  # nothing is taken away

    def part(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            chunk = slice(i, min(i + step, stop))
            values = rows[chunk]
            if values.dtype not in (torch.float32, torch.float64):
                values = values.float()
            loop(values.contiguous().numpy(), peaks[chunk], keys[chunk], numbers[chunk], kept, ids[:, chunk])

    if ids.size:
        over_rows(part, count, vocab)
    return torch.from_numpy(ids)


def draw_weights_eagerly(
    rows: Tensor, keys: np.ndarray, numbers: np.ndarray, n: int, *, replacement: bool = True
) -> Tensor:
    """The same draws by torch operations one by one: for a GPU, and the oracle of the compiled loop."""
    device = rows.device
    ids = torch.empty((n, len(rows)), dtype=torch.int64, device=device)
    key = torch.from_numpy(keys.astype(np.int64)).to(device)
    number = torch.from_numpy(numbers).to(device)
    left = rows.double()
    running = mass_maps.masses_of_weights(left).cumsum(-1)
    for draw in range(n):
        below = uniform_below(running[:, -1], key, number, torch.zeros_like(number), draw)
        ids[draw] = torch.searchsorted(running, below[:, None], right=True)[:, 0]
        if not replacement and draw < n - 1:
            left = left.scatter(1, ids[draw][:, None], 0.0)
            running = mass_maps.masses_of_weights(left).cumsum(-1)
    return ids


@cache
def _loop() -> Any:
    """The compiled loop over the rows of a chunk."""
    import numba

    uniform = words.below()
    size = BLOCK
    bits = mass_maps.BITS
    head = 1 << (mass_maps.BITS - 1)

    @numba.njit(nogil=True, error_model="numpy")
    def scales(peak):
        """Two powers of two whose product takes ``peak`` to [2^43, 2^44): one alone might not be a float64."""
        _, exponent = math.frexp(peak)
        first = (bits - exponent) // 2
        return math.ldexp(1.0, first), math.ldexp(1.0, bits - exponent - first)

    @numba.njit(nogil=True, error_model="numpy", inline="always")
    def mass(weight, first, second):
        return np.int64(np.rint(np.float64(weight) * first * second))

    @numba.njit(nogil=True, error_model="numpy")
    def fill(weights, first, second, sums):
        """The masses of the blocks into ``sums``; returns (their total, how many weights may be the
        largest)."""
        total = np.int64(0)
        heads = 0
        for b in range(len(sums)):
            part = np.int64(0)
            for i in range(b * size, min((b + 1) * size, len(weights))):
                m = mass(weights[i], first, second)
                part += m
                heads += m >= head
            sums[b] = part
            total += part
        return total, heads

    @numba.njit(nogil=True, error_model="numpy")
    def place_in(running, value):
        """The first i with running[i] > value."""
        low, high = 0, len(running) - 1
        while low < high:
            middle = (low + high) // 2
            if running[middle] > value:
                high = middle
            else:
                low = middle + 1
        return low

    @numba.njit(nogil=True, error_model="numpy")
    def draw_row(weights, peak, key, number, replacement, sums, ids):
        """``ids`` of one row; without replacement the weights that are taken are set to 0."""
        draws, vocab = len(ids), len(weights)
        first, second = scales(peak)
        total, heads = fill(weights, first, second, sums)
        many = replacement and draws * size > 4 * vocab  # then every partial sum is kept
        running = np.empty(vocab if many else 0, dtype=np.int64)
        if many:
            part = np.int64(0)
            for i in range(vocab):
                part += mass(weights[i], first, second)
                running[i] = part
        for draw in range(draws):
            rest = uniform(total, key, number, 0, draw)
            if many:
                ids[draw] = place_in(running, rest)
                continue
            b = 0
            while rest >= sums[b]:
                rest -= sums[b]
                b += 1
            i = b * size
            m = mass(weights[i], first, second)
            while rest >= m:
                rest -= m
                i += 1
                m = mass(weights[i], first, second)
            ids[draw] = i
            if replacement or draw == draws - 1:
                continue
            weights[i] = 0
            sums[b] -= m
            total -= m
            heads -= m >= head
            if heads == 0:  # what is left has a largest of its own
                first, second = scales(weights.max())
                total, heads = fill(weights, first, second, sums)

    @numba.njit(nogil=True, error_model="numpy")
    def loop(weights, peaks, keys, numbers, replacement, ids):
        rows, vocab = weights.shape
        sums = np.empty((vocab + size - 1) // size, dtype=np.int64)
        for r in range(rows):
            row = weights[r] if replacement else weights[r].copy()
            draw_row(row, peaks[r], keys[r], numbers[r], replacement, sums, ids[:, r])

    return loop
