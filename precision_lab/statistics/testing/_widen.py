"""Tests of a null law that is only known within max_i |p_i - t_i| <= e, e = ``Law.error``, t the truth.

Two devices. For a mean, the worst truth: sup_t sum_i t_i f_i <= sum_i p_i f_i + e sum_i |f_i - median f|, as the errors
sum to 0. For any other test, a reference law r_i = (p_i + e) / S, S = sum_i (p_i + e), whose level is converted: with
L = t / r, Hoelder's inequality gives for every event A of n draws and every s > 1

    P_t(A) <= P_r(A)^(1 - 1/s) (sum_i r_i L_i^s)^(n/s),   sum_i r_i L_i^s <= 1 + s (s - 1)/2 D S^(s - 2)   (s >= 2)

by Taylor's formula, as sum_i r_i (L_i - 1) = 0, with D = sum_i r_i max(S - 1, min(1, 2e / (p_i + e)))^2; and
P_t(A) <= S^n P_r(A) for s = infinity.
"""

from __future__ import annotations

import math

import numpy as np

from ...laws.law import Law
from ...types import Float

_S = 2.0 ** np.arange(1, 41)


def worst_mean(probs: Float, error: float, values: Float) -> float:
    """sup of sum_i t_i values_i over laws t within ``error`` of ``probs``, from above; values >= 0.

    The smaller of the two bounds sum p f + e sum |f - median| and sum (p + e) f. Values where the truth is certainly 0
    do not count.
    """
    if error == 0:
        return float(probs[at := probs > 0] @ values[at])
    with np.errstate(invalid="ignore", over="ignore"):
        centred = probs @ values + error * np.abs(values - np.median(values)).sum()
        plain = (probs + error) @ values
    return float(np.fmin(centred, plain))


def reference(law: Law) -> Float:
    """(vocab,) r_i = (p_i + e) / S."""
    raised = law.probs + law.error
    return raised / raised.sum()


def widened(p_value: float, law: Law, n: int) -> float:
    """A p-value for every truth within the law's error, from one for :func:`reference`; the same where e = 0."""
    if law.error == 0 or p_value == 0:
        return p_value
    power, cost = _hoelder(law, n)
    return min(1.0, math.exp(min(float((power * math.log(p_value) + cost).min()), 0.0)))


def level(false_fail: float, law: Law, n: int) -> float:
    """The largest p for which ``widened(p, law, n) <= false_fail``."""
    if law.error == 0:
        return false_fail
    power, cost = _hoelder(law, n)
    return (1 - 1e-9) * math.exp(min(float(((math.log(false_fail) - cost) / power).max()), 0.0))  # rounding


def _hoelder(law: Law, n: int) -> tuple[Float, Float]:
    """(1 - 1/s, log of the factor) for each s, infinity last."""
    raised = law.probs + law.error
    total = max(float(raised.sum()), 1.0)
    gap = np.maximum(total - 1, np.minimum(1.0, 2 * law.error / raised))
    d = float(raised / total @ gap**2)
    with np.errstate(over="ignore"):
        cost = n / _S * np.log1p(_S * (_S - 1) / 2 * d * np.exp((_S - 2) * math.log(total)))
    return np.append(1 - 1 / _S, 1.0), np.append(cost, n * math.log(total))
