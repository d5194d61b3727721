"""Closed forms of a grid's cost against the exact law of that grid, and the least cost against every alternative."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.formats import FP64
from precision_lab.laws.argmax import race_law
from precision_lab.laws.lattice import best_total_variation, reach
from precision_lab.uniforms.grids import grid


def grid_race(bits: int, centred: bool) -> Atoms:
    """E = -log(1 - u) of the grid, in float64: the winners are next to u = 0."""
    return grid(bits, centred=centred, format=FP64).atoms().push(lambda u: -np.log1p(-u))


class TestReach:
    @pytest.mark.parametrize("centred", [False, True])
    @pytest.mark.parametrize("bits", [16, 20])
    def test_is_the_exact_law_of_the_grid(self, bits, centred):
        """A head and one rare token. The floor grid is shifted by one: E = d, 2d, ... as -log(k 2^-b) gives near 1."""
        atoms = grid_race(bits, centred)
        if not centred:
            atoms = Atoms.of(-np.log1p(-np.arange(1, 1 << bits) / (1 << bits)), *_weights(bits))
        for gap in (bits * np.log(2) - 3, bits * np.log(2), bits * np.log(2) + 1.5):
            rate = np.exp(-gap)
            law = race_law(np.array([1.0, rate]), atoms, score=FP64, tolerance=1e-15)
            ratio = law.probs[1] * (1 + rate) / rate
            own_grid = 4 * np.exp(np.ldexp(np.exp(gap), -bits)) * 2.0**-bits
            assert ratio == pytest.approx(float(reach(gap, bits, centred=centred)), rel=3 * rate + own_grid)

    def test_orders(self):
        """A loss of y / 2 for the floor grid, of y^2 / 24 for the centred one."""
        gap = 20 * np.log(2)
        y = 2.0**-10
        assert 1 - reach(gap, 30) == pytest.approx(y / 2, rel=1e-3)
        assert 1 - reach(gap, 30, centred=True) == pytest.approx(y**2 / 24, rel=1e-3)

    @given(st.floats(0, 800), st.integers(1, 100))
    def test_is_a_share_that_falls_with_the_gap_and_rises_with_bits(self, gap, bits):
        for centred in (False, True):
            here = reach(gap, bits, centred=centred)
            assert 0 <= here <= 1
            assert reach(gap + 1, bits, centred=centred) <= here <= reach(gap, bits + 1, centred=centred)
        assert reach(gap, bits) <= reach(gap, bits, centred=True)

    def test_bad_input(self):
        with pytest.raises(InputError, match="bits"):
            reach(1.0, 0)


def _weights(bits: int) -> tuple[np.ndarray, int]:
    counts = np.ones((1 << bits) - 1, dtype=np.int64)
    counts[-1] = 2  # the word whose E would be 0 or infinite joins the last
    return counts, bits


class TestBestTotalVariation:
    @given(st.lists(st.integers(0, 50), min_size=1, max_size=4).filter(lambda w: sum(w) > 0), st.integers(1, 3))
    def test_no_law_on_the_grid_is_nearer(self, weights, bits):
        """Every way to share 2^bits words, in fractions."""
        p = [Fraction(w, sum(weights)) for w in weights]
        words = 1 << bits
        least = min(
            sum(abs(x - Fraction(k, words)) for x, k in zip(p, [*head, words - sum(head)], strict=True)) / 2
            for head in itertools.product(range(words + 1), repeat=len(p) - 1)
            if sum(head) <= words
        )
        assert best_total_variation(np.array([float(x) for x in p]), bits) == pytest.approx(
            float(least), abs=1e-12
        )

    def test_what_the_grid_holds_costs_nothing(self):
        assert best_total_variation(np.array([0.5, 0.25, 0.125, 0.125]), 3) == 0.0

    def test_many_rare_tokens_cannot_be_reached(self):
        """2^20 tokens of 2^-20: 16 bits reach one in sixteen."""
        assert best_total_variation(np.full(1 << 20, 2.0**-20), 16) == pytest.approx(1 - 1 / 16)

    def test_beyond_float64_it_is_a_bound(self):
        assert best_total_variation(np.full(8, 0.125), 62) == 0.0
        assert best_total_variation(np.full(8, 0.125), 63) == 2.0**-61
        assert best_total_variation(np.full(8, 0.125), 200_000) == 0.0

    @pytest.mark.parametrize(("probs", "bits"), [([], 8), ([0.5], 8), ([1.5, -0.5], 8), ([1.0], 0)])
    def test_bad_input(self, probs, bits):
        with pytest.raises(InputError):
            best_total_variation(np.array(probs), bits)
