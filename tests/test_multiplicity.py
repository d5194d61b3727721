"""Families of tests: adjusted values against their definitions, and what they promise, by enumeration and
by draws."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import statistical
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.statistics import (
    TestResult,
    benjamini_hochberg,
    combined_e,
    e_bh,
    family,
    holm,
    tail_test,
    weakest,
)
from precision_lab.types import Guarantee

p_values = st.lists(st.integers(0, 64).map(lambda k: k / 64), min_size=1, max_size=8)
e_values = st.lists(
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0, 8.0, 40.0, math.inf]), min_size=1, max_size=8
)


def holm_fails(p: list[float], level: float) -> set[int]:
    """Step down: the smallest against level / m, the next against level / (m - 1), ..., until one passes."""
    failed: set[int] = set()
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] > level / (len(p) - rank):
            break
        failed.add(i)
    return failed


def step_up_fails(p: list[float], level: float) -> set[int]:
    """All p up to the largest p_(k) <= k level / m."""
    ordered = sorted(p)
    passed = [value for k, value in enumerate(ordered, 1) if value <= k * level / len(p)]
    return {i for i, value in enumerate(p) if passed and value <= passed[-1]}


def e_bh_fails(e: list[float], level: float) -> set[int]:
    """The k largest e-values, k the greatest with k e_(k) >= m / level."""
    ordered = sorted(e, reverse=True)
    k = max((k for k, value in enumerate(ordered, 1) if k * value >= len(e) / level), default=0)
    return {i for i, value in enumerate(e) if k and value >= ordered[k - 1]}


def log(values: list[float]) -> list[float]:
    return [math.log(value) if value else -math.inf for value in values]


class TestAdjusted:
    @given(p_values, st.integers(1, 200).map(lambda k: (2 * k - 1) / 401))
    def test_holm_is_the_step_down_procedure(self, p: list[float], level: float) -> None:
        assert set(np.flatnonzero(holm(p).values <= level)) == holm_fails(p, level)

    @given(p_values, st.integers(1, 200).map(lambda k: (2 * k - 1) / 401))
    def test_benjamini_hochberg_is_the_step_up_procedure(self, p: list[float], level: float) -> None:
        assert set(np.flatnonzero(benjamini_hochberg(p).values <= level)) == step_up_fails(p, level)

    @given(p_values)
    def test_any_dependence_costs_a_harmonic_sum(self, p: list[float]) -> None:
        price = float(sum(Fraction(1, k) for k in range(1, len(p) + 1)))
        dear = benjamini_hochberg(p, any_dependence=True).values
        if len(p) > 1:
            assert dear == pytest.approx(np.minimum(1, price * step_up(p)))

    @given(e_values, st.integers(1, 200).map(lambda k: (2 * k - 1) / 401))
    def test_e_bh_is_its_definition(self, e: list[float], level: float) -> None:
        assert set(np.flatnonzero(e_bh(log(e)).values <= level)) == e_bh_fails(e, level)

    def test_by_hand(self) -> None:
        assert holm([0.01, 0.04, 0.03]).values == pytest.approx([0.03, 0.06, 0.06])
        assert benjamini_hochberg([0.01, 0.04, 0.03]).values == pytest.approx([0.03, 0.04, 0.04])
        assert e_bh(log([100.0, 20.0, 0.5])).values == pytest.approx([0.03, 0.075, 1.0])
        assert e_bh([5000.0, -5000.0]).values.tolist() == [0.0, 1.0]  # beyond what e itself can hold

    @given(p_values, st.randoms())
    def test_order_does_not_matter(self, p: list[float], random) -> None:
        order = list(range(len(p)))
        random.shuffle(order)
        for adjust in (holm, benjamini_hochberg):
            assert adjust([p[i] for i in order]).values.tolist() == adjust(p).values[order].tolist()

    def test_labels(self) -> None:
        assert (holm([0.5]).controls, holm([0.5]).guarantee) == (
            "family-wise error rate",
            Guarantee.FINITE_SAMPLE,
        )
        assert benjamini_hochberg([0.5]).controls == e_bh([0.0]).controls == "false discovery rate"
        assert e_bh([0.0]).guarantee is Guarantee.ANYTIME


def step_up(p: list[float]) -> np.ndarray:
    """min over k >= rank of m p_(k) / k, not clipped."""
    ranked = sorted(range(len(p)), key=lambda i: p[i])
    out = np.empty(len(p))
    for place, i in enumerate(ranked):
        out[i] = min(len(p) * p[ranked[k]] / (k + 1) for k in range(place, len(p)))
    return out


class TestPromises:
    @pytest.mark.parametrize("level", [0.05, 0.2])
    def test_holm_holds_the_family_by_enumeration(self, level: float) -> None:
        """Three binomial tests of right rates, 6 draws each, independent or one and the same: P(any fails)
        <= level."""
        p = [tail_test(k, 6, 0.5, false_fail=level).p_value for k in range(7)]
        weights = stats.binom.pmf(np.arange(7), 6, 0.5)
        apart = sum(
            weights[list(hits)].prod()
            for hits in itertools.product(range(7), repeat=3)
            if (holm([p[k] for k in hits]).values <= level).any()
        )
        together = sum(weights[k] for k in range(7) if (holm([p[k]] * 3).values <= level).any())
        assert apart <= level
        assert together <= level
        unadjusted = 1 - (1 - weights[np.array(p) <= level].sum()) ** 3
        assert (unadjusted > level) == (level == 0.05)  # what the adjustment is for: 3 x 0.031 > 0.05

    def test_e_bh_holds_discoveries_under_dependence_by_enumeration(self) -> None:
        """Four e-values that are all the same fair bet, 10 with probability 1/10: at level 0.4 nothing
        better exists."""
        for level in (0.1, 0.2, 0.4):
            failed = (e_bh(log([10.0] * 4)).values <= level).any()
            assert failed * 0.1 <= level
        assert (e_bh(log([10.0] * 4)).values <= 0.1).all()

    @statistical(false_fail=1e-8)
    def test_discoveries_are_false_as_rarely_as_promised(self) -> None:
        # 20 tests, 15 of right samplers: BH at 0.2 has rate 0.15 = 0.2 x 15/20. 4000 families: mean within
        # 5.8 standard errors (0.0033 each). Sees 0.17: the plain p-values at 0.2 have 0.33 (control).
        rng, rates, plain = np.random.default_rng(1), [], []
        for _ in range(4000):
            p = np.append(rng.random(15), stats.norm.sf(rng.normal(3, 1, 5)))
            for chosen, kept in ((benjamini_hochberg(p).values <= 0.2, rates), (p <= 0.2, plain)):
                kept.append(chosen[:15].sum() / max(1, chosen.sum()))
        error = np.std(rates) / math.sqrt(4000)
        assert abs(np.mean(rates) - 0.15) < 5.8 * error
        assert np.mean(plain) > 0.3

    @given(st.lists(st.floats(-8, 8), min_size=1, max_size=6))
    def test_combined_e(self, logs: list[float]) -> None:
        e = np.exp(logs)
        assert combined_e(logs) == pytest.approx(math.log(e.mean()), abs=1e-12)
        assert combined_e(logs, independent=True) == pytest.approx(math.log(math.prod(e)), abs=1e-9)

    def test_combined_e_at_the_ends(self) -> None:
        assert combined_e([1000.0, -1000.0]) == pytest.approx(1000 - math.log(2))
        assert combined_e([-math.inf, -math.inf]) == -math.inf
        assert combined_e([math.inf, -math.inf]) == math.inf
        assert combined_e([math.inf, -math.inf], independent=True) == -math.inf


class TestFamily:
    def results(self) -> dict[str, TestResult]:
        return {
            name: tail_test(hits, 1000, 0.1) for name, hits in (("right", 104), ("short", 50), ("long", 131))
        }

    def test_verdicts(self) -> None:
        results = self.results()
        found = family(results, level=0.01)
        values = holm([result.p_value for result in results.values()]).values
        assert [found[name].adjusted for name in results] == values.tolist()
        assert {name: verdict.failed for name, verdict in found.items()} == {
            "right": False,
            "short": True,
            "long": True,
        }
        assert {verdict.controls for verdict in found.values()} == {"family-wise error rate"}
        assert found["short"].p_value == results["short"].p_value
        assert found["short"].level == 0.01

    def test_the_adjusted_value_decides(self) -> None:
        alike = {name: TestResult(0.03, 0.0, 10, 0.1, 1e-6) for name in "abc"}
        assert not any(verdict.failed for verdict in family(alike, level=0.05).values())
        assert all(verdict.failed for verdict in family(alike, level=0.05, method="bh").values())

    def test_methods_differ(self) -> None:
        p = [result.p_value for result in self.results().values()]
        for method, values in (
            ("bh", benjamini_hochberg(p).values),
            ("by", benjamini_hochberg(p, any_dependence=True).values),
        ):
            found = family(self.results(), method=method)
            assert [verdict.adjusted for verdict in found.values()] == values.tolist()
            assert found["right"].controls == "false discovery rate"

    def test_a_family_is_as_strong_as_its_weakest_member(self) -> None:
        results = self.results()
        assert family(results)["right"].guarantee is Guarantee.FINITE_SAMPLE
        results["rough"] = TestResult(0.5, 0.0, 10, 0.1, 1e-6, guarantee=Guarantee.ASYMPTOTIC)
        assert {verdict.guarantee for verdict in family(results).values()} == {Guarantee.ASYMPTOTIC}

    def test_weakest(self) -> None:
        strong_to_weak = [
            Guarantee.EXACT,
            Guarantee.CERTIFIED,
            Guarantee.ANYTIME,
            Guarantee.FINITE_SAMPLE,
            Guarantee.ASYMPTOTIC,
            Guarantee.EMULATED,
            Guarantee.HEURISTIC,
        ]
        assert set(strong_to_weak) == set(Guarantee)
        for i, j in itertools.combinations_with_replacement(range(6), 2):
            assert weakest([strong_to_weak[i], strong_to_weak[j]]) is strong_to_weak[j]


BAD_INPUTS = {
    "p-values above 1": lambda: holm([0.5, 1.5]),
    "a p-value that is NaN": lambda: benjamini_hochberg([math.nan]),
    "no p-values": lambda: holm([]),
    "p-values in two dimensions": lambda: holm([[0.5]]),
    "an e-value that is NaN": lambda: e_bh([math.nan]),
    "no e-values": lambda: combined_e([]),
    "an empty family": lambda: family({}),
    "a level of 0": lambda: family({"a": tail_test(1, 2, 0.5)}, level=0.0),
    "an unknown method": lambda: family({"a": tail_test(1, 2, 0.5)}, method="bonferroni"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_clear_error(name: str) -> None:
    with pytest.raises(InputError) as caught:
        BAD_INPUTS[name]()
    assert all((caught.value.got, caught.value.expected, caught.value.remedy))
    assert "\n" not in str(caught.value)
