"""The judge on trial: what each part of ``statistics`` promises, and simulations of right and wrong samplers that try it."""

from .coverages import all_coverages
from .e_values import all_e_values
from .levels import all_levels
from .powers import all_powers
from .promise import COVERAGE, LEVELS, PROVED, RATES, SURE, Promise, judged

PROMISES = {
    promise.key: promise for part in (all_levels, all_powers, all_coverages, all_e_values) for promise in part()
}

__all__ = ["COVERAGE", "LEVELS", "PROMISES", "PROVED", "RATES", "SURE", "Promise", "judged"]
