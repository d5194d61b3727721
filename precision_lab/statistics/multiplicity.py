"""Many tests at once: what the whole family risks, and how each p-value or e-value must pay for the others.

| adjusted by | controls | valid |
|---|---|---|
| holm | P(any right sampler fails) | whatever the dependence |
| benjamini_hochberg | E[share of right samplers among those failed] | independent or positively dependent tests |
| the same, ``any_dependence`` | the same | whatever the dependence, at a price of about log m |
| e_bh | the same | whatever the dependence, and at any stopping; takes e-values |

An adjusted value is the smallest level at which the procedure fails that sampler. m = number of tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from scipy.stats import false_discovery_control

from ..errors import InputError, unknown_name
from ..types import Float, Guarantee
from ._checks import check_open_unit

FAMILY_WISE, DISCOVERIES = "family-wise error rate", "false discovery rate"
_STRENGTH = (
    Guarantee.HEURISTIC,
    Guarantee.EMULATED,
    Guarantee.ASYMPTOTIC,
    Guarantee.FINITE_SAMPLE,
    Guarantee.ANYTIME,
    Guarantee.CERTIFIED,
    Guarantee.EXACT,
)


@dataclass(frozen=True, eq=False)
class Adjusted:
    """``values``: (m,) in the order given.  ``controls``: the rate that failing those with value <= level
    keeps <= level.

    ``guarantee``: of that, if the p-values or e-values deserve their name.
    """

    values: Float
    controls: str
    guarantee: Guarantee


class Tested(Protocol):
    """What :func:`family` reads of a TestResult."""

    @property
    def p_value(self) -> float: ...
    @property
    def guarantee(self) -> Guarantee: ...


@dataclass(frozen=True)
class Verdict:
    """One test as a member of a family: ``failed`` where ``adjusted`` <= ``level``.

    ``controls``: the rate that is then at most ``level``.  ``guarantee``: the weakest of the family's.
    """

    p_value: float
    adjusted: float
    level: float
    controls: str
    guarantee: Guarantee

    @property
    def failed(self) -> bool:
        return self.adjusted <= self.level


def family(
    results: Mapping[str, Tested], *, level: float = 1e-6, method: Literal["holm", "bh", "by"] = "holm"
) -> dict[str, Verdict]:
    """Every result by name with its verdict in the family of them all, ``level`` being the rate of the whole.

    The family is what would have been reported: to leave out the tests that passed is to cheat.
    """
    check_open_unit("level", level)
    ways = {"holm": holm, "bh": benjamini_hochberg, "by": lambda p: benjamini_hochberg(p, any_dependence=True)}
    if method not in ways:
        raise unknown_name("method", method, ways)
    adjusted = ways[method]([result.p_value for result in results.values()])
    guarantee = weakest([adjusted.guarantee, *(result.guarantee for result in results.values())])
    return {
        name: Verdict(result.p_value, float(value), level, adjusted.controls, guarantee)
        for (name, result), value in zip(results.items(), adjusted.values, strict=True)
    }


def weakest(guarantees: Iterable[Guarantee]) -> Guarantee:
    """What stands behind a number that needs all of them."""
    return min(guarantees, key=_STRENGTH.index)


def holm(p_values: ArrayLike) -> Adjusted:
    """Adjusted p_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)), p_(1) <= p_(2) <= ...; Holm 1979, Scand. J.
    Stat. 6, 65."""
    p = _p_values(p_values)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    return Adjusted(adjusted, FAMILY_WISE, Guarantee.FINITE_SAMPLE)


def benjamini_hochberg(p_values: ArrayLike, *, any_dependence: bool = False) -> Adjusted:
    """Adjusted p_(i) = min_{j >= i} min(1, p_(j) m / j), Benjamini and Hochberg 1995; ``any_dependence``:
    Benjamini and Yekutieli's further factor 1 + 1/2 + ... + 1/m (Ann. Stat. 29, 1165, 2001)."""
    adjusted = false_discovery_control(_p_values(p_values), method="by" if any_dependence else "bh")
    return Adjusted(np.asarray(adjusted), DISCOVERIES, Guarantee.FINITE_SAMPLE)


def e_bh(log_e: ArrayLike) -> Adjusted:
    """Adjusted value min_{j >= i} min(1, m / (j e_(j))), e_(1) >= e_(2) >= ...: Benjamini and Hochberg's on
    1/e.

    Wang and Ramdas 2022, J. R. Stat. Soc. B 84, 822. ``log_e``: (m,) logarithms of e-values, nats; -inf: e = 0.
    """
    return replace(benjamini_hochberg(np.exp(-np.maximum(_log_e(log_e), 0.0))), guarantee=Guarantee.ANYTIME)


def combined_e(log_e: ArrayLike, *, independent: bool = False) -> float:
    """log of one e-value against all the nulls together: the mean of the e-values, valid whatever their
    dependence.

    ``independent``: the product, valid for independent e-values or ones that each condition on those
    before. Vovk and Wang 2021, Ann. Stat. 49, 1736. A product with a zero is zero.
    """
    logs = _log_e(log_e)
    if independent:
        return float(logs.sum()) if logs.min() > -np.inf else -np.inf
    return float(logsumexp(logs) - np.log(len(logs)))


def _p_values(values: ArrayLike) -> Float:
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 1 or not p.size or not ((p >= 0) & (p <= 1)).all():
        raise InputError(
            f"p-values {p.tolist()!s:.60}", "a list of numbers from 0 to 1", "give one or more p-values"
        )
    return p


def _log_e(values: ArrayLike) -> Float:
    logs = np.asarray(values, dtype=np.float64)
    if logs.ndim != 1 or not logs.size or np.isnan(logs).any():
        raise InputError(
            f"log e-values {logs.tolist()!s:.60}", "a list of numbers", "give one or more logarithms"
        )
    return logs
