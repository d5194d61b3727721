"""Times side by side: every round visits all rivals in turn, and a ratio is taken within a round.

The clock is the processor time of this process where one thread draws on a CPU, so that what else the
machine runs does not count; otherwise, with several threads or on a GPU, wall time.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..statistics import Estimate
from ..statistics.resampling import median
from .rivals import Rival, Way

VISIT = 0.002  # seconds that a visit lasts at least: shorter draws are repeated
LEAST_ROUNDS = 7
MOST_ROUNDS = 101
CHUNKS = (1 << 15, 1 << 17, 1 << 19, 1 << 22)  # values drawn at once, of which each rival gets its best


@dataclass(frozen=True)
class Clock:
    """``name``: "processor" or "wall". ``now``: its seconds, when the device has done what it was given."""

    name: str
    now: Callable[[], float]

    @staticmethod
    def of(device: str) -> Clock:
        if device == "cuda":
            return Clock("wall", _after_the_gpu)
        if torch.get_num_threads() == 1:
            return Clock("processor", time.process_time)
        return Clock("wall", time.perf_counter)

    def seconds(self, way: Way, repeats: int = 1) -> float:
        """Seconds of one call of ``way``, the mean of ``repeats``."""
        started = self.now()
        for _ in range(repeats):
            way()
        return (self.now() - started) / repeats


def _after_the_gpu() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def paired(
    ways: Mapping[str, Way],
    *,
    clock: Clock,
    seconds: float,
    least: int = LEAST_ROUNDS,
    most: int = MOST_ROUNDS,
) -> dict[str, list[float]]:
    """Seconds of one call of each way, a number a round.

    A first visit compiles, a second sets how often a call is repeated to last :data:`VISIT`. Then every
    round visits all of them, each round beginning one further along. Rounds go on until ``seconds`` are
    spent in them, but ``least`` are made and at most ``most``.
    """
    repeats = {}
    for name, way in ways.items():
        way()
        repeats[name] = max(1, math.ceil(VISIT / max(clock.seconds(way), 1e-9)))
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in names}
    spent = 0.0
    for turn in range(most):
        if turn >= least and spent >= seconds:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            once = clock.seconds(ways[name], repeats[name])
            taken[name].append(once)
            spent += once * repeats[name]
    return taken


def ratio(taken: list[float], reference: list[float], *, rng: np.random.Generator) -> Estimate:
    """The median over rounds of time over time of the same round, with a 95 % bootstrap interval."""
    return median([a / b for a, b in zip(taken, reference, strict=True)], rng=rng)


def best_rows(rival: Rival, logits: Tensor, *, seed: int, clock: Clock) -> int:
    """How many rows at once this rival draws fastest: of :data:`CHUNKS` values, the better of two visits
    each. All rows for a rival that makes its own chunks, and on a GPU."""
    rows, vocab = logits.shape
    if not rival.in_chunks or logits.device.type != "cpu":
        return rows
    sizes = sorted({min(rows, max(1, values // vocab)) for values in CHUNKS})
    if len(sizes) == 1:
        return sizes[0]
    taken = {}
    for size in sizes:
        way = rival.prepare(logits, seed, size)
        way()
        taken[size] = min(clock.seconds(way), clock.seconds(way))
    return min(taken, key=lambda size: taken[size])


def peak_bytes(way: Way, device: str = "cpu") -> float:
    """Memory that one call takes beyond what is held before it, its result included; at least a page.

    On a GPU the allocator's peak; on Linux the peak of the resident set, which the system resets on request
    and counts in steps of up to some hundred KB; NaN elsewhere. Call it on a way that has run before.
    """
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        way()
        return float(max(torch.cuda.max_memory_allocated() - before, 4096))
    reset = Path("/proc/self/clear_refs")
    try:
        _trim()
        reset.write_text("5")
        held = _status("VmRSS")
        way()
        return float(max(_status("VmHWM") - held, 4096))
    except OSError:
        return math.nan


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def _trim() -> None:
    """Give freed memory back to the system, so that what an earlier rival left is not used again unseen."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other libraries have none
