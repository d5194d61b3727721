"""Triton's and the hashed recipes: integer words, exact tables of tens of millions of atoms, and what their
laws say."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from contract import SamplerContract
from scipy import stats
from wide_tables import check_runs_of_words

from precision_lab.errors import InputError
from precision_lab.formats import FP32, FloatFormat
from precision_lab.laws.law import target_law
from precision_lab.samplers import Sampler
from precision_lab.samplers.published import SGLANG, VLLM
from precision_lab.uniforms.murmur import (
    MURMUR_32,
    MURMUR_CLOSED,
    log1p_series,
    murmur3_32,
    murmur3_state,
    noise_vector,
)
from precision_lab.uniforms.philox import philox4x32
from precision_lab.uniforms.triton import TL_RAND, TL_RAND_64, TL_RAND_GUARDED, fold, randint4x
from precision_lab.uniforms.wide import WideSource, merged, rounded_words

S = {sampler.name: sampler for sampler in (*VLLM, *SGLANG)}


SLOW = [pytest.mark.slow]  # a table takes 5 s and 600 MB


@pytest.fixture(
    params=[pytest.param(s, marks=SLOW if s.source.enumerable else []) for s in S.values()],
    ids=S,
    scope="class",
)
def sampler(request) -> Sampler:
    return request.param


class TestContract(SamplerContract):
    pass


class TestRoundedWords:
    @pytest.mark.parametrize("centred", [False, True])
    @pytest.mark.parametrize(("bits", "precision"), [(5, 5), (6, 5), (9, 5), (13, 8), (15, 11)])
    def test_every_word_of_a_small_format(self, bits, precision, centred):
        words = np.arange(1 << bits) + (0.5 if centred else 0.0)
        # rounds by frexp and rint, not by these integers
        small = FloatFormat("small", precision, -60, math.inf)
        values, counts = (
            np.concatenate(c)
            for c in zip(*rounded_words(bits, centred=centred, precision=precision), strict=True)
        )
        expected = np.unique(small.round(words), return_counts=True)
        np.testing.assert_array_equal(values, expected[0])
        np.testing.assert_array_equal(counts, expected[1])

    @pytest.mark.parametrize(
        ("bits", "centred", "distinct"),
        [(31, False, (1 << 24) + 7 * (1 << 23) + 1), (32, True, (1 << 23) + (1 << 22) + 8 * (1 << 23) + 1)],
    )
    def test_float32_around_every_power_of_two_and_at_random(self, bits, centred, distinct):
        """Windows of 2^14 words, each word rounded by NumPy, against the counts; and all words are counted
        once."""
        rng = np.random.default_rng(0)
        starts = np.r_[
            0, [(1 << k) - 8192 for k in range(15, bits + 1)], rng.integers(0, (1 << bits) - 16384, 40)
        ]
        starts[starts > (1 << bits) - 16384] = (1 << bits) - 16384
        windows = []
        for start in np.unique(starts):
            words = np.arange(start, start + 16384)
            exact = words + (0.5 if centred else 0.0)  # exact in float64: at most 33 bits
            value, count = np.unique(exact.astype(np.float32).astype(np.float64), return_counts=True)
            inner = slice(0 if start == 0 else 1, None if start + 16384 == 1 << bits else -1)  # ends may be cut
            windows.append((value[inner], count[inner]))
        total, number = 0, 0
        for values, counts in rounded_words(bits, centred=centred):
            total, number = total + int(counts.sum()), number + len(values)
            for value, count in windows:
                part = (value >= values[0]) & (value <= values[-1])
                if part.any():
                    at = np.searchsorted(values, value[part])
                    np.testing.assert_array_equal(values[at], value[part])
                    np.testing.assert_array_equal(counts[at], count[part])
        assert (total, number) == (1 << bits, distinct)


@dataclass(frozen=True)
class ToySource(WideSource):
    """Float32 values out of order, repeated within and across blocks."""

    def from_words(self, words):
        return (words % 37).float()

    def octaves(self) -> Iterator:
        for block in np.arange(64).reshape(4, 16):
            yield torch.from_numpy((block % 37).astype(np.float32)), np.ones(16, dtype=np.int64)


class TestPush:
    @pytest.mark.parametrize("function", [lambda u: u, lambda u: -u, lambda u: (u - 20) ** 2, torch.zeros_like])
    def test_any_function(self, function):
        toy = ToySource("toy", FP32, 6)
        expected = np.unique(function(toy.from_words(torch.arange(64))).numpy() + 0.0, return_counts=True)
        atoms = toy.push(function)
        np.testing.assert_array_equal(atoms.values, expected[0])
        np.testing.assert_array_equal(atoms.counts, expected[1])

    def test_atoms_are_the_law_of_the_identity(self):
        toy = ToySource("toy", FP32, 6)
        np.testing.assert_array_equal(toy.atoms().counts, np.bincount(np.arange(64) % 37))

    def test_merged_adds_equal_values(self):
        values, counts = merged(np.array([2.0, 1.0, 2.0, 0.0]), np.array([1, 2, 3, 4]))
        assert (values.tolist(), counts.tolist()) == ([0, 1, 2], [4, 2, 4])


class TestTriton:
    """Known answers: Random123's kat_vectors, and Triton 3.9's own interpreter."""

    @pytest.mark.parametrize(
        ("counter", "key", "expected"),
        [
            ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
            ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
            ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
        ],
    )
    def test_philox(self, counter, key, expected):
        out = philox4x32(*(tuple(int(x, 16) for x in text.split()) for text in (counter, key)))
        assert [f"{int(x):08x}" for x in out] == expected.split()
        assert all(x.dtype == np.uint32 for x in out)

    @pytest.mark.parametrize(
        ("seed", "offset", "randint", "rand"),
        [
            (0, 0, 0x6627E8D5, "0x1.989fa2p-1"),
            (0, 1, 0xF8E4CCA4, "0x1.c6ccd4p-5"),
            (0, 2, 0x04FAA329, "0x1.3ea8c8p-5"),
            (12345, 0, 0xD1FA3E81, "0x1.702e0ap-2"),
            (12345, 1, 0x00B66929, "0x1.6cd25p-8"),
            (12345, 4982566788, 0xE30C6318, "0x1.cf39ccp-3"),
            ((1 << 40) + 7, 1000, 0x0D6D0F27, "0x1.ada1e2p-4"),
        ],
    )
    def test_tl_randint_and_tl_rand(self, seed, offset, randint, rand):
        word = randint4x(seed, offset)[0]
        assert int(word) == randint
        assert float(TL_RAND.from_words(torch.from_numpy(np.atleast_1d(fold(word))))) == float.fromhex(rand)

    def test_randint_takes_arrays(self):
        words = randint4x(12345, np.array([0, 1, 4982566788]))[0]
        assert words.tolist() == [0xD1FA3E81, 0x00B66929, 0xE30C6318]

    def test_the_words_below_2_to_the_minus_31_that_vllm_found(self):
        """Pull request 47524 names four offsets of seed 12345 whose 64-bit u lies below the floor of
        ``tl.rand``."""
        low, high, _, _ = randint4x(12345, np.array([4982566788, 5277073014, 5357046532, 12285768576]))
        words = ((high.astype(np.uint64) << np.uint64(32)) | low).view(np.int64)
        u = TL_RAND_64.from_words(torch.from_numpy(words))
        assert ((u > 0) & (u < 2.0**-31)).all()

    @pytest.mark.parametrize(
        ("word", "u"),
        [
            (1, "0x1.fffffep-32"),
            (-2, "0x1.fffffep-32"),
            (2, "0x1.fffffep-31"),
            (2**31 - 1, "0x1.fffffep-1"),
            (-(2**31), "0x1.fffffep-1"),
            (2**31 - 64, "0x1.fffffep-1"),
            (2**31 - 65, "0x1.fffffcp-1"),
            (2**24 + 1, "0x1.fffffep-8"),
            (2**24 + 3, "0x1.000002p-7"),
            (-987654321, "0x1.d6f344p-2"),
            (2**30, "0x1.fffffep-2"),
        ],
    )
    def test_uint_to_uniform_float(self, word, u):
        folded = fold(np.array([word], dtype=np.int64).astype(np.uint32))
        assert float(TL_RAND.from_words(torch.from_numpy(folded))) == float.fromhex(u)

    def test_two_words_fold_onto_each_value_and_0_and_1_share_the_floor(self):
        """x and ~x, at 2^16 words."""
        words = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)) | np.uint32(0xABCD)
        np.testing.assert_array_equal(fold(words), fold(~words))
        assert (fold(words) >= 0).all()
        assert fold(np.uint32(0x80000000)) == 0x7FFFFFFF
        floor = TL_RAND.floor
        assert floor == 2.0**-31 * (1 - 2.0**-24)
        assert TL_RAND.from_words(torch.arange(3)).tolist() == [floor, floor, 2 * floor]
        assert TL_RAND_GUARDED.from_words(torch.arange(2)).tolist() == [float(np.float32(1e-20)), floor]

    def test_the_law_of_tl_rand(self):
        """Ascending from two words at the floor to 64 at 1 - 2^-24, and 2^31 in all."""
        blocks = list(TL_RAND.octaves())
        assert sum(int(counts.sum()) for _, counts in blocks) == 1 << 31
        assert all((values.diff() >= 0).all() for values, _ in blocks)
        assert blocks[0][0][:3].tolist() == [TL_RAND.floor, TL_RAND.floor, 2 * TL_RAND.floor]
        assert blocks[0][1][:3].tolist() == [1, 1, 1]
        assert (blocks[-1][0].tolist(), blocks[-1][1].tolist()) == ([1 - 2.0**-24], [64])

    def test_64_bits_round_to_nearest(self):
        """Against exact fractions; 0 is raised to 2^-64, and the top 2^39 words give 1."""
        rng = np.random.default_rng(1)
        words = (
            rng.integers(0, 1 << 64, 2000, dtype=np.uint64) >> rng.integers(0, 64, 2000).astype(np.uint64)
        ).tolist()
        words += [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - (1 << 39) - 1, (1 << 64) - (1 << 39), (1 << 64) - 1]
        got = TL_RAND_64.from_words(torch.from_numpy(np.array(words, dtype=np.uint64).view(np.int64))).tolist()
        for word, u in zip(words, got, strict=True):
            cut = max(word.bit_length() - 24, 0)
            exact = round(Fraction(word, 1 << cut)) * Fraction(1 << cut, 1 << 64)
            assert Fraction(u) == max(exact, Fraction(1, 1 << 64))
        assert got[-7:] == [2.0**-64, 2.0**-64, 0.5, 0.5, 1 - 2.0**-24, 1.0, 1.0]


def murmur3_of_bytes(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32 of any bytes, in Python integers."""
    mask, h = 0xFFFFFFFF, seed

    def turn(x, r):
        return (x << r | x >> (32 - r)) & mask

    blocks = [data[i : i + 4] for i in range(0, len(data), 4)]
    for block in blocks:
        k = turn(int.from_bytes(block, "little") * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask
        h ^= k
        if len(block) == 4:
            h = turn(h, 13) * 5 + 0xE6546B64 & mask
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & mask
    h = (h ^ h >> 13) * 0xC2B2AE35 & mask
    return h ^ h >> 16


class TestMurmur:
    @pytest.mark.parametrize(
        ("text", "seed", "expected"),
        [
            ("", 0, 0),
            ("", 1, 0x514E28B7),
            ("", 0xFFFFFFFF, 0x81F16F39),
            ("test", 0, 0xBA6BD213),
            ("test", 0x9747B28C, 0x704B81DC),
            ("Hello, world!", 0, 0xC0363E43),
            ("Hello, world!", 0x9747B28C, 0x24884CBA),
            ("The quick brown fox jumps over the lazy dog", 0, 0x2E4FF723),
            ("The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
        ],
    )
    def test_the_oracle_knows_the_public_vectors(self, text, seed, expected):
        assert murmur3_of_bytes(text.encode(), seed) == expected

    def test_against_the_oracle(self):
        rng = np.random.default_rng(2)
        seed, position = rng.integers(0, 1 << 63, 500), rng.integers(0, 1 << 31, 500)
        token, domain = rng.integers(0, 1 << 18, 500), 0x9E3779B9
        for d in (0, domain):
            expected = [
                murmur3_of_bytes(struct.pack("<QII", int(s), int(p), int(t)), d)
                for s, p, t in zip(seed, position, token, strict=True)
            ]
            assert murmur3_32(seed, position, token, domain=d).tolist() == expected

    @pytest.mark.parametrize(
        ("seed", "position", "hashes", "u", "noise"),
        [
            (
                0,
                0,
                (0x8134CDF8, 0x990201, 0x907177D2, 0x3F84409F),
                "0x1.02699cp-1",
                (0.35294497, 6.0586972, 0.1855541),
            ),
            (
                1,
                2,
                (0xC98F4090, 0x27C37328, 0x5C8A9CDB, 0x54BEF7BF),
                "0x1.931e82p-1",
                (-0.43700945, 1.7790133, 0.8015834),
            ),
            (
                -3,
                2**31 + 5,
                (0xE9ED60A4, 0xF6CF75D8, 0x8B67A7DC, 0x550BAD77),
                "0x1.d3dac2p-1",
                (-0.8964284, -1.2021024, 0.2402004),
            ),
        ],
    )
    def test_known_answers_of_vllm_s_kernel(self, seed, position, hashes, u, noise):
        """vLLM 0.33.0's murmur3_hash32, murmur3_uniform32 and noise, run in Triton 3.9's interpreter."""
        words = murmur3_32(seed, position, np.array([0, 1, 2, 151_935]))
        assert words.tolist() == list(hashes)
        assert float(MURMUR_32.from_words(torch.from_numpy(words[:1].astype(np.int64)))) == float.fromhex(u)
        assert noise_vector(seed, position, 3).tolist() == pytest.approx(noise, rel=1e-6, abs=1e-7)

    def test_uniforms_are_correctly_rounded(self):
        rng = np.random.default_rng(3)
        words = np.r_[
            0:4096, rng.integers(0, 1 << 32, 4096), (1 << 32) - 4096 : 1 << 32, (1 << 23) - 99 : (1 << 23) + 99
        ]
        expected = ((2 * words + 1).astype(np.float64) * 2.0**-33).astype(np.float32)  # 33 bits: one rounding
        np.testing.assert_array_equal(MURMUR_32.from_words(torch.from_numpy(words)).numpy(), expected)
        assert (expected[0], expected.max()) == (2.0**-33, 1.0)

    def test_the_series_is_right_to_six_parts_in_ten_million(self):
        """Eight terms below 1/4: the rest of the series is at most u^9 / 9 / (1 - u) = 5.7e-7, and 2 ulp."""
        u = torch.linspace(0.0, 0.9999, 20_001, dtype=torch.float32)[1:]
        error = (log1p_series(u).double() - torch.log1p(-u.double())).abs().numpy()
        below = u.double().numpy()
        bound = np.where(below < 0.25, below**9 / 9 / (1 - below), 0.0) + 2.0**-22 * np.maximum(
            below, -np.log1p(-below)
        )
        assert (error <= bound).all()
        assert log1p_series(torch.ones(1)).tolist() == [np.float32(-24 * math.log(2))]

    def test_all_tokens_of_a_position_share_32_bits(self):
        """With one seed no two of 2^20 positions share a state: each step of the hash is a bijection of its
        block. Among many seeds states collide as 32 random bits do, and then every token's noise is the
        same."""
        assert len(np.unique(murmur3_state(12345, np.arange(1 << 20)))) == 1 << 20
        seeds, positions = np.divmod(np.arange(400_000), 1000)
        states = murmur3_state(seeds, positions)
        order = np.argsort(states, kind="stable")
        pairs = np.flatnonzero(np.diff(states[order].astype(np.int64)) == 0)
        assert 1e-6 < stats.poisson.cdf(len(pairs), math.comb(400_000, 2) / 2**32) < 1 - 1e-6
        for k in pairs[:3]:
            a, b = order[k], order[k + 1]
            assert (seeds[a], positions[a]) != (seeds[b], positions[b])
            assert torch.equal(
                noise_vector(int(seeds[a]), int(positions[a]), 5000),
                noise_vector(int(seeds[b]), int(positions[b]), 5000),
            )

    def test_philox_generations_pass_through_32_bits_too(self):
        """``gumbel_seed = tl.randint(seed, pos)``: even one seed's positions collide, as 32 random bits do."""
        states = randint4x(12345, np.arange(400_000))[0]
        pairs = 400_000 - len(np.unique(states))
        assert 1e-6 < stats.poisson.cdf(pairs, math.comb(400_000, 2) / 2**32) < 1 - 1e-6


class TestTables:
    @pytest.mark.parametrize(
        ("name", "ceiling"),
        [
            ("tl_rand", 16.635532),
            ("tl_rand_flipped", 21.487563),
            ("vllm_64bit", 44.361420),
            ("vllm_murmur32", 22.873857),
            ("vllm_diffusion_gemma", 16.635532),
            ("sglang_seeded", math.inf),
            ("sglang_seeded_clamped", 22.180710),
        ],
    )
    def test_ceilings(self, name, ceiling):
        if ceiling == math.inf:
            assert S[name].ceiling == math.inf
        else:  # six digits noted, and an ulp of this machine's logarithm
            assert abs(S[name].ceiling - ceiling) <= 1e-6 + np.spacing(np.float32(ceiling))

    @mpmath.workdps(50)
    def test_ceilings_to_50_digits(self):
        log, log1p = mpmath.log, mpmath.log1p
        ulp = 2.0**-19
        assert S["tl_rand"].ceiling == pytest.approx(float(-log(-log1p(-(mpmath.mpf(2) ** -24)))), abs=ulp)
        for name, u in (
            ("tl_rand_flipped", TL_RAND.floor),
            ("vllm_64bit", 2.0**-64),
            ("vllm_murmur32", 2.0**-33),
        ):
            assert S[name].ceiling == pytest.approx(float(-log(-log1p(-mpmath.mpf(u)))), abs=2 * ulp)
        assert S["sglang_seeded_clamped"].ceiling == pytest.approx(32 * math.log(2), abs=1e-14)

    @pytest.mark.parametrize("source", [TL_RAND_64, MURMUR_CLOSED])
    def test_too_many_words(self, source):
        assert not source.enumerable
        with pytest.raises(InputError, match="use its certified law"):
            source.atoms()


def tails(gap: float, n: int) -> torch.Tensor:
    return torch.cat([torch.zeros(1), torch.full((n,), -gap)])


def reach(name: str, gap: float, n: int = 1 << 14) -> float:
    """P(one of n equal tokens at -gap) by the sampler's law, over the true one."""
    weight = n * math.exp(-gap)
    return S[name].law(tails(gap, n)).probs[1:].sum() * (1 + weight) / weight


def lattice_reach(gap: float, n: int) -> float:
    """The same for E = k 2^-31, k = 1, 2, ..., of weight 2, 1, 1, ..., and a head of continuous noise: no
    float, no table.

    P(head) = sum_k [exp(-k y) - exp(-(k + 1) y)] (1 - F_k)^n, y = 2^-31 e^gap, F_k = P(E <= k 2^-31).
    """
    y = math.exp(gap - 31 * math.log(2))
    k = np.arange(int(60 / y) + 2)
    below = np.where(k == 0, 0, k + 1) * 2.0**-31
    tail = np.sum(np.exp(-k * y) * -np.expm1(-y) * -np.expm1(n * np.log1p(-below)))
    weight = n * math.exp(-gap)
    return float(tail) * (1 + weight) / weight


def check_table(name: str) -> None:
    atoms = S[name].noise_atoms()
    assert atoms.ceiling == S[name].ceiling
    check_runs_of_words(S[name])


class TestFlipped:
    def test_table(self):
        check_table("tl_rand_flipped")

    @pytest.mark.parametrize(
        ("gap", "expected"),
        [
            (16, 1.00205),
            (18, 1.01444),
            (19, 1.03550),
            (20, 1.07152),
            (20.5, 1.08194),
            (21, 1.05648),
            (22, 0.70188),
        ],
    )
    def test_draws_too_much_of_the_tail(self, gap, expected):
        """Both 0 and 1 are raised to 2^-31: E has weight 2 there, then 1 at each k 2^-31. Its law, of 38
        million atoms in float32, against the lattice; in a pair the ratio is y (e^-y + 1 / (e^y - 1)), at
        most 1.0820, at gap 20.48."""
        got = reach("tl_rand_flipped", gap)
        assert got == pytest.approx(lattice_reach(gap, 1 << 14), abs=3e-6)
        assert got == pytest.approx(expected, abs=2e-5)
        y = math.exp(gap - 31 * math.log(2))
        assert got == pytest.approx(y * (math.exp(-y) + 1 / math.expm1(y)), abs=1e-5)

    def test_the_excess_peaks_at_8_2_percent(self):
        y = np.linspace(1e-3, 3, 300_000)
        ratio = y * (np.exp(-y) + 1 / np.expm1(y))
        assert ratio.max() == pytest.approx(1.08196, abs=1e-5)
        assert math.log(y[ratio.argmax()] * 2**31) == pytest.approx(20.4836, abs=1e-3)


class TestMurmurTable:
    def test_table(self):
        check_table("vllm_murmur32")

    @pytest.mark.parametrize("gap", [18.0, 20.0, 22.0])
    def test_centred_words_are_second_order(self, gap):
        """E at (k + 1/2) 2^-32, ratio y / (2 sinh(y / 2)) in a pair: 0.9995 at gap 20, 0.972 at 22."""
        y = math.exp(gap - 32 * math.log(2))
        assert reach("vllm_murmur32", gap) == pytest.approx(y / (2 * math.sinh(y / 2)), abs=1e-5)


class TestPlain:
    @pytest.mark.parametrize("name", ["tl_rand", pytest.param("vllm_diffusion_gemma", marks=SLOW)])
    def test_the_tail_is_lost_from_14_on(self, name):
        """u ends at 1 - 2^-24: 0.93 of the tail at gap 14, 0.60 at 16, 0.04 at 18, none at 22."""
        check_table(name)
        assert reach(name, 14) == pytest.approx(0.9310, abs=1e-4)
        assert reach(name, 16) == pytest.approx(0.6016, abs=1e-4)
        assert reach(name, 18) == pytest.approx(0.0407, abs=1e-4)
        assert reach(name, 22) < 1e-9

    @pytest.mark.slow
    def test_the_diffusion_sampler_is_tl_rand_but_for_the_word_0(self):
        """1e-20 instead of 2^-31: one word of 2^31, and it only loses."""
        plain, guarded = S["tl_rand"].noise_atoms(), S["vllm_diffusion_gemma"].noise_atoms()
        assert len(guarded.values) == len(plain.values) + 1
        np.testing.assert_array_equal(guarded.values[1:], plain.values)
        np.testing.assert_array_equal(guarded.counts[2:], plain.counts[1:])
        assert guarded.counts[:2].tolist() == [1, int(plain.counts[0]) - 1]


class TestFine:
    @pytest.mark.parametrize("name", ["vllm_64bit", "sglang_seeded_clamped"])
    def test_fine_words_are_certified(self, name):
        logits = torch.tensor([0.0, -1.0, -12.0])
        law = S[name].law(logits)
        np.testing.assert_allclose(law.probs, target_law(logits.double().numpy()).probs, rtol=1e-12)
        assert 0 < law.error < 1e-5

    def test_sglang_s_closed_interval_draws_what_is_masked(self):
        """Word 2^32 - 1: u = 1, G = +inf; -inf + inf is NaN, which argmax takes. Clamped, G is 32 log 2."""
        logits = torch.tensor([5.0, -math.inf])
        u = MURMUR_CLOSED.from_words(torch.tensor([[123_456_789, (1 << 32) - 1]]))
        assert u[0, 1] == 1.0
        assert S["sglang_seeded"].decide(logits, u).tolist() == [1]
        assert S["sglang_seeded_clamped"].decide(logits, u).tolist() == [0]
        near = torch.tensor([[(1 << 32) - 2, (1 << 32) - 1]])
        a, b = S["sglang_seeded_clamped"].noise_of(MURMUR_CLOSED.from_words(near))[0].tolist()
        assert a == pytest.approx(b, abs=1e-8)

    def test_sglang_s_first_word_is_finite(self):
        noise = S["sglang_seeded"].noise_of(MURMUR_CLOSED.from_words(torch.zeros(1, dtype=torch.int64)))
        assert float(noise) == pytest.approx(-math.log(1.7976931348623157e308))
