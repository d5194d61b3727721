"""The slow twin: exhaustive enumeration in Fractions. For tests and for teaching; shares no code with the
fast laws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np


def enumerate_argmax(
    weights: Sequence[float],
    atoms: Sequence[tuple[float, Fraction]],
    score: Callable[[float, float], float],
    *,
    tie: str = "first",
) -> list[Fraction]:
    """P(argmax = i) by visiting every combination of atoms: len(atoms) ** len(weights) of them.

    ``score(weight, noise)`` returns the rounded score as a Python float; NaN beats everything, as in torch.
    """
    probs = [Fraction(0)] * len(weights)
    for combination in itertools.product(atoms, repeat=len(weights)):
        scores = [score(w, value) for w, (value, _) in zip(weights, combination, strict=True)]
        ranks = [(2, 0.0) if s != s else (1, s) for s in scores]
        best = max(ranks)
        winners = [i for i, rank in enumerate(ranks) if rank == best]
        mass = Fraction(1)
        for _, weight in combination:
            mass *= weight
        probs[winners[0] if tie == "first" else winners[-1]] += mass
    return probs


def enumerate_inverse_cdf(
    cumulative: Sequence[float], uniforms: Sequence[tuple[float, Fraction]], *, strict: bool
) -> list[Fraction]:
    """P(token) by visiting every u: the first j with u < c_j (``strict``) or u <= c_j; the last token
    otherwise."""
    probs = [Fraction(0)] * len(cumulative)
    for u, mass in uniforms:
        hit = [j for j, c in enumerate(cumulative) if (u < c if strict else u <= c)]
        probs[hit[0] if hit else len(cumulative) - 1] += mass
    return probs


def numpy_score(combine: str, dtype: type[np.floating]) -> Callable[[float, float], float]:
    """One scalar sum, quotient, product or negated ratio in a NumPy dtype: the score whose largest wins."""

    def score(weight: float, noise: float) -> float:
        with np.errstate(all="ignore"):
            a, b = dtype(weight), dtype(noise)
            if combine == "add":
                return float(a + b)
            if combine == "divide":
                return float(np.divide(a, b))
            if combine == "multiply":
                return float(a * b)
            return -float(np.divide(b, a))

    return score
