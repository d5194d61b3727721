"""Formats, atoms, and the sources of randomness as measured on this machine's torch."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.formats import BF16, FORMATS, FP16, FP32, FP64, FloatFormat
from precision_lab.uniforms import DTYPES, TORCH_EXPONENTIAL, TORCH_RAND, Source, words
from precision_lab.uniforms.word_maps import ROUNDED_FLOAT32

NARROW = [FP16, BF16, FP32]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nearest(x: Fraction, fmt: FloatFormat) -> float:
    """Round half to even, in integers: the definition."""
    if x == 0:
        return 0.0
    exponent = max(math.floor(mpmath.log(mpmath.mpf(abs(x.numerator)) / x.denominator, 2)) - 1, fmt.emin - 1)
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    quantum = Fraction(2) ** (max(exponent, fmt.emin) - fmt.precision + 1)
    whole = round(x / quantum) * quantum  # Python rounds Fractions half to even
    return float(whole) if abs(whole) <= Fraction(fmt.max) else math.copysign(math.inf, x)


class TestFloatFormat:
    @pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
    @given(mantissa=st.integers(-(2**53), 2**53), exponent=st.integers(-200, 90))
    def test_rounds_like_the_definition(self, fmt, mantissa, exponent):
        x = math.ldexp(mantissa, exponent)
        assert float(fmt.round(np.float64(x))) == nearest(Fraction(x), fmt)

    @pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
    def test_halves_go_to_even_also_among_subnormals(self, fmt):
        ulp, least = 2.0 ** (1 - fmt.precision), 2.0 ** (fmt.emin - fmt.precision + 1)
        x = np.array([1 + ulp / 2, 1 + 1.5 * ulp, least / 2, 1.5 * least, 2.5 * least, -0.5 * least])
        np.testing.assert_array_equal(fmt.round(x), [1, 1 + 2 * ulp, 0, 2 * least, 2 * least, 0])

    @pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
    def test_overflow_begins_half_an_ulp_above_the_largest(self, fmt):
        half = 2.0 ** (np.frexp(fmt.max)[1] - fmt.precision - 1)
        x = np.array([fmt.max, fmt.max + 0.99 * half, fmt.max + half, -fmt.max - half, np.inf, -np.inf])
        np.testing.assert_array_equal(fmt.round(x), [fmt.max, fmt.max, np.inf, -np.inf, np.inf, -np.inf])
        assert np.isnan(fmt.round(np.array([np.nan]))).all()

    @pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
    def test_rounds_like_torch_from_float32(self, fmt):
        bits = torch.randint(-(2**31), 2**31, (200_000,), generator=seeded(0), dtype=torch.int64).int()
        x = bits.view(torch.float32)
        x = x[~x.isnan()]
        assert len(x) > 190_000
        np.testing.assert_array_equal(fmt.round(x.double().numpy()), x.to(DTYPES[fmt.name]).double().numpy())

    @pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
    def test_constants_are_those_of_torch(self, fmt):
        info = torch.finfo(DTYPES[fmt.name])
        assert (fmt.max, 2.0 ** (1 - fmt.precision), 2.0**fmt.emin) == (info.max, info.eps, info.tiny)
        assert float(fmt.round(np.float64(fmt.largest_below_one))) == fmt.largest_below_one < 1
        halfway = np.float64(fmt.largest_below_one) + 2.0 ** -(fmt.precision + 1)
        assert float(fmt.round(halfway)) == 1.0  # nothing lies between

    def test_float64_is_left_alone(self):
        x = np.array([0.1, 1e308, 5e-324, -np.inf])
        np.testing.assert_array_equal(FP64.round(x), x)


class TestAtoms:
    def test_of_sorts_merges_and_unsigns_zero(self):
        atoms = Atoms.of(np.array([1.0, -0.0, 0.0, -np.inf, 1.0, np.inf, np.inf, 2.0]), 1, 3)
        np.testing.assert_array_equal(atoms.values, [-np.inf, 0, 1, 2, np.inf])
        np.testing.assert_array_equal(atoms.counts, [1, 2, 2, 1, 2])
        assert not np.signbit(atoms.values[1])
        assert (atoms.floor, atoms.ceiling) == (-np.inf, np.inf)

    def test_of_merges_weights(self):
        atoms = Atoms.of(np.array([3.0, 1.0, 3.0, 2.0]), np.array([1, 2, 4, 9]), 4)
        np.testing.assert_array_equal(atoms.values, [1, 2, 3])
        np.testing.assert_array_equal(atoms.counts, [2, 9, 5])
        assert atoms.counts.flags.c_contiguous

    @given(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0, np.inf]), min_size=8, max_size=8))
    def test_push_is_the_law_of_the_function(self, values):
        atoms = Atoms.of(np.array(values), 1, 3)
        pushed = atoms.push(lambda x: x * x)  # not monotone
        for v in pushed.values:
            assert Fraction(float(pushed.probs[pushed.values == v][0])) == Fraction(
                sum(x * x == v for x in values), 8
            )
        assert pushed.probs.sum() == 1.0

    def test_below_is_the_distribution_function(self):
        atoms = Atoms.of(np.array([0.0, 1.0, 2.0]), np.array([1, 2, 1]), 2)
        x = np.array([[-1, 0.0], [1, 1.5], [2, 3]])
        np.testing.assert_array_equal(atoms.below(x, inclusive=False), [[0, 0], [0.25, 0.75], [0.75, 1]])
        np.testing.assert_array_equal(atoms.below(x, inclusive=True), [[0, 0.25], [0.75, 0.75], [1, 1]])

    def test_the_hash_sees_values_counts_and_bits(self):
        base = Atoms.of(np.array([0.0, 1.0]), np.array([1, 3]), 2)
        others = [
            Atoms.of(np.array([0.0, 1.5]), np.array([1, 3]), 2),
            Atoms.of(np.array([0.0, 1.0]), np.array([3, 1]), 2),
            Atoms.of(np.array([0.0, 1.0]), np.array([2, 6]), 3),
        ]
        assert len({base.sha256(), *(o.sha256() for o in others)}) == 4
        assert base.sha256() == Atoms.of(np.array([1.0, 0.0]), np.array([3, 1]), 2).sha256()

    @pytest.mark.parametrize(
        ("values", "counts", "bits", "said"),
        [
            ([0.0, 1.0], [1], 0, "one count per value"),
            ([], [], 0, "one count per value"),
            ([[0.0]], [[1]], 0, "one count per value"),
            ([0.0, 1.0], [1, 2], 2, "sum to 2"),
            ([0.0, 1.0], [4, 0], 2, "positive counts"),
            ([0.0, 1.0], [5, -1], 2, "positive counts"),
            ([1.0, 0.0], [2, 2], 2, "unsorted"),
            ([0.0, 0.0], [2, 2], 2, "repeated"),
            ([0.0, np.nan], [2, 2], 2, "NaN"),
            ([0.0], [1], 63, "bits = 63"),
        ],
    )
    def test_what_is_not_a_law_is_refused(self, values, counts, bits, said):
        with pytest.raises(InputError, match=said):
            Atoms(np.array(values), np.array(counts, dtype=np.int64), bits)

    def test_of_refuses_nan(self):
        with pytest.raises(InputError, match="NaN"):
            Atoms.of(np.array([0.0, np.nan]), 1, 1)


class TestTorchRand:
    """Bit for bit on 2^20 draws: a source that differed with probability 3e-5 a draw would pass with
    probability 1e-13. No false failures: the same words go through two paths."""

    N = 1 << 20

    def test_float32_is_24_bits(self):
        u = torch.rand(self.N, generator=seeded(1)).double().numpy()
        np.testing.assert_array_equal(np.ldexp(u, 24), np.floor(np.ldexp(u, 24)))
        odd = np.ldexp(u, 24) % 2 == 1
        assert 0.49 < odd.mean() < 0.51  # the last bit is used: 0.5 +- 20 standard deviations

    @pytest.mark.parametrize("name", ["fp16", "bf16"])
    def test_half_formats_are_float32_rounded_with_one_moved_to_zero(self, name):
        if TORCH_RAND[name].word_map_used != ROUNDED_FLOAT32:
            pytest.skip(f"torch {torch.__version__} draws {name} uniforms with digits of their own")
        wide = torch.rand(self.N, generator=seeded(2))
        rounded = wide.to(DTYPES[name])
        assert (rounded == 1).any()
        expected = torch.where(rounded == 1, torch.zeros_like(rounded), rounded)
        assert torch.equal(TORCH_RAND[name].draw((self.N,), rng=seeded(2)), expected)

    def test_float64_is_53_bits(self):
        u = torch.rand(self.N, generator=seeded(3), dtype=torch.float64).numpy()
        k = np.ldexp(u, 53)
        np.testing.assert_array_equal(k, np.floor(k))
        assert 0.49 < (k % 2 == 1).mean() < 0.51

    @pytest.mark.parametrize(("name", "expected"), [("fp16", 4097), ("bf16", 32769), ("fp32", 1)])
    def test_probability_of_zero(self, name, expected):
        """The word 0 (for bfloat16 and float16 all that round to 0 is 0 itself) and the words that round to
        1, in the map of torch 2.13."""
        source = TORCH_RAND[name]
        atoms = (source if name == "fp32" else replace(source, word_map=ROUNDED_FLOAT32)).atoms()
        assert (atoms.values[0], atoms.counts[0], atoms.bits) == (0.0, expected, 24)
        first = 2**24 - (expected - 1)  # the first word that rounds to 1, if 2^24 itself counts as a word
        assert nearest(Fraction(first, 2**24), FORMATS[name]) == 1.0
        assert nearest(Fraction(first - 1, 2**24), FORMATS[name]) < 1.0

    @pytest.mark.parametrize("name", ["fp16", "bf16", "fp32"])
    def test_atoms_are_what_every_word_gives(self, name):
        """All 2^24 words through torch's own cast, counted: the table with no rounding of ours in it."""
        values = TORCH_RAND[name].from_words(torch.arange(1 << 24)).double().numpy()
        assert Atoms.of(values, 1, 24).sha256() == TORCH_RAND[name].atoms().sha256()
        assert int(TORCH_RAND[name].atoms().counts.sum()) == 1 << 24

    @pytest.mark.parametrize("name", ["fp16", "bf16", "fp32"])
    def test_draws_lie_on_the_atoms(self, name):
        drawn = np.unique(TORCH_RAND[name].draw((self.N,), rng=seeded(4)).double().numpy())
        assert np.isin(drawn, TORCH_RAND[name].atoms().values).all()

    def test_the_53_bit_table_is_refused(self):
        assert not TORCH_RAND["fp64"].enumerable
        with pytest.raises(InputError, match="certified law"):
            TORCH_RAND["fp64"].atoms()


class TestTorchExponential:
    N = 1 << 20

    @pytest.mark.parametrize("name", ["fp16", "bf16", "fp32"])
    def test_is_log1p_of_a_53_bit_uniform(self, name):
        """Bit for bit, as in :class:`TestTorchRand`, through torch's own double log1p."""
        u = torch.rand(self.N, generator=seeded(5), dtype=torch.float64)
        native = TORCH_EXPONENTIAL[name].draw((self.N,), rng=seeded(5))
        assert torch.equal(native, (-torch.log1p(-u)).to(DTYPES[name]))

    def test_float64_is_the_scalar_library_function(self):
        """exponential_ calls the C library once per value; torch.log1p is vectorised and may differ by one ulp."""
        u = torch.rand(20_000, generator=seeded(6), dtype=torch.float64)
        native = TORCH_EXPONENTIAL["fp64"].draw((20_000,), rng=seeded(6)).numpy()
        np.testing.assert_array_equal(native, [-math.log1p(-x) for x in u.tolist()])
        np.testing.assert_array_max_ulp(native, (-torch.log1p(-u)).numpy(), maxulp=2)

    @pytest.mark.parametrize("name", ["fp16", "bf16"])
    def test_every_boundary_is_where_torch_puts_it(self, name):
        """Exact: the words at each boundary of the table, through torch, fall on the two sides.

        A boundary wrong by three words of 2^53 fails. Rounding the double straight to the format (torch goes by
        float32) moves boundaries by up to 2^26 words.
        """
        atoms = TORCH_EXPONENTIAL[name].atoms()
        first = torch.from_numpy(np.cumsum(atoms.counts)[:-1])  # the first word of atoms 1, 2, ...
        source = TORCH_EXPONENTIAL[name]
        just_below = source.from_words((first - 3).clamp(min=0)).double().numpy()
        just_above = source.from_words((first + 2).clamp(max=2**53 - 1)).double().numpy()
        assert len(first) > 5000
        assert (just_below <= atoms.values[:-1]).all()
        assert (just_above >= atoms.values[1:]).all()

    @pytest.mark.parametrize("name", ["fp16", "bf16"])
    def test_atoms_are_the_exponential_law_of_the_rounding_cells(self, name):
        """Against mpmath: P(E rounds to v) = e^-a - e^-b, [a, b] the cell of v, its ends moved by half a
        float32 ulp because of the double rounding."""
        atoms, fmt = TORCH_EXPONENTIAL[name].atoms(), FORMATS[name]
        assert (atoms.bits, int(atoms.counts.sum())) == (53, 1 << 53)
        for at in np.random.default_rng(0).integers(1, len(atoms.values) - 1, 200):
            if atoms.values[at] < 2.0**-20:
                continue  # cells of few words
            a, b = ((atoms.values[at] + atoms.values[at + side]) / 2 for side in (-1, 1))
            cell = mpmath.exp(-a) - mpmath.exp(-b)
            slack = 2.0**-24 * (a * mpmath.exp(-a) + b * mpmath.exp(-b)) + 2.0**-51
            assert abs(mpmath.mpf(float(atoms.probs[at])) - cell) <= slack
        assert fmt.round(atoms.values).tolist() == atoms.values.tolist()

    def test_float16_is_zero_with_probability_2_to_the_minus_25(self):
        atoms = TORCH_EXPONENTIAL["fp16"].atoms()
        assert atoms.values[0] == 0.0
        assert float(atoms.probs[0]) == pytest.approx(2.0**-25, rel=2**-23, abs=0)
        zero = TORCH_EXPONENTIAL["fp16"].from_words(
            torch.tensor([int(atoms.counts[0]) - 4, int(atoms.counts[0]) + 4])
        )
        assert (zero[0] == 0, zero[1] > 0) == (True, True)

    def test_bfloat16_is_zero_only_for_the_word_zero(self):
        assert (TORCH_EXPONENTIAL["bf16"].atoms().values[0], TORCH_EXPONENTIAL["bf16"].atoms().counts[0]) == (
            0.0,
            1,
        )

    @pytest.mark.parametrize("name", ["fp32", "fp64"])
    def test_fine_tables_are_refused(self, name):
        with pytest.raises(InputError, match="certified law"):
            TORCH_EXPONENTIAL[name].atoms()

    @pytest.mark.parametrize("name", ["fp16", "bf16"])
    def test_draws_lie_on_the_atoms(self, name):
        drawn = np.unique(TORCH_EXPONENTIAL[name].draw((self.N,), rng=seeded(7)).double().numpy())
        assert np.isin(drawn, TORCH_EXPONENTIAL[name].atoms().values).all()


ALL_SOURCES = [*TORCH_RAND.values(), *TORCH_EXPONENTIAL.values()]


class TestEverySource:
    @pytest.mark.parametrize("source", ALL_SOURCES, ids=lambda s: s.name)
    def test_both_kinds_of_rng_are_reproducible(self, source: Source):
        for make in (seeded, np.random.default_rng):
            first, second = source.draw((3, 5), rng=make(8)), source.draw((3, 5), rng=make(8))
            assert torch.equal(first, second)
            assert (first.shape, first.dtype) == ((3, 5), source.dtype)
            assert not torch.equal(first, source.draw((3, 5), rng=make(9)))

    @pytest.mark.parametrize("source", ALL_SOURCES, ids=lambda s: s.name)
    @pytest.mark.parametrize("rng", [None, 0, np.random.RandomState(0), torch])
    def test_anything_else_is_refused(self, source, rng):
        with pytest.raises(InputError, match=r"torch\.Generator or numpy\.random\.Generator"):
            source.draw((3,), rng=rng)

    def test_words_are_uniform_integers(self):
        """Each of 8 values within 6 standard deviations of 1/8 in 80,000: false-fail rate 8 * 2e-9 over
        seeds; sees a probability off by 8 % (7 standard deviations and the 6)."""
        drawn = words((80_000,), 3, rng=np.random.default_rng(10))
        counts = np.bincount(drawn.numpy(), minlength=8)
        assert len(counts) == 8
        assert (abs(counts - 10_000) < 6 * math.sqrt(80_000 * 7 / 64)).all()

    @pytest.mark.parametrize("bits", [24, 31, 53, 62])
    def test_words_use_all_their_bits(self, bits):
        """The top and the bottom bit of 64 words are both seen as 0 and as 1: false-fail rate 4 * 2^-64
        over seeds."""
        drawn = words((64,), bits, rng=np.random.default_rng(12)).long()
        assert int(drawn.min()) >= 0
        assert set((drawn >> (bits - 1)).tolist()) == set((drawn & 1).tolist()) == {0, 1}

    def test_precisions_fed_the_same_words_are_coupled(self):
        word = words((10_000,), 24, rng=np.random.default_rng(11))
        single = TORCH_RAND["fp32"].from_words(word)
        half = replace(TORCH_RAND["fp16"], word_map=ROUNDED_FLOAT32).from_words(word)
        assert ((half == single.half()) | (single.half() == 1)).all()


class TestTorchPrimitives:
    """Facts about torch that the laws rest on."""

    @pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
    def test_log_does_not_depend_on_the_position(self, dtype):
        """Vector body, scalar tail, strides: a table measured in one long array holds everywhere. Bit for bit."""
        u = torch.rand(5000, generator=seeded(12), dtype=dtype)
        whole = torch.log(u)
        for start in range(0, 70):
            assert torch.equal(torch.log(u[start : start + 37]), whole[start : start + 37])
            assert torch.equal(torch.log(u[: start + 1]), whole[: start + 1])
        assert torch.equal(torch.log(u[::3]), whole[::3])
        assert torch.equal(torch.stack([torch.log(x) for x in u[:500]]), whole[:500])

    @pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
    def test_argmax_prefers_nan_then_the_first_of_equals(self, dtype):
        for size in (3, 17, 64, 1001):
            for at in {0, size // 2, size - 1}:
                x = torch.zeros(size, dtype=dtype)
                x[at:] = 1
                assert int(x.argmax()) == at
                x[0] = torch.inf
                x[at] = torch.nan
                x[size - 1] = torch.nan
                assert int(x.argmax()) == at
            assert int(torch.full((4, size), 2.0, dtype=dtype).argmax(dim=-1).max()) == 0

    @pytest.mark.parametrize("name", DTYPES)
    def test_cumsum_accumulates_wide_and_rounds_each_sum(self, name):
        """float32 in float64, half formats in float32; a row of a batch is like a row alone."""
        wide = np.float64 if name in ("fp32", "fp64") else np.float32
        p = torch.softmax(3 * torch.randn(4, 3001, generator=seeded(13)), dim=-1).to(DTYPES[name])
        sums = np.cumsum(p.double().numpy().astype(wide), axis=-1, dtype=wide).astype(np.float64)
        expected = FORMATS[name].round(sums)
        np.testing.assert_array_equal(torch.cumsum(p, dim=-1).double().numpy(), expected)
        np.testing.assert_array_equal(torch.cumsum(p[2], dim=-1).double().numpy(), expected[2])

    @pytest.mark.parametrize(("name", "absorbed"), [("fp16", True), ("bf16", True), ("fp32", False)])
    def test_cumsum_shows_the_width_it_accumulates_in(self, name, absorbed):
        """1 and 2^17 times 2^-24: a float32 sum stays at 1, a float64 sum reaches 1 + 2^-7."""
        p = torch.full((1 + (1 << 17),), 2.0**-24, dtype=DTYPES[name])
        p[0] = 1
        assert float(torch.cumsum(p, dim=0)[-1]) == (1.0 if absorbed else 1.0 + 2.0**-7)

    @pytest.mark.parametrize("name", DTYPES)
    def test_softmax_of_a_row_does_not_depend_on_its_batch(self, name):
        logits = 3 * torch.randn(7, 1003, generator=seeded(14), dtype=torch.float64).to(DTYPES[name])
        batch = torch.softmax(logits, dim=-1)
        for row, p in zip(logits, batch, strict=True):
            assert torch.equal(torch.softmax(row, dim=-1), p)

    @pytest.mark.parametrize("name", DTYPES)
    def test_multinomial_of_one_is_a_race(self, name):
        """Bit for bit over 40 x 5003 noise values, with exact zeros among the probabilities."""
        logits = 3 * torch.randn(40, 5003, generator=seeded(15), dtype=torch.float64)
        p = torch.softmax(logits.masked_fill(logits < -6, -torch.inf), dim=-1).to(DTYPES[name])
        noise = torch.empty_like(p).exponential_(generator=seeded(16))
        drawn = torch.multinomial(p, 1, generator=seeded(16)).squeeze(-1)
        assert torch.equal(drawn, (p / noise).argmax(dim=-1))
        assert len(drawn.unique()) > 10
