"""The judge: counts, estimates, divergences, temperatures, diversity and tests. Knows laws, knows no sampler."""

from .counts import Counts
from .divergence import kl_divergence, max_log_ratio, suppressed_mass, total_variation
from .diversity import (
    chao_wang_jost,
    distinct_n,
    entropy,
    sequence_entropy,
    sequence_entropy_estimate,
    to_bits,
)
from .estimate import Estimate, cluster_bootstrap, mean, proportion, ratio_of_proportion
from .temperature import (
    Band,
    EffectiveTemperature,
    effective_temperature,
    log_odds_spectrum,
    temperature_from_draws,
)
from .testing import TestResult, detectable_tail, draws_needed_tail, tail_test, two_laws_log_likelihood

__all__ = [
    "Band",
    "Counts",
    "EffectiveTemperature",
    "Estimate",
    "TestResult",
    "chao_wang_jost",
    "cluster_bootstrap",
    "detectable_tail",
    "distinct_n",
    "draws_needed_tail",
    "effective_temperature",
    "entropy",
    "kl_divergence",
    "log_odds_spectrum",
    "max_log_ratio",
    "mean",
    "proportion",
    "ratio_of_proportion",
    "sequence_entropy",
    "sequence_entropy_estimate",
    "suppressed_mass",
    "tail_test",
    "temperature_from_draws",
    "to_bits",
    "total_variation",
    "two_laws_log_likelihood",
]
