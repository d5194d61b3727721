"""JAX's rules of Gumbel noise, for draws and for the exact law of the noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ...atoms import Atoms
from ...errors import InputError
from ...formats import BF16
from ...types import Float, Guarantee
from .._checks import check_whole
from .rule import Criterion, Forecast

_SOURCE = "jax-ml/jax tests/random_lax_test.py {}, cec06d116c (0.11.1)"


def jax_gumbel_ks(noise: ArrayLike, *, bfloat16: bool = False) -> Criterion:
    """Kolmogorov and Smirnov's p > 0.01, or 0.003 for bfloat16 values. ``noise``: (n,); JAX draws 10,000, float32 or 64."""
    values, threshold = _flat(noise), 0.003 if bfloat16 else 0.01
    p_value = float(stats.kstest(values, stats.gumbel_r.cdf).pvalue)
    where = _SOURCE.format("testGumbel")
    return Criterion("jax_gumbel_ks", "JAX", where, p_value > threshold, p_value, threshold, len(values))


def forecast_jax_gumbel_ks(noise: Atoms, n: int = 10_000, *, bfloat16: bool = False) -> Forecast:
    """``statistic``: d = sup |F - Gumbel|; ``passes``: at least 1 - 2 e^(-2 n (c - d)^2), c the critical distance.

    The bound is that of Dvoretzky, Kiefer, Wolfowitz and Massart, and 0 for d >= c.
    """
    edges, draws = stats.gumbel_r.cdf(noise.values), check_whole("n", n, 1)
    distance = max(
        float(np.abs(noise.below(noise.values, inclusive=side) - edges).max()) for side in (False, True)
    )
    critical = float(stats.kstwo.isf(0.003 if bfloat16 else 0.01, draws))
    passes = max(0.0, 1 - 2 * math.exp(-2 * draws * max(0.0, critical - distance) ** 2))
    return Forecast("jax_gumbel_ks", passes, distance, critical, draws, Guarantee.FINITE_SAMPLE)


def jax_gumbel_tail(noise: ArrayLike | Atoms) -> Criterion:
    """|P(G > t_x) / x - 1| <= 0.25 at x = 2^-10 and 0.75, 1.25, 2.125 times 2^-7, t_x = -log(-log(1 - x)) in bfloat16.

    ``noise``: (n,) draws, JAX's 2^24 in bfloat16 and mode "high", or Atoms for the exact law. ``statistic``: the largest.
    """
    x = np.array([0.125, 0.75, 1.25, 2.125]) * 2.0**-7
    at = BF16.round(-np.log(-np.log1p(-x)))
    if isinstance(noise, Atoms):
        above, n = 1 - noise.below(at, inclusive=True), 0
    else:
        values = _flat(noise)
        above, n = np.array([np.mean(values > t) for t in at]), len(values)
    off = float(np.abs(above / x - 1).max())
    where = _SOURCE.format("testLowProbabilityGumbel")
    return Criterion("jax_gumbel_tail", "JAX", where, off <= 0.25, off, 0.25, n)


def _flat(noise: ArrayLike) -> Float:
    values = np.asarray(noise, dtype=np.float64)
    if values.ndim != 1 or not values.size or np.isnan(values).any():
        raise InputError(f"noise of shape {values.shape}", "(n,) numbers, none NaN", "pass it flat")
    return values
