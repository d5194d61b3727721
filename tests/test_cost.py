"""Laws of cost against enumeration in fractions, against the decoder's own count, and the fit against runs of known cost."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judging import covers, statistical

from precision_lab import SAMPLERS
from precision_lab.errors import InputError
from precision_lab.laws.law import Law
from precision_lab.mdm.cost import (
    call_worth,
    expected_calls,
    expected_draws,
    expected_nfe,
    fit_cost,
    nfe_law,
    nfe_variance,
    step_shares,
)
from precision_lab.mdm.decode import ancestral
from precision_lab.mdm.schedule import COSINE, LINEAR, polynomial
from precision_lab.statistics import Counts
from precision_lab.statistics.testing import chi_square_test
from precision_lab.types import Guarantee

SCHEDULES = {1: LINEAR, 2: polynomial(2), 3: polynomial(3)}
SIZES = [
    (1, 1, 1),
    (1, 3, 2),
    (2, 1, 3),
    (2, 3, 1),
    (3, 2, 2),
    (4, 1, 4),
    (4, 2, 2),
    (3, 5, 1),
    (5, 1, 1),
]  # steps, L, B


class Flat:
    """A network that says nothing."""

    config = SimpleNamespace(vocab=3, mask_id=3)

    def hidden(self, tokens):
        return tokens

    def log_probs(self, hidden):
        return torch.full((*hidden.shape, 3), -math.log(3))


def by_enumeration(steps: int, length: int, batch: int, power: int):
    """Every way to put the tokens of a batch into steps, with its probability: E and Var of the occupied steps, E of the
    decoder's calls by its rule, E of the draws, and the law of the number of calls."""
    share = [
        Fraction(steps - i, steps) ** power - Fraction(steps - i - 1, steps) ** power for i in range(steps)
    ]
    assert sum(share) == 1
    occupied, calls, draws = Counter(), Counter(), Fraction(0)
    for when in itertools.product(range(steps), repeat=length * batch):
        p = math.prod((share[i] for i in when), start=Fraction(1))
        occupied[len(set(when))] += p
        rows = [when[b * length : (b + 1) * length] for b in range(batch)]
        calls[1 + sum(any(i in row and max(row) > i for row in rows) for i in range(steps))] += p
        draws += p * sum(i + 1 for i in when)  # masked before steps 0 .. i
    mean = sum(k * p for k, p in occupied.items())
    variance = sum((k - mean) ** 2 * p for k, p in occupied.items())
    return mean, variance, calls, draws, occupied


@pytest.mark.parametrize("power", SCHEDULES)
@pytest.mark.parametrize(("steps", "length", "batch"), SIZES)
def test_every_law_by_enumeration(steps, length, batch, power):
    mean, variance, calls, draws, occupied = by_enumeration(steps, length, batch, power)
    size = (steps, length, batch, SCHEDULES[power])
    assert expected_nfe(*size) == pytest.approx(float(mean), rel=1e-13)
    assert nfe_variance(*size) == pytest.approx(float(variance), rel=1e-12, abs=1e-14)
    assert expected_calls(*size) == pytest.approx(float(sum(k * p for k, p in calls.items())), rel=1e-13)
    assert expected_draws(*size) == pytest.approx(float(draws), rel=1e-13)
    if power == 1:
        exact = [float(occupied[k]) for k in range(min(steps, length * batch) + 1)]
        np.testing.assert_allclose(nfe_law(steps, length, batch), exact, rtol=1e-13)


class TestNetworkCalls:
    @pytest.mark.parametrize(("batch", "nfe"), [(1, 926), (2, 1681), (4, 2796), (16, 4811)])
    def test_check_values(self, batch, nfe):
        assert round(expected_nfe(5000, 1024, batch)) == nfe

    @given(
        st.integers(1, 3000),
        st.integers(1, 200),
        st.integers(1, 20),
        st.sampled_from([LINEAR, COSINE, polynomial(2)]),
    )
    def test_bounds_and_monotone(self, steps, length, batch, schedule):
        """At most min(N, B L), which more of anything does not lower; more steps do not lower it where steps are equal (a
        finer grid of unequal steps splits none in two, unless it doubles)."""
        here = expected_nfe(steps, length, batch, schedule)
        assert 1 - 1e-12 <= here <= min(steps, length * batch) * (1 + 1e-12)
        for more in ((2 * steps, length, batch), (steps, length + 1, batch), (steps, length, batch + 1)):
            assert expected_nfe(*more, schedule) >= here * (1 - 1e-12)
        if schedule is LINEAR:
            assert expected_nfe(steps + 1, length, batch) >= here * (1 - 1e-12)
        calls = expected_calls(steps, length, batch, schedule)
        assert here - (batch - 1) - 1e-9 <= calls <= here + 1e-9

    @given(st.integers(1, 100), st.integers(1, 20))
    def test_many_steps(self, length, batch):
        """N -> infinity: every token has a step of its own, B L - B L (B L - 1) / 2N + O(1/N^2), with as small a variance; no
        digit is lost, which the difference 1 - (1 - 1/N)^M would lose."""
        m, n = length * batch, 200_000
        gap = m * (m - 1) / 2 / n
        assert m - expected_nfe(n, length, batch) == pytest.approx(gap, rel=1e-2, abs=1e-8)
        assert nfe_variance(n, length, batch) == pytest.approx(gap, rel=3e-2, abs=1e-8)

    @given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 4))
    def test_the_law_has_the_mean_and_the_variance(self, steps, length, batch):
        law = nfe_law(steps, length, batch)
        k = np.arange(len(law))
        mean = law @ k
        assert law.sum() == pytest.approx(1, abs=1e-12)
        assert mean == pytest.approx(expected_nfe(steps, length, batch), rel=1e-12)
        assert law @ (k - mean) ** 2 == pytest.approx(nfe_variance(steps, length, batch), rel=1e-9, abs=1e-10)

    @given(st.integers(1, 500), st.sampled_from([LINEAR, COSINE, polynomial(0.5), polynomial(3)]))
    def test_shares(self, steps, schedule):
        share = step_shares(steps, schedule)
        assert share.sum() == pytest.approx(1, abs=1e-12)
        due = -np.diff(schedule.masked(np.linspace(1, 0, steps + 1)))
        np.testing.assert_allclose(share, due, atol=1e-14)

    @statistical(false_fail=1e-8)
    def test_the_decoder_calls_as_often(self):
        """3 sequences of 2 tokens in 3 steps, 1,300 batches: the decoder's own count has the law of its rule, by enumeration.
        False-fail rate 1e-8; detects a count of Eq. 73, which asks for complete sequences too (control)."""
        *_, calls, _, occupied = by_enumeration(3, 2, 3, 1)
        rng, sampler = np.random.default_rng(0), SAMPLERS["inverse_cdf_fp64"]
        found = [ancestral(Flat(), sampler, batch=3, length=2, steps=3, rng=rng).nfe for _ in range(1300)]

        def failed(law: Counter) -> bool:
            probs = Law.from_probs(
                np.array([float(law[k]) for k in range(1, 4)]), "enumeration", 0.0, Guarantee.EXACT
            )
            return chi_square_test(Counts.from_tokens(np.array(found) - 1, 3), probs, false_fail=1e-8).failed

        assert not failed(calls)
        assert failed(occupied)


@pytest.mark.parametrize("law", [expected_nfe, nfe_variance, nfe_law, expected_calls, expected_draws])
@pytest.mark.parametrize("size", [(0, 4, 1), (4, 0, 1), (4, 4, 0), (-1, 4, 1), (4, 2.5, 1), (4, 4, 1.5)])
def test_sizes_that_are_no_whole_numbers_from_one(law, size):
    with pytest.raises(InputError, match="a whole number, 1 or more"):
        law(*size)


@pytest.mark.parametrize(
    "law", [step_shares, expected_nfe, nfe_variance, nfe_law, expected_calls, expected_draws]
)
def test_steps_that_are_no_whole_number(law):
    with pytest.raises(InputError, match=r"steps = 2\.5.* whole number"):
        law(2.5, *((4,) if law is not step_shares else ()))


def test_a_schedule_that_rises():
    bad = polynomial(2)
    bad = type(bad)("up", lambda t: 1 - np.asarray(t), bad.time, bad.unmask)
    for law in (expected_nfe, expected_draws, expected_calls):
        with pytest.raises(InputError, match="rises from 0"):
            law(4, 4, 1, bad)


class TestCallWorth:
    @given(st.integers(2, 5000), st.integers(2, 300), st.floats(0.01, 0.99))
    def test_it_gives_the_ratio_back(self, steps, length, where):
        nfe, draws = expected_nfe(steps, length), expected_draws(steps, length)
        ratio = (nfe + where * (draws - nfe)) / length
        x = call_worth(ratio, steps, length)
        assert (nfe * x + draws) / (length * x + length) == pytest.approx(ratio, rel=1e-9)

    def test_the_paper_is_consistent_with_itself(self):
        """17 and 20 times at N = 10,000 mean a call of 311 and 261 draws, then 4.1 and 4.7 times at N = 2048 (it says 5)."""
        for ratio, worth, at_2048 in ((17, 310.509, 4.0734), (20, 261.451, 4.6877)):
            x = call_worth(ratio, 10_000, 1024)
            assert x == pytest.approx(worth, rel=1e-5)
            found = (expected_nfe(2048, 1024) * x + expected_draws(2048, 1024)) / (1024 * (x + 1))
            assert found == pytest.approx(at_2048, rel=1e-4)

    @pytest.mark.parametrize("ratio", [0.0, 0.5, 5001.0, math.nan])
    def test_ratios_that_cannot_be(self, ratio):
        with pytest.raises(InputError, match="ratio"):
            call_worth(ratio, 10_000, 1024)


class TestCostModel:
    NFE, NCS = np.array([60.0, 90.0, 120.0, 125.0]), np.array([1e6, 5e6, 2e7, 8e7])

    @given(st.floats(1e-5, 10), st.floats(1e-10, 1e-6))
    def test_exact_runs_give_their_cost_back(self, t1, t2):
        model = fit_cost(self.NFE, self.NCS, t1 * self.NFE + t2 * self.NCS)
        assert model.t1.value == pytest.approx(t1, rel=1e-6)
        assert model.t2.value == pytest.approx(t2, rel=1e-6)
        assert model.seconds(1000, 1e9).value == pytest.approx(1000 * t1 + 1e9 * t2, rel=1e-6)
        assert model.spread < 1e-9

    @statistical(false_fail=1e-8)
    def test_intervals_cover(self):
        """1,000 fits of 12 runs with 5 % of relative noise: 95 % intervals cover 0.94 to 0.96 of the time (exact binomial,
        false-fail rate 1e-8 for the three together). Detects intervals 30 % too narrow (control)."""
        rng, truth = np.random.default_rng(1), np.array([0.02, 2e-8])
        covered, narrow = np.zeros(3, int), np.zeros(3, int)
        nfe, ncs = np.tile(self.NFE, 3), np.tile(self.NCS, 3)
        for _ in range(1000):
            model = fit_cost(nfe, ncs, (truth[0] * nfe + truth[1] * ncs) * (1 + 0.05 * rng.standard_normal(12)))
            found, true = [model.t1, model.t2, model.seconds(100, 1e8)], [*truth, truth @ [100, 1e8]]
            half = np.array([e.high - e.value for e in found])
            error = np.abs([e.value - v for e, v in zip(found, true, strict=True)])
            covered, narrow = covered + (error <= half), narrow + (error <= 0.7 * half)
        assert all(covers(int(k), 1000, 0.94, 0.96, 3e-9) for k in covered)
        assert not any(covers(int(k), 1000, 0.94, 0.96, 3e-9) for k in narrow)

    @pytest.mark.parametrize(
        ("runs", "said"),
        [
            (([1, 2], [3, 4], [1, 1]), "three runs"),
            (([1, 2, 3], [3, 4, 5], [1, 1]), "three runs"),
            (([1, 2, 3], [3, 4, 5], [1, 0, 1]), "seconds > 0"),
            (([1, 2, 3], [3, 4, 5], [1, math.inf, 1]), "finite"),
            (([1, 2, 3], [3, 4], [1, 1, 1]), "three runs"),
            (([1, 2, 3, 4], [3, 4, 5], [1, 1, 1]), "three runs"),
            ((1, 2, 3), "three runs"),
            (([1, 2, math.nan], [3, 4, 5], [1, 1, 1]), "finite"),
            (([1, 2, 3], [2, 4, 6], [1, 2, 3]), "in proportion"),
            (([1, 2, 3], [0, 0, 0], [1, 2, 3]), "in proportion"),
        ],
    )
    def test_bad_runs(self, runs, said):
        with pytest.raises(InputError, match=said):
            fit_cost(*runs)

    @pytest.mark.parametrize("confidence", [0, 1, 1.5, -0.5, math.nan])
    def test_bad_confidence(self, confidence):
        with pytest.raises(InputError, match="strictly between 0 and 1"):
            fit_cost([1, 2, 3], [3, 4, 6], [1, 1, 1], confidence)


def test_draws_are_those_of_the_decoder():
    """One step: every position once. The mean over schedules is enumerated above; here the decoder's own sum."""
    done = ancestral(
        Flat(), SAMPLERS["inverse_cdf_fp64"], batch=3, length=5, steps=9, rng=torch.Generator().manual_seed(0)
    )
    assert done.steps is not None
    assert done.draws == int((done.steps + 1).sum())
    assert expected_draws(1, 5, 3) == 15
