"""The same draws by torch operations one by one: for a GPU without Triton, and the oracle of the compiled
loop."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .truncation import Plan, masses_kept
from .words import MULTIPLIERS, ROUNDS, STEPS

_LOW = 0xFFFFFFFF


def draw_eagerly(
    rows: Tensor,
    heat: Tensor | None,
    keys: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    n: int,
    plan: Plan | None = None,
) -> Tensor:
    """(n, rows) tokens of ``rows``, (rows, vocab), by the words that the compiled loop takes. Arguments as
    it has them; ``heat``: temperatures, 0 for the first of the largest; ``plan``: what is cut."""
    device = rows.device
    cold = torch.zeros(len(rows), dtype=torch.bool, device=device) if heat is None else heat == 0
    warm = None if heat is None else torch.where(cold, 1.0, heat)
    running = masses_kept(rows, plan or Plan((), 1.0), warm).cumsum(-1)
    total = running[:, -1]
    key = torch.from_numpy(keys.astype(np.int64)).to(device)
    number = torch.from_numpy(numbers).to(device)
    position = torch.from_numpy(positions).to(device)
    left = torch.stack([uniform_below(total, key, number, position, draw) for draw in range(n)])
    ids = torch.searchsorted(running, left.T.contiguous(), right=True).T
    first = (rows == rows.amax(-1, keepdim=True)).long().argmax(-1)
    return torch.where(cold, first, ids)


def uniform_below(total: Tensor, key: Tensor, number: Tensor, position: Tensor, draw: int) -> Tensor:
    """(rows,) whole numbers below ``total``, (rows,) int64 above 0: by rejection, the leading bits of one
    word after another."""
    bits = torch.zeros_like(total)
    left = total - 1
    while bool((left > 0).any()):
        bits += (left > 0).long()
        left >>= 1
    found = torch.where(total == 1, 0, -1)
    attempt = 0
    while bool((found < 0).any()):
        counter = (
            torch.full_like(number, draw),
            number | (attempt << 24),
            key[:, 2] ^ (position & _LOW),
            key[:, 3] ^ ((position >> 32) & _LOW),
        )
        w0, w1, w2, w3 = philox(counter, key[:, 0], key[:, 1])
        for high, low in ((w0, w1), (w2, w3)):
            value = _leading(high, low, bits)
            found = torch.where((found < 0) & (value < total), value, found)
        attempt += 1
    return found


def _leading(high: Tensor, low: Tensor, bits: Tensor) -> Tensor:
    """The leading ``bits`` (at most 63) of the 64-bit word high 2^32 + low."""
    top = (high << 31) | (low >> 1)  # the leading 63 bits, as an int64 without a sign
    return top >> (63 - bits)


def philox(counter: tuple[Tensor, ...], k0: Tensor, k1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of int64 tensors that hold words of 32 bits: four counters, two keys, broadcast; four
    words."""
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        left_high, left_low = _product(c0, MULTIPLIERS[0])
        right_high, right_low = _product(c2, MULTIPLIERS[1])
        c0 = right_high ^ c1 ^ k0
        c2 = left_high ^ c3 ^ k1
        c1 = right_low
        c3 = left_low
        k0 = (k0 + STEPS[0]) & _LOW
        k1 = (k1 + STEPS[1]) & _LOW
    return c0, c1, c2, c3


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of two words of 32 bits, in int64 without overflow."""
    low = word * (multiplier & 0xFFFF)  # below 2^48
    high = word * (multiplier >> 16)
    middle = high + (low >> 16)  # the product is middle 2^16 + (low & 0xFFFF)
    return (middle >> 16) & _LOW, ((middle << 16) | (low & 0xFFFF)) & _LOW
