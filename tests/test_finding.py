"""The rule by which a claim is reproduced, different or undecided, over every place of an interval; and its
wording."""

import json
import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.finding import Claim, Finding, Outcome, evidence, number
from precision_lab.statistics import Estimate
from precision_lab.statistics.estimate import variance
from precision_lab.types import Guarantee


def estimate(low, high, n=9):
    return Estimate((low + high) / 2, low, high, 0.95, n, "made up", Guarantee.ASYMPTOTIC)


def expected(low, high, null, claim, margin):
    """The rule again, by trying points: all of the interval true, none of it true, or some."""
    ends = np.unique([low, high, null, null - margin, null + margin])
    points = np.concatenate([ends, (ends[1:] + ends[:-1]) / 2])
    points = points[(points >= low) & (points <= high)]
    truths = {
        Claim.ABOVE: points > null,
        Claim.BELOW: points < null,
        Claim.EQUAL: np.abs(points - null) <= margin,
        None: points == null,
    }
    true = truths[claim]
    contrary = {Claim.ABOVE: points < null, Claim.BELOW: points > null}.get(claim, ~true)
    if contrary.all():
        return Outcome.DIFFERENT
    return Outcome.REPRODUCED if true.all() and claim is not None else Outcome.UNDECIDED


class TestOutcome:
    @pytest.mark.parametrize(
        ("claim", "margin"), [*((claim, 0.0) for claim in (*Claim, None)), (Claim.EQUAL, 0.25)], ids=str
    )
    def test_every_place_of_the_interval(self, claim, margin):
        grid = [k / 8 for k in range(-8, 9)]
        for low, high in product(grid, grid):
            if low < high:
                found = Finding("x", estimate(low, high), 0.0, claim, margin).outcome
                assert found is expected(low, high, 0.0, claim, margin), (low, high)

    def test_the_null_is_where_it_is_put(self):
        for null in (-2.0, 0.5, 7.0):
            assert Finding("x", estimate(null + 1, null + 2), null, Claim.ABOVE).outcome is Outcome.REPRODUCED
            assert Finding("x", estimate(null + 1, null + 2), null, Claim.BELOW).outcome is Outcome.DIFFERENT
            assert Finding("x", estimate(null - 1, null + 2), null, Claim.BELOW).outcome is Outcome.UNDECIDED

    def test_equality_takes_a_margin_unless_the_number_is_computed(self):
        assert Finding("x", estimate(1.0, 1.0), 1.0, Claim.EQUAL).outcome is Outcome.UNDECIDED
        assert Finding("x", Estimate.exact(1.0), 1.0, Claim.EQUAL).outcome is Outcome.REPRODUCED
        assert Finding("x", Estimate.exact(1.5), 1.0, Claim.EQUAL).outcome is Outcome.DIFFERENT

    def test_no_interval_decides_nothing(self):
        unknown = Estimate(3.0, -math.inf, math.inf, 0.95, 1, "one value", Guarantee.ASYMPTOTIC)
        for claim in (*Claim, None):
            assert Finding("x", unknown, 0.0, claim).outcome is Outcome.UNDECIDED

    @pytest.mark.parametrize("claim", [Claim.ABOVE, Claim.BELOW, None], ids=str)
    def test_a_margin_belongs_to_equality(self, claim):
        with pytest.raises(InputError, match=r"margin = 0\.1"):
            Finding("x", estimate(0, 1), 0.0, claim, margin=0.1)


class TestText:
    def test_name_outcome_numbers_claim(self):
        found = Finding("float32 less float64", estimate(-0.5, -0.25), claim=Claim.BELOW, digits=2, unit="nats")
        assert found.text() == (
            "float32 less float64: reproduced, -0.38 [-0.50, -0.25] nats, n = 9 (claimed below 0)"
        )

    def test_without_a_claim(self):
        assert Finding("x", estimate(0.25, 0.5)).text() == "x: different from 0, 0.375 [0.250, 0.500], n = 9"
        assert (
            Finding("x", estimate(-0.5, 0.5)).text()
            == "x: undecided, 0 is possible, 0.000 [-0.500, 0.500], n = 9"
        )

    def test_of_a_computed_number_and_of_a_margin(self):
        found = Finding("ceiling", Estimate.exact(16.63553), 16.6355, Claim.EQUAL, 5e-5, digits=4)
        assert found.text() == "ceiling: reproduced, 16.6355 (claimed equal to 16.6355 -/+ 5e-05)"

    def test_a_record_is_json(self):
        unknown = Estimate(3.0, -math.inf, math.inf, 0.95, 1, "one value", Guarantee.ASYMPTOTIC)
        record = json.loads(json.dumps(Finding("x", unknown, 1.0, Claim.ABOVE).record(), allow_nan=False))
        assert record == {
            "name": "x", "n": 1, "method": "one value", "value": 3.0, "low": None, "high": None,
            "null": 1.0, "margin": 0.0, "claim": "above", "outcome": "undecided",
        }  # fmt: skip

    def test_a_number_shows_its_interval_if_it_has_one(self):
        assert number(estimate(1, 2)) == "1.500 [1.000, 2.000]"
        assert number(Estimate.exact(1.5), 1) == "1.5"
        assert number(Estimate(1.5, -math.inf, math.inf, 0.95, 1, "x", Guarantee.ASYMPTOTIC)) == "1.500"


class TestEvidence:
    def test_the_interval_is_log_odds_wide(self):
        found = evidence(20.0, 1e6)
        assert (found.low, found.high) == (20.0 - math.log(1e6), 20.0 + math.log(1e6))
        assert Finding("x", found, claim=Claim.ABOVE).outcome is Outcome.REPRODUCED
        assert Finding("x", evidence(13.0), claim=Claim.ABOVE).outcome is Outcome.UNDECIDED

    def test_the_wrong_law_wins_at_most_once_in_the_odds(self):
        """Exactly, by enumeration: p = 0.5 is right, 0.6 wrong; 30 draws; odds of 20."""
        hits = np.arange(31)
        nats = hits * np.log(0.6 / 0.5) + (30 - hits) * np.log(0.4 / 0.5)
        wrong = np.array([evidence(x, 20.0).low > 0 for x in nats])
        assert wrong.any()
        assert stats.binom.pmf(hits[wrong], 30, 0.5).sum() <= 1 / 20

    @pytest.mark.parametrize("odds", [1.0, 0.5, -3.0])
    def test_odds_are_above_one(self, odds):
        with pytest.raises(InputError, match="odds"):
            evidence(1.0, odds)


class TestVariance:
    def test_against_the_definition(self):
        x = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
        found = variance(x, 0.9)
        assert found.value == pytest.approx(np.var(x, ddof=1), rel=1e-12)
        ends = 4 * found.value / np.array([found.low, found.high])  # quantiles of chi-square with 4 degrees
        np.testing.assert_allclose(stats.chi2.cdf(ends, 4), [0.95, 0.05], rtol=1e-9)

    @pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [1.0, np.inf]])
    def test_refusals(self, values):
        with pytest.raises(InputError):
            variance(values)
