"""Independence across seeds, positions, rows and models: levels by enumeration, closed forms, and samplers
that fail.

Every random test names its false-fail rate (over the choice of seed; the seed is fixed) and what it can
detect. Wrong samplers here have perfect marginals: only the joint law is wrong.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.laws.law import Law
from precision_lab.statistics.independence import (
    Chance,
    agreement,
    agreement_test,
    assert_cross_row,
    assert_repeated_vector,
    cross_row_test,
    detectable_sharing,
    detectable_state_bits,
    draft_target_test,
    draws_needed_sharing,
    draws_needed_state_bits,
    repeated_vector_test,
    serial_test,
    shuffle_test,
    window_test,
)
from precision_lab.statistics.testing import SamplerRejected
from precision_lab.types import Guarantee

HASH = Chance.of_bits(64)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def normal_probs(vocab: int, seed: int, sd: float = 2.0) -> np.ndarray:
    return softmax(np.random.default_rng(seed).normal(0, sd, vocab))


def zipf(vocab: int) -> np.ndarray:
    return softmax(-np.log(np.arange(1.0, vocab + 1)))


def flat(vocab: int) -> np.ndarray:
    return np.full(vocab, 1 / vocab)


def gumbel(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return -np.log(rng.standard_exponential(shape))


def argmax(p: np.ndarray, noise: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return (np.log(p) + noise).argmax(axis=-1)


def fmix32(x: np.ndarray) -> np.ndarray:
    """Murmur3's finaliser on uint32."""
    x = x.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def hashed_noise(pairs: int, vocab: int, state_bits: int) -> np.ndarray:
    """Uniform noise (pairs, vocab) from a hash of (state, token), the state a hash of the pair cut to
    ``state_bits``."""
    state = fmix32(np.arange(pairs) * 2654435761 % 2**32) >> np.uint32(32 - state_bits)
    token = (np.arange(vocab) * 0x9E3779B9 % 2**32).astype(np.uint32)
    return fmix32(state[:, None] ^ fmix32(token)).astype(np.float64) * 2.0**-32


class TestRepeatedVectors:
    @staticmethod
    def law_of_repeats(k: int, weights: list[Fraction]) -> list[Fraction]:
        """P(k - distinct = r), r = 0..k-1, by the chain over which values were seen, and by the number for
        equal ones."""
        if len(set(weights)) == 1:
            law = [Fraction(1)] + [Fraction(0)] * k
            for i in range(k):
                again = [min(Fraction(1), (i - r) * weights[0]) for r in range(k + 1)]
                law = [law[r] * (1 - again[r]) + (law[r - 1] * again[r - 1] if r else 0) for r in range(k + 1)]
            return law
        law = [Fraction(0)] * (k + 1)
        for draws in itertools.product(range(len(weights)), repeat=k):
            law[k - len(set(draws))] += math.prod((weights[d] for d in draws), start=Fraction(1))
        return law

    @pytest.mark.parametrize(
        ("k", "weights"),
        [
            *[
                (k, [Fraction(1, states)] * states)
                for k, states in [(4, 3), (5, 6), (6, 40), (30, 4000), (60, 4000)]
            ],
            (4, [Fraction(w, 20) for w in (7, 5, 2, 2, 1, 1, 1, 1)]),
            (3, [Fraction(w, 100) for w in (12, 8, *[4] * 10, *[2] * 20)]),
        ],
    )
    def test_p_value_bounds_the_exact_law(self, k: int, weights: list[Fraction]) -> None:
        law, null = self.law_of_repeats(k, weights), Chance.of_draws(np.array([float(w) for w in weights]))
        assert sum(law) == 1
        assert null.pair == pytest.approx(float(sum(w * w for w in weights)), rel=1e-12)
        assert null.most == pytest.approx(float(max(weights)), rel=1e-12)
        ratios = []
        for repeats in range(1, k):
            exact = float(sum(law[repeats:]))
            p_value = repeated_vector_test(np.r_[np.arange(k - repeats), np.zeros(repeats)], null).p_value
            assert p_value >= exact * (1 - 1e-12)
            ratios.append(p_value / exact)
        assert min(ratios) < 1.5  # and says something

    def test_p_value_bounds_the_exact_law_of_one_heavy_vector(self) -> None:
        # Heavy with 1/10, else one of 900: P(R >= 2) is above that of a Poisson of the expected number of
        # pairs.
        k, exact = 5, Fraction(0)
        for heavy in range(k + 1):
            others = self.law_of_repeats(k - heavy, [Fraction(1, 900)] * 900)
            ways = math.comb(k, heavy) * Fraction(1, 10) ** heavy * Fraction(9, 10) ** (k - heavy)
            exact += ways * sum(others[max(0, 2 - max(0, heavy - 1)) :])
        null = Chance.of_draws(np.r_[0.1, np.full(900, 0.001)])
        assert stats.poisson.sf(1, math.comb(k, 2) * null.pair) < exact
        assert repeated_vector_test([0, 0, 0, 1, 2], null).p_value >= exact

    def test_chance_of_draws_multiplies_over_positions(self) -> None:
        p, q = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.9, 0.0])
        null = Chance.of_draws(p, q, times=3)
        assert null.pair == pytest.approx(float((Fraction(3, 8) * Fraction(82, 100)) ** 3), rel=1e-13)
        assert null.most == pytest.approx(float((Fraction(1, 2) * Fraction(9, 10)) ** 3), rel=1e-13)
        assert Chance.of_bits(7) == Chance(2.0**-7, 2.0**-7)
        wrong = Law(np.log([0.5, 0.25, 0.25]), "test", 0.05, Guarantee.CERTIFIED)  # any law within 0.05 of it
        assert Chance.of_draws(wrong).pair == pytest.approx(0.55**2 + 2 * 0.3**2)
        assert Chance.of_draws(wrong).most == pytest.approx(0.55)

    def test_rows_are_counted_and_one_is_as_likely_as_expected(self) -> None:
        rows = np.array([[1, 2], [3, 4], [1, 2], [1, 2], [3, 4], [5, 6]])
        result = repeated_vector_test(rows, HASH)
        assert (result.statistic, result.n) == (3.0, 6)
        once = repeated_vector_test(np.array([7, 8, 7]), HASH)
        assert once.p_value == pytest.approx(3 * 2.0**-64, rel=1e-12, abs=0)
        assert repeated_vector_test(np.arange(5), HASH).p_value == 1.0
        assert repeated_vector_test(rows / 7, HASH).statistic == 3.0
        assert repeated_vector_test(rows.T, HASH).statistic == 0.0

    @pytest.mark.parametrize(
        ("k", "null"), [(2000, HASH), (2000, Chance.of_bits(26)), (300, Chance.of_bits(12))]
    )
    def test_power_is_what_detectable_says(self, k: int, null: Chance) -> None:
        # The law of the number of states seen, by its chain: P(a new one) = 1 - seen / S.
        states = 2 ** detectable_state_bits(k, null)
        least = next(c for c in range(1, k) if self.failed(c, k, null))
        assert (least == 1) is (null is HASH)
        repeats = np.zeros(least)
        repeats[0] = 1.0
        for i in range(k):
            again = np.minimum(1.0, (i - np.arange(least)) / states).clip(0)
            repeats = repeats * (1 - again) + np.append(0.0, (repeats * again)[:-1])
        assert 1e-12 < repeats.sum() <= 1e-6

    @staticmethod
    def failed(repeats: int, k: int, null: Chance) -> bool:
        return repeated_vector_test(np.r_[np.arange(k - repeats), np.zeros(repeats)], null).failed

    @pytest.mark.parametrize("bits", [8, 16, 32, 48])
    def test_draws_needed_is_the_first_that_suffices(self, bits: int) -> None:
        needed = draws_needed_state_bits(bits, Chance.of_bits(128))
        assert (
            detectable_state_bits(needed, Chance.of_bits(128)) >= bits > detectable_state_bits(needed - 1, HASH)
        )

    def test_two_to_the_32_noise_vectors(self) -> None:
        # A sampler whose noise is a hash of a 32-bit state: 18.6 pairs in 400,000, of which none is due.
        assert math.comb(400_000, 2) / 2**32 == pytest.approx(18.63, abs=0.01)
        assert 32.4 < detectable_state_bits(400_000, HASH) < 32.5
        assert draws_needed_state_bits(32, HASH) == 344_492
        assert repeated_vector_test(np.r_[np.arange(399_999), 0], HASH).p_value == pytest.approx(
            4.337e-9, rel=1e-3
        )

    def test_a_wide_state_passes(self) -> None:
        # False fail 1e-6 by construction. Sees a state of 24 bits.
        words = np.random.default_rng(1).integers(0, 2**63, (21_532, 2))
        result = assert_repeated_vector(words, HASH)
        assert 24 <= result.detectable < 24.001
        assert result.expected == pytest.approx(math.comb(21_532, 2) / 2**64, rel=1e-9, abs=0)

    def test_a_16_bit_state_fails_as_noise_and_as_draws(self) -> None:
        k = draws_needed_state_bits(16, HASH)
        noise = hashed_noise(k, 64, 16)
        assert noise.mean() == pytest.approx(0.5, abs=0.01)
        result = repeated_vector_test(noise, HASH)
        assert result.failed
        assert k == 1347
        assert 1 <= result.statistic < 60  # 13.8 are expected of 2^16 states
        laws = [normal_probs(64, seed, 1.0) for seed in range(12)]
        rows = np.stack([argmax(p, -np.log(-np.log(noise + 2.0**-33))) for p in laws], axis=1)
        # Twelve rows of logits meet the same noise vector, so their tokens depend on each other; the chance
        # that two vectors agree is that of equal noise. What is tested here is only that whole vectors come
        # back.
        assert repeated_vector_test(rows, HASH).failed
        with pytest.raises(SamplerRejected, match="repeated_vector_test: p = "):
            assert_repeated_vector(noise, HASH)

    def test_too_short_vectors_see_nothing(self) -> None:
        short = Chance.of_draws(zipf(100))
        assert detectable_state_bits(1000, short) == -math.inf
        drawn = np.random.default_rng(2).choice(100, 1000, p=zipf(100))  # false fail 1e-6
        assert not repeated_vector_test(drawn, short).failed


class TestAgreementLaw:
    @staticmethod
    def oracle(p: list[Fraction], q: list[Fraction], shift: int) -> tuple[Fraction, Fraction]:
        """Over the entries of one table: entry t is token t of the first law and token t - shift of the
        second."""
        at = range(min(0, shift), len(p) + max(0, shift))

        def of(law: list[Fraction], token: int) -> Fraction:
            return law[token] if 0 <= token < len(law) else Fraction(0)

        alone = shared = Fraction(0)
        for t in at:
            a, b = of(p, t), of(q, t - shift)
            if a and b:
                alone += a * b
                shared += 1 / sum(max(of(p, j) / a, of(q, j - shift) / b) for j in at)
        return alone, shared

    rows = st.integers(1, 6).flatmap(
        lambda vocab: st.tuples(
            *[st.lists(st.integers(0, 9), min_size=vocab, max_size=vocab).filter(any)] * 2,
            st.integers(1 - vocab, vocab - 1),
        )
    )

    @given(rows)
    def test_closed_form_in_fractions(self, case: tuple[list[int], list[int], int]) -> None:
        p, q = ([Fraction(w, sum(row)) for w in row] for row in case[:2])
        exact = self.oracle(p, q, case[2])
        found = agreement(np.array(p, dtype=float), np.array(q, dtype=float), case[2])
        assert found == pytest.approx([float(value) for value in exact], rel=1e-12, abs=1e-300)
        assert found[1] >= found[0] * (1 - 1e-12)
        assert found[1] <= sum(map(min, map(float, p), map(float, q))) + 1e-12 or case[2]

    @given(rows, st.randoms(use_true_random=False))
    def test_swap_and_permutation(self, case: tuple[list[int], list[int], int], random: object) -> None:
        p, q = (np.array(row) / sum(row) for row in case[:2])
        assert agreement(p, q, case[2]) == pytest.approx(agreement(q, p, -case[2]), rel=1e-12)
        order = list(range(len(p)))
        random.shuffle(order)  # type: ignore[attr-defined]
        assert agreement(p, q) == pytest.approx(agreement(p[order], q[order]), rel=1e-12)

    def test_known_values(self) -> None:
        assert agreement(np.array([0.7, 0.3]), np.array([0.2, 0.8]))[1] == pytest.approx(0.5)  # 1 - |p1 - q1|
        assert agreement(zipf(1000), zipf(1000))[1] == pytest.approx(1.0)
        assert agreement(np.array([0.5, 0.5, 0]), np.array([0, 0, 1.0])) == (0.0, 0.0)
        for shift in (0, 1, 7, -7):
            alone, shared = agreement(flat(64), flat(64), shift)
            assert alone == pytest.approx((64 - abs(shift)) / 64**2)
            assert shared == pytest.approx((64 - abs(shift)) / (64 + abs(shift)))
        head = np.array([1 - 3e-200, 1e-200, 2e-200])
        assert agreement(head, head[[1, 2, 0]])[0] == pytest.approx(3e-200, rel=1e-12, abs=0)

    def test_shared_gumbel_noise_agrees_as_the_formula_says(self) -> None:
        # False fail 1e-7. Sees a rate off by 0.006 or more, sum of minima (0.63) and product (0.03) far beyond.
        p, q, n = normal_probs(50, 1), normal_probs(50, 2), 200_000
        noise = gumbel(np.random.default_rng(3), n, 50)
        agreed = int((argmax(p, noise) == argmax(q, noise)).sum())
        assert stats.binomtest(agreed, n, agreement(p, q)[1]).pvalue > 1e-7
        assert stats.binomtest(agreed, n, agreement(p, q)[0]).pvalue < 1e-7
        assert stats.binomtest(agreed, n, float(np.minimum(p, q).sum())).pvalue < 1e-7


class TestAgreementTest:
    @pytest.mark.parametrize(("shifts", "classes"), [((0,), 0), ((0,), 2), ((-1, 0, 1), 3), ((), 2)])
    def test_level_by_enumeration(self, shifts: tuple[int, ...], classes: int) -> None:
        # Every table of 3 pairs over 3 x 3 tokens with its exact probability under independence.
        p, q, n = (
            [Fraction(1, 2), Fraction(3, 10), Fraction(1, 5)],
            [Fraction(1, 6), Fraction(1, 3), Fraction(1, 2)],
            3,
        )
        law: dict[float, Fraction] = {}
        for cells in itertools.combinations_with_replacement(range(9), n):
            first, second = np.array(cells) // 3, np.array(cells) % 3
            ways = math.factorial(n) // math.prod(math.factorial(cells.count(c)) for c in set(cells))
            weight = ways * math.prod((p[c // 3] * q[c % 3] for c in cells), start=Fraction(1))
            laws = (np.array(p, dtype=float), np.array(q, dtype=float))
            result = agreement_test(first, second, *laws, shifts=shifts, classes=classes)
            law[result.p_value] = law.get(result.p_value, Fraction(0)) + weight
        assert sum(law.values()) == 1
        below = Fraction(0)
        for p_value in sorted(law):
            below += law[p_value]
            assert float(below) <= p_value * (1 + 1e-9) or p_value == 1.0
        assert min(law) < 0.5

    @pytest.mark.parametrize(
        ("truth", "shifts", "classes"), [((0.7, 0.3), (0,), 2), ((0.3, 0.3), (0,), 0), ((0.7, 0.3), (1,), 0)]
    )
    def test_level_holds_for_every_truth_within_the_errors(
        self, truth: tuple[float, float], shifts: tuple[int, ...], classes: int
    ) -> None:
        # 8 pairs of two tokens by enumeration; the laws say 0.5 -/+ 0.2, and without their errors the level
        # breaks.
        n, cells = 8, [a * b for a in (truth[0], 1 - truth[0]) for b in (truth[1], 1 - truth[1])]
        broken = []
        for error in (0.2, 0.0):
            given_law = Law(np.log([0.5, 0.5]), "test", error, Guarantee.CERTIFIED)
            found: list[tuple[float, float]] = []
            for table in itertools.product(range(n + 1), repeat=3):
                if sum(table) <= n:
                    table = (*table, n - sum(table))
                    pairs = np.repeat(np.arange(4), table)
                    result = agreement_test(
                        pairs // 2, pairs % 2, given_law, given_law, shifts=shifts, classes=classes
                    )
                    found.append((result.p_value, float(stats.multinomial.pmf(table, n, cells))))
            found.sort()
            below = np.cumsum([weight for _, weight in found])
            last = [i for i, (p, _) in enumerate(found) if i + 1 == len(found) or found[i + 1][0] > p]
            broken.append(any(below[i] > found[i][0] * (1 + 1e-9) for i in last if found[i][0] < 1))
        assert broken == [False, True]

    @pytest.mark.parametrize("truth", list(itertools.product((0.3, 0.7), repeat=2)))
    def test_tables_of_a_law_within_the_errors_pass(self, truth: tuple[float, float]) -> None:
        a, b = truth
        cells = [round(200 * x * y) for x in (a, 1 - a) for y in (b, 1 - b)]
        pairs = np.repeat(np.arange(4), cells)
        for error, passes in ((0.2, True), (0.1, False), (0.0, False)):
            law = Law(np.log([0.5, 0.5]), "test", error, Guarantee.CERTIFIED)
            assert (agreement_test(pairs // 2, pairs % 2, law, law).p_value > 0.5) is passes

    def test_errors_cost_power(self) -> None:
        shares = [
            detectable_sharing(500, *[Law(np.log(zipf(50)), "test", error, Guarantee.CERTIFIED)] * 2)
            for error in (0.0, 0.01, 0.1, 0.5)
        ]
        assert shares[0] < shares[1] < shares[2] < shares[3] == math.inf
        assert shares[0] == detectable_sharing(500, zipf(50), zipf(50))

    def test_a_single_event_is_the_exact_binomial_test(self) -> None:
        p = np.array([0.5, 0.5])
        first, second = np.zeros(20, dtype=int), np.r_[np.zeros(18, dtype=int), 1, 1]
        result = agreement_test(first, second, p, p, classes=0)
        assert result.p_value == pytest.approx(2 * (190 + 20 + 1) / 2**20)
        assert result.statistic == pytest.approx(8 / math.sqrt(5))
        three = agreement_test(first, second, p, p, shifts=(-1, 0, 1), classes=0)
        impossible = 2 * 0.75**20  # no pair differs by + 1
        assert three.p_value == pytest.approx(3 * min(result.p_value, impossible))

    def test_impossible_draws_fail(self) -> None:
        p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])
        result = agreement_test([2], [2], p, q)
        assert result.failed
        assert result.statistic == math.inf

    @pytest.mark.parametrize(
        ("p", "q"), [(flat(1000), flat(1000)), (zipf(500), zipf(500)), (zipf(64), normal_probs(64, 1))]
    )
    @pytest.mark.parametrize("share", [1.0, 0.1])
    def test_independent_draws_pass_and_shared_noise_fails(
        self, p: np.ndarray, q: np.ndarray, share: float
    ) -> None:
        # False fail 1e-6, false pass 1e-6: n is what the smallest share claimed to be seen needs.
        rng, n = np.random.default_rng(4), draws_needed_sharing(p, q, share)
        assert n < 5000
        assert detectable_sharing(n, p, q) <= share < detectable_sharing(max(1, n - 1), p, q)
        first, second = gumbel(rng, n, len(p)), gumbel(rng, n, len(p))
        result = agreement_test(argmax(p, first), argmax(q, second), p, q)
        assert not result.failed
        assert result.detectable == detectable_sharing(n, p, q)
        copied = np.where(rng.random((n, 1)) < share, first, second)  # `expand` in one call out of 1 / share
        assert agreement_test(argmax(p, first), argmax(q, copied), p, q).failed

    def test_detectable_and_draws_needed_at_the_edges(self) -> None:
        tiny = np.array([1 - 1e-12, 1e-12])
        assert detectable_sharing(1000, tiny, tiny) == math.inf  # nearly always alike anyhow
        assert detectable_sharing(1, flat(1000), flat(1000)) == math.inf
        assert draws_needed_sharing(flat(1000), flat(1000), events=1) <= draws_needed_sharing(
            flat(1000), flat(1000)
        )
        with pytest.raises(InputError, match="noise shared in 1 of the pairs"):
            draws_needed_sharing(np.array([1.0]), np.array([1.0]))

    def test_shared_uniform_of_inverse_cdf_fails_by_the_table_alone(self) -> None:
        # Laws on disjoint tokens never agree. False fail 1e-6; all of 400 pairs lie on the diagonal of the
        # table.
        rng, n = np.random.default_rng(5), 400
        p, q = np.r_[flat(50), np.zeros(50)], np.r_[np.zeros(50), zipf(50)]
        u, v = rng.random(n), rng.random(n)
        first, second, other = (np.searchsorted(np.cumsum(law), w) for law, w in ((p, u), (q, u), (q, v)))
        assert agreement_test(first, second, p, q).failed
        assert not agreement_test(first, second, p, q, classes=0).failed
        assert not agreement_test(first, other, p, q).failed


class TestSerial:
    def test_reused_noise_fails_at_its_lag_only(self) -> None:
        # False fail 1e-6 each. Noise reused after 3 calls is shared in 1 of 1 pairs at lag 3.
        rng, p, n = np.random.default_rng(6), zipf(200), 600
        noise = gumbel(rng, n, 200)
        noise[3:] = np.where(np.arange(n - 3)[:, None] // 3 % 2 == 0, noise[:-3], noise[3:])
        tokens = argmax(p, noise)
        assert serial_test(tokens, p, lag=3).failed
        assert not serial_test(tokens, p, lag=1).failed
        assert not serial_test(argmax(p, gumbel(rng, n, 200)), p, lag=3).failed

    @pytest.mark.parametrize(("calls", "lag", "pairs"), [(11, 1, 5), (12, 3, 6), (17, 3, 6), (2, 1, 1)])
    def test_pairs_share_no_token(self, calls: int, lag: int, pairs: int) -> None:
        assert serial_test(np.zeros(calls, dtype=int), flat(2), lag=lag).n == pairs

    def test_pairs_are_lag_apart(self) -> None:
        tokens = np.array([0, 1, 2, 0, 1, 2] * 30)  # period 3, so that lag 3 always agrees and lag 1 never
        every, never = (
            serial_test(tokens, flat(3), lag=3, classes=0),
            serial_test(tokens, flat(3), lag=1, classes=0),
        )
        assert every.statistic == pytest.approx((90 - 30) / math.sqrt(20))
        assert never.statistic == pytest.approx((0 - 30) / math.sqrt(20))


class TestRows:
    def test_expanded_noise_fails_between_any_two_rows(self) -> None:
        # False fail 1e-6. Noise of row 1 reused in row 4 alone: 1 of 10 pairs of rows.
        rng, n = np.random.default_rng(7), 60
        laws = [normal_probs(100, seed, 0.5) for seed in range(5)]
        noise = gumbel(rng, n, 5, 100)
        rows = np.stack([argmax(p, noise[:, r]) for r, p in enumerate(laws)], axis=1)
        right = cross_row_test(rows, laws)
        assert not right.failed
        assert right.detectable <= 1
        rows[:, 4] = argmax(laws[4], noise[:, 1])
        with pytest.raises(SamplerRejected, match="cross_row_test"):
            assert_cross_row(rows, laws)

    def test_expanded_noise_fails_with_equal_laws(self) -> None:
        rng, n, p = np.random.default_rng(8), 30, zipf(1000)
        shared = argmax(p, np.broadcast_to(gumbel(rng, n, 1, 1000), (n, 4, 1000)))
        assert cross_row_test(shared, p).failed
        assert not cross_row_test(argmax(p, gumbel(rng, n, 4, 1000)), p).failed  # false fail 1e-6

    def test_p_value_is_corrected_for_the_pairs_of_rows(self) -> None:
        tokens = np.zeros((3, 4), dtype=int)
        alone = agreement_test(tokens[:, 0], tokens[:, 1], flat(50), flat(50), classes=0).p_value
        assert cross_row_test(tokens, flat(50), classes=0).p_value == pytest.approx(6 * alone)
        assert window_test(tokens, flat(50), (0,)).p_value == pytest.approx(3 * alone)
        assert window_test(tokens, flat(50), (0,)).false_fail == 1e-6

    def test_detectable_is_that_of_the_blindest_pair_at_the_shared_level(self) -> None:
        laws, tokens = [flat(50), zipf(50), normal_probs(50, 1, 0.5)], np.zeros((300, 3), dtype=int)
        every = [
            detectable_sharing(300, laws[i], laws[j], false_fail=1e-6 / 3)
            for i, j in itertools.combinations(range(3), 2)
        ]
        assert min(every) < max(every) < math.inf
        assert cross_row_test(tokens, laws).detectable == max(every)

    @pytest.mark.parametrize("step", [1, 7, -5])
    def test_sliding_windows_fail(self, step: int) -> None:
        # False fail and false pass 1e-6, at the calls that the closed form asks for.
        rng, vocab, batch, steps = np.random.default_rng(9), 256, 8, range(-8, 9)
        calls = draws_needed_sharing(flat(vocab), flat(vocab), shift=8, events=17, false_fail=1e-6 / 7)
        assert calls < 16
        table = gumbel(rng, calls, vocab + (batch - 1) * abs(step))
        start = [r * step - min(0, (batch - 1) * step) for r in range(batch)]
        windows = np.stack([table[:, s : s + vocab] for s in start], axis=1)
        tokens = windows.argmax(axis=-1)
        seen = window_test(tokens, flat(vocab), steps)
        assert seen.failed
        assert seen.detectable <= 1
        assert seen.test == "window_test"
        assert not window_test(tokens, flat(vocab), range(20, 30)).failed
        assert not window_test(gumbel(rng, calls, batch, vocab).argmax(axis=-1), flat(vocab), steps).failed

    def test_sliding_windows_fail_with_other_logits(self) -> None:
        # False fail and false pass 1e-6, at the draws that the closed form asks for.
        rng, step = np.random.default_rng(10), 3
        laws = [normal_probs(128, seed, 1.0) for seed in (1, 2)]
        n = draws_needed_sharing(*laws, shift=step, events=1)
        table = gumbel(rng, n, 128 + step)
        tokens = np.stack([argmax(laws[0], table[:, :128]), argmax(laws[1], table[:, step:])], axis=1)
        assert n < 100
        assert window_test(tokens, laws, (step,)).failed
        assert not window_test(tokens, laws, (-step,)).failed


class TestDraftAndTarget:
    P = normal_probs(16, 1, 1.0)
    Q = (1 / P) / (1 / P).sum()  # a draft that ranks the other way round

    def test_one_stream_for_both_fails(self) -> None:
        # False fail and false pass 1e-6.
        rng, n = np.random.default_rng(11), draws_needed_sharing(self.Q, self.P)
        noise, other = gumbel(rng, n, 16), gumbel(rng, n, 16)
        assert n < 500
        assert draft_target_test(argmax(self.Q, noise), argmax(self.P, noise), self.Q, self.P).failed
        assert not draft_target_test(argmax(self.Q, noise), argmax(self.P, other), self.Q, self.P).failed

    def test_resampling_a_rejection_with_the_noise_of_the_draft_fails(self) -> None:
        # False fail 1e-6. The pair is (rejected draft, token drawn in its place). Sees one cell of 16 off
        # by 3 %.
        rng, n = np.random.default_rng(12), 100_000
        noise, other = gumbel(rng, n, 16), gumbel(rng, n, 16)
        draft = argmax(self.Q, noise)
        rejected = rng.random(n) > (self.P / self.Q)[draft]
        lost, gained = (np.maximum(d, 0) / np.maximum(d, 0).sum() for d in (self.Q - self.P, self.P - self.Q))
        for stream, wrong in ((noise, True), (other, False)):
            drawn = argmax(gained, stream[rejected])
            assert draft_target_test(draft[rejected], drawn, lost, gained).failed is wrong


class TestShuffle:
    def test_shared_noise_fails_and_wrong_marginals_do_not(self) -> None:
        # False fail 1e-8: two independent trials would both have to fail at 1e-4.
        rng, p, n = np.random.default_rng(13), zipf(100), 300
        noise, wrong = gumbel(rng, n, 100), []
        for _ in range(2):
            sharp = [
                argmax(p**1.5, gumbel(rng, n, 100)) for _ in range(2)
            ]  # a sampler that is too cold, no more
            wrong.append(shuffle_test(*sharp, rng=rng, false_fail=1e-4).failed)
            assert agreement_test(*sharp, p, p).failed
        assert not all(wrong)
        shared = shuffle_test(argmax(p, noise), argmax(p**1.5, noise), rng=rng, false_fail=1e-4)
        assert shared.failed
        assert shared.p_value == 1e-4

    def test_level_by_enumeration(self) -> None:
        # All rows of 4 tokens over 2; every one of 24 shuffles equally likely: the p-value in the limit of
        # many resamples is P(agreements of a shuffle >= agreements), and the estimate lies within 6
        # standard errors (false fail 1e-8).
        rng, resamples = np.random.default_rng(14), 2000
        for b in ([0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]):
            a = [0, 0, 0, 1]
            all_of_them = [sum(x == y for x, y in zip(a, s, strict=True)) for s in itertools.permutations(b)]
            observed = sum(x == y for x, y in zip(a, b, strict=True))
            exact = sum(value >= observed for value in all_of_them) / 24
            found = shuffle_test(a, b, rng=rng, resamples=resamples, false_fail=0.01).p_value
            assert found == pytest.approx(
                exact, abs=6 * math.sqrt(exact * (1 - exact) / resamples) + 1 / resamples
            )


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: repeated_vector_test([1], HASH), "vectors of shape"),
            (lambda: repeated_vector_test(np.zeros((2, 2, 2)), HASH), "vectors of shape"),
            (lambda: repeated_vector_test(np.zeros((3, 0)), HASH), "vectors of shape"),
            (lambda: repeated_vector_test(["a", "b"], HASH), "dtype"),
            (lambda: Chance(0.2, 0.1), "0 <= pair <= most <= 1"),
            (lambda: Chance(math.nan, 0.0), "0 <= pair <= most <= 1"),
            (lambda: Chance.of_bits(-1), "bits = -1"),
            (lambda: Chance.of_bits(math.nan), "bits = nan"),
            (lambda: Chance.of_draws(flat(3), times=0), "times = 0"),
            (lambda: detectable_state_bits(1, HASH), "k = 1"),
            (lambda: detectable_state_bits(10, HASH, false_fail=0), "false_fail = 0"),
            (lambda: draws_needed_state_bits(70, Chance.of_bits(20)), "a state of 70 bits"),
            (lambda: agreement(flat(3), flat(4)), "vocabularies"),
            (lambda: agreement(np.array([0.5, math.nan]), flat(2)), "none negative or NaN"),
            (lambda: agreement(flat(3), flat(3), 3), "shift = 3"),
            (lambda: agreement_test([], [], flat(3), flat(3)), "tokens of shape"),
            (lambda: agreement_test([0.5], [1], flat(3), flat(3)), "dtype float64"),
            (lambda: agreement_test([0], [3], flat(3), flat(3)), "tokens from 3 to 3"),
            (lambda: agreement_test([-1], [0], flat(3), flat(3)), "tokens from -1 to -1"),
            (lambda: agreement_test([0, 1], [0], flat(3), flat(3)), "2 and 1 tokens"),
            (lambda: agreement_test([0], [0], flat(3), flat(3), shifts=(), classes=0), "no shifts"),
            (lambda: detectable_sharing(0, flat(3), flat(3)), "n = 0"),
            (lambda: draws_needed_sharing(flat(3), flat(3), 0.0), "share = 0"),
            (lambda: serial_test([0], flat(3)), "1 tokens"),
            (lambda: serial_test([0, 1, 2], flat(3), lag=0), "lag = 0"),
            (lambda: cross_row_test([0, 1], flat(3)), "batch >= 2"),
            (lambda: cross_row_test([[0], [1]], flat(3)), "batch >= 2"),
            (lambda: cross_row_test([[0, 1]], [flat(3)] * 3), "3 laws for 2 rows"),
            (lambda: window_test([[0, 1]], flat(3), ()), "no shifts"),
            (lambda: shuffle_test([0, 1], [0, 1], rng=np.random.default_rng(0), resamples=10), "10 resamples"),
            (lambda: shuffle_test([0, 1], [0], rng=np.random.default_rng(0)), "2 and 1 tokens"),
        ],
    )
    def test_is_refused_in_one_line(self, call, message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
