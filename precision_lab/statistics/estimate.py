"""A number with its interval and with what stands behind the interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from ..errors import InputError
from ..types import Guarantee
from ._checks import check_numbers, check_open_unit, check_successes


@dataclass(frozen=True)
class Estimate:
    """``value`` with the interval [``low``, ``high``] that holds the truth with probability ``confidence``.

    ``n``: independent units behind it (draws, sequences), 0 for a computed number.  ``guarantee``: in what
    sense.
    """

    value: float
    low: float
    high: float
    confidence: float
    n: int
    method: str
    guarantee: Guarantee

    def __post_init__(self) -> None:
        if math.isnan(self.value) or math.isnan(self.low) or math.isnan(self.high):
            raise InputError(
                f"an estimate of {self.value} [{self.low}, {self.high}] ({self.method})",
                "numbers, -inf and inf included",
                "the data are outside the range of this estimator: check for NaN, infinity and overflow",
            )

    @staticmethod
    def exact(value: float, error: float = 0.0, method: str = "exact") -> Estimate:
        """A number that was computed, not drawn: value -/+ error, certified where the error is not 0."""
        if not error >= 0:
            raise InputError(
                f"error = {error}", "a bound, 0 or more", "pass the largest possible |value - truth|"
            )
        guarantee = Guarantee.CERTIFIED if error else Guarantee.EXACT
        return Estimate(float(value), float(value - error), float(value + error), 1.0, 0, method, guarantee)

    def contains(self, truth: float) -> bool:
        """Whether ``truth`` lies in the interval, ends included."""
        return self.low <= truth <= self.high

    def text(self, digits: int = 3) -> str:
        """ "value [low, high]"."""
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def scaled(self, factor: float, method: str | None = None) -> Estimate:
        """The estimate of ``factor`` times the quantity, factor > 0."""
        if not factor > 0:
            raise InputError(f"factor = {factor}", "a positive number", "a negative factor would swap the ends")
        ends = {name: factor * getattr(self, name) for name in ("value", "low", "high")}
        return replace(self, **ends, method=method or self.method)


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """successes / n with Clopper and Pearson's interval, which covers at every n and rate (Biometrika 26,
    1934); n <= 2^53.

    low = B^-1(a/2; k, n - k + 1), high = B^-1(1 - a/2; k + 1, n - k), quantiles of beta distributions, a =
    1 - confidence.
    """
    hits, total = check_successes(successes, n)
    if total > 2**53:
        raise InputError(f"n = {total:.3g}", "at most 2^53 draws", "float64 cannot tell such counts apart")
    side = (1 - check_open_unit("confidence", confidence)) / 2
    low = float(special.betaincinv(hits, total - hits + 1, side)) if hits else 0.0
    high = float(special.betainccinv(hits + 1, total - hits, side)) if hits < total else 1.0
    return Estimate(hits / total, low, high, confidence, total, "Clopper-Pearson", Guarantee.FINITE_SAMPLE)


def ratio_of_proportion(
    successes: int, n: int, expected_probability: float, confidence: float = 0.95
) -> Estimate:
    """(successes / n) / p0: 1 where the sampler is right. Clopper-Pearson divided by the known p0, 0 < p0
    <= 1."""
    if not 0 < expected_probability <= 1:
        raise InputError(
            f"expected_probability = {expected_probability}",
            "0 < p0 <= 1",
            "choose events that the target can draw",
        )
    return proportion(successes, n, confidence).scaled(1 / expected_probability, "Clopper-Pearson over p0")


def mean(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean -/+ t_{n-1} s / sqrt(n) of independent values, any shape. One value: the interval is all numbers.

    Errors: InputError for no values, for values that are not finite, and for sums of them or squares that
    overflow.
    """
    check_open_unit("confidence", confidence)
    x = check_numbers(values)
    if not x.size or not np.isfinite(x).all():
        raise InputError(
            f"{x.size} values, {int((~np.isfinite(x)).sum())} not finite", "finite numbers", "drop the rest"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        centre = float(x.mean())
        spread = float(x.std(ddof=1)) if x.size > 1 else 0.0
    if not (math.isfinite(centre) and math.isfinite(spread)):
        raise InputError(
            "values whose squares overflow", "numbers below 1e150 or so", "divide them by a power of two"
        )
    half = math.inf
    if x.size > 1:
        half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1) * spread / math.sqrt(x.size))
    return Estimate(centre, centre - half, centre + half, confidence, x.size, "Student t", Guarantee.ASYMPTOTIC)


def variance(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Sample variance s^2 of independent values with the interval of normal ones: (n - 1) s^2 over the quantiles of
    chi-square with n - 1 degrees of freedom at (1 + confidence) / 2 and (1 - confidence) / 2.

    HEURISTIC: exact for normal values only. Errors: InputError for fewer than two values and for values
    that are not finite.
    """
    check_open_unit("confidence", confidence)
    x = check_numbers(values)
    if x.size < 2 or not np.isfinite(x).all():
        raise InputError(f"{x.size} values", "two or more finite numbers", "measure more, drop the rest")
    spread = float(x.var(ddof=1))
    side = (1 - confidence) / 2
    low, high = spread * (x.size - 1) / stats.chi2.isf([side, 1 - side], x.size - 1)
    method = "chi-square, normal values"
    return Estimate(spread, float(low), float(high), confidence, x.size, method, Guarantee.HEURISTIC)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """first - second of independent estimates: d -/+ the root of the squared distances to the ends that
    face away.

    low = d - sqrt((x - x_low)^2 + (y_high - y)^2), high = d + sqrt((x_high - x)^2 + (y - y_low)^2) (Zou and
    Donner 2008, doi:10.1002/sim.3095). ``n``: the smaller. Errors: InputError for unequal confidences.
    """
    if first.confidence != second.confidence:
        got = f"confidences of {first.confidence} and {second.confidence}"
        raise InputError(got, "one confidence", "estimate both at the same")
    value = first.value - second.value
    return Estimate(
        value,
        value - math.hypot(first.value - first.low, second.high - second.value),
        value + math.hypot(first.high - first.value, second.value - second.low),
        first.confidence,
        min(first.n, second.n),
        f"difference of ({first.method}) and ({second.method})",
        Guarantee.ASYMPTOTIC,
    )


def detectable_difference(found: Estimate, n: int | None = None, power: float = 0.8) -> float:
    """The difference whose interval leaves out 0 with probability ``power``, for two groups of ``n`` (as
    many as there were).

    (t_{2n-2} + z_power) s sqrt(n_found / n), with the standard error s = half the interval of ``found``, an
    estimate of the difference, over z. Normal theory (t for the two-sided interval): ASYMPTOTIC, rough for
    few skewed values. n = 1: infinite.
    """
    n = found.n if n is None else n
    if n < 2:
        return math.inf
    error = (found.high - found.low) / 2 / stats.norm.ppf((1 + found.confidence) / 2)
    return float(
        error
        * math.sqrt(found.n / n)
        * (stats.t.ppf((1 + found.confidence) / 2, 2 * n - 2) + stats.norm.ppf(power))
    )
