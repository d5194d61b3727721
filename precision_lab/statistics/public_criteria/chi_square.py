"""Four chi-square rules that differ in what they do with rare tokens: keep them, pool them, forget them.

Forecasts take X^2 of cells with laws q and p as noncentral chi-square, (cells - 1, n sum (q - p)^2 / p).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from ...types import Float, Guarantee
from .rule import Rule, never

Cells = tuple[Float, Float]  # observed and expected counts


def _square(observed: Float, expected: Float) -> tuple[float, int]:
    """X^2, inf where something came that nothing was expected of, and its degrees of freedom."""
    off = observed - expected
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms = np.where(off == 0, 0.0, off * (off / expected))  # off may be too small to be squared
    return float(terms.sum()), len(expected) - 1


def _p_value(observed: Float, expected: Float) -> float:
    """NaN for fewer than two cells."""
    square, freedom = _square(observed, expected)
    return float(stats.chi2.sf(square, freedom)) if freedom > 0 else math.nan


def _p_value_foreseen(q: Float, p: Float, n: float, threshold: float) -> tuple[float, float]:
    """(p-value at the mean of X^2, P(p-value > threshold)) for cells of laws q and p."""
    shift, freedom = _square(q, p)
    if freedom < 1 or math.isinf(shift):
        return (0.0 if freedom else math.nan), 0.0
    critical = stats.chi2.isf(threshold, freedom)
    centre = float(stats.chi2.sf(freedom + n * shift, freedom))
    return centre, _below(critical, freedom, n * shift)


def _below(critical: float, freedom: int, noncentrality: float) -> float:
    """P(X^2 <= critical). Where the series is lost (above 1e15), normal."""
    passes = float(stats.ncx2.cdf(critical, freedom, noncentrality))
    if math.isnan(passes):
        spread = math.sqrt(2 * (freedom + 2 * noncentrality))
        passes = float(stats.norm.cdf((critical - freedom - noncentrality) / spread))
    return passes


def _jax(counts: Float, p: Float, n: int) -> float:
    """Every possible token is a cell; scipy refuses counts outside of them, which fails the test."""
    return 0.0 if counts[p == 0].any() else _p_value(counts[p > 0], n * p[p > 0])


def _jax_foreseen(q: Float, p: Float, n: int, threshold: float) -> tuple[float, float, Guarantee]:
    centre, passes = _p_value_foreseen(q[p > 0], p[p > 0], n, threshold)
    return centre, passes * never(q, p, n), Guarantee.ASYMPTOTIC


def _pytorch_cells(counts: Float, p: Float, n: int) -> Cells | None:
    """Drawn tokens only, p scaled to them; those with 5 or fewer drawn or expected are one cell. None where
    that is > 10 %.

    So the one cell has the draws of all rare tokens, but expects only those of the drawn ones.
    """
    counts, p = counts[counts > 0], p[counts > 0] / p[counts > 0].sum()
    kept = (counts > 5) & (n * p > 5)
    if not p[kept].sum() > 0.9:
        return None
    if kept.all():
        return counts, n * p
    return np.append(counts[kept], counts[~kept].sum()), n * np.append(p[kept], p[~kept].sum())


def _pytorch(counts: Float, p: Float, n: int) -> float:
    cells = _pytorch_cells(counts, p, n) if p[counts > 0].any() else None
    return _p_value(*cells) if cells else math.nan


def _pytorch_foreseen(q: Float, p: Float, n: int, threshold: float) -> tuple[float, float, Guarantee]:
    """With the cells of the expected counts, each p_i times the probability that the token is drawn at all."""
    with np.errstate(divide="ignore"):
        seen = -np.expm1(n * np.log1p(-np.minimum(q, 1.0)))
    expected_draws = np.where(n * q * p > 0, n * q, 0.0)  # of one beyond underflow none is ever seen
    cells = _pytorch_cells(expected_draws, p * seen, n) if (p * seen).any() else None
    if not cells:
        return math.nan, 0.0, Guarantee.HEURISTIC
    observed, expected = cells
    return *_p_value_foreseen(observed / observed.sum(), expected / n, n, threshold), Guarantee.HEURISTIC


def _flashsampling_cells(counts: Float, p: Float, n: int) -> Cells:
    """Tokens with 5 expected draws, expectations scaled to the draws among them: the others are not looked
    at."""
    kept = n * p >= 5
    mass = p[kept].sum()
    return counts[kept], p[kept] * (counts[kept].sum() / mass) if mass > 0 else p[kept]


def _flashsampling(counts: Float, p: Float, n: int) -> float:
    return _p_value(*_flashsampling_cells(counts, p, n))


def _flashsampling_foreseen(q: Float, p: Float, n: int, threshold: float) -> tuple[float, float, Guarantee]:
    observed, expected = _flashsampling_cells(n * q, p, n)
    inside = observed.sum()
    if not inside > 0:
        return math.nan, 0.0, Guarantee.ASYMPTOTIC
    return *_p_value_foreseen(observed / inside, expected / inside, inside, threshold), Guarantee.ASYMPTOTIC


def _vllm_cells(counts: Float, p: Float, n: int) -> Cells:
    """Tokens with 5 expected draws; the others as one cell if they have 5 together, else not at all."""
    kept = n * p >= 5
    rest = float(p[~kept].sum())
    if n * rest < 5:
        return counts[kept], n * p[kept]
    return np.append(counts[kept], counts[~kept].sum()), n * np.append(p[kept], rest)


def _vllm(counts: Float, p: Float, n: int) -> float:
    """(X^2 - freedom) / sqrt(2 freedom); 0 where there is no freedom, as the test then returns."""
    square, freedom = _square(*_vllm_cells(counts, p, n))
    return (square - freedom) / math.sqrt(2 * freedom) if freedom > 0 else 0.0


def _vllm_foreseen(q: Float, p: Float, n: int, threshold: float) -> tuple[float, float, Guarantee]:
    observed, expected = _vllm_cells(n * q, p, n)
    shift, freedom = _square(observed / n, expected / n)
    if freedom < 1:
        return 0.0, 1.0, Guarantee.EXACT
    critical = freedom + threshold * math.sqrt(2 * freedom)
    passes = _below(critical, freedom, n * shift)
    return n * shift / math.sqrt(2 * freedom), passes, Guarantee.ASYMPTOTIC


JAX_CHI_SQUARE = Rule(
    name="jax_chi_square",  # 2 or 4 categories, float32 and float64
    publisher="JAX",
    source_ref="jax-ml/jax tests/random_lax_test.py testCategorical, _CheckChiSquared, cec06d116c (0.11.1)",
    statistic=_jax,
    foresee=_jax_foreseen,
    threshold=0.01,
    above=True,
    n=10_000,
)
PYTORCH_CHI_SQUARE = Rule(
    name="pytorch_chi_square",  # 2 or 3 categories, test_argmax_relaxed_categorical
    publisher="PyTorch",
    source_ref="pytorch/pytorch test/distributions/test_distributions.py _check_sampler_discrete, 009e3c697a",
    statistic=_pytorch,
    foresee=_pytorch_foreseen,
    threshold=1e-3,
    above=True,
    n=10_000,
)
FLASHSAMPLING_CHI_SQUARE = Rule(
    name="flashsampling_chi_square",  # 100 to 512 tokens, logits about -10..10; 1,000,000 draws for 32,768 tokens
    publisher="FlashSampling",
    source_ref="FlashSampling/FlashSampling src/fused_mm_sampling/testing.py assert_sampling_distribution, 1e5d8fa3eb",
    statistic=_flashsampling,
    foresee=_flashsampling_foreseen,
    threshold=1e-3,
    above=True,
    n=10_000,
)
VLLM_CHI_SQUARE = Rule(
    name="vllm_chi_square",  # 16 tokens; 40,960 draws for 4,096
    publisher="vLLM",
    source_ref="vllm-project/vllm tests/v1/spec_decode/test_rejection_sampler_utils.py _assert_distribution_match, 0822b17a5f",
    statistic=_vllm,
    foresee=_vllm_foreseen,
    threshold=10.0,
    above=False,
    n=200_000,
)
