"""How much a verdict may cost: a name, noise values, or seconds on the machine at hand."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from ..errors import InputError
from ..types import Budget, Int
from .caller import MOST_VALUES
from .crew import by_lane
from .plan import ROWS, Question

PILOT = 0.3  # seconds, about, that the speed of one target is measured for
PILOT_STREAM = 2**40  # far from every stream that is judged
TESTS = 0.25  # of the seconds are kept for tests, likelihoods and the report
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds of the whole command."""

    value: float

    def __str__(self) -> str:
        return f"{self.value:g}s"


Spend: TypeAlias = Budget | Seconds | int


class Drawing(Protocol):
    @property
    def lanes(self) -> int: ...
    def draw(self, stream: int, logits: np.ndarray, n: int) -> Int: ...


def parse_budget(text: str | Spend) -> Spend:
    """``smoke``, ``ci``, ``full``; ``20s``, ``1.5m``, ``1h``: seconds; ``3e9``: noise values. InputError
    for anything else."""
    if not isinstance(text, str) or isinstance(text, Budget):
        return text
    if text in [str(each) for each in Budget]:
        return Budget(text)
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([smh]?)", text)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match and match[2] and 5 <= number * UNITS[match[2]] <= 1e6:
        return Seconds(number * UNITS[match[2]])
    if match and not match[2] and 2**20 <= number <= 2**50:
        return int(number)
    raise InputError(
        f"--budget {text}",
        "smoke, ci, full, seconds from 5s (20s, 1m, 10m), or noise values from 2e6 to 1e15",
        "for example --budget 1m",
    )


def affordable(drawer: Drawing, questions: tuple[Question, ...], seconds: float) -> int:
    """Noise values that ``seconds`` allow: the time of a pilot on each target, every lane at once, at the
    slowest target's speed.

    The number depends on the clock and not on what is drawn, so that no level is lost by it.
    """
    slowest = max((_seconds_a_value(drawer, question) for question in questions), default=1e-9)
    return max(2**20, int(seconds * (1 - TESTS) / slowest))


def _seconds_a_value(drawer: Drawing, question: Question) -> float:
    logits = np.tile(question.logits, (ROWS, 1))
    n = max(1, min(MOST_VALUES // logits.size, question.n // ROWS))

    def timed(lane: int) -> tuple[float, int]:
        drawer.draw(PILOT_STREAM + lane, logits, n)  # compiles, allocates
        calls, start = 0, time.monotonic()
        while calls == 0 or time.monotonic() - start < PILOT / 2:
            drawer.draw(PILOT_STREAM + lane, logits, n)
            calls += 1
        return time.monotonic() - start, calls * n * logits.size

    lanes = by_lane(timed, drawer.lanes)
    speed = sum(values / spent for spent, values in lanes)
    return 1 / speed
