"""Sources of 32-bit words (curand, rocRAND, torch on CUDA), of grids, and of NumPy's own generator: word by
word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.formats import BF16, FORMATS, FP16, FP32, FP64
from precision_lab.uniforms.agreement import draws_and_words
from precision_lab.uniforms.cuda import (
    CURAND,
    ROCRAND,
    TORCH_CUDA_EXPONENTIAL,
    TORCH_CUDA_RAND,
    Curand,
)
from precision_lab.uniforms.fast_log import LENGTH, fast_log_table
from precision_lab.uniforms.grids import RUST_RAND_FP32, TENSORFLOW_FP32, TENSORFLOW_FP64, Grid, grid
from precision_lab.uniforms.numpy_random import NUMPY_FP32, NUMPY_FP64
from precision_lab.uniforms.wide import merged, rounded_words, unchanged, wide_law

TOTAL = 1 << 32
WORD32 = (CURAND, ROCRAND, *TORCH_CUDA_RAND.values(), *TORCH_CUDA_EXPONENTIAL.values())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nearest(x: Fraction) -> Fraction:
    """float32, half to even, in integers: the definition. x > 0."""
    exponent = -200
    while x >= Fraction(2) ** (exponent + 1):
        exponent += 1
    quantum = Fraction(2) ** (exponent - 23)
    return round(x / quantum) * quantum  # Python rounds Fractions half to even


def telling_words(seed: int) -> np.ndarray:
    """All words within 2 of a power of two, of a midpoint of floats beside it, or of an end; and half a
    million others."""
    edges = [0, TOTAL - 1]
    for exponent in range(1, 33):
        for shift in range(exponent):
            edges += [(1 << exponent) - (1 << shift), (1 << exponent) + (1 << shift)]
        edges.append(1 << exponent)
    near = (np.array(edges)[:, None] + np.arange(-2, 3)).ravel()
    rng = np.random.default_rng(seed)
    runs = (rng.integers(0, TOTAL - 4096, size=64)[:, None] + np.arange(4096)).ravel()
    spread = np.ldexp(1.0, rng.integers(0, 33, size=1 << 18)) * rng.random(1 << 18)
    words = np.concatenate([near, runs, spread.astype(np.int64)])
    return np.unique(words[(words >= 0) & (words < TOTAL)])


def word_to_float(words: np.ndarray) -> np.ndarray:
    """A CPU's own conversion, uint32 to float32."""
    return words.astype(np.uint32).astype(np.float32)


def value_of_word(atoms: Atoms, words: np.ndarray) -> np.ndarray:
    """The value that a table of a map that never falls gives to each word: the first whose cumulative count
    exceeds it."""
    return atoms.values[np.searchsorted(np.cumsum(atoms.counts), words, side="right")]


class TestConversion:
    """word -> float32, counted binade by binade."""

    def test_every_telling_word_has_the_value_that_the_counts_give_it(self):
        """Exact: no map that never falls has other counts and agrees here on the first word of each run."""
        words, start, seen = telling_words(1), 0, 0
        for values, counts in rounded_words(32):
            assert (counts > 0).all()
            part = words[(words >= start) & (words < start + counts.sum())]
            predicted = values[np.searchsorted(np.cumsum(counts), part - start, side="right")]
            np.testing.assert_array_equal(predicted, word_to_float(part))
            start, seen = start + int(counts.sum()), seen + len(part)
        assert (start, seen) == (TOTAL, len(words))

    def test_values_ascend_and_are_84_million(self):
        last, number = -1.0, 0
        for values, _ in rounded_words(32):
            assert values[0] > last
            assert (values[1:] > values[:-1]).all()
            last, number = values[-1], number + len(values)
        assert (last, number) == (2.0**32, (1 << 24) + 8 * (1 << 23) + 1)

    def test_the_processor_rounds_to_nearest_even(self):
        words = telling_words(2)[::997]
        expected = [0.0 if not w else float(nearest(Fraction(int(w)))) for w in words]
        np.testing.assert_array_equal(word_to_float(words), expected)
        np.testing.assert_array_equal(torch.from_numpy(words).float().numpy(), expected)

    @pytest.mark.parametrize(("value", "count"), [(1.0, 1), (2.0**24, 2), (2.0**24 + 2, 1), (2.0**24 + 4, 3)])
    def test_counts_by_hand(self, value, count):
        """2^24 takes itself and 2^24 + 1, a tie; 2^24 + 2 only itself; 2^24 + 4 both its ties."""
        found = [counts[values == value] for values, counts in rounded_words(32) if (values == value).any()]
        assert [int(c) for counts in found for c in counts] == [count]


class TestMerging:
    @given(st.lists(st.tuples(st.integers(-6, 6), st.integers(1, 9)), min_size=1, max_size=40))
    def test_any_order(self, pairs):
        values, counts = np.array(pairs, dtype=np.float64).T
        got, many = merged(values, counts.astype(np.int64))
        expected = {v: int(counts[values == v].sum()) for v in np.unique(values)}
        assert dict(zip(got.tolist(), many.tolist(), strict=True)) == expected
        assert (np.diff(got) > 0).all()


@pytest.fixture(scope="class")
def atoms() -> Atoms:
    """80 million values, 1.3 GB: made once and let go."""
    return wide_law.__wrapped__(CURAND, unchanged)


class TestCurand:
    def test_the_table_is_the_map(self, atoms):
        words = telling_words(3)
        expected = word_to_float(words) * np.float32(2.0**-32) + np.float32(2.0**-33)
        np.testing.assert_array_equal(value_of_word(atoms, words), expected)
        np.testing.assert_array_equal(CURAND.from_words(torch.from_numpy(words)).numpy(), expected)

    def test_in_fractions(self, atoms):
        words = telling_words(4)[::1501]
        for word, value in zip(words.tolist(), value_of_word(atoms, words).tolist(), strict=True):
            single = nearest(Fraction(word)) if word else Fraction(0)
            assert Fraction(value) == nearest(single / TOTAL + Fraction(1, 2 * TOTAL))

    def test_ends_and_total(self, atoms):
        assert (atoms.floor, atoms.ceiling) == (2.0**-33, 1.0)
        assert (int(atoms.counts[0]), int(atoms.counts[-1])) == (1, 128)
        assert int(atoms.counts.sum()) == TOTAL

    def test_it_rounds_twice(self, atoms):
        """One rounding of (x + 1/2) 2^-32 would give each float of [1/2, 1) 256 words: it is 255 or 257."""
        top = atoms.counts[(atoms.values > 0.5) & (atoms.values < 1)]
        assert len(top) == (1 << 23) - 1
        assert set(top[0::2].tolist()) == {255}
        assert set(top[1::2].tolist()) == {257}
        word = (1 << 32) - 384
        once = nearest(Fraction(2 * word + 1, 2 * TOTAL))
        assert float(CURAND.from_words(torch.tensor([word]))[0]) == 1 - 2.0**-23 < float(once)


class TestRocrand:
    def test_word_by_word(self):
        words = telling_words(5)
        got = ROCRAND.from_words(torch.from_numpy(words)).numpy()
        np.testing.assert_array_equal(got, word_to_float(words) * np.float32(2.0**-32) + np.float32(2.0**-32))
        assert (got.min(), got.max()) == (2.0**-32, 1.0)


def cast(u: torch.Tensor) -> torch.Tensor:
    return u.half()


class TestTorchOnCuda:
    """Half-precision tables are small; the float32 table of ``exponential_`` is checked with its sampler."""

    @pytest.mark.parametrize("format", ["fp16", "bf16"])
    def test_rand_of_every_telling_word(self, format):
        words = telling_words(6)
        source = TORCH_CUDA_RAND[format]
        u = FORMATS[format].round(CURAND.from_words(torch.from_numpy(words)).double().numpy())
        np.testing.assert_array_equal(
            source.from_words(torch.from_numpy(words)).double().numpy(), np.where(u == 1, 0, u)
        )
        atoms, least = source.atoms(), {"fp16": 128, "bf16": 0}[format]  # u <= 2^-25 is 0 in float16
        between = words[(words >= least) & (u < 1)]
        index = np.searchsorted(np.cumsum(atoms.counts[1:]), between - least, side="right")
        np.testing.assert_array_equal(atoms.values[1:][index], u[(words >= least) & (u < 1)])

    @pytest.mark.parametrize(("format", "zero"), [("fp16", (1 << 20) + 256), ("bf16", (1 << 23) + 128)])
    def test_probability_of_zero(self, format, zero):
        """Words that round to 1 (from halfway below 1 on, 128 words earlier where float32 rounds) are moved
        to 0; and in float16 the 128 words of u <= 2^-25 are 0 already."""
        atoms = TORCH_CUDA_RAND[format].atoms()
        assert (atoms.floor, int(atoms.counts[0])) == (0.0, zero)
        assert atoms.ceiling == FORMATS[format].largest_below_one

    def test_rand_in_float32_differs_from_curand_at_one_only(self):
        words = torch.from_numpy(telling_words(7))
        u, raw = TORCH_CUDA_RAND["fp32"].from_words(words), CURAND.from_words(words)
        assert torch.equal(u[raw < 1], raw[raw < 1])
        assert (raw == 1).any()
        assert (u[raw == 1] == 0).all()
        assert int((raw == 1).sum()) == int((words >= TOTAL - 128).sum())

    @pytest.mark.parametrize("format", ["fp16", "bf16", "fp32"])
    def test_exponential_word_by_word(self, format):
        """The float32 value is the table's for u >= 7/8, an ulp from -log in double elsewhere; a cast rounds
        once more."""
        words = torch.from_numpy(telling_words(8))
        e, u = TORCH_CUDA_EXPONENTIAL[format].from_words(words), CURAND.from_words(words).double()
        assert e.dtype is {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[format]
        true = -torch.log(u)
        k = ((1 - u) * 2.0**24).long()
        known = (k >= 1) & (k <= LENGTH)
        true[known] = fast_log_table().double()[k[known] - 1]
        true[u >= 1 - 2.0**-24] = 2.0**-24
        ulp = torch.ldexp(torch.ones_like(true), torch.frexp(true).exponent - FORMATS[format].precision)
        ulp = ulp.clamp(min=2.0**-24 if format == "fp16" else 0.0)
        assert ((e.double() - true).abs() <= (2 if format == "fp32" else 0.51) * ulp).all()
        if format == "fp32":
            assert torch.equal(e.double()[known & (k > 1)], true[known & (k > 1)])
        assert int(known.sum()) > 20_000
        assert float(e.double().min()) == 2.0**-24 > 0

    @pytest.mark.parametrize("format", ["fp16", "bf16"])
    def test_exponential_table(self, format):
        """E falls as the word grows: counted from above. The 383 words with u >= 1 - 2^-24 share 2^-24; in
        float16 the 257 of the next value, 1.15 2^-24, round to it."""
        words = telling_words(9)
        atoms = TORCH_CUDA_EXPONENTIAL[format].atoms()
        upward = Atoms(-atoms.values[::-1], atoms.counts[::-1].copy(), 32)
        got = -value_of_word(upward, words)
        np.testing.assert_array_equal(
            got, TORCH_CUDA_EXPONENTIAL[format].from_words(torch.from_numpy(words)).double().numpy()
        )
        assert atoms.floor == 2.0**-24
        assert int(atoms.counts[0]) == {"fp16": 383 + 257, "bf16": 383}[format]

    def test_push_of_a_map_that_rises_and_falls(self):
        """floor(256 u) mod 7: the first word of each bin is found by running the map around it."""
        law = CURAND.push(fold)
        near = ((np.arange(257) << 24)[:, None] + np.arange(-300, 300)).clip(0, TOTAL - 1)
        bins = np.floor(CURAND.from_words(torch.from_numpy(near)).numpy() * np.float32(256))
        first = [
            int(w[b >= k][0]) if (b >= k).any() else TOTAL
            for k, (w, b) in enumerate(zip(near, bins, strict=True))
        ]
        expected = np.zeros(7, dtype=np.int64)
        np.add.at(expected, np.arange(257) % 7, np.diff([*first, TOTAL]))
        np.testing.assert_array_equal(law.values, np.arange(7))
        np.testing.assert_array_equal(law.counts, expected)

    def test_equal_sources_share_a_law(self):
        assert Curand("curand_uniform", FP32, 32).push(cast) is CURAND.push(cast)
        assert ROCRAND.push(cast) is not CURAND.push(cast)

    @pytest.mark.parametrize("source", WORD32, ids=lambda s: s.name)
    def test_draws(self, source):
        """Both generators, same seed same draw; the words are uniform on 32 bits: 2^16 draws of the top bit,
        6 sd."""
        for make in (seeded, np.random.default_rng):
            u = source.draw((1 << 16,), rng=make(3))
            assert u.dtype is source.dtype
            assert torch.equal(u, source.draw((1 << 16,), rng=make(3)))
            middle = math.log(2) if "exponential" in source.name else 0.5
            assert abs(float((u.double() > middle).double().mean()) - 0.5) < 6 * 2.0**-9
        assert source.enumerable

    def test_names_say_which(self):
        assert [s.name for s in WORD32[2:]] == [
            "torch.rand float16 cuda", "torch.rand bfloat16 cuda", "torch.rand float32 cuda",
            "exponential_ float16 cuda", "exponential_ bfloat16 cuda", "exponential_ float32 cuda",
        ]  # fmt: skip
        assert torch.equal(unchanged(torch.arange(3)), torch.arange(3))


def fold(u: torch.Tensor) -> torch.Tensor:
    return (u * 256).floor() % 7


class TestGrids:
    @pytest.mark.parametrize("centred", [False, True])
    @pytest.mark.parametrize("format", [FP32, FP64], ids=lambda f: f.name)
    @pytest.mark.parametrize("bits", [1, 2, 10, 16])
    def test_atoms_are_the_definition(self, bits, centred, format):
        source = grid(bits, centred=centred, format=format)
        atoms = source.atoms()
        offset = Fraction(1, 2) if centred else Fraction(0)
        expected = [(k + offset) / (1 << bits) for k in range(1 << bits)]
        assert [Fraction(v) for v in atoms.values.tolist()] == expected
        assert (atoms.counts == 1).all()
        np.testing.assert_array_equal(source.from_words(torch.arange(1 << bits)).double().numpy(), atoms.values)

    @pytest.mark.parametrize(("bits", "centred"), [(23, True), (24, False), (24, True)])
    def test_words_and_atoms_agree_to_the_last_bit_of_float32(self, bits, centred):
        source = grid(bits, centred=centred)
        atoms = source.atoms()
        every = source.from_words(torch.arange(1 << bits, dtype=torch.int32)).double().numpy()
        np.testing.assert_array_equal(every, np.repeat(atoms.values, atoms.counts))

    def test_centred_24_bits_do_not_fit_float32(self):
        """(2^24 - 1/2) 2^-24 is a tie, and goes to 1; in the top binade pairs of centres share a float."""
        top = torch.arange((1 << 24) - 5, 1 << 24)
        below_one = [4, 4, 2, 2, 0]
        assert grid(24, centred=True).from_words(top).tolist() == [1 - k * 2.0**-24 for k in below_one]
        assert float(grid(24, centred=True, format=FP64).from_words(top).max()) == 1 - 2.0**-25

    @pytest.mark.parametrize("bits", [0, -1, 54, 64])
    def test_too_few_or_many_bits(self, bits):
        with pytest.raises(InputError, match=r"1\.\.53"):
            grid(bits)

    @pytest.mark.parametrize("format", [FP16, BF16])
    def test_narrow_formats_are_refused(self, format):
        with pytest.raises(InputError, match="fp32 or fp64"):
            grid(4, format=format)

    def test_what_cannot_be_listed(self):
        assert grid(26).enumerable
        assert not grid(27).enumerable
        with pytest.raises(InputError, match=r"2\^53 atoms"):
            grid(53, format=FP64).atoms()

    def test_draws(self):
        source = grid(53, centred=True, format=FP64)
        for make in (seeded, np.random.default_rng):
            u = source.draw((1000,), rng=make(1))
            assert ((u > 0) & (u <= 1)).all()
            assert len(u.unique()) == 1000
            assert torch.equal(u, source.draw((1000,), rng=make(1)))

    def test_named_by_what_it_is(self):
        assert grid(23, centred=True).name == "centred 23-bit grid, fp32"
        assert Grid("x", FP32, 5) == Grid("x", FP32, 5, False)


class TestLibraries:
    """The bit tricks that the grids stand for."""

    def test_tensorflow_and_rust_float32(self):
        """The mantissa of a float in [1, 2), less 1: every one of the 2^23."""
        mantissa = np.arange(1 << 23, dtype=np.uint32)
        trick = ((np.uint32(127) << 23) | mantissa).view(np.float32) - np.float32(1)
        for source in (TENSORFLOW_FP32, RUST_RAND_FP32):
            assert (source.bits, source.centred) == (23, False)
            np.testing.assert_array_equal(
                source.from_words(torch.from_numpy(mantissa.astype(np.int32))).numpy(), trick
            )

    def test_tensorflow_float64(self):
        mantissa = np.random.default_rng(1).integers(0, 1 << 52, size=1000, dtype=np.uint64)
        mantissa[:2] = 0, (1 << 52) - 1
        trick = ((np.uint64(1023) << np.uint64(52)) | mantissa).view(np.float64) - 1
        got = TENSORFLOW_FP64.from_words(torch.from_numpy(mantissa.astype(np.int64)))
        np.testing.assert_array_equal(got.numpy(), trick)

    def test_numpy_takes_the_high_bits(self):
        """NumPy's own floats from its own words: PCG64 gives float32 the low half of a word, then the high
        half."""
        raw = np.random.PCG64(5).random_raw(1000)
        halves = np.stack([raw & 0xFFFFFFFF, raw >> np.uint64(32)], axis=1).ravel().astype(np.int64)
        single = np.random.Generator(np.random.PCG64(5)).random(2000, dtype=np.float32)
        np.testing.assert_array_equal(NUMPY_FP32.from_words(torch.from_numpy(halves >> 8)).numpy(), single)
        double = np.random.Generator(np.random.PCG64(5)).random(1000)
        wide = torch.from_numpy((raw >> np.uint64(11)).astype(np.int64))
        np.testing.assert_array_equal(NUMPY_FP64.from_words(wide).numpy(), double)

    @pytest.mark.parametrize("source", [NUMPY_FP32, NUMPY_FP64], ids=lambda s: s.name)
    def test_numpy_draws_with_its_own_generator(self, source):
        ours = source.draw((3, 4), rng=np.random.default_rng(2))
        theirs = np.random.default_rng(2).random(
            (3, 4), dtype=np.float32 if source is NUMPY_FP32 else np.float64
        )
        np.testing.assert_array_equal(ours.numpy(), theirs)
        u = source.draw((5,), rng=seeded(1))
        assert (u.dtype, u.shape) == (source.dtype, (5,))
        assert torch.equal(u, source.draw((5,), rng=seeded(1)))
        with pytest.raises(InputError, match=r"torch\.Generator"):
            source.draw((1,), rng=0)

    def test_numpy_atoms(self):
        atoms = NUMPY_FP32.atoms()
        assert (len(atoms.values), atoms.floor, atoms.ceiling) == (1 << 24, 0.0, 1 - 2.0**-24)
        with pytest.raises(InputError, match=r"2\^53 atoms"):
            NUMPY_FP64.atoms()

    def test_numpy_exponential_can_be_zero(self):
        """``standard_exponential(dtype=float32)``, a ziggurat: its first word w gives 0 if w < 2^9, whatever
        the layer, and only then; so P(0) >= 2^-23, and rejected tries (1 - 1 / (256 v), v the area of a
        layer) make it 1.011 2^-23."""

        def first_word(word: int) -> float:
            bits = np.random.PCG64(0)
            bits.state = {**bits.state, "has_uint32": 1, "uinteger": word}
            return float(np.random.Generator(bits).standard_exponential(dtype=np.float32))

        assert {first_word(w) for w in range(512)} == {0.0}
        others = [*range(512, 2048), *np.random.default_rng(3).integers(512, TOTAL, size=2000).tolist()]
        assert all(first_word(w) > 0 for w in others)


@dataclass(frozen=True)
class Halved(Curand):
    """A subclass is another source: its law is not the cached one of its parent."""

    def finish(self, word: torch.Tensor) -> torch.Tensor:
        return super().finish(word) / 2


def test_a_law_belongs_to_its_class():
    assert Halved("curand_uniform", FP32, 32).push(cast).ceiling == 0.5
    assert CURAND.push(cast).ceiling == 1.0


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: its logarithm and its generator are not measured"
)
class TestOnThisGPU:
    """The tables are of a CPU's arithmetic: measured again on the device."""

    def test_maps_without_a_logarithm_are_the_same(self):
        words = torch.from_numpy(word_to_float(telling_words(2)))
        for source in (CURAND, ROCRAND, *TORCH_CUDA_RAND.values()):
            assert torch.equal(source.finish(words.cuda()).cpu(), source.finish(words))

    def test_exponential_is_that_of_the_table(self):
        """4,096 draws, word by word: to the last bit for u >= 7/8, to the bound beyond. The accurate
        logarithm differs from the table in most of some 500 draws."""
        for source in TORCH_CUDA_EXPONENTIAL.values():
            assert source.agrees(*draws_and_words("exponential_", source.dtype, "cuda"))
            assert source.emulated is None

    def test_rand_is_that_of_its_words(self):
        for source in TORCH_CUDA_RAND.values():
            assert source.agrees(*draws_and_words("rand", source.dtype, "cuda"))

    def test_the_library_draws_from_the_tables(self):
        """Exact in one direction: a value outside the table is impossible. 2^24 draws see the extremes' order
        only."""
        rng = torch.Generator("cuda").manual_seed(4)
        for format, source in TORCH_CUDA_RAND.items():
            drawn = torch.rand(1 << 24, generator=rng, device="cuda", dtype=source.dtype).double().cpu().numpy()
            table = source.atoms().values
            assert np.isin(drawn, table).all(), format
