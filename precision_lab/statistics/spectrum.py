"""Local slopes: how log q moves against log p in each band of log p, exactly of a law and from draws."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..laws.law import Law
from ..types import Int
from ._checks import check_open_unit, check_same_vocab
from .counts import Counts
from .estimate import Estimate, mean, ratio_of_proportion
from .firth import undetermined
from .temperature import counted, exponent
from .tempered import NEVER, Tempered


@dataclass(frozen=True)
class Band:
    """Tokens with ``low`` <= log p < ``high`` (nats): their target ``mass`` and the ``slope`` of log q
    against log p.

    Slope 1: the odds inside the band are right; NaN without two different log p, or where all but one
    underflow. ``unreachable``: the part of ``mass`` on tokens that q cannot draw; the slope leaves them
    out.
    """

    low: float
    high: float
    mass: float
    slope: float
    unreachable: float = 0.0


@dataclass(frozen=True)
class DrawnBand:
    """What draws say of the tokens with ``low`` <= log p < ``high`` (nats), of target ``mass``.

    ``rate``: how much of the mass was drawn over how much should be.  ``slope``: b of the nearest p^b
    inside the band.
    """

    low: float
    high: float
    mass: float
    rate: Estimate
    slope: Estimate


def log_odds_spectrum(q: Law, p: Law, edges: ArrayLike) -> list[Band]:
    """Slope of log q against log p, least squares with weights p, in each band of log p between two ``edges``.

    slope = 1 + Cov_p(log q - log p, log p) / Var_p(log p). ``edges``: (bands + 1,) increasing, nats, -/+
    inf allowed.
    """
    check_same_vocab(q.vocab, p.vocab)
    return [_band(q, p, low, high) for low, high in _pairs(edges)]


def spectrum_from_draws(
    draws: Counts | ArrayLike, p: Law, edges: ArrayLike, confidence: float = 0.95
) -> list[DrawnBand]:
    """In each band, what :func:`~.temperature.temperature_from_draws` does over the vocabulary; each
    interval by itself.

    The slope is that of the tempered law nearest to q inside the band, which for a small deviation on
    tokens that q can all draw is the slope of :func:`log_odds_spectrum`; tokens it cannot draw steepen it.
    Undetermined (value 1, all numbers) without draws or two different log p. Rates: Clopper and Pearson
    over p's mass for Counts, Student's t over the rates of sequences for token ids (sequences, length).
    Draws outside the support of p are in no band.
    """
    check_open_unit("confidence", confidence)
    counts, rows = counted(draws, p)
    return [_drawn_band(counts, rows, p, low, high, confidence) for low, high in _pairs(edges)]


def _pairs(edges: ArrayLike) -> list[tuple[float, float]]:
    marks = np.asarray(edges, dtype=np.float64)
    if marks.ndim != 1 or len(marks) < 2 or not (marks[1:] > marks[:-1]).all():
        raise InputError(
            f"edges {marks.tolist()}", "two or more increasing numbers", "sort them and drop repeats"
        )
    return list(itertools.pairwise(marks.tolist()))


def _drawn_band(
    counts: Counts, rows: Int | None, p: Law, low: float, high: float, confidence: float
) -> DrawnBand:
    inside = (p.log_probs >= low) & (p.log_probs < high) & ~np.isneginf(p.log_probs)
    mass = math.fsum(p.probs[inside])
    if not mass > 0:
        nothing = undetermined(confidence, 0, "no token in the band")
        return DrawnBand(low, high, mass, nothing, nothing)
    if rows is None:
        rate = ratio_of_proportion(int(counts.counts[inside].sum()), counts.n, min(1.0, mass), confidence)
    else:
        rate = mean(inside[rows].mean(axis=1), confidence).scaled(1 / mass)
    within = Law(np.where(inside, p.log_probs, -np.inf), p.how, p.error, p.guarantee)
    return DrawnBand(low, high, mass, rate, exponent(Tempered.of(within), counts.counts, rows, confidence))


def _band(q: Law, p: Law, low: float, high: float) -> Band:
    inside = (p.log_probs >= low) & (p.log_probs < high) & (p.log_probs > NEVER)
    drawn = inside & (q.log_probs > NEVER)
    mass, reached = math.fsum(p.probs[inside]), math.fsum(p.probs[drawn])
    slope, x, d = math.nan, p.log_probs[drawn], q.log_probs[drawn] - p.log_probs[drawn]
    if x.size and np.ptp(x) > 0:
        weights = np.exp(x - x.max())
        x, d = (row - np.average(row, weights=weights) for row in (x, d))
        variance = np.sum(weights * x**2)
        slope = float(1 + np.sum(weights * x * d) / variance) if variance > 0 else math.nan
    return Band(low, high, mass, slope, max(0.0, mass - reached))
