"""The judge: estimates, counts, divergences, temperature, diversity, tests.

Every random test names its false-fail rate (over the choice of seed; the seed is fixed) and what it can detect.
"""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from precision_lab.errors import InputError
from precision_lab.laws.law import Law, target_law
from precision_lab.statistics import (
    Counts,
    Estimate,
    chao_wang_jost,
    cluster_bootstrap,
    detectable_tail,
    distinct_n,
    draws_needed_tail,
    effective_temperature,
    entropy,
    kl_divergence,
    log_odds_spectrum,
    max_log_ratio,
    mean,
    proportion,
    ratio_of_proportion,
    sequence_entropy,
    sequence_entropy_estimate,
    suppressed_mass,
    tail_test,
    temperature_from_draws,
    to_bits,
    total_variation,
    two_laws_log_likelihood,
)
from precision_lab.types import Guarantee


def law(log_weights: np.ndarray) -> Law:
    log_weights = np.asarray(log_weights, dtype=np.float64)
    return Law(log_weights - logsumexp(log_weights), "test", 0.0, Guarantee.EXACT)


def probs(*values: float) -> Law:
    return Law.from_probs(np.array(values), "test", 0.0, Guarantee.EXACT)


def tempered(p: Law, temperature: float) -> Law:
    return law(p.log_probs / temperature)


def zipf(vocab: int) -> Law:
    return law(-np.log(np.arange(1.0, vocab + 1)))


def draws(p: Law, n: int, rng: np.random.Generator) -> Counts:
    return Counts(rng.multinomial(n, p.probs / p.probs.sum()).astype(np.int64), n)


def coverage_ends(repeats: int, lowest: float, highest: float, false_fail: float) -> tuple[float, float]:
    """Between which a count of covering intervals lies with 1 - false_fail, if coverage is in [lowest, highest]."""
    return stats.binom.ppf(false_fail / 2, repeats, lowest), stats.binom.isf(false_fail / 2, repeats, highest)


# Logits on a grid of 1/4 nat: laws are then equal or clearly different, and never nearly flat.
logit_rows = st.lists(st.integers(-40, 40).map(lambda k: k / 4), min_size=2, max_size=12)
two_rows = st.integers(2, 12).flatmap(
    lambda vocab: st.tuples(*[st.lists(st.integers(-40, 40).map(lambda k: k / 4), min_size=vocab, max_size=vocab)] * 2)
)


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
        # False fail 1e-7 where coverage is 0.90 to 0.97 (BCa at 40 clusters). Sees 0.80 or less: resampling the 5 equal
        # values inside each cluster as if they were independent covers about 0.6 and fails.
        rng, repeats, covered, control = np.random.default_rng(2), 400, 0, 0
        for _ in range(repeats):
            values = rng.normal(0, 1, 40)
            inside = np.repeat(values, 5)
            covered += cluster_bootstrap(lambda at, v=values: v[at].mean(), 40, rng=rng, resamples=200).contains(0)
            naive = inside[rng.integers(0, 200, (200, 200))].mean(axis=1)
            control += bool(np.quantile(naive, 0.025) <= 0 <= np.quantile(naive, 0.975))
        low, high = coverage_ends(repeats, 0.90, 0.97, 1e-7)
        assert low <= covered <= high
        assert control < low

    def test_bootstrap_edges(self) -> None:
        rng = np.random.default_rng(3)
        same = cluster_bootstrap(lambda at: 7.0, 5, rng=rng, resamples=20)
        assert (same.low, same.value, same.high, same.n) == (7.0, 7.0, 7.0, 5)
        lone = cluster_bootstrap(lambda at: 7.0, 1, rng=rng)
        assert (lone.low, lone.high) == (-math.inf, math.inf)

    def test_bootstrap_agrees_with_scipy(self) -> None:
        # Two Monte Carlo intervals with 20,000 resamples: their upper ends differ by 0.055 standard errors (one sd),
        # allowed 0.35: false fail 1e-9. Sees percentile and basic intervals, whose upper ends are 0.7 and 1.3 off.
        values = np.random.default_rng(4).lognormal(0, 1.2, 25)
        ours = cluster_bootstrap(lambda at: values[at].mean(), 25, rng=np.random.default_rng(5), resamples=20_000)
        theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(6))
        error = values.std() / 5
        assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.35 * error)
        assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.35 * error)


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
        assert total_variation(q, p) == kl_divergence(q, p) == max_log_ratio(q, p) == suppressed_mass(q, p) == 0.0

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
        q = Law(np.array([math.log(0.5) + math.log1p(size), math.log(0.5) + math.log1p(-size)]), "", 0, Guarantee.EXACT)
        slack = 4e-16 / size  # log(0.5) + h is stored to 1e-16
        assert total_variation(q, p) == pytest.approx(size / 2, rel=slack)
        assert kl_divergence(q, p) == pytest.approx(size**2 / 2, rel=slack + size**2)


class TestEffectiveTemperature:
    @pytest.mark.parametrize("temperature", [0.02, 0.3, 0.9, 1 - 1e-6, 1 + 1e-9, 1.1, 4.0, 60.0, -2.0])
    @pytest.mark.parametrize("vocab", [2, 50, 3000])
    def test_recovers_the_temperature_of_a_tempered_law(self, vocab: int, temperature: float) -> None:
        p = target_law(np.random.default_rng(vocab).normal(0, 3, vocab))
        found = effective_temperature(tempered(p, temperature), p)
        assert found.temperature.value == pytest.approx(temperature, rel=1e-10)
        assert found.share == pytest.approx(1.0, abs=1e-7)

    def test_small_deviation_to_relative_accuracy(self) -> None:
        p = zipf(1000)
        found = effective_temperature(tempered(p, 1 + 1e-9), p)
        assert found.temperature.value - 1 == pytest.approx(1e-9, rel=1e-5)

    @settings(deadline=None)
    @given(two_rows)
    def test_pythagoras(self, rows: tuple[list[float], list[float]]) -> None:
        """KL(q||p) = KL(q||p_b) + KL(p_b||p), and p_b is the nearest of the tempered laws."""
        q, p = (target_law(np.array(row)) for row in rows)
        assume(np.ptp(rows[1]) > 0)
        found = effective_temperature(q, p)
        b = 1 / found.temperature.value
        assume(abs(b) < 1e3)
        nearest = kl_divergence(q, law(b * p.log_probs))
        assert nearest + found.share * found.kl == pytest.approx(found.kl, rel=1e-9, abs=1e-12)
        for other in (b - 0.01, b + 0.01):
            assert kl_divergence(q, law(other * p.log_probs)) >= nearest - 1e-12

    @settings(deadline=None)
    @given(two_rows, st.randoms(use_true_random=False))
    def test_permutation_and_shift(self, rows: tuple[list[float], list[float]], random) -> None:
        assume(np.ptp(rows[1]) > 0)
        order = list(range(len(rows[0])))
        random.shuffle(order)
        first = effective_temperature(*(target_law(np.array(row)) for row in rows))
        second = effective_temperature(*(target_law(np.array(row)[order] - 7.25) for row in rows))
        b, other = 1 / first.temperature.value, 1 / second.temperature.value
        assert other == pytest.approx(b, rel=1e-8, abs=1e-9)
        assert second.share == pytest.approx(first.share, abs=1e-7)

    def test_against_mpmath_on_fifty_tokens(self) -> None:
        rng = np.random.default_rng(7)
        x = rng.normal(0, 3, 50)
        y = x + rng.normal(0, 0.01, 50) + 0.002 * x
        found = effective_temperature(law(y), law(x))
        with mpmath.workdps(40):
            xs, ys = ([mpmath.mpf(float(v)) for v in row] for row in (x, y))
            q = [mpmath.exp(v) / mpmath.fsum(map(mpmath.exp, ys)) for v in ys]
            log_p = [v - mpmath.log(mpmath.fsum(map(mpmath.exp, xs))) for v in xs]

            def at(b: mpmath.mpf) -> list:
                weights = [mpmath.exp(b * v) for v in log_p]
                return [w / mpmath.fsum(weights) for w in weights]

            goal = mpmath.fdot(q, log_p)
            b = mpmath.findroot(lambda b: mpmath.fdot(at(b), log_p) - goal, (0.9, 1.1), solver="anderson", tol=1e-30)
            kl = mpmath.fsum(a * (mpmath.log(a) - v) for a, v in zip(q, log_p, strict=True))
            explained = mpmath.fsum(a * (mpmath.log(a) - v) for a, v in zip(at(b), log_p, strict=True))
            assert found.temperature.value == pytest.approx(float(1 / b), rel=1e-14)
            assert found.kl == pytest.approx(float(kl), rel=1e-11)
            assert found.share == pytest.approx(float(explained / kl), rel=1e-10)

    def test_equal_laws(self) -> None:
        found = effective_temperature(zipf(9), zipf(9))
        assert (found.temperature.value, found.share, found.kl) == (1.0, 0.0, 0.0)
        assert found.temperature.guarantee is Guarantee.EXACT

    @pytest.mark.parametrize("p", [probs(1.0), probs(*[1 / 7] * 7), probs(0.5, 0.0, 0.5)])
    def test_flat_targets_leave_it_undetermined(self, p: Law) -> None:
        found = effective_temperature(p, p).temperature
        assert (found.value, found.low, found.high) == (1.0, 0.0, math.inf)
        assert "undetermined" in found.method
        drawn = temperature_from_draws(Counts.from_tokens([0], p.vocab), p)
        assert (drawn.value, drawn.low, drawn.high) == (1.0, 0.0, math.inf)

    def test_one_token_above_underflow_is_undetermined(self) -> None:
        p = target_law(np.array([0.0, -1000.0]))
        assert "undetermined" in effective_temperature(p, p).temperature.method

    def test_ends_of_the_scale(self) -> None:
        p = probs(0.4, 0.4, 0.15, 0.05)
        mode = effective_temperature(probs(0.5, 0.5, 0.0, 0.0), p)
        assert (mode.temperature.value, mode.share) == (0.0, pytest.approx(1.0))
        half = effective_temperature(probs(1.0, 0.0, 0.0, 0.0), p)  # KL: log 2.5 = log 1.25 (temperature) + log 2
        assert (half.temperature.value, half.share) == (0.0, pytest.approx(math.log(1.25) / math.log(2.5)))
        least = effective_temperature(probs(0.0, 0.0, 0.0, 1.0), p)
        assert math.copysign(1, least.temperature.value) == -1
        assert least.temperature.value == 0
        assert effective_temperature(probs(0.25, 0.25, 0.25, 0.25), p).temperature.value == math.inf

    def test_mass_outside_the_support(self) -> None:
        p, q = probs(0.7, 0.3, 0.0), probs(0.35, 0.15, 0.5)
        found = effective_temperature(q, p)
        assert (found.kl, found.share) == (math.inf, 0.0)
        assert found.temperature.value == pytest.approx(1.0, abs=1e-12)

    def test_a_sliver_inside_the_support_still_has_a_temperature(self) -> None:
        p = probs(0.7, 0.3, 0.0)
        q = Law(np.append(tempered(probs(0.7, 0.3), 2).log_probs - 2000, 0.0), "", 0.0, Guarantee.EXACT)
        assert effective_temperature(q, p).temperature.value == pytest.approx(2.0, rel=1e-9)

    @pytest.mark.parametrize("gap", [40.0, 300.0, 640.0])
    def test_targets_that_are_nearly_one_token(self, gap: float) -> None:
        p = target_law(np.array([0.0, -gap]))
        found = effective_temperature(tempered(p, 5.0), p)
        assert found.temperature.value == pytest.approx(5.0, rel=1e-10)
        drawn = temperature_from_draws(Counts(np.array([100, 0]), 100), p)  # the half-count rule again
        assert drawn.value == pytest.approx(gap / math.log(201), rel=1e-9)

    def test_nearly_flat_targets_terminate(self) -> None:
        """Hundreds of nats in q over differences of 1e-13 in p: the temperature is 1e-15 or 0, and a number."""
        p = target_law(np.array([-2.3e-13, 1.1e-13, 6.1e-13]))
        for row in ([794.0, 72.0, -np.inf], [50.0, 0.0, -50.0], [0.0, 72.0, 794.0]):
            assert abs(effective_temperature(target_law(np.array(row)), p).temperature.value) < 1e-12

    def test_nearly_degenerate_law(self) -> None:
        p = target_law(np.array([3.0, 1.0, 0.0, -200.0]))
        assert effective_temperature(tempered(p, 0.004), p).temperature.value == pytest.approx(0.004, rel=1e-10)


class TestTemperatureFromDraws:
    @pytest.mark.parametrize("temperature", [0.8, 1.0, 1.25])
    def test_covers_and_excludes(self, temperature: float) -> None:
        # False fail 2e-7 where coverage is 0.93 to 0.97: each estimate from 2000 draws of a Zipf law of 30 tokens
        # (standard error 0.013 to 0.032). Sees coverage of 0.83 or less. Control: where the draws are at 0.8 or 1.25,
        # eight standard errors or more from 1, no interval holds 1 (300 chances of 1e-9 each).
        rng, p, repeats = np.random.default_rng(8), zipf(30), 300
        found = [temperature_from_draws(draws(tempered(p, temperature), 2000, rng), p) for _ in range(repeats)]
        low, high = coverage_ends(repeats, 0.93, 0.97, 1e-7)
        assert low <= sum(e.contains(temperature) for e in found) <= high
        if temperature != 1:
            assert not any(e.contains(1.0) for e in found)

    def test_covers_with_few_draws(self) -> None:
        # False fail 1e-7 where coverage is 0.92 to 0.98, at 12 draws each; sees coverage of 0.83 or less.
        rng, p, repeats = np.random.default_rng(9), zipf(30), 400
        covered = sum(temperature_from_draws(draws(p, 12, rng), p).contains(1.0) for _ in range(repeats))
        low, high = coverage_ends(repeats, 0.92, 0.98, 1e-7)
        assert low <= covered <= high

    def test_firth_takes_the_bias_away_by_enumeration(self) -> None:
        """25 draws of two tokens: E[b] - 1 is 0.0015; plain maximum likelihood has 0.059, infinite b left out."""
        n, p = 25, probs(0.8, 0.2)
        hits = np.arange(n + 1)
        weights = stats.binom.pmf(hits, n, 0.8)
        ours = [1 / temperature_from_draws(Counts(np.array([k, n - k]), n), p).value for k in hits]
        assert abs(np.sum(weights * ours) - 1) < 0.005
        inner = slice(1, n)
        plain = np.log(hits[inner] / (n - hits[inner])) / math.log(4)
        assert np.average(plain, weights=weights[inner]) - 1 > 0.05

    @given(st.integers(0, 40), st.integers(0, 40))
    def test_two_tokens_is_the_half_count_rule(self, heads: int, tails: int) -> None:
        """Firth for one logit adds 1/2 to each count: b log(p1/p2) = log((k + 1/2) / (n - k + 1/2))."""
        assume(heads + tails > 0)
        p = probs(0.8, 0.2)
        found = temperature_from_draws(Counts(np.array([heads, tails]), heads + tails), p)
        b = math.log((heads + 0.5) / (tails + 0.5)) / math.log(4)
        assert 1 / found.value == pytest.approx(b, rel=1e-9, abs=1e-9)
        assert ("separated" in found.method) == (heads == 0 or tails == 0)

    def test_interval_is_where_the_likelihood_falls_short(self) -> None:
        p, counts = zipf(6), np.array([30, 14, 9, 6, 5, 6])
        found = temperature_from_draws(Counts(counts, 70), p, 0.9)

        def likelihood(b: float) -> float:
            at = law(b * p.log_probs)
            variance = np.sum(at.probs * (p.log_probs - np.sum(at.probs * p.log_probs)) ** 2)
            return float(np.sum(counts * at.log_probs) + 0.5 * math.log(70 * variance))

        top, drop = likelihood(1 / found.value), stats.chi2.ppf(0.9, 1) / 2
        for end in (found.low, found.high):
            assert likelihood(1 / end) == pytest.approx(top - drop, abs=1e-9)
        for nearby in (found.value * 0.99, found.value * 1.01):
            assert likelihood(1 / nearby) < top

    def test_separation_is_finite_and_flagged(self) -> None:
        found = temperature_from_draws(Counts(np.array([50, 0, 0]), 50), target_law(np.array([2.0, 1.0, 0.0])))
        assert "separated" in found.method
        assert 0 < found.low < found.value < found.high < 1

    def test_intervals_that_reach_infinite_temperature(self) -> None:
        p = target_law(np.array([2.0, 1.0, 0.0]))
        even = temperature_from_draws(Counts(np.array([2, 2, 2]), 6), p)
        assert (even.value, even.high) == (math.inf, math.inf)
        assert even.low > 1
        below = temperature_from_draws(Counts(np.array([0, 3, 3]), 6), p)
        assert (below.low, below.high) == (-math.inf, math.inf)
        inverse = temperature_from_draws(Counts(np.array([1000, 2000, 3000]), 6000), p)
        assert inverse.low < inverse.value < inverse.high < 0

    def test_many_draws_agree_with_the_law(self) -> None:
        """Counts in exact proportion to q have the temperature of q, up to 1/n."""
        p, q = probs(0.5, 0.25, 0.25), probs(0.6, 0.2, 0.2)
        found = temperature_from_draws(Counts(np.array([6, 2, 2]) * 10**8, 10**9), p)
        assert found.value == pytest.approx(effective_temperature(q, p).temperature.value, abs=1e-7)


class TestSpectrum:
    def test_tempered_law_has_one_slope(self) -> None:
        p = zipf(5000)
        bands = log_odds_spectrum(tempered(p, 0.8), p, [-20, -8, -4, 0])
        assert [band.slope for band in bands] == pytest.approx([1.25] * 3, rel=1e-12)
        assert math.fsum(band.mass for band in bands) == pytest.approx(1.0)
        assert [(band.low, band.high) for band in bands] == [(-20, -8), (-8, -4), (-4, 0)]

    def test_a_lost_tail_is_seen_where_it_is(self) -> None:
        p = zipf(1000)
        log_q = p.log_probs.copy()
        log_q[500:] += 3 * (log_q[500:] - log_q[500])  # four times as steep
        log_q[900:] = -np.inf
        edge = p.log_probs[500] + 1e-9
        tail, head = log_odds_spectrum(law(log_q), p, [-np.inf, edge, np.inf])
        assert (head.slope, tail.slope) == (pytest.approx(1.0), pytest.approx(4.0))
        assert head.unreachable == 0
        assert tail.unreachable == pytest.approx(p.probs[900:].sum())

    def test_bands_with_nothing_to_compare(self) -> None:
        empty, single = log_odds_spectrum(probs(0.75, 0.25), probs(0.75, 0.25), [-9.0, -5.0, -1.0])
        assert (empty.mass, single.mass) == (0.0, 0.25)
        assert math.isnan(empty.slope)
        assert math.isnan(single.slope)
        apart = target_law(np.array([800.0, 0.0, -600.0]))
        assert math.isnan(log_odds_spectrum(apart, apart, [-np.inf, 1.0])[0].slope)


def cwj_by_hand(counts: list[int]) -> float:
    """Chao, Wang and Jost's double sum as printed, rational but for one logarithm, in 200 digits."""
    n, f1, f2 = sum(counts), counts.count(1), counts.count(2)
    harmonic = [sum((Fraction(1, k) for k in range(x, n)), Fraction(0)) for x in counts if x]
    total = sum((Fraction(x, n) * h for x, h in zip([c for c in counts if c], harmonic, strict=True)), Fraction(0))
    if f1 == 0:
        return float(total)
    a = Fraction(2 * f2, (n - 1) * f1 + 2 * f2) if f2 else Fraction(2, (n - 1) * (f1 - 1) + 2)
    if a == 1:
        return float(total)
    with mpmath.workdps(200):
        partial = sum((Fraction(1, r) * (1 - a) ** r for r in range(1, n)), Fraction(0))
        bracket = -mpmath.log(mpmath.mpf(a.numerator) / a.denominator)
        bracket -= mpmath.mpf(partial.numerator) / partial.denominator
        unseen = Fraction(f1, n) * (1 - a) ** (1 - n)
        rest = mpmath.mpf(unseen.numerator) / unseen.denominator * bracket
        return float(mpmath.mpf(total.numerator) / total.denominator + rest)


class TestDiversity:
    def test_entropy_closed_forms(self) -> None:
        assert entropy(probs(*[1 / 8] * 8)) == pytest.approx(math.log(8), rel=1e-15)
        assert entropy(probs(0.5, 0.25, 0.25, 0.0)) == pytest.approx(1.5 * math.log(2), rel=1e-15)
        assert entropy(probs(1.0)) == 0.0
        assert entropy(Counts(np.array([2, 1, 1, 0]), 4)) == pytest.approx(1.5 * math.log(2), rel=1e-15)
        assert to_bits(entropy(probs(*[1 / 8] * 8))) == pytest.approx(3.0)

    def test_sequence_entropy_per_row(self) -> None:
        rows = np.array([[5, 5, 5, 5], [1, 2, 1, 2], [0, 1, 2, 3]])
        assert sequence_entropy(rows) == pytest.approx([0.0, math.log(2), math.log(4)])

    @given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.randoms(use_true_random=False))
    def test_sequence_entropy_ignores_order_and_names(self, row: list[int], random) -> None:
        other = [9 - token for token in row]
        random.shuffle(other)
        first, second = sequence_entropy(np.array([row, other]))
        assert first == pytest.approx(second, abs=1e-14)
        assert 0 <= first <= math.log(len(row)) + 1e-14

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 7), min_size=1, max_size=9))
    def test_chao_wang_jost_against_the_double_sum(self, counts: list[int]) -> None:
        assume(sum(counts) > 0)
        found = chao_wang_jost(Counts(np.array(counts), sum(counts)))
        assert found == pytest.approx(cwj_by_hand(counts), rel=1e-11, abs=1e-13)

    @pytest.mark.parametrize("counts", [[1] * 30, [1] * 20 + [2], [300, 1, 1, 2], [1, 0], [500], [40, 2, 2], [400, 1]])
    def test_chao_wang_jost_edges(self, counts: list[int]) -> None:
        found = chao_wang_jost(Counts(np.array(counts), sum(counts)))
        assert found == pytest.approx(cwj_by_hand(counts), rel=1e-11, abs=1e-13)

    def test_correction_of_published_entropy(self) -> None:
        # Zipf, 50,257 tokens, 1024 draws, 40 repeats: means 5.706 (plug-in) and 6.850 (corrected) for 7.566, standard
        # errors 0.010 and 0.018 (measured on 200 other rows, so known to half of that). Allowed 0.07 and 0.13, six of
        # both errors together: false fail 4e-9. Sees 2 % in either: another logarithm, a correction of another order.
        rng, p = np.random.default_rng(11), zipf(50_257)
        rows = np.searchsorted(np.cumsum(p.probs), rng.random((40, 1024)))
        corrected = np.mean([chao_wang_jost(Counts.from_tokens(row, p.vocab + 1)) for row in rows])
        assert entropy(p) == pytest.approx(7.566, abs=1e-3)
        assert sequence_entropy(rows).mean() == pytest.approx(5.706, abs=0.07)
        assert corrected == pytest.approx(6.850, abs=0.13)

    def test_sequence_entropy_estimate(self) -> None:
        # The value is exact. The width is held to 30 % of t's (its Monte Carlo error is 3 %, one sd, and BCa differs
        # from t by 3 %: false fail below 1e-9). Sees units miscounted by a factor of 2, tokens taken for sequences.
        rng = np.random.default_rng(12)
        rows = np.array([rng.integers(0, width, 50) for width in rng.integers(2, 40, 60)])
        found, student = sequence_entropy_estimate(rows, rng=rng), mean(sequence_entropy(rows))
        assert (found.value, found.n) == (pytest.approx(student.value), 60)
        assert found.high - found.low == pytest.approx(student.high - student.low, rel=0.3)

    def test_distinct_n(self) -> None:
        rows = np.array([[1, 2, 1, 2], [2, 1, 2, 1]])
        assert distinct_n(rows, 1) == 2 / 8
        assert distinct_n(rows, 2) == 2 / 6
        assert distinct_n(rows, 4) == 1.0

    @given(
        st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 3), min_size=8, max_size=8)))
    )
    def test_distinct_n_is_a_set_over_a_list(self, case: tuple[int, list[int]]) -> None:
        n, flat = case
        rows = np.array(flat).reshape(2, 4)
        grams = [tuple(row[i : i + n]) for row in rows.tolist() for i in range(4 - n + 1)]
        assert distinct_n(rows, n) == len(set(grams)) / len(grams)


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
        n = draws_needed_tail(1e-3, 1.1e-3)  # upwards is the harder side, so it is the one that detectable reports
        assert detectable_tail(n, 1e-3) == pytest.approx(0.1, rel=1e-3)
        assert draws_needed_tail(1e-3, 0.9e-3) < n

    def test_a_biased_tail_fails_and_a_right_one_passes(self) -> None:
        # False fail 1e-6, false pass 1e-6: sees a tail that is 10 % short, at the draws that draws_needed_tail wants.
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
        # False fail 1e-7 where coverage is 0.93 to 0.97; sees 0.83 or less, or draws counted as one (n forgotten).
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


TOKENS = np.zeros((2, 3), dtype=np.int64)
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
    "no clusters": lambda: cluster_bootstrap(lambda at: 0.0, 0, rng=RNG),
    "statistic that is NaN": lambda: cluster_bootstrap(lambda at: math.nan, 3, rng=RNG, resamples=3),
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
    "temperature over unequal vocabularies": lambda: effective_temperature(zipf(3), zipf(4)),
    "no common token": lambda: effective_temperature(probs(0.0, 0.0, 1.0), probs(0.6, 0.4, 0.0)),
    "draws that p cannot make": lambda: temperature_from_draws(Counts.from_tokens([2], 3), probs(0.6, 0.4, 0.0)),
    "draws of another vocabulary": lambda: temperature_from_draws(Counts.from_tokens([2], 4), zipf(3)),
    "edges that fall": lambda: log_odds_spectrum(zipf(3), zipf(3), [0.0, -1.0]),
    "one edge": lambda: log_odds_spectrum(zipf(3), zipf(3), [0.0]),
    "sequences of unequal length": lambda: sequence_entropy([[1, 2], [3]]),
    "one sequence without its axis": lambda: sequence_entropy([1, 2]),
    "empty sequences": lambda: sequence_entropy(np.zeros((2, 0), dtype=np.int64)),
    "float tokens": lambda: sequence_entropy(np.zeros((2, 2))),
    "n-grams longer than the text": lambda: distinct_n(TOKENS, 4),
    "0-grams": lambda: distinct_n(TOKENS, 0),
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
