"""How far a noise map in many bits can be from the exponential that it stands for: its roundings and
guards, counted.

A float64 uniform has too many values to list, and a float32 ``exponential_`` too. Their maps are followed
symbolically: what is a uniform, what is minus an exponential, an exponential, its power, a Gumbel value.
Every operation adds to one of two budgets: ``relative``, a factor 1 +- r on the exponential that decides a
score, and ``spacing``, a move of the uniform. They are the budgets of
:class:`~precision_lab.samplers.rules.WithinBound`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .anatomy import DTYPE_NAMES
from .chain import JOINED, LAYOUT, NoiseMap, constant
from .record import Step, Value, is_random, refused

Form = Literal[
    "uniform", "minus uniform", "minus exponential", "exponential", "reciprocal", "minus gumbel", "gumbel"
]
_REACH = 40.0  # a Gumbel value above it has probability e^-40 < 2^-57; below -5, e^-148
_LIBM = 2.0  # error of log, log1p and pow in units of roundoff: one unit in the last place


@dataclass(frozen=True)
class Budget:
    """``form``: what the noise is; ``power``: T, where it is E^T or T G. The errors are those of E itself."""

    form: Form
    power: float
    relative: float
    spacing: float


def budget(noise: NoiseMap) -> Budget:
    """The budget of a noise map; InputError where an operation has no rule here."""
    found = _follow(noise.value)
    if not math.isfinite(found.relative) or not math.isfinite(found.spacing):
        raise refused(f"noise {noise.formula()} with an error that is not bounded", "a bounded guard")
    return found


def roundoff(dtype: torch.dtype) -> float:
    """u = 2^-p: a rounded result is within a factor 1 +- u."""
    digits = {"fp16": 11, "bf16": 8, "fp32": 24, "fp64": 53}
    return 2.0 ** -digits[DTYPE_NAMES[dtype]]


def _follow(value: Value) -> Budget:
    step = value.step
    assert step is not None
    unit = roundoff(value.dtype)
    if is_random(step):
        if step.name == "exponential":
            # a rate other than 1 is one division more, and one factor that all share
            divided = 4 * unit if step.argument(1, "lambd", 1.0) != 1.0 else 0.0
            return Budget("exponential", 1.0, 2 * unit + divided + 2.0**-51, 2.0**-52)
        return Budget("uniform", 1.0, 0.0, 2.0**-53 + unit * (value.dtype != torch.float64))
    inputs = [operand for operand in step.reads if operand.is_random]
    before = _follow(inputs[0])
    if step.name in LAYOUT or step.name in JOINED or step.name == "write":
        return before
    if step.name in ("_to_copy", "to", "copy"):
        return before if roundoff(inputs[0].dtype) >= unit else _rounded(before, unit)
    if step.name in ("where", "masked_fill"):
        return _guarded(step, value)
    numbers = _numbers(step)
    return _applied(step, before, numbers, unit)


def _numbers(step: Step) -> list[float | None]:
    """The arguments as numbers; None where the noise stands."""
    found: list[float | None] = []
    for argument in step.args:
        if isinstance(argument, Value):
            found.append(None if argument.is_random else float(constant(argument).reshape(-1)[0]))
        elif isinstance(argument, bool | int | float):
            found.append(float(argument))
        elif argument is None:
            found.append(math.nan)
    return found


def _rounded(before: Budget, unit: float, times: float = 1.0) -> Budget:
    """One more rounding of the value that the budget is about."""
    if before.form in ("uniform", "minus uniform"):
        return replace(before, spacing=before.spacing + times * unit)
    if before.form in ("gumbel", "minus gumbel"):
        return replace(before, relative=before.relative + times * unit * _REACH)
    return replace(before, relative=before.relative + times * unit / before.power)


def _applied(step: Step, before: Budget, numbers: list[float | None], unit: float) -> Budget:
    name, form = step.name, before.form
    if name == "neg":
        return replace(before, form=_negated(form, step))
    if name in ("log", "log1p"):
        return _logarithm(step, before, unit)
    if name == "reciprocal" and form == "exponential":
        return _rounded(replace(before, form="reciprocal"), unit)
    if (
        name == "pow"
        and form == "exponential"
        and len(numbers) > 1
        and numbers[1] is not None
        and numbers[1] > 0
    ):
        powered = replace(before, power=before.power * numbers[1])
        return _rounded(powered, unit, _LIBM)
    if name in ("clamp", "clamp_min", "clamp_max", "maximum", "minimum"):
        return _clamped(step, before, numbers)
    if name in ("add", "sub", "rsub"):
        return _shifted(step, before, numbers, unit)
    if name in ("mul", "div"):
        return _scaled(step, before, numbers, unit)
    raise _unknown(step, form)


def _unknown(step: Step, form: str) -> Exception:
    return refused(
        f"the operation {step.name} on a float64 {form}, at {step.where}, whose rounding has no bound here",
        "log, log1p, neg, pow, clamp, sums and products with constants",
    )


def _negated(form: Form, step: Step) -> Form:
    pairs: list[tuple[Form, Form]] = [
        ("uniform", "minus uniform"),
        ("exponential", "minus exponential"),
        ("gumbel", "minus gumbel"),
    ]
    for one, other in pairs:
        if form in (one, other):
            return other if form == one else one
    raise _unknown(step, form)


def _logarithm(step: Step, before: Budget, unit: float) -> Budget:
    if (step.name, before.form) in (("log", "uniform"), ("log1p", "minus uniform")):
        return _rounded(replace(before, form="minus exponential"), unit, _LIBM)
    if step.name == "log" and before.form == "exponential":
        return _rounded(replace(before, form="minus gumbel"), unit, _LIBM)
    raise _unknown(step, before.form)


def _clamped(step: Step, before: Budget, numbers: list[float | None]) -> Budget:
    """A guard moves the uniform by no more than the probability of what it changes."""
    low = math.nan
    high = math.nan
    if step.name == "clamp":
        low = numbers[1] if len(numbers) > 1 and numbers[1] is not None else math.nan
        high = numbers[2] if len(numbers) > 2 and numbers[2] is not None else math.nan
        low = float(step.kwargs.get("min", low) or low)
        high = float(step.kwargs.get("max", high) or high)
    else:
        bound = next(number for number in numbers if number is not None)
        if step.name in ("clamp_min", "maximum"):
            low = bound
        else:
            high = bound
    moved = 0.0
    if not math.isnan(low):
        moved += _below(before, low, step)
    if not math.isnan(high):
        moved += _above(before, high, step)
    return replace(before, spacing=before.spacing + moved)


def _below(before: Budget, x: float, step: Step) -> float:
    """P(value < x), or a bound on it."""
    if before.form == "uniform":
        return max(x, 0.0)
    if before.form == "minus uniform":
        return max(1 + x, 0.0)
    if before.form == "exponential":
        return max(x, 0.0) ** (1 / before.power)
    if before.form == "minus exponential":
        return math.exp(-((-x) ** (1 / before.power))) if x < 0 else 1.0
    raise _unknown(step, before.form)


def _above(before: Budget, x: float, step: Step) -> float:
    flipped: dict[str, Form] = {
        "uniform": "minus uniform",
        "minus uniform": "uniform",
        "exponential": "minus exponential",
        "minus exponential": "exponential",
    }
    if before.form not in flipped:
        raise _unknown(step, before.form)
    return _below(replace(before, form=flipped[before.form]), -x, step)


def _shifted(step: Step, before: Budget, numbers: list[float | None], unit: float) -> Budget:
    noise_first = numbers[0] is None
    number = numbers[1] if noise_first else numbers[0]
    assert number is not None
    if step.kwargs.get("alpha", 1) != 1:
        raise _unknown(step, before.form)
    subtracted = (step.name == "sub" and not noise_first) or (step.name == "rsub" and noise_first)
    if subtracted:
        before = (
            replace(before, form="uniform")
            if (before.form, number) == ("uniform", 1.0)
            else _turned(before, step)
        )
        if number == 1.0 and before.form == "uniform":
            return _rounded(before, unit)
    if before.form in ("gumbel", "minus gumbel"):
        return replace(
            before, relative=before.relative + unit * (_REACH * before.power + abs(number)) / before.power
        )
    if before.power != 1:
        raise _unknown(step, before.form)
    return replace(
        _rounded(before, unit), spacing=before.spacing + abs(number) * (1 + 2 * unit) + unit * (1 + abs(number))
    )


def _turned(before: Budget, step: Step) -> Budget:
    return replace(before, form=_negated(before.form, step))


def _scaled(step: Step, before: Budget, numbers: list[float | None], unit: float) -> Budget:
    noise_first = numbers[0] is None
    number = numbers[1] if noise_first else numbers[0]
    assert number is not None
    if step.name == "div":
        if not noise_first:
            if before.form != "exponential" or number <= 0:
                raise _unknown(step, before.form)
            return _rounded(replace(before, form="reciprocal"), unit)
        number = 1 / number if number else math.inf
    if number == 0 or not math.isfinite(number):
        raise _unknown(step, before.form)
    if number < 0:
        before = _turned(before, step)
        number = -number
    if before.form in ("gumbel", "minus gumbel"):
        return _rounded(replace(before, power=before.power * number), unit)
    if before.form in ("uniform", "minus uniform"):
        return replace(before, spacing=before.spacing + abs(1 - number) + unit)
    return _rounded(before, unit)  # a factor that all exponentials share changes no race


def _guarded(step: Step, value: Value) -> Budget:
    """``where(u == c, d, u)`` and the like: one value of the grid is replaced."""
    condition = step.args[1] if step.name == "masked_fill" else step.args[0]
    noise = step.args[0] if step.name == "masked_fill" else None
    if noise is None:
        noise = next(
            (
                part
                for part in step.args[1:]
                if isinstance(part, Value) and part.is_random and part is not condition
            ),
            None,
        )
    compared = condition.step if isinstance(condition, Value) else None
    if compared is None or compared.name != "eq" or not isinstance(noise, Value):
        raise refused(
            f"noise replaced under a condition, at {step.where}", "a guard that replaces one value: u == 0"
        )
    before = _follow(noise)
    return replace(before, spacing=before.spacing + 2.0**-52)
