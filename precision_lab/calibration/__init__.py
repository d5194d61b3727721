"""The judge on trial: what ``statistics`` and ``verdict`` promise, and simulations of right and wrong
samplers that try it."""

from .coverages import all_coverages
from .e_values import all_e_values
from .levels import all_levels
from .powers import all_powers
from .promise import COVERAGE, LEVELS, PROVED, RATES, SURE, Promise, judged
from .verdicts import all_verdicts

PROMISES = {
    promise.key: promise
    for part in (all_levels, all_powers, all_coverages, all_e_values, all_verdicts)
    for promise in part()
}

__all__ = ["COVERAGE", "LEVELS", "PROMISES", "PROVED", "RATES", "SURE", "Promise", "judged"]
