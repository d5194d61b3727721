"""Joint regions against Hotelling's T^2 written out, and the bootstrap of several samples against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from judging import statistical
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.statistics import cluster_bootstrap, joint_region, stratified_bootstrap


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def region(x, confidence=0.95):
    return joint_region(lambda at: x[at].mean(0), len(x), confidence)


class TestRegion:
    x = rng(1).normal(size=(12, 2)) @ np.array([[1.0, 0.9], [0.0, 0.3]])

    def test_of_means_is_hotellings(self):
        """T^2 = n d' S^-1 d against p (n-1) / (n-p) F: the same points are inside, just in and just out of the edge."""
        found, n = region(self.x), 12
        np.testing.assert_allclose(found.covariance, np.cov(self.x.T) / n, rtol=1e-12)
        for point in found.outline(40):
            for scale, inside in ((0.999, True), (1.001, False)):
                at = found.centre + scale * (point - found.centre)
                d = at - self.x.mean(0)
                t2 = n * d @ np.linalg.inv(np.cov(self.x.T)) @ d
                assert (
                    (t2 * (n - 2) / (2 * (n - 1)) <= stats.f.ppf(0.95, 2, n - 2))
                    == inside
                    == found.contains(at)
                )

    def test_it_follows_the_correlation(self):
        """A corner of the box of marginal intervals against the correlation is outside, one along it is not."""
        found = region(self.x)
        side = 1.8 * np.sqrt(np.diag(found.covariance))
        assert found.contains(found.centre + side)
        assert not found.contains(found.centre + side * [1, -1])

    def test_does_not_depend_on_units(self):
        a, b = region(self.x), region(self.x * [1000, 0.001] + 5)
        point = a.centre + np.array([0.2, 0.3])
        assert a.contains(point) == b.contains(point * [1000, 0.001] + 5)
        np.testing.assert_allclose(b.outline(), a.outline() * [1000, 0.001] + 5, rtol=1e-9)

    @statistical(false_fail=1e-7)
    def test_coverage(self):
        """4,000 normal samples of 6: the truth is inside in 95 % (binomial, false fail 1e-7). Seen to fail with the
        chi-square radius instead of Hotelling's, which covers 0.79."""
        draws, g = rng(2).normal(size=(4000, 6, 2)), 6
        inside = sum(region(x).contains([0, 0]) for x in draws)
        assert stats.binomtest(inside, 4000, 0.95).pvalue > 1e-7
        chi = sum(
            (d := x.mean(0)) @ np.linalg.solve(np.cov(x.T) / g, d) <= stats.chi2.ppf(0.95, 2)
            for x in draws[:500]
        )
        assert stats.binomtest(chi, 500, 0.95).pvalue < 1e-7

    def test_refusals(self):
        with pytest.raises(InputError, match="2 clusters for 2 numbers"):
            region(self.x[:2])
        with pytest.raises(InputError, match="vary as one"):
            region(self.x[:, [0, 0]])


class TestStratified:
    def test_one_sample_is_the_cluster_bootstrap_without_its_correction(self):
        x = rng(3).normal(size=50)
        (a,) = stratified_bootstrap(lambda at: x[at[0]].mean(), [50], rng=rng(4), resamples=4000)
        b = cluster_bootstrap(lambda at: x[at].mean(), 50, rng=rng(5), resamples=4000)
        assert a.value == b.value
        np.testing.assert_allclose([a.low, a.high], [b.low, b.high], atol=0.05)

    def test_samples_are_drawn_apart(self):
        """Twice the same sample: were both drawn alike, every difference would be 0."""
        x = rng(6).normal(size=40)
        (found,) = stratified_bootstrap(lambda at: x[at[0]].mean() - x[at[1]].mean(), [40, 40], rng=rng(7))
        half = 1.96 * x.std() * math.sqrt(2 / 40)
        assert found.value == 0
        assert found.n == 80
        assert found.high - found.low == pytest.approx(2 * half, rel=0.15)

    @pytest.mark.parametrize(("undefined", "finite"), [(0.0, True), (0.005, True), (0.2, False)])
    def test_undefined_resamples_widen_both_ends(self, undefined, finite):
        calls = iter([False, *(rng(8).random(1000) < undefined)])
        (found,) = stratified_bootstrap(lambda at: math.nan if next(calls) else at[0].mean(), [9], rng=rng(9))
        assert math.isfinite(found.low) == math.isfinite(found.high) == finite

    def test_undefined_on_the_samples(self):
        with pytest.raises(InputError, match="not defined"):
            stratified_bootstrap(lambda at: math.nan, [3], rng=rng())
