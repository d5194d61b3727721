"""Masking schedules: alpha_t, the share of positions still unmasked at time t, and the probability of unmasking in one step.

What decoding needs is not alpha but r = (alpha_s - alpha_t) / (1 - alpha_t), s < t: a difference of nearly equal numbers over
a small one. Each schedule gives it in closed form, without cancellation; ``cancelling`` does what public code does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..formats import FloatFormat
from ..types import Float


@dataclass(frozen=True)
class Schedule:
    """alpha falls from 1 at t = 0 to 0 at t = 1. All maps are float64, elementwise.

    ``masked(t)`` = 1 - alpha_t; ``time(m)``: its inverse, the t at which a share m is masked; ``unmask(s, t)``: r above, for
    0 <= s < t <= 1, to a few units in the last place.
    """

    name: str
    masked: Callable[[Float], Float]
    time: Callable[[Float], Float]
    unmask: Callable[[Float, Float], Float]

    def alpha(self, t: Float) -> Float:
        return 1.0 - self.masked(t)


# alpha_t = 1 - t (all public masked diffusion models)
LINEAR = Schedule(
    "linear", lambda t: np.asarray(t) * 1.0, lambda m: np.asarray(m) * 1.0, lambda s, t: (t - s) / t
)

# alpha_t = 1 - cos(pi (1 - t) / 2) (MaskGIT): masked = sin(pi t / 2), and a difference of sines is 2 cos(a) sin(b), with
# cos(a) written as the sine of what is left to pi / 2: nothing cancels near t = 1
COSINE = Schedule(
    "cosine",
    lambda t: np.sin(np.pi / 2 * np.asarray(t)),
    lambda m: 2 / np.pi * np.arcsin(m),
    lambda s, t: (
        2 * np.sin(np.pi / 4 * ((1 - t) + (1 - s))) * np.sin(np.pi / 4 * (t - s)) / np.sin(np.pi / 2 * t)
    ),
)


def polynomial(power: float) -> Schedule:
    """alpha_t = 1 - t^power, power > 0; r = 1 - (s / t)^power."""
    if not 0 < power < np.inf:
        raise InputError(f"power = {power}", "a positive number", "1 is the linear schedule")

    def unmask(s: Float, t: Float) -> Float:
        with np.errstate(divide="ignore"):
            return -np.expm1(power * np.where(2 * s < t, np.log(s / t), np.log1p(-(t - s) / t)))

    return Schedule(
        f"polynomial_{power:g}", lambda t: np.power(t, power), lambda m: np.power(m, 1 / power), unmask
    )


def checked(schedule: Schedule, points: int = 257) -> Schedule:
    """The schedule; InputError unless alpha falls from 1 to 0, ``time`` inverts it and ``unmask`` is its r, to 1e-6."""
    t = np.linspace(0, 1, points)
    m = np.asarray(schedule.masked(t), dtype=np.float64)
    if not (abs(m[0]) < 1e-12 and abs(m[-1] - 1) < 1e-12 and (np.diff(m) > 0).all()):
        got = f"schedule {schedule.name!r}: masked share {m[0]:.4g} to {m[-1]:.4g}, least rise {np.diff(m).min():.3g}"
        raise InputError(got, "a share that rises from 0 at t = 0 to 1 at t = 1", "alpha must fall from 1 to 0")
    if not np.abs(schedule.time(m) - t).max() <= 1e-6:  # NaN is no inverse
        raise InputError(
            f"schedule {schedule.name!r} whose time() does not invert masked()", "an inverse", "mend it"
        )
    if not np.abs(schedule.unmask(t[:-1], t[1:]) - np.diff(m) / m[1:]).max() <= 1e-6:
        got = f"schedule {schedule.name!r} whose unmask() is not that of masked()"
        raise InputError(got, "unmask(s, t) = (masked(t) - masked(s)) / masked(t)", "mend it")
    return schedule


def whole(*values: Any) -> bool:
    """Whether all are whole numbers, at least 1."""
    try:
        return min(operator.index(value) for value in values) >= 1
    except TypeError:
        return False


def unmask_probabilities(steps: int, schedule: Schedule = LINEAR) -> Float:
    """r of each of ``steps`` steps on the uniform grid t_i = 1 - i / steps, in order of decoding; (steps,) float64, last 1.

    Linear: 1 / (steps - i), exactly rounded.
    """
    if not whole(steps):
        raise InputError(f"steps = {steps!r}", "a whole number, at least 1", "ask for one step")
    left = np.arange(steps, 0, -1)
    if schedule is LINEAR:
        return 1.0 / left
    r = np.asarray(checked(schedule).unmask((left - 1) / steps, left / steps), dtype=np.float64)
    r[-1] = 1.0
    return r


def cancelling(steps: int, format: FloatFormat, schedule: Schedule = LINEAR) -> Float:
    """r as public code has it: t, alpha and their difference rounded to ``format`` one after another, so that at large N
    1 / N is a difference of nearly equal numbers. (steps,) float64 of that format's values; may be 0 or above 1, and NaN, 0 / 0,
    where that arithmetic has no mask left."""
    if not whole(steps):
        raise InputError(f"steps = {steps!r}", "a whole number, at least 1", "ask for one step")
    f = format.round
    grid = f(np.linspace(1.0, 0.0, steps + 1))
    masked = f(checked(schedule).masked(grid))
    alpha = f(1.0 - masked)
    with np.errstate(divide="ignore", invalid="ignore"):
        return f(f(alpha[1:] - alpha[:-1]) / f(1.0 - alpha[:-1]))
