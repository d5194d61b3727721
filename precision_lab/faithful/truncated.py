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
from .truncation import ALL, COUNT, FIRST, MASS, RATIO, Plan, least_gaps, rules_of, tempers

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
    Words as those of :func:`.categorical.categorical`. Memory: 32 vocab bytes a thread, of
    float64 logits 40.
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
    def sum_above(values, weights, least):
        total = np.int64(0)
        for i in range(len(values)):
            total += weights[i] if values[i] > least else 0
        return total

    @numba.njit(nogil=True, error_model="numpy")
    def safe_bound(row, weights, room):
        """A value below the edge of ``room``, so that what is not above it need not be looked at: the best of
        three quantiles of a sample, or -inf."""
        sample = np.empty(256, dtype=row.dtype)
        step = len(row) // 256
        for i in range(256):
            sample[i] = row[i * step]
        sample.sort()
        for place in (252, 224, 128):
            if sum_above(row, weights, sample[place]) >= room:
                return np.float64(sample[place])
        return -np.inf

    @numba.njit(nogil=True, error_model="numpy")
    def list_above(row, least, values, index):
        """The tokens above ``least`` and their places; returns how many they are."""
        many = 0
        for i in range(len(row)):
            values[many] = row[i]
            index[many] = i
            many += row[i] > least
        return many

    @numba.njit(nogil=True, error_model="numpy")
    def edge_of(values, weights, room):
        """(edge, mass above it, how many equal it): the least value such that the mass of what is above is
        below ``room``. The arrays are used up."""
        many = len(values)
        base = np.int64(0)
        state = np.uint64(1)
        pivot = values[0]
        while True:
            above = np.int64(0)
            equal = np.int64(0)
            tied = 0
            below = 0
            for i in range(many):
                above += weights[i] if values[i] > pivot else 0
                equal += weights[i] if values[i] == pivot else 0
                tied += values[i] == pivot
                below += values[i] < pivot
            higher = base + above >= room
            if not higher:
                base += above
                if base + equal >= room or below == 0:
                    return pivot, base, tied
                base += equal
            left = 0
            for i in range(many):
                value = values[i]
                weight = weights[i]
                values[left] = value
                weights[left] = weight
                left += value > pivot if higher else value < pivot
            many = left
            state = state * stride + np.uint64(1)
            pivot = values[np.int64(state >> np.uint64(33)) % many]

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
    def room_of(values, peak, temper, rule, share, weights):
        """A token is in while the mass before it is below this; ``weights`` become the masses. At least 1,
        since the first token is in whatever its mass: no edge has a mass below 0 above it."""
        total = np.float64(fill(values, peak, temper, weights))
        return max(np.int64(total * share) + rule[2], np.int64(1))

    @numba.njit(nogil=True, error_model="numpy")
    def cut(values, index, peak, room, temper, least, rule, weights, spare, ones):
        """One step on the tokens left; returns how many are left then. Masses and ``room`` are made before."""
        kind, dropped, ties = rule[0], rule[3], rule[5]
        many = len(values)
        if kind == RATIO:
            left = 0
            for i in range(many):
                value = values[i]
                values[left] = value
                index[left] = index[i]
                left += np.float64(value) - np.float64(peak) >= least
            return left
        spare[:many] = values
        if kind == COUNT:
            edge, before, tied = edge_of(spare[:many], ones[:many], room)
            weight = np.int64(1)
        else:
            edge, before, tied = edge_of(spare[:many], weights[:many], room)
            weight = mass(np.float32((edge - peak) / temper))
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
        ones = np.ones(vocab, dtype=np.int64)
        for r in range(rows):
            row = logits[r]
            peak = row.max()
            if divisors[cuts, r] == 0:
                first = 0
                while row[first] != peak:
                    first += 1
                ids[:, r] = first
                continue
            many = vocab
            for c in range(cuts):
                temper = divisors[c, r]
                rule = rules[c]
                room = rule[1]
                if rule[0] == MASS and (rule[4] or c == 0):
                    room = room_of(row, peak, temper, rule, shares[c], weights)
                if c == 0:
                    bound = -np.inf
                    if vocab >= 4096 and rule[0] != RATIO:
                        bound = safe_bound(row, ones if rule[0] == COUNT else weights, room)
                    many = list_above(row, bound, values, index)
                if rule[0] == MASS:
                    own = room_of(values[:many], peak, temper, rule, shares[c], weights)
                    room = room if rule[4] or c == 0 else own
                many = cut(
                    values[:many],
                    index[:many],
                    peak,
                    room,
                    temper,
                    least[c, r],
                    rule,
                    weights,
                    spare,
                    ones,
                )
            total = fill(values[:many], peak, divisors[cuts, r], weights[:many])
            running = weights[:many]
            for i in range(1, many):
                running[i] += running[i - 1]
            for draw in range(ids.shape[0]):
                below = uniform_below(total, keys[r], numbers[r], positions[r], draw)
                ids[draw, r] = index[place_in(running, below)]

    return loop
