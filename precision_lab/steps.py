"""The steps of a pipeline as data: a temperature, top-k, top-p and min-p, each with the rule for its edge.

What published code does differently is named here, so that a specification can say which it means:

``ties``, where equal logits meet an edge: ``any`` of them, as many as are wanted (the specification is
content with each choice); ``first`` or ``last``, by index; ``all``, so that more than k can be kept.
``crossing``, of top-p, where B is the mass of the tokens before one and A the mass with it: ``kept``, a
token is in while B < p, which is the smallest set of mass p or more; ``beyond``, while B <= p, the smallest
set of more than p; ``dropped``, while A <= p, the largest set of at most p. The first token is in by each.
``mass``, of top-p: of the tokens ``kept`` so far, renormalised, or of the ``whole`` row at its temperature.
``sums``, of top-p: how masses are added where rounding is bounded: in ``any`` order, or ``pairwise``.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, TypeAlias

import numpy as np

from .errors import InputError

CHOICES = {
    "ties": ("any", "first", "last", "all"),
    "crossing": ("kept", "beyond", "dropped"),
    "mass": ("kept", "whole"),
    "sums": ("any", "pairwise"),
}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InputError(f"{name} = {value!r}", "a number", f"write {name}=NUMBER")
    return float(value)


class _Written:
    """A step writes itself as the grammar reads it: ``name=value``, and the rules that are not the default."""

    name: ClassVar[str]

    def _check_rules(self) -> None:
        for rule, known in CHOICES.items():
            value = getattr(self, rule, known[0])
            if value not in known:
                raise InputError(f"{rule} = {value!r} of {self.name}", " or ".join(known), "choose one")

    def __str__(self) -> str:
        first, *rules = fields(self)  # type: ignore[arg-type]  # every step is a dataclass
        words = [f"{self.name}={_shortest(getattr(self, first.name))}"]
        for rule in rules:
            value = getattr(self, rule.name)
            if rule.default is MISSING or value != rule.default:
                words.append(f"{rule.name}={value}")
        return " ".join(words)


def _shortest(value: float) -> str:
    """The shortest text that reads back as the same number."""
    text = repr(float(value))
    return text.removesuffix(".0")


@dataclass(frozen=True)
class Temperature(_Written):
    """Logits divided by ``value``. 0 is greedy: the largest logit alone, ``ties`` says which of equal ones.

    InputError where the value is negative, infinite or NaN.
    """

    value: float
    ties: str = "first"
    name: ClassVar[str] = "temperature"

    def __post_init__(self) -> None:
        value = _number(self.name, self.value)
        if not 0 <= value < math.inf:
            raise InputError(f"temperature = {value:g}", "0 (greedy) or a positive number", "change it")
        self._check_rules()


@dataclass(frozen=True)
class TopK(_Written):
    """The ``k`` largest logits. A k beyond the tokens that are left keeps them all.

    InputError where k is not a whole number from 1 on: 0, which turns the step off in some libraries and
    is refused in others, means nothing here.
    """

    k: int
    ties: str = "any"
    name: ClassVar[str] = "top_k"

    def __post_init__(self) -> None:
        k = _number(self.name, self.k)
        if not (1 <= k < math.inf and k == math.floor(k)):
            remedy = "leave the step out to keep every token"
            raise InputError(f"top_k = {_shortest(k)}", "a whole number from 1 on", remedy)
        object.__setattr__(self, "k", int(k))
        self._check_rules()


@dataclass(frozen=True)
class TopP(_Written):
    """The likeliest tokens until their mass is ``p``; 1 keeps them all.

    InputError where p is not above 0 and at most 1: 0 means *off* in some libraries and *greedy* in others.
    """

    p: float
    ties: str = "any"
    crossing: str = "kept"
    mass: str = "kept"
    sums: str = "any"
    name: ClassVar[str] = "top_p"

    def __post_init__(self) -> None:
        p = _number(self.name, self.p)
        if not 0 < p <= 1:
            remedy = "temperature=0 is greedy; leave the step out to keep every token"
            raise InputError(f"top_p = {p:g}", "a number above 0 and at most 1", remedy)
        self._check_rules()


@dataclass(frozen=True)
class MinP(_Written):
    """The tokens whose probability is at least ``ratio`` times the largest; 0 keeps them all.

    InputError where the ratio is not 0 to 1.
    """

    ratio: float
    name: ClassVar[str] = "min_p"

    def __post_init__(self) -> None:
        ratio = _number(self.name, self.ratio)
        if not 0 <= ratio <= 1:
            raise InputError(f"min_p = {ratio:g}", "0 to 1", "it is a share of the largest probability")


Step: TypeAlias = Temperature | TopK | TopP | MinP
STEPS: dict[str, type[Step]] = {kind.name: kind for kind in (Temperature, TopK, TopP, MinP)}
