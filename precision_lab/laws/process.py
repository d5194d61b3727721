"""One ancestral step of masked diffusion under an imprecise sampler, in closed form: cheap enough for every step of a run.

A step keeps the mask with probability 1 - r and gives token j the mass r p_j. Each law below returns what the token
*gets*, so that its sum is the probability of unmasking and its sum over r the unmasking multiplier.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..types import Float
from .argmax import truncated_gumbel_law

StepLaw = Callable[[Float, float], Float]  # (log p (vocab,), r) -> (vocab,) probabilities of the unmasked token


def faithful_step(log_probs: Float, r: float) -> Float:
    """r p_j: what the model asks for, and what float64 noise gives to within 2^-40."""
    return r * np.exp(log_probs)


def lattice_step(log_probs: Float, r: float, *, bits: int = 24) -> Float:
    """Gumbel-max whose uniform is k 2^-bits: ``(1 - d) (1 + l) r p_j f(y_j) + d p_j``, f(y) = y / (e^y - 1), d = 2^-bits,
    y_j = d (1 - r p_j) / (r p_j), l = sum_k r p_k (1 - f(y_k)).

    Token j's exponential takes the values -log(1 - k d), k = 1, 2, ..., each with mass d, against the continuous minimum
    of the others, of rate (1 - r p_j) / (r p_j): a geometric sum. What the tokens lose so, l, falls to everyone in
    proportion. The last term is the word u = 0 of the mask itself, whose score is -inf. Left out: ties, the rounding of
    the logarithms and of the score. Against the exact float32 law the relative error of the unmasking probability is
    below 3e-5 on rows of a real model (tested).
    """
    d, p = 2.0**-bits, np.exp(log_probs)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        y = d * (1.0 - r * p) / (r * p)
        share = np.nan_to_num(np.where(y > 0, y / np.expm1(y), 1.0))
    lost = float((r * p * (1.0 - share)).sum())
    return (1.0 - d) * (1.0 + lost) * r * p * share + d * p


def truncated_step(log_probs: Float, r: float, *, ceiling: float) -> Float:
    """Prop. 5.2 of arXiv:2409.02908 for the step's law: noise conditioned to lie below ``ceiling``."""
    with np.errstate(divide="ignore"):
        law = truncated_gumbel_law(np.append(log_probs + np.log(r), np.log1p(-r)), ceiling)
    return law.probs[:-1]
