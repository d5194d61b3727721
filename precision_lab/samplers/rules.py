"""How the law of a race is computed: rules as data, one final class a method, each with its proof.

    rule.law(race, weights) -> Law

A :class:`Race` is what is drawn and compared (source, noise map, combination, score format, tie);
``weights`` are the (vocab,) float64 values that the sampler adds or divides, as it holds them. Rules that
take an ``inner`` rule correct its law.

| rule | for |
|---|---|
| Enumerated | sources whose noise can be listed: exact |
| WithinBound | sources too fine to list: the target, within a proved bound |
| Truncated(inner) | noise conditioned to lie below a ceiling |
| Overflowing(inner) | float64 quotients that may overflow to +inf |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import numpy as np
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FloatFormat
from ..laws.argmax import (
    Combine,
    Nonfinite,
    Progress,
    Tie,
    argmax_law,
    compiling,
    perturbed_law,
    truncated_gumbel_law,
)
from ..laws.law import Law
from ..types import Float, Guarantee
from ..uniforms import Source

NoiseMap: TypeAlias = Callable[[Tensor], Tensor]
_LARGEST_DOUBLE = float(np.finfo(np.float64).max)


@final
@dataclass(frozen=True)
class Race:
    """argmax_i score(weight_i, noise_i), noise_i = ``noise_of(u_i)`` with independent u_i from ``source``.

    ``combine``: how weight and noise make a score, as in :func:`~precision_lab.laws.argmax.argmax_law`;
    ``score``: the format in which the score is rounded; ``tie``: which of equal best scores wins;
    ``nonfinite``: what wins where a score is NaN or +inf: that score ("wins", the first NaN before any
    +inf, as in torch's argmax) or token 0 ("first index").
    ``noise_sha256``: if given, a noise table with another hash is refused. ``name``: whose race it is, for
    error messages.
    """

    source: Source
    noise_of: NoiseMap
    combine: Combine
    score: FloatFormat
    tie: Tie = "first"
    nonfinite: Nonfinite = "wins"
    noise_sha256: str = ""
    name: str = "this race"

    def noise_atoms(self) -> Atoms:
        """The exact law of one noise value: every word of the source pushed through the noise map on this
        machine.

        Raises InputError where the source has too many words to list, or the table is not the one of
        ``noise_sha256``.
        """
        atoms = self.source.push(self.noise_of)
        if not self.noise_sha256:
            return atoms
        found = atoms.sha256()
        if found != self.noise_sha256:
            raise InputError(
                f"a noise table of sha256 {found[:16]}... for {self.name} on this machine",
                f"{self.noise_sha256[:16]}..., as it was measured",
                "see precision-lab doctor; without noise_sha256 the law is that of this machine",
            )
        return atoms


class LawRule(ABC):
    """A method for the law of a race."""

    @abstractmethod
    def law(self, race: Race, weights: Float, progress: Progress | None = None) -> Law:
        """The law of the tokens. ``weights``: (vocab,), as the sampler holds them; ``progress``: told the
        share done.

        Raises InputError where the rule cannot give a law for this race and these weights.
        """

    @abstractmethod
    def with_tolerance(self, tolerance: float, relative: float) -> LawRule:
        """The same rule, enumerating only until these errors are reached; see :class:`Enumerated`."""


@final
@dataclass(frozen=True)
class Enumerated(LawRule):
    """Exact, by :func:`~precision_lab.laws.argmax.argmax_law` over every atom of the noise.

    ``tolerance`` and ``relative``: the errors at which the enumeration may stop, as in ``argmax_law``;
    larger ones are quicker. ``overflow``: whether the published arithmetic lets a quotient of finite weight
    and positive noise overflow to +inf; if not, weights with which one could are refused with an
    InputError.
    """

    tolerance: float = 1e-10
    relative: float = 1e-7
    overflow: bool = False

    def law(self, race: Race, weights: Float, progress: Progress | None = None) -> Law:
        with compiling(race.score):
            noise = race.noise_atoms()
        if race.combine == "divide" and not self.overflow:
            _check_quotients(race, float(weights.max()), noise)
        law = argmax_law(
            weights,
            noise,
            combine=race.combine,
            score=race.score,
            tie=race.tie,
            nonfinite=race.nonfinite,
            tolerance=self.tolerance,
            relative=self.relative,
            progress=progress,
        )
        return _within(law, 2 * race.source.relative_bound)

    def with_tolerance(self, tolerance: float, relative: float) -> Enumerated:
        return replace(self, tolerance=tolerance, relative=relative)


def _within(law: Law, bound: float) -> Law:
    """The law of values that are known to a bound only: see
    :attr:`~precision_lab.uniforms.Source.relative_bound`."""
    if not bound:
        return law
    error = min(law.error + bound, 1.0)
    return replace(law, error=error, relative=math.inf, guarantee=Guarantee.CERTIFIED)


def _check_quotients(race: Race, largest: float, noise: Atoms) -> None:
    positive = noise.values[np.searchsorted(noise.values, 0.0, side="right") :]
    if not positive.size:
        return
    least = float(positive[0])
    if not np.isfinite(race.score.round(np.array(largest / least))):
        raise InputError(
            f"a weight of {largest:.4g} over noise of {least:.4g} in {race.name}, beyond {race.score.name}",
            f"scores up to {race.score.max:.6g}",
            "normalise the weights, or declare Enumerated(overflow=True) if the published code lets it happen",
        )


@final
@dataclass(frozen=True)
class WithinBound(LawRule):
    """The target softmax(weights) or weights / sum(weights), within the bound of
    :func:`~precision_lab.laws.argmax.perturbed_law`: |P(i) - p_i| <= vocab * spacing + 2 r.

    ``relative``: how far the exponential that decides a score can be from that of its uniform, as a factor
    1 +- relative, from all roundings but that of a sum. An error d of a Gumbel value -log E is a factor e^d
    of E. A quotient's own rounding is part of it. ``spacing``: that of the grid of the uniforms, and the
    probability of noise above ``reach``, NaN and +inf among it: what wins then is not asked.

    "divide": r = relative. "add": r = relative + h, h the rounding of the sum. Let m be the largest weight.
    Scores decide only from m - 5 (the token of weight m scores less if E > e^5, with probability e^-148) to
    m + reach, so they are at most |m| + reach in magnitude, and a sum in a format of p bits is off by at
    most half an ulp of that:

        h = 2^(ceil(log2(|m| + reach)) - p - 1).
    """

    relative: float
    spacing: float
    reach: float = 37.0  # -log E <= 36.74 where E >= 2^-53

    def law(self, race: Race, weights: Float, progress: Progress | None = None) -> Law:
        relative = self.relative
        if race.combine == "add":
            largest_score = abs(float(weights.max())) + self.reach
            relative += 2.0 ** (math.ceil(math.log2(largest_score)) - race.score.precision - 1)
        return perturbed_law(log_normalised(weights, race.combine), relative=relative, lattice=self.spacing)

    def with_tolerance(self, tolerance: float, relative: float) -> WithinBound:
        return self


@final
@dataclass(frozen=True)
class Truncated(LawRule):
    """Gumbel noise conditioned to lie below ``ceiling`` (M): Proposition 5.2 of arXiv:2409.02908 applied to
    the law of ``inner``, a :class:`WithinBound`, whose error is added.

    Its bound holds for this noise too. Rounding the uniforms changes a probability by at most ``spacing``
    each, as there. Scores that are known to a factor 1 +- r scale one exponential against the others by c =
    (1 - r) / (1 + r). With e = e^-M, E has distribution F(z) = 1 - e^(e - z) above e, and for every z

        F(z / c) - F(z) <= (1 / c - 1) max(z e^(e - z), e) <= (1 / c - 1) e^(e - 1) < 2 r  where M > 2 and r <= 1/2.
    """

    inner: LawRule
    ceiling: float

    def law(self, race: Race, weights: Float, progress: Progress | None = None) -> Law:
        inner = self.inner.law(race, weights, progress)
        law = truncated_gumbel_law(inner.log_probs, self.ceiling)
        return replace(law, error=min(law.error + inner.error, 1.0))

    def with_tolerance(self, tolerance: float, relative: float) -> Truncated:
        return replace(self, inner=self.inner.with_tolerance(tolerance, relative))


@final
@dataclass(frozen=True)
class Overflowing(LawRule):
    """Float64 quotients w_i / E_i that may overflow to +inf and tie, which ``inner`` does not know of.

    A score overflows only if E_i < w_i / max, max the largest double, and P(E_i < x) <= x. So some score
    does with probability at most sum_i w_i / max, and this is added to the error.
    """

    inner: LawRule

    def law(self, race: Race, weights: Float, progress: Progress | None = None) -> Law:
        law = self.inner.law(race, weights, progress)
        some_overflow = float((weights / _LARGEST_DOUBLE).sum())
        return replace(law, error=min(law.error + some_overflow, 1.0))

    def with_tolerance(self, tolerance: float, relative: float) -> Overflowing:
        return replace(self, inner=self.inner.with_tolerance(tolerance, relative))


def log_normalised(weights: Float, combine: Combine) -> Float:
    """(vocab,) natural-log probabilities: softmax of the weights that are added, or the share of those
    divided."""
    with np.errstate(divide="ignore"):
        log = weights if combine == "add" else np.log(weights)
    shifted = log - log.max()
    return shifted - np.log(np.exp(shifted).sum())
