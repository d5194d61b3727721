"""The vocabulary of the house: the words that every room shares."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # the command line needs Profile at once and NumPy only later
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

Float: TypeAlias = "NDArray[np.float64]"
Int: TypeAlias = "NDArray[np.int64]"
Array: TypeAlias = "NDArray[Any]"


class Guarantee(StrEnum):
    """What stands behind a number."""

    EXACT = "exact"  # integers, rationals, or float64 evaluation of a finite sum (error stated)
    CERTIFIED = "certified"  # float64 with a proved error bound
    EMULATED = (
        "emulated"  # of arithmetic that was not measured on this machine; ``how`` says whose, and on what
    )
    FINITE_SAMPLE = "finite sample"  # a coverage or level that holds at every n
    ANYTIME = "anytime"  # holds at every stopping time
    ASYMPTOTIC = "asymptotic"  # holds as n grows
    HEURISTIC = "heuristic"  # no proof


class Profile(StrEnum):
    """How much of an experiment's grid is run."""

    SMOKE = "smoke"  # seconds: the tests
    QUICK = "quick"  # minutes: `make figures`
    FULL = "full"  # an hour or more: the committed long runs


class Budget(StrEnum):
    """How many draws a verdict may cost. Sizes: :data:`precision_lab.verdict.plan.CAPS`."""

    SMOKE = "smoke"  # seconds
    CI = "ci"  # a minute or two
    FULL = "full"  # ten minutes or more
