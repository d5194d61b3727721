"""The judge: estimates, counts, divergences, tests.

Every random test names its false-fail rate (over the choice of seed; the seed is fixed) and what it can detect.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import draws, law, probs, tempered, two_rows, zipf
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.laws.law import Law, target_law
from precision_lab.statistics import (
    Counts,
    Estimate,
    cluster_bootstrap,
    cluster_jackknife,
    detectable_difference,
    detectable_tail,
    difference,
    draws_needed_tail,
    kl_divergence,
    max_log_ratio,
    mean,
    median,
    proportion,
    ratio_of_proportion,
    ratio_of_sums,
    stratified_bootstrap,
    suppressed_mass,
    tail_test,
    tempered_law,
    total_variation,
    two_laws_log_likelihood,
)
from precision_lab.types import Guarantee


def coverage_ends(repeats: int, lowest: float, highest: float, false_fail: float) -> tuple[float, float]:
    """Between which a count of covering intervals lies with 1 - false_fail, if coverage is in [lowest,
    highest]."""
    return stats.binom.ppf(false_fail / 2, repeats, lowest), stats.binom.isf(false_fail / 2, repeats, highest)


class TestEstimate:
    def test_exact_and_certified(self) -> None:
        exact, certified = Estimate.exact(2.0), Estimate.exact(2.0, error=0.5)
        assert (exact.low, exact.high, exact.n, exact.confidence) == (2.0, 2.0, 0, 1.0)
        assert exact.guarantee is Guarantee.EXACT
        assert (certified.low, certified.high, certified.guarantee) == (1.5, 2.5, Guarantee.CERTIFIED)

    def test_proportion_closed_forms(self) -> None:
        none, every = proportion(0, 30), proportion(30, 30)
        assert (none.value, none.low, every.value, every.high) == (0.0, 0.0, 1.0, 1.0)
        assert none.high == pytest.approx(1 - 0.025 ** (1 / 30), rel=1e-9)
        assert every.low == pytest.approx(0.025 ** (1 / 30), rel=1e-9)
        assert none.guarantee is Guarantee.FINITE_SAMPLE

    @pytest.mark.parametrize("n", [1, 7, 40])
    def test_proportion_covers_at_every_rate_by_enumeration(self, n: int) -> None:
        intervals = [proportion(k, n, 0.9) for k in range(n + 1)]
        for rate in np.linspace(0.001, 0.999, 57):
            covered = sum(stats.binom.pmf(k, n, rate) for k in range(n + 1) if intervals[k].contains(rate))
            assert covered >= 0.9 - 1e-12

    def test_ratio_is_the_proportion_over_p0(self) -> None:
        ratio, rate = ratio_of_proportion(40, 100, 0.5), proportion(40, 100)
        assert ratio.value == pytest.approx(0.8)
        assert (ratio.low, ratio.high) == (2 * rate.low, 2 * rate.high)

    def test_mean_closed_form_and_one_value(self) -> None:
        two = mean([0.0, 2.0])  # s = sqrt 2, t_1 quantile is tan
        assert two.high - 1 == pytest.approx(math.tan(math.pi * 0.475), rel=1e-9)
        one = mean([3.0])
        assert (one.value, one.low, one.high) == (3.0, -math.inf, math.inf)

    def test_mean_covers(self) -> None:
        # False fail 1e-7. Sees coverage of 0.91 or less: intervals with z in place of t (0.88 at n = 5) fail.
        rng, repeats = np.random.default_rng(1), 2000
        covered = sum(mean(rng.normal(3, 2, 5)).contains(3) for _ in range(repeats))
        low, high = coverage_ends(repeats, 0.95, 0.95, 1e-7)
        assert low <= covered <= high
        rows = rng.normal(3, 2, (repeats, 5))
        control = np.abs(rows.mean(axis=1) - 3) <= 1.96 * rows.std(axis=1, ddof=1) / math.sqrt(5)
        assert control.sum() < low

    def test_bootstrap_covers_over_clusters(self) -> None:
        # False fail 1e-7 where coverage is 0.90 to 0.97 (BCa at 40 clusters). Sees 0.80 or less: resampling
        # the 5 equal values inside each cluster as if they were independent covers about 0.6 and fails.
        rng, repeats, covered, control = np.random.default_rng(2), 400, 0, 0
        for _ in range(repeats):
            values = rng.normal(0, 1, 40)
            inside = np.repeat(values, 5)
            covered += cluster_bootstrap(
                lambda at, v=values: v[at].mean(), 40, rng=rng, resamples=200
            ).contains(0)
            naive = inside[rng.integers(0, 200, (200, 200))].mean(axis=1)
            control += bool(np.quantile(naive, 0.025) <= 0 <= np.quantile(naive, 0.975))
        low, high = coverage_ends(repeats, 0.90, 0.97, 1e-7)
        assert low <= covered <= high
        assert control < low

    def test_median_is_a_bootstrap_of_the_median(self) -> None:
        values = np.random.default_rng(7).normal(0, 1, 31)
        found = median(values, rng=np.random.default_rng(8))
        by_hand = cluster_bootstrap(lambda at: np.median(values[at]), 31, rng=np.random.default_rng(8))
        assert (found.value, found.low, found.high) == (by_hand.value, by_hand.low, by_hand.high)
        assert found.value == np.sort(values)[15]

    def test_ratio_of_sums(self) -> None:
        over, under = np.array([1.0, 4.0, 2.0]), np.array([2.0, 5.0, 3.0])
        found = ratio_of_sums(over, under)
        left = np.array([6 / 8, 3 / 5, 5 / 7])
        half = stats.t.ppf(0.975, 2) * math.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
        assert (found.value, found.high) == (pytest.approx(0.7), pytest.approx(0.7 + half))
        with pytest.raises(InputError, match="shapes"):
            ratio_of_sums(over, under[:2])

    def test_detectable_difference_is_seen_as_often_as_it_says(self) -> None:
        # Two groups of 30 normal values apart by it: power 0.8; false fail 1e-7. Sees 0.9 and 0.7 (n off by
        # a quarter).
        rng, repeats = np.random.default_rng(9), 2000
        spread = mean(rng.normal(0, 1, 100_000))
        apart = detectable_difference(difference(spread, spread), 30)
        seen = sum(
            not difference(mean(rng.normal(apart, 1, 30)), mean(rng.normal(0, 1, 30))).contains(0)
            for _ in range(repeats)
        )
        low, high = coverage_ends(repeats, 0.77, 0.83, 1e-7)
        assert low <= seen <= high
        assert not low <= 0.7 * repeats <= high
        assert not low <= 0.9 * repeats <= high
        assert detectable_difference(mean([1.0])) == math.inf

    def test_an_estimate_as_text(self) -> None:
        assert Estimate.exact(1.23456, 0.5).text(2) == "1.23 [0.73, 1.73]"

    def test_bootstrap_edges(self) -> None:
        rng = np.random.default_rng(3)
        same = cluster_bootstrap(lambda at: 7.0, 5, rng=rng, resamples=39)
        assert (same.low, same.value, same.high, same.n) == (7.0, 7.0, 7.0, 5)
        lone = cluster_bootstrap(lambda at: 7.0, 1, rng=rng)
        assert (lone.low, lone.high) == (-math.inf, math.inf)

    @pytest.mark.parametrize(("confidence", "least"), [(0.5, 3), (0.95, 39), (0.99, 199)])
    def test_resamples_that_have_no_such_quantile_are_refused(self, confidence: float, least: int) -> None:
        values = np.array([0.0, 1.0])

        def interval(resamples: int) -> Estimate:
            return cluster_bootstrap(
                lambda at: values[at].mean(), 2, rng=RNG, resamples=resamples, confidence=confidence
            )

        assert interval(least).contains(0.5)
        for few in (1, 2, least - 1):
            with pytest.raises(InputError, match=f"{few} resamples .* expected {least} or more"):
                interval(few)

    def test_the_correction_where_it_has_run_to_its_end(self) -> None:
        """Every resample lies below the value, z0 = 4.0, and one cluster has nearly all, a = 0.16: with
        z = 3.9 no quantile is left above, as 1 - a (z0 + z) is below 0. The end is the largest resample."""
        weights = np.full(50, 1e-3)
        weights[0] = 1.0

        def seen(at: np.ndarray) -> float:
            return float(weights[np.unique(at)].sum())

        found = cluster_bootstrap(seen, 50, rng=np.random.default_rng(0), resamples=20_000, confidence=0.9999)
        assert 1.02 < found.low <= found.high < found.value == pytest.approx(1.049)

    @pytest.mark.parametrize("power", [-900, -600, 600, 900])
    def test_the_jackknife_has_no_scale(self, power: int) -> None:
        values = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
        plain = cluster_jackknife(lambda at: float(values[at].mean()), 5)
        large = np.ldexp(values, power)
        found = cluster_jackknife(lambda at: float(large[at].mean()), 5)
        assert (found.low, found.high) == tuple(np.ldexp([plain.low, plain.high], power).tolist())
        assert plain.high == pytest.approx(mean(values).high, rel=1e-12)

    def test_bootstrap_agrees_with_scipy(self) -> None:
        # Two Monte Carlo intervals with 20,000 resamples: their upper ends differ by 0.055 standard errors
        # (one sd), allowed 0.35: false fail 1e-9. Sees percentile and basic intervals, whose upper ends are
        # 0.7 and 1.3 off.
        values = np.random.default_rng(4).lognormal(0, 1.2, 25)
        ours = cluster_bootstrap(
            lambda at: values[at].mean(), 25, rng=np.random.default_rng(5), resamples=20_000
        )
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(6)
        )
        error = values.std() / 5
        assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.35 * error)
        assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.35 * error)


@pytest.mark.parametrize("mask", [-1e4, -1e16, -1e300, float(np.finfo(np.float64).min)])
def test_kl_to_a_mask_that_q_draws(mask: float) -> None:
    """q log(q / p) of the masked token is q times its depth."""
    q, p = target_law(np.array([0.0, -1.5])), target_law(np.array([0.0, mask]))
    depth = -mask * float(q.probs[1])
    assert kl_divergence(q, p) == pytest.approx(depth, rel=1e-3)
    np.testing.assert_array_equal(tempered_law(p, 0.9).probs, [1.0, 0.0])


class TestCounts:
    def test_counts_any_shape_and_integer_dtype(self) -> None:
        counts = Counts.from_tokens(np.array([[0, 2], [2, 2]], dtype=np.uint8), 4)
        assert counts.counts.tolist() == [1, 0, 3, 0]
        assert (counts.n, counts.vocab, counts.probs.tolist()) == (4, 4, [0.25, 0.0, 0.75, 0.0])

    @given(st.lists(st.integers(0, 6), min_size=1), st.lists(st.integers(0, 6), min_size=1))
    def test_adding_is_counting_the_concatenation(self, first: list[int], second: list[int]) -> None:
        merged = Counts.from_tokens(first, 7) + Counts.from_tokens(second, 7)
        whole = Counts.from_tokens(first + second, 7)
        assert merged.n == whole.n
        assert (merged.counts == whole.counts).all()


class TestDivergence:
    def test_closed_forms(self) -> None:
        q, p = probs(0.5, 0.5, 0.0), probs(0.25, 0.25, 0.5)
        assert total_variation(q, p) == pytest.approx(0.5, rel=1e-15)
        assert kl_divergence(q, p) == pytest.approx(math.log(2), rel=1e-15)
        assert kl_divergence(p, q) == math.inf
        assert max_log_ratio(q, p) == math.inf
        assert max_log_ratio(probs(0.6, 0.4), probs(0.3, 0.7)) == pytest.approx(math.log(2), rel=1e-15)
        assert suppressed_mass(q, p) == pytest.approx(0.5, rel=1e-15)
        assert suppressed_mass(probs(0.9, 0.1), probs(0.75, 0.25), 0.4) == 0.0
        assert suppressed_mass(probs(0.9, 0.1), probs(0.75, 0.25), 0.41) == pytest.approx(0.25)

    def test_tokens_that_neither_can_draw_do_not_count(self) -> None:
        q, p = probs(0.5, 0.5, 0.0), probs(0.5, 0.5, 0.0)
        assert (
            total_variation(q, p) == kl_divergence(q, p) == max_log_ratio(q, p) == suppressed_mass(q, p) == 0.0
        )

    def test_arrays_of_probabilities_are_laws(self) -> None:
        q, p = np.array([0.5, 0.5]), np.array([0.25, 0.75])
        assert kl_divergence(q, p) == kl_divergence(probs(0.5, 0.5), probs(0.25, 0.75))
        assert total_variation(q, p) == pytest.approx(0.25)

    @settings(deadline=None)
    @given(two_rows, st.randoms(use_true_random=False))
    def test_invariance_bounds_and_pinsker(self, rows: tuple[list[float], list[float]], random) -> None:
        q, p = (target_law(np.array(row)) for row in rows)
        tv, kl, ratio = total_variation(q, p), kl_divergence(q, p), max_log_ratio(q, p)
        assert 0 <= tv <= 1
        assert kl >= 0
        assert 2 * tv**2 <= kl * (1 + 1e-12) + 1e-300
        assert kl <= ratio * (1 + 1e-12) + 1e-15
        order = list(range(q.vocab))
        random.shuffle(order)
        q2, p2 = (target_law(np.array(row)[order] + 3.5) for row in rows)
        assert total_variation(q2, p2) == pytest.approx(tv, abs=1e-14)
        assert kl_divergence(q2, p2) == pytest.approx(kl, abs=1e-12)
        assert max_log_ratio(q2, p2) == pytest.approx(ratio, abs=1e-13)

    @settings(deadline=None)
    @given(two_rows)
    def test_kl_against_mpmath(self, rows: tuple[list[float], list[float]]) -> None:
        q, p = (law(np.array(row)) for row in rows)
        with mpmath.workdps(50):
            exact = [[mpmath.exp(mpmath.mpf(x)) for x in row] for row in rows]
            exact = [[x / mpmath.fsum(row) for x in row] for row in exact]
            truth = mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(*exact, strict=True))
            assert kl_divergence(q, p) == pytest.approx(float(truth), rel=1e-11, abs=1e-27)

    @pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
    def test_tiny_deviations_keep_their_digits(self, size: float) -> None:
        """q = p (1 + h), p (1 - h) on two equal tokens: TV = h/2 and KL = h^2/2 + O(h^4), far below eps."""
        p = probs(0.5, 0.5)
        q = Law(
            np.array([math.log(0.5) + math.log1p(size), math.log(0.5) + math.log1p(-size)]),
            "",
            0,
            Guarantee.EXACT,
        )
        slack = 4e-16 / size  # log(0.5) + h is stored to 1e-16
        assert total_variation(q, p) == pytest.approx(size / 2, rel=slack, abs=0)
        assert kl_divergence(q, p) == pytest.approx(size**2 / 2, rel=slack + size**2, abs=0)


class TestTesting:
    @pytest.mark.parametrize(
        ("n", "p0", "level"), [(50, 0.3, 0.05), (400, 0.02, 1e-3), (800, 0.2, 1e-6), (5, 0.5, 0.2)]
    )
    def test_tail_test_level_and_power_by_enumeration(self, n: int, p0: float, level: float) -> None:
        k = np.arange(n + 1)
        failed = np.array([tail_test(int(hits), n, p0, false_fail=level, false_pass=0.1).failed for hits in k])
        assert stats.binom.pmf(k[failed], n, p0).sum() <= level
        d = detectable_tail(n, p0, level, 0.1)

        def power(rate: float) -> float:
            return float(stats.binom.pmf(k[failed], n, rate).sum())

        sides = [rate for rate in (p0 * (1 - d), p0 * (1 + d)) if 0 <= rate <= 1]
        assert all(power(rate) >= 0.9 - 1e-9 for rate in sides)
        smaller = [rate for rate in (p0 * (1 - 0.97 * d), p0 * (1 + 0.97 * d)) if 0 <= rate <= 1]
        assert min(map(power, smaller)) < 0.9

    @pytest.mark.parametrize("p1", [0.0, 0.05, 0.08, 0.13, 0.9])
    def test_draws_needed_are_enough_and_half_are_not(self, p1: float) -> None:
        n = draws_needed_tail(0.1, p1, 1e-3, 0.05)

        def power(n: int) -> float:
            k = np.arange(n + 1)
            p_values = 2 * np.minimum(stats.binom.cdf(k, n, 0.1), stats.binom.sf(k - 1, n, 0.1))
            return float(stats.binom.pmf(k[p_values <= 1e-3], n, p1).sum())

        assert power(n) >= 0.95 - 1e-9
        assert power(n // 2) < 0.95

    def test_draws_needed_and_detectable_are_inverse(self) -> None:
        # upwards is the harder side, so it is the one that detectable reports
        n = draws_needed_tail(1e-3, 1.1e-3)
        assert detectable_tail(n, 1e-3) == pytest.approx(0.1, rel=1e-3)
        assert draws_needed_tail(1e-3, 0.9e-3) < n

    def test_a_biased_tail_fails_and_a_right_one_passes(self) -> None:
        # False fail 1e-6, false pass 1e-6: sees a tail that is 10 % short, at the draws that
        # draws_needed_tail wants.
        rng, p0 = np.random.default_rng(13), 1e-3
        n = draws_needed_tail(p0, 0.9 * p0)
        assert not tail_test(int(rng.binomial(n, p0)), n, p0).failed
        short = tail_test(int(rng.binomial(n, 0.9 * p0)), n, p0)
        assert short.failed
        assert short.statistic < -4

    def test_hopeless_sizes_say_so(self) -> None:
        assert detectable_tail(1, 0.5) == math.inf
        assert tail_test(0, 1, 0.5).p_value == 1.0
        assert detectable_tail(1000, 1e-3) > 1  # even an empty tail passes: only a surplus can be seen

    def test_log_likelihood_ratio(self) -> None:
        a, b = probs(0.5, 0.25, 0.25), probs(0.25, 0.5, 0.25)
        counts = Counts(np.array([3, 1, 5]), 9)
        found = two_laws_log_likelihood(counts, a, b)
        assert found.value == pytest.approx(2 * math.log(2), rel=1e-14)
        assert two_laws_log_likelihood(counts, b, a).value == -found.value
        same = two_laws_log_likelihood(counts, a, b, classes=np.arange(3))
        assert (same.low, same.high) == pytest.approx((found.low, found.high))
        head = two_laws_log_likelihood(counts, a, b, classes=np.array([0, 1, 1]))
        assert head.value == pytest.approx(3 * math.log(2) + 6 * math.log(0.5 / 0.75))

    def test_log_likelihood_covers_its_mean(self) -> None:
        # False fail 1e-7 where coverage is 0.93 to 0.97; sees 0.83 or less, or draws counted as one (n
        # forgotten).
        rng, a, b = np.random.default_rng(14), zipf(40), tempered(zipf(40), 0.95)
        truth = 500 * kl_divergence(a, b)
        covered = sum(two_laws_log_likelihood(draws(a, 500, rng), a, b).contains(truth) for _ in range(400))
        low, high = coverage_ends(400, 0.93, 0.97, 1e-7)
        assert low <= covered <= high

    def test_impossible_draws_decide(self) -> None:
        some, never = probs(0.5, 0.5), probs(1.0, 0.0)
        counts = Counts(np.array([1, 1]), 2)
        assert two_laws_log_likelihood(counts, some, never).value == math.inf
        assert two_laws_log_likelihood(counts, never, some).low == -math.inf


RNG = np.random.default_rng(0)
BAD_INPUTS = {
    "negative error": lambda: Estimate.exact(1.0, error=-1.0),
    "scaled by zero": lambda: Estimate.exact(1.0).scaled(0.0),
    "more successes than draws": lambda: proportion(5, 3),
    "no draws": lambda: proportion(0, 0),
    "half a success": lambda: proportion(0.5, 3),
    "successes that are a truth value": lambda: proportion(True, 3),
    "confidence in per cent": lambda: proportion(1, 3, 95),
    "expected probability 0": lambda: ratio_of_proportion(1, 3, 0.0),
    "mean of nothing": lambda: mean([]),
    "mean of NaN": lambda: mean([1.0, math.nan]),
    "mean whose squares overflow": lambda: mean([1e308, 1e308]),
    "mean of text": lambda: mean("a"),
    "confidence as text": lambda: proportion(0, 1, "0.9"),
    "more draws than float64 tells apart": lambda: proportion(10**29, 10**30),
    "an estimate of NaN": lambda: Estimate(math.nan, 0.0, 1.0, 0.95, 3, "test", Guarantee.ASYMPTOTIC),
    "an interval of NaN": lambda: Estimate(0.5, 0.0, math.nan, 0.95, 3, "test", Guarantee.ASYMPTOTIC),
    "a tail of 1e17 draws": lambda: tail_test(5 * 10**16, 10**17, 0.5),
    "a tail of 2^53 draws": lambda: tail_test(2**52, 2**53, 0.5),
    "ragged tokens": lambda: Counts.from_tokens([[1], [1, 2]], 3),
    "no clusters": lambda: cluster_bootstrap(lambda at: 0.0, 0, rng=RNG),
    "statistic that is NaN": lambda: cluster_bootstrap(lambda at: math.nan, 3, rng=RNG, resamples=39),
    "two resamples": lambda: cluster_bootstrap(lambda at: at.mean(), 3, rng=RNG, resamples=2),
    "two resamples of strata": lambda: stratified_bootstrap(lambda at: 0.0, [3], rng=RNG, resamples=2),
    "no tokens": lambda: Counts.from_tokens([], 3),
    "token too large": lambda: Counts.from_tokens([3], 3),
    "negative token": lambda: Counts.from_tokens([-1], 3),
    "tokens that are floats": lambda: Counts.from_tokens([0.0], 3),
    "no vocabulary": lambda: Counts.from_tokens([0], 0),
    "negative count": lambda: Counts(np.array([2, -1]), 1),
    "counts of another n": lambda: Counts(np.array([2, 1]), 4),
    "counts in two dimensions": lambda: Counts(np.array([[2, 1]]), 3),
    "counts as floats": lambda: Counts(np.array([2.0, 1.0]), 3),
    "sum of unequal vocabularies": lambda: Counts.from_tokens([0], 3) + Counts.from_tokens([0], 4),
    "unequal vocabularies": lambda: kl_divergence(zipf(3), zipf(4)),
    "probabilities in two dimensions": lambda: total_variation(np.eye(2), np.eye(2)),
    "negative probability": lambda: total_variation(np.array([1.5, -0.5]), zipf(2)),
    "probabilities that do not sum to 1": lambda: total_variation(np.array([0.5, 0.4]), zipf(2)),
    "factor 0": lambda: suppressed_mass(zipf(2), zipf(2), 0.0),
    "rate 0": lambda: tail_test(0, 5, 0.0),
    "false-fail rate 0": lambda: detectable_tail(5, 0.5, 0.0),
    "nothing to detect": lambda: draws_needed_tail(0.1, 0.1),
    "rate above 1": lambda: draws_needed_tail(0.1, 1.1),
    "labels of another vocabulary": lambda: two_laws_log_likelihood(
        Counts.from_tokens([0], 3), zipf(3), zipf(3), classes=np.array([0, 1])
    ),
    "draws that neither law makes": lambda: two_laws_log_likelihood(
        Counts.from_tokens([0], 2), probs(0.0, 1.0), probs(0.0, 1.0)
    ),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_clear_error(name: str) -> None:
    with pytest.raises(InputError) as caught:
        BAD_INPUTS[name]()
    assert all((caught.value.got, caught.value.expected, caught.value.remedy))
    assert "\n" not in str(caught.value)
