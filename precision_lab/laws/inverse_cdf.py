"""The law of inverse-CDF sampling with a rounded cumulative sum and a gridded uniform."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..atoms import Atoms
from ..errors import InputError
from ..types import Float, Guarantee
from .law import Law


def inverse_cdf_law(
    cumulative: Float, *, bits: int, rule: Literal["u < c", "u <= c"], uniform_atoms: tuple[Float, Float] | None = None
) -> Law:
    """P(token <= j) = P(u < c_j) or P(u <= c_j), exactly, for u on the grid k / 2^bits (or on given atoms).

    ``cumulative``: (vocab,) float64, the sampler's rounded cumulative sum as it compares it, non-decreasing.
    ``uniform_atoms``: (values ascending, P(u <= value)) when u is not that grid (float16 and bfloat16 uniforms).
    The last token takes what is left. Exact: integer counts of the grid below 2^53.
    Raises InputError if the sum decreases or is not (vocab,).
    """
    c = np.asarray(cumulative, dtype=np.float64)
    if c.ndim != 1 or not c.size or np.isnan(c).any() or (np.diff(c) < 0).any() or c[0] < 0:
        raise InputError(f"a cumulative sum of shape {c.shape}", "(vocab,), non-decreasing from 0", "check the row")
    if uniform_atoms is None:
        scaled = np.ldexp(np.minimum(c, 1.0), bits)  # exact: a power of two
        below = np.ceil(scaled) if rule == "u < c" else np.floor(scaled) + 1
        cdf = np.ldexp(np.minimum(below, np.ldexp(1.0, bits)), -bits)
    else:
        values, upto = uniform_atoms
        at = np.searchsorted(values, c, side="left" if rule == "u < c" else "right")
        cdf = np.concatenate([[0.0], upto])[at]
    cdf[-1] = 1.0
    probs = np.diff(np.concatenate([[0.0], cdf]))
    return Law.from_probs(probs, f"counts of a 2^{bits} grid below the rounded sum ({rule})", 2.0**-53, Guarantee.EXACT)


def threshold_law(cumulative: Float, uniform: Atoms, rule: Literal["u < c", "u <= c"]) -> tuple[Law, float]:
    """temporary"""
    c = np.maximum.accumulate(np.asarray(cumulative, dtype=np.float64))
    upto = uniform.below(c, inclusive=rule == "u <= c")
    probs = np.diff(np.concatenate([[0.0], upto]))
    return Law.from_probs(probs, f"counts below ({rule})", 2.0**-53, Guarantee.EXACT), 1.0 - float(upto[-1])
