"""The faithful sampler: its masses, its words, its law, and that a row sees no other."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judging import statistical
from scipy import stats

from precision_lab import SAMPLERS, law, target_law
from precision_lab.errors import InputError
from precision_lab.faithful import categorical, categorical_masses
from precision_lab.faithful.eager import draw_eagerly
from precision_lab.faithful.masses import BITS, LEAST, compiled, masses, masses_of_weights
from precision_lab.faithful.words import compiled as compiled_words
from precision_lab.faithful.words import keys_of
from precision_lab.statistics import total_variation
from precision_lab.targets import parse_target
from precision_lab.uniforms.philox import philox4x32

INF = math.inf
RATE = 1e-8  # of every random test here
ROWS = st.lists(st.floats(-200, 200, width=32) | st.just(-INF), min_size=1, max_size=40).filter(
    lambda row: max(row) > -INF
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestMasses:
    def test_the_exponential_against_mpmath(self):
        """1.3 units in the last place, and the last rounding of the mass itself."""
        x = torch.tensor(sorted({*np.linspace(-31, 0, 700).tolist(), -math.log(2) / 2, -1e-6, -1e-30, 0.0}))
        found = masses(torch.cat([torch.zeros(1), x]))[1:]
        for each, mass in zip(x.tolist(), found.tolist(), strict=True):
            exact = mpmath.exp(mpmath.mpf(each)) * 2**BITS
            assert abs(mass - exact) <= 0.5 + exact * 1.3 * 2.0**-23

    @pytest.mark.parametrize("temperature", [None, 0.7, 0.5 + 1.5 * 2.0**-24], ids=str)
    def test_the_bound_of_a_mass_and_of_a_probability(self, temperature):
        """Logits whose differences float32 does not hold, over temperatures that it does not hold either, the
        last midway between two of its numbers: off by up to three roundings, and by more than one."""
        roundings = 1 if temperature is None else 3
        row = torch.tensor([3.7, *(3.7 - np.linspace(1e-3, 14, 600)).tolist()], dtype=torch.float32)
        found = categorical_masses(row, temperature).tolist()
        total = sum(found)
        with mpmath.workdps(40):
            over = mpmath.mpf(temperature or 1)
            gaps = [(mpmath.mpf(row[0].item()) - mpmath.mpf(each)) / over for each in row.tolist()]
            exact = [mpmath.exp(-gap) for gap in gaps]
            whole = mpmath.fsum(exact)
            own = [2.0**-22.6 + 1 / (2 * mpmath.mpf(m)) for m in found]
            by_gap = [roundings * 2.0**-24 * gap for gap in gaps]
            off = [abs(m / (2**BITS * e) - 1) for m, e in zip(found, exact, strict=True)]
            assert all(o <= a + b for o, a, b in zip(off, own, by_gap, strict=True))
            beyond_one = [o > a + 2.0**-24 * gap for o, a, gap in zip(off, own, gaps, strict=True)]
            assert any(beyond_one) == (temperature is not None)
            mean = mpmath.fsum((a + b) * e for a, b, e in zip(own, by_gap, exact, strict=True)) / whole
            shares = [abs(m * whole / (total * e) - 1) for m, e in zip(found, exact, strict=True)]
            assert all(s <= a + b + mean for s, a, b in zip(shares, own, by_gap, strict=True))

    @pytest.mark.slow
    def test_every_float_from_minus_32_to_0(self):
        """All 1.1e9 of them against float64, whose own exponential is right to 2^-52: the worst is below
        1.3 units of 2^-23."""
        import numba

        mass = compiled()

        @numba.njit(error_model="numpy")
        def worst(first, last):
            most = 0.0
            for bits in range(first, last):
                x = np.int32(bits).view(np.float32)
                exact = math.exp(np.float64(x)) * 2.0**44
                most = max(most, (abs(np.float64(mass(x)) - exact) - 0.5) / exact)
            return most

        zero, end = (int(np.float32(v).view(np.uint32)) for v in (-0.0, -32.0))
        assert worst(zero - 2**32, end - 2**32 + 1) < 1.3 * 2.0**-23

    def test_the_ends(self):
        row = torch.tensor([0.0, -INF, LEAST, -32.0, -31.0, -1e38])
        found = masses(row).tolist()
        assert found == [2**BITS, 0, 0, 0, round(math.exp(-31) * 2**BITS), 0]

    @given(ROWS, st.floats(0.05, 20))
    def test_the_compiled_loop_is_the_eager_one(self, row, temperature):
        logits = torch.tensor(row, dtype=torch.float32)
        mass = compiled()
        x = ((logits - logits.max()) / torch.tensor(temperature, dtype=torch.float32)).numpy()
        one_by_one = [int(mass(each)) for each in x]
        assert masses(logits[None], torch.tensor([temperature], dtype=torch.float64))[0].tolist() == one_by_one

    @given(ROWS, st.sampled_from([-64.0, -2.0, 8.0, 1024.0]))
    def test_a_shift_that_float64_holds_changes_nothing(self, row, shift):
        wide = torch.tensor(row, dtype=torch.float64)
        assert torch.equal(masses(wide), masses(wide + shift)) or not torch.equal((wide + shift) - shift, wide)

    @given(ROWS)
    def test_a_permutation_permutes(self, row):
        wide = torch.tensor(row, dtype=torch.float64)
        assert torch.equal(masses(wide.flip(0)), masses(wide).flip(0))

    def test_weights(self):
        weights = torch.tensor([[0.1, 0.2, 0.7, 0.0], [3.0, 1e-30, 5e-324, 2.0]], dtype=torch.float64)
        found = masses_of_weights(weights)
        assert (found.amax(-1) >= 2 ** (BITS - 1)).all()
        assert (found.amax(-1) <= 2**BITS).all()
        for row, integers in zip(weights.tolist(), found.tolist(), strict=True):
            scale = Fraction(2) ** BITS / Fraction(2) ** math.frexp(max(row))[1]
            assert all(
                abs(m - Fraction(w) * scale) <= Fraction(1, 2) for w, m in zip(row, integers, strict=True)
            )


class TestWords:
    def test_philox_is_the_other_philox(self):
        """Two implementations that share no code, on words at random and at the ends."""
        rng = np.random.default_rng(0)
        pair = compiled_words()
        inputs = [rng.integers(0, 2**32, 6).tolist() for _ in range(50)] + [[0] * 6, [2**32 - 1] * 6]
        for k0, k1, *counter in inputs:
            w = [int(word) for word in philox4x32(tuple(counter), (k0, k1))]
            assert pair(k0, k1, *counter) == (w[0] << 32 | w[1], w[2] << 32 | w[3])

    def test_keys(self):
        both = keys_of(seeded(), 2)
        assert np.array_equal(both[0], both[1])
        assert np.array_equal(keys_of([5, -1], 2), [[5, 0, 0, 0], [2**32 - 1, 2**32 - 1, 0, 0]])
        assert np.array_equal(keys_of(torch.tensor([5]), 1), [[5, 0, 0, 0]])
        assert np.array_equal(keys_of([seeded(), seeded()], 2), both)

    @pytest.mark.parametrize(
        "generator",
        [None, 3, "abc", [1], [1, 2, 3], [1, 2.0], [True, 1], torch.rand(2), np.random.default_rng(0)],
    )
    def test_what_is_no_generator(self, generator):
        with pytest.raises(InputError):
            categorical(torch.zeros(2, 3), generator=generator)


class TestDraws:
    @pytest.mark.parametrize("vocab", [1, 2, 255, 256, 257, 700])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    def test_the_compiled_loop_draws_as_the_eager_one(self, vocab, dtype):
        logits = (torch.randn(5, vocab, generator=seeded(1), dtype=torch.float64) * 4).to(dtype)
        logits[:, 1:2] = -INF
        heat = torch.linspace(0, 2, 5)
        for n, temperature in itertools.product((1, 40), (None, heat)):
            ids = categorical(logits, n, generator=seeded(7), temperature=temperature)
            wide = logits if dtype is torch.float64 else logits.float()
            given = None if temperature is None else temperature.double()
            again = draw_eagerly(
                wide, given, keys_of(seeded(7), 5), np.arange(5), np.zeros(5, dtype=np.int64), n
            )
            assert torch.equal(ids, again)

    @statistical(false_fail=5 * RATE)
    @pytest.mark.parametrize("n", [3, 2000])
    def test_frequencies(self, n):
        """2e5 draws of rows of 300 tokens against m / M by chi-square; a temperature of 1.05 in place of 1
        fails it."""
        row = torch.randn(300, generator=seeded(2)) * 2
        rows = row.expand(200_000 // n, 300)
        expected = law("faithful_masses", row).probs

        def p_value(temperature: float) -> float:
            ids = categorical(rows, n, generator=seeded(3), temperature=temperature).ravel().numpy()
            large = expected > 5e-4
            seen = np.append(np.bincount(ids, minlength=300)[large], (~large[ids]).sum())
            wanted = np.append(expected[large], expected[~large].sum()) * ids.size
            return float(stats.chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue)

        assert p_value(1.0) > RATE
        assert p_value(1.05) < RATE

    def test_every_number_below_the_total_has_one_token(self):
        """A row of masses 2^44, 2^43 and 2^42: the token is decided by the leading bits of the word, three
        to one."""
        row = torch.tensor([0.0, -math.log(2), -2 * math.log(2)], dtype=torch.float64)
        m = categorical_masses(row).tolist()
        assert [abs(a - b) <= b * 2.0**-23 for a, b in zip(m, [2**44, 2**43, 2**42], strict=True)] == [True] * 3
        assert Fraction(m[0], sum(m)) == pytest.approx(4 / 7, rel=1e-6)

    @pytest.mark.parametrize("batch", [1, 2, 3, 8, 64])
    def test_a_row_does_not_depend_on_its_batch(self, batch):
        logits = torch.randn(64, 900, generator=seeded(4)) * 3
        alone = categorical(logits[:1], 4, generator=seeded(5))
        assert torch.equal(categorical(logits[:batch], 4, generator=seeded(5))[:, :1], alone)
        seeds = torch.arange(64) * 7
        whole = categorical(logits, 4, generator=seeds)
        order = torch.randperm(64, generator=seeded(6))
        assert torch.equal(categorical(logits[order], 4, generator=seeds[order]), whole[:, order])
        assert torch.equal(categorical(logits[3:4], 4, generator=[21]), whole[:, 3:4])

    def test_threads_and_layout_change_nothing(self):
        logits = torch.randn(40, 30_000, generator=seeded(8)) * 3
        before = torch.get_num_threads()
        drawn = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            try:
                drawn.append(categorical(logits, 2, generator=seeded(9)))
            finally:
                torch.set_num_threads(before)
        assert torch.equal(*drawn)
        columns = logits.T.contiguous().T
        assert torch.equal(categorical(columns, 2, generator=seeded(9)), drawn[0])
        assert torch.equal(
            categorical(logits.reshape(8, 5, -1), 2, generator=seeded(9)).reshape(2, 40), drawn[0]
        )

    def test_equal_rows_do_not_share_their_words(self):
        """500 rows of 64 equal tokens: nearly all pairs differ somewhere in 8 draws, 64^-8 apart from
        chance."""
        ids = categorical(torch.zeros(500, 64), 8, generator=seeded(1)).T
        assert len({tuple(row) for row in ids.tolist()}) == 500

    def test_positions_and_seeds(self):
        logits = torch.zeros(1, 10_000)
        at = [int(categorical(logits, generator=[3], position=place)) for place in (0, 1, 2**40, 0)]
        assert at[0] == at[3]
        assert len(set(at)) == 3
        ends = [int(categorical(logits, generator=[seed])) for seed in (0, 2**63 - 1, -1, 1)]
        assert len(set(ends)) == 4

    def test_the_generator_goes_on(self):
        generator = seeded(0)
        logits = torch.zeros(3, 5000)
        assert not torch.equal(
            categorical(logits, generator=generator), categorical(logits, generator=generator)
        )

    def test_greedy(self):
        logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, -INF]])
        assert categorical(logits, 3, generator=seeded(), temperature=0).tolist() == [[1, 0]] * 3

    @pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7), (0, 7)])
    @pytest.mark.parametrize("n", [0, 1, 2])
    def test_shapes(self, shape, n):
        assert categorical(torch.zeros(shape), n, generator=seeded()).shape == (n, *shape[:-1])

    def test_the_logits_are_left_alone_and_may_ask_for_gradients(self):
        logits = torch.randn(2, 9, requires_grad=True)
        before = logits.detach().clone()
        categorical(logits, generator=seeded())
        assert torch.equal(logits.detach(), before)

    @pytest.mark.parametrize(
        "logits",
        [
            torch.tensor([[0.0, 1.0], [math.nan, 0.0]]),
            torch.tensor([[0.0, 1.0], [INF, 0.0]]),
            torch.tensor([[0.0, 1.0], [-INF, -INF]]),
        ],
        ids=["NaN", "+inf", "only -inf"],
    )
    def test_bad_rows_are_named(self, logits, request):
        with pytest.raises(InputError, match="in row 1") as error:
            categorical(logits, generator=seeded())
        assert request.node.callspec.id.replace("+", "") in str(error.value)

    @pytest.mark.parametrize(
        "bad",
        [
            {"logits": torch.zeros(3, 2, dtype=torch.int64)},
            {"logits": [[0.0, 1.0]]},
            {"logits": torch.tensor(0.0)},
            {"logits": torch.zeros(2, 0)},
            {"logits": torch.zeros(1, 2**18 + 1)},
            {"n": -1},
            {"n": 1.5},
            {"temperature": -1.0},
            {"temperature": math.nan},
            {"temperature": [1.0, 2.0, 3.0]},
            {"position": [1, 2, 3]},
        ],
        ids=str,
    )
    def test_bad_input(self, bad):
        with pytest.raises(InputError):
            categorical(**({"logits": torch.zeros(2, 3), "n": 1, "generator": seeded()} | bad))


class TestLaw:
    def test_it_is_a_division(self):
        row = torch.tensor([0.0, -1.0, -INF, -20.0])
        m = [Fraction(each) for each in categorical_masses(row).tolist()]
        found = law("faithful_masses", row).probs
        assert found[2] == 0
        np.testing.assert_allclose(found, [float(each / sum(m)) for each in m], rtol=1e-13)

    @pytest.mark.parametrize(
        "spec", ["zipf[vocab=151936]", "normal[vocab=128256]", "mdm_step[vocab=50257,unmask=0.00002]"]
    )
    def test_the_total_variation_is_what_the_docs_say(self, spec):
        row = parse_target(spec).logits.astype(np.float32)
        assert total_variation(law("faithful_masses", torch.from_numpy(row)), target_law(row)) < 1e-7

    def test_extremes(self):
        for row in ([3e38, -3e38, 3e38], [1e-45, 0.0], [1000.0, 999.0], [5.0]):
            logits = np.array(row, dtype=np.float32)
            np.testing.assert_allclose(
                law("faithful_masses", logits).probs, target_law(logits).probs, atol=1e-7
            )

    def test_it_is_a_sampler_like_others(self):
        assert SAMPLERS["faithful_masses"].draw(torch.zeros(2, 4), 3, rng=np.random.default_rng(0)).shape == (
            3,
            2,
        )
