"""The law of inverse-CDF sampling with a rounded cumulative sum and a gridded uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..atoms import Atoms
from ..errors import InputError
from ..types import Float, Guarantee, Int
from .law import Law

Rule = Literal["u < c", "u <= c"]


@dataclass(frozen=True)
class ThresholdLaw:
    """The law of the first j with u < c_j or u <= c_j, in words of the uniform, which has 2^bits of them.

    ``counts``: (vocab,) int64, the words that pick each token.  ``beyond``: the words above every sum.
    """

    counts: Int
    beyond: int
    bits: int

    @property
    def probs(self) -> Float:
        """(vocab,) counts / 2^bits; they sum to 1 - beyond / 2^bits."""
        return np.ldexp(self.counts.astype(np.float64), -self.bits)

    def law(self, beyond_to: int, how: str, guarantee: Guarantee = Guarantee.EXACT) -> Law:
        """The :class:`Law` in which what is beyond every sum picks the token ``beyond_to``: -1, the last,
        where the index is clamped; 0, where an argmax finds no True. InputError for an index out of range."""
        if not -len(self.counts) <= beyond_to < len(self.counts):
            raise InputError(
                f"index {beyond_to}", f"a token of {len(self.counts)}", "say which token takes the rest"
            )
        counts = self.counts.copy()
        counts[beyond_to] += self.beyond
        error = 0.0 if self.bits <= 53 else 2.0**-53
        return Law.from_probs(np.ldexp(counts.astype(np.float64), -self.bits), how, error, guarantee)


def threshold_law(cumulative: Float, uniform: Atoms, rule: Rule) -> ThresholdLaw:
    """The first j with u < c_j (``rule="u < c"``) or u <= c_j, for any law of u: P(index <= j) = P(u <
    max_{i <= j} c_i).

    ``cumulative``: (vocab,) the sums as the sampler compares them, infinities allowed; they may decrease,
    as those of parallel scans do: then their running maximum counts. ``uniform``: the atoms of what is
    compared, after every map. Exact: whole words. Raises InputError for sums that are NaN or not (vocab,),
    and for an unknown rule.
    """
    c = np.asarray(cumulative, dtype=np.float64)
    if c.ndim != 1 or not c.size or np.isnan(c).any():
        raise InputError(f"sums of shape {c.shape}", "(vocab,) numbers, none NaN", "check the row")
    if rule not in ("u < c", "u <= c"):
        raise InputError(f"rule {rule!r}", "'u < c' or 'u <= c'", "name when u picks a token")
    below = np.concatenate([[0], np.cumsum(uniform.counts)])
    reached = np.maximum.accumulate(c)
    upto = below[np.searchsorted(uniform.values, reached, side="left" if rule == "u < c" else "right")]
    counts = np.diff(np.concatenate([[0], upto])).astype(np.int64)
    return ThresholdLaw(counts, int((1 << uniform.bits) - upto[-1]), uniform.bits)


def inverse_cdf_law(
    cumulative: Float, *, bits: int, rule: Rule, uniform_atoms: tuple[Float, Float] | None = None
) -> Law:
    """P(token <= j) = P(u < c_j) or P(u <= c_j), exactly, for u on the grid k / 2^bits (or on given atoms).

    ``cumulative``: (vocab,) float64, the sampler's rounded cumulative sum as it compares it, non-decreasing.
    ``uniform_atoms``: (values ascending, P(u <= value)) when u is not that grid (float16 and bfloat16
    uniforms). The last token takes what is left. Exact: integer counts of the grid below 2^53.
    Raises InputError if the sum decreases or is not (vocab,).
    """
    c = np.asarray(cumulative, dtype=np.float64)
    if c.ndim != 1 or not c.size or np.isnan(c).any() or (np.diff(c) < 0).any() or c[0] < 0:
        raise InputError(
            f"a cumulative sum of shape {c.shape}", "(vocab,), non-decreasing from 0", "check the row"
        )
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
    return Law.from_probs(
        probs, f"counts of a 2^{bits} grid below the rounded sum ({rule})", 2.0**-53, Guarantee.EXACT
    )
