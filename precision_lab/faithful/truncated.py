"""Draws from what a pipeline leaves, on a CPU: a compiled loop over rows, which keeps the tokens left in a list.

It finds the edge of each step by quickselect on the logits, where :mod:`.truncation` bisects over the floats:
the sums are of integers, so the tokens left are the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masses as mass_maps
from . import words
from .threads import over_rows
from .truncation import ALL, COUNT, FIRST, RATIO, Plan, least_gaps, rules_of, tempers

CHUNK = 1 << 17  # values of half-precision logits that are widened at once


def draw_truncated(
    rows: Tensor,
    plan: Plan,
    heat: Tensor | None,
    keys: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    n: int,
) -> Tensor:
    """(n, rows) tokens of what ``plan`` leaves of ``rows``, (rows, vocab), checked, on the CPU.

    ``heat``: (rows,) temperatures that act before the pipeline; 0 for the first of the largest logits.
    Words as those of :func:`.categorical.categorical`. Memory: 40 vocab bytes a thread.
    """
    count, vocab = rows.shape
    ids = np.empty((n, count), dtype=np.int64)
    wide = np.float64 if rows.dtype == torch.float64 else np.float32
    factors = [*(cut.temperature for cut in plan.cuts), plan.temperature]
    divisors = np.stack([tempers(heat, factor, rows).numpy() for factor in factors]).astype(wide)
    least = np.stack([least_gaps(cut, heat, rows).numpy() for cut in plan.cuts])
    rules, shares = rules_of(plan)
    step = max(1, CHUNK // vocab)
    loop = _loop()

    def part(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            chunk = slice(i, min(i + step, stop))
            values = rows[chunk]
            if values.dtype not in (torch.float32, torch.float64):
                values = values.float()
            loop(
                values.contiguous().numpy(),
                divisors[:, chunk],
                least[:, chunk],
                rules,
                shares,
                keys[chunk],
                numbers[chunk],
                positions[chunk],
                ids[:, chunk],
            )

    if ids.size:
        over_rows(part, count, vocab)
    return torch.from_numpy(ids)


@cache
def _loop() -> Any:
    """The compiled loop over the rows of a chunk."""
    import numba

    mass = mass_maps.compiled()
    uniform_below = words.below()
    stride = np.uint64(6364136223846793005)  # of a linear congruence that chooses pivots: no draw depends on it

    @numba.njit(nogil=True, error_model="numpy")
    def fill(values, peak, temper, weights):
        """The masses of ``values`` at a temperature; returns their sum."""
        total = np.int64(0)
        for i in range(len(values)):
            m = mass(np.float32((values[i] - peak) / temper))
            weights[i] = m
            total += m
        return total

    @numba.njit(nogil=True, error_model="numpy")
    def edge_of(values, weights, room):
        """(edge, mass above it): the least value such that the mass of what is above is below ``room``. The
        arrays are used up."""
        many = len(values)
        base = np.int64(0)
        state = np.uint64(1)
        while True:
            state = state * stride + np.uint64(1)
            pivot = values[np.int64(state >> np.uint64(33)) % many]
            above = np.int64(0)
            equal = np.int64(0)
            below = 0
            for i in range(many):
                above += weights[i] if values[i] > pivot else 0
                equal += weights[i] if values[i] == pivot else 0
                below += values[i] < pivot
            higher = base + above >= room
            if not higher:
                base += above
                if base + equal >= room or below == 0:
                    return pivot, base
                base += equal
            left = 0
            for i in range(many):
                value = values[i]
                weight = weights[i]
                values[left] = value
                weights[left] = weight
                left += value > pivot if higher else value < pivot
            many = left

    @numba.njit(nogil=True, error_model="numpy")
    def count_in(room, before, weight, tied, dropped):
        """How many tokens of equal mass are in, of those that equal the edge."""
        if weight == 0:
            count = tied if room > before else 0
        else:
            need = max(room - before - dropped, 0)
            count = need // weight
            if not dropped and count * weight < need:
                count += 1
        count = min(count, tied)
        return max(count, 1) if before == 0 else count

    @numba.njit(nogil=True, error_model="numpy")
    def keep_above(values, index, edge, count, tied, ties):
        """Moves what is above the edge, and ``count`` of the tied, to the front; returns how many they are."""
        if ties == ALL and count > 0:
            count = tied
        start = 0 if ties in (FIRST, ALL) else tied - count
        seen = 0
        left = 0
        for i in range(len(values)):
            value = values[i]
            keep = value > edge
            if value == edge:
                keep = start <= seen < start + count
                seen += 1
            values[left] = value
            index[left] = index[i]
            left += keep
        return left

    @numba.njit(nogil=True, error_model="numpy")
    def cut(values, index, peak, whole, temper, least, rule, share, weights, spare):
        """One step on the tokens left; returns how many are left then."""
        kind, room, over, dropped, of_row, ties = rule
        many = len(values)
        if kind == RATIO:
            left = 0
            for i in range(many):
                value = values[i]
                values[left] = value
                index[left] = index[i]
                left += np.float64(value) - np.float64(peak) >= least
            return left
        if kind == COUNT:
            weights[:many] = 1
        else:
            total = fill(whole, peak, temper, weights) if of_row else np.int64(0)
            own = fill(values, peak, temper, weights[:many])
            room = np.int64(np.float64(total if of_row else own) * share) + over
        spare[:many] = values
        edge, before = edge_of(spare[:many], weights[:many], room)
        tied = 0
        for i in range(many):
            tied += values[i] == edge
        weight = np.int64(1) if kind == COUNT else mass(np.float32((edge - peak) / temper))
        count = count_in(room, before, weight, tied, dropped)
        return keep_above(values, index, edge, count, tied, ties)

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
    def loop(logits, divisors, least, rules, shares, keys, numbers, positions, ids):
        rows, vocab = logits.shape
        cuts = len(rules)
        values = np.empty(vocab, dtype=logits.dtype)
        spare = np.empty(vocab, dtype=logits.dtype)
        index = np.empty(vocab, dtype=np.int64)
        weights = np.empty(vocab, dtype=np.int64)
        for r in range(rows):
            row = logits[r]
            peak = row.max()
            if divisors[cuts, r] == 0:
                first = 0
                while row[first] != peak:
                    first += 1
                ids[:, r] = first
                continue
            many = 0
            for i in range(vocab):
                values[many] = row[i]
                index[many] = i
                many += row[i] > -np.inf
            for c in range(cuts):
                many = cut(
                    values[:many],
                    index[:many],
                    peak,
                    row,
                    divisors[c, r],
                    least[c, r],
                    rules[c],
                    shares[c],
                    weights,
                    spare,
                )
            total = fill(values[:many], peak, divisors[cuts, r], weights[:many])
            running = weights[:many]
            for i in range(1, many):
                running[i] += running[i - 1]
            for draw in range(ids.shape[0]):
                below = uniform_below(total, keys[r], numbers[r], positions[r], draw)
                ids[draw, r] = index[place_in(running, below)]

    return loop
