"""The laws on which the judge is tried: a small one, one of thousands of tokens of which most draws see few, and wrong ones."""

from __future__ import annotations

import numpy as np

from ..laws.law import Law
from ..statistics import lattice_law, tempered_law, total_variation
from ..targets.synthetic import zipf
from ..types import Float
from .promise import law, of_probs

SMALL, MIDDLE, LARGE = law(zipf(20)), law(zipf(200)), law(zipf(2000))
CASES = {
    "Zipf, 20 tokens": (SMALL, 400),
    "Zipf, 2,000 tokens, n = 500": (LARGE, 500),
}  # with the draws of a run


def coarse(p: Law) -> Law:
    """What a race of 5 (20 tokens) or 10 bits would draw."""
    return law(lattice_law(p, 5 if p.vocab < 100 else 10).log_probs)


def at_temperature(p: Law, temperature: float) -> Law:
    return law(tempered_law(p, temperature).log_probs)


def at_total_variation(p: Law, distance: float) -> Law:
    """:func:`waved` at this total variation, which is linear in c."""
    step = 1e-4
    unit = total_variation(waved(p, step, p.probs), p)
    return waved(p, step * (distance / unit) ** 2, p.probs)


def waved(p: Law, square: float, weights: Float) -> Law:
    """p_i (1 + c s_i), s_i = -/+ 1 in turn less their mean, c such that sum_i (q_i - p_i)^2 / weights_i = square."""
    probs = p.probs / p.probs.sum()
    sign = np.where(np.arange(p.vocab) % 2, 1.0, -1.0)
    sign -= probs @ sign
    size = np.sqrt(square / float(((probs * sign) ** 2 / weights).sum()))
    if size * np.abs(sign).max() > 1:
        raise ValueError(f"a wave of {size:.3g} of the probabilities")
    return of_probs(probs * (1 + size * sign))
