"""JAX's recipes: the words, the exact tables, and JAX 0.10.2 itself fed with the same words."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from contract import FALSE_FAIL, SamplerContract
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.formats import FORMATS
from precision_lab.laws.law import target_law
from precision_lab.samplers import Sampler
from precision_lab.samplers.noise_maps import flipped
from precision_lab.samplers.published import JAX
from precision_lab.uniforms.jax_random import JAX_HIGH, JAX_HIGHEST, JAX_LOW
from precision_lab.uniforms.wide import torch_words

S = {sampler.name: sampler for sampler in JAX}
MODE = {name: name.split("_")[1] for name in S}
_COUNTER = itertools.count()


@pytest.fixture(params=S.values(), ids=S, scope="class")
def sampler(request) -> Sampler:
    return request.param


class TestContract(SamplerContract):
    def test_ceiling_is_a_gumbel_value(self, sampler):
        assert sampler.ceiling > 4  # bfloat16 has 128 values, the largest 4.84


def nearest(x: Fraction, precision: int) -> Fraction:
    """x in (0, 1] rounded to ``precision`` bits, ties to even, no limit on the exponent."""
    if not x:
        return x
    shift = precision - 1 - math.floor(math.log2(x)) + 2  # two bits too many: then settle by integers
    while math.floor(x * Fraction(2) ** shift) >= 1 << precision:
        shift -= 1
    return round(x * Fraction(2) ** shift) / Fraction(2) ** shift  # Fraction's round goes to even


def high_of(word: int, m: int, precision: int, tiny: Fraction) -> Fraction:
    high, low = Fraction(word >> m, 1 << m), Fraction(word & ((1 << m) - 1), 1 << m)
    if high >= Fraction(1, 2):
        return high
    return nearest(nearest(high + low / (1 << m), precision) + tiny, precision)


class TestWords:
    """The maps against exact fractions."""

    @pytest.mark.parametrize("name", ["fp16", "bf16", "fp32"])
    def test_low(self, name):
        source, fmt = JAX_LOW[name], FORMATS[name]
        m = fmt.precision - 1
        assert source.bits == m
        k = (
            np.arange(1 << m)
            if m < 20
            else np.r_[0:5000, (1 << 22) - 9 : (1 << 22) + 9, (1 << 23) - 5000 : 1 << 23]
        )
        expected = [max(Fraction(2) ** fmt.emin, Fraction(int(i), 1 << m)) for i in k]
        assert [Fraction(u) for u in source.from_words(torch.from_numpy(k)).double().tolist()] == expected

    @pytest.mark.parametrize("name", ["fp16", "bf16", "fp32"])
    def test_high(self, name):
        source, fmt = JAX_HIGH[name], FORMATS[name]
        m = fmt.precision - 1
        assert source.bits == 2 * m
        rng = np.random.default_rng(0)
        scales = rng.integers(0, 1 << (2 * m), 4000) >> rng.integers(0, 2 * m, 4000)
        words = (
            np.arange(1 << 14) if m == 7 else np.r_[0:3000, scales, (1 << (2 * m)) - 1, (1 << (2 * m - 1)) - 1]
        )
        expected = [high_of(int(w), m, fmt.precision, Fraction(2) ** fmt.emin) for w in words]
        assert [Fraction(u) for u in source.from_words(torch.from_numpy(words)).double().tolist()] == expected

    @mpmath.workdps(50)
    def test_highest(self):
        """E = -log(1 - w 2^-64) to 50 digits, from the 24 leading bits of w or of 2^64 - w: 2 ulp of float32."""
        rng = np.random.default_rng(1)
        shifts = rng.integers(0, 64, 3000).astype(np.uint64)
        words = (rng.integers(0, 1 << 64, 3000, dtype=np.uint64) >> shifts).tolist()
        words += [(1 << 64) - 1 - w for w in words] + [
            0,
            1,
            2,
            3,
            (1 << 63) - 1,
            1 << 63,
            (1 << 63) + 1,
            (1 << 64) - 1,
        ]
        words += [(1 << b) + d for b in range(2, 64) for d in (-1, 0, 1)]
        got = (
            JAX_HIGHEST.from_words(torch.from_numpy(np.array(words, dtype=np.uint64).view(np.int64)))
            .double()
            .tolist()
        )
        for word, e in zip(words, got, strict=True):
            near = min(word, (1 << 64) - word)
            cut = max(near.bit_length() - 24, 0)
            x = mpmath.mpf(near >> cut << cut) / 2**64 if near else mpmath.mpf(2) ** -65
            exact = -mpmath.log1p(-x) if word < 1 << 63 else -mpmath.log(x)
            assert abs(e / exact - 1) < 2.0**-22, word
            single = torch.tensor(float(x), dtype=torch.float32)  # cut, not rounded: the same E to the bit
            assert e == float(-torch.log1p(-single) if word < 1 << 63 else -torch.log(single)), word

    @pytest.mark.parametrize("source", [JAX_HIGH["fp32"], JAX_HIGHEST])
    def test_too_many_words(self, source):
        assert not source.enumerable
        with pytest.raises(InputError, match="use its certified law"):
            source.atoms()

    def test_words_from_torch_fill_their_range(self):
        """2^16 words: the top and the low bit of each are 1 half the time, to 6 standard deviations (2e-9
        each)."""
        for bits in (7, 23, 46, 64):
            words = torch_words((1 << 16,), bits, rng=torch.Generator().manual_seed(bits))
            top = (words < 0) if bits == 64 else (words >> (bits - 1)) == 1
            assert bits == 64 or (int(words.min()) >= 0 and int(words.max()) < 1 << bits)
            for bit in (top, (words & 1) == 1):
                assert abs(float(bit.double().mean()) - 0.5) < 6 / 2 / 256


class TestTables:
    def test_default_mode_bfloat16_has_128_values_and_stops_at_4_84(self):
        atoms = S["jax_low_bf16"].noise_atoms()
        assert (atoms.bits, len(atoms.values), set(atoms.counts.tolist())) == (7, 128, {1})
        assert atoms.ceiling == 4.84375

    def test_high_mode_bfloat16_has_an_atom_at_87_5(self):
        """The word 0: probability 2^-14. The next value is 9.6875."""
        atoms = S["jax_high_bf16_0_10_2"].noise_atoms()
        assert (atoms.bits, atoms.values[-1], atoms.counts[-1], atoms.values[-2]) == (14, 87.5, 1, 9.6875)

    @pytest.mark.parametrize(
        ("name", "ceiling", "u"),
        [
            ("jax_low_fp32", 15.942385, 2.0**-23),
            ("jax_low_bf16", 4.84375, 2.0**-7),
            ("jax_low_fp16", 6.9296875, 2.0**-10),
            ("jax_high_fp32", 87.336548, 2.0**-126),
            ("jax_high_bf16_0_10_2", 87.5, 2.0**-126),
            ("jax_highest_fp32", 45.054565, 2.0**-65),
        ],
    )
    def test_ceilings(self, name, ceiling, u):
        """-log(-log(1 - u)) at the smallest u, or 1 - u, to 50 digits: within an ulp of the format."""
        with mpmath.workdps(50):
            exact = float(-mpmath.log(-mpmath.log1p(-mpmath.mpf(u))))
        ulp = 2.0 ** (math.floor(math.log2(exact)) + 1 - FORMATS[S[name].stages.noise].precision)
        assert exact == pytest.approx(ceiling, abs=ulp)
        assert S[name].ceiling == pytest.approx(exact, abs=ulp)

    @pytest.mark.parametrize("name", [name for name in S if S[name].source.enumerable])
    def test_are_the_recipe_on_every_word(self, name):
        source, atoms = S[name].source, S[name].noise_atoms()
        noise = S[name].noise_of(source.from_words(torch.arange(1 << source.bits)))
        values, counts = np.unique(noise.double().numpy() + 0.0, return_counts=True)
        np.testing.assert_array_equal(atoms.values, values)
        np.testing.assert_array_equal(atoms.counts, counts)


class TestDefects:
    def test_high_mode_bfloat16_draws_the_tail(self):
        """Head at 20 against 32,000 flat: P(head) = 0.99993, and 0.14187 is drawn. The head's least score
        beats every noise but the atom, and its own atom beats that: P(head) = a + (1 - a)^32001, a = 2^-14."""
        logits = torch.zeros(32_001)
        logits[0] = 20.0
        atom = 2.0**-14
        law = S["jax_high_bf16_0_10_2"].law(logits)
        assert law.probs[0] == pytest.approx(atom + (1 - atom) ** 32_001, abs=1e-9)
        assert law.probs[0] == pytest.approx(0.141874, abs=1e-6)
        assert target_law(logits.double().numpy()).probs[0] > 0.9999

    def test_default_mode_bfloat16_makes_most_of_the_vocabulary_unreachable(self):
        logits = torch.from_numpy(np.random.default_rng(0).normal(0, 3, 50_257)).to(torch.bfloat16)
        law, target = S["jax_low_bf16"].law(logits), target_law(logits.double().numpy())
        top = np.argsort(-logits.float().numpy(), kind="stable")[:100]
        assert target.probs[top].sum() == pytest.approx(0.6431, abs=1e-4)
        assert law.probs[top].sum() == pytest.approx(0.9987, abs=1e-4)
        assert len(law.unreachable) > 47_000

    @pytest.mark.parametrize("name", ["jax_low_fp32", "jax_low_fp16", "jax_low_bf16"])
    def test_default_mode_ends_at_its_ceiling(self, name):
        """Beyond the ceiling less the head's least noise, -log(-log tiny), a token is never drawn; a little
        nearer, it is."""
        reach = S[name].ceiling - S[name].noise_atoms().floor
        assert S[name].law(torch.tensor([0.0, -1.01 * reach])).unreachable.tolist() == [1]
        assert S[name].law(torch.tensor([0.0, -0.99 * reach])).probs[1] > 0

    @pytest.mark.parametrize("name", ["jax_high_fp32", "jax_highest_fp32"])
    def test_fine_modes_are_certified_to_a_few_parts_in_a_million(self, name):
        """The bound grows with the size of the logits, as the rounding of a float32 sum does."""
        logits = torch.tensor([0.0, -1.0, -12.0])
        law = S[name].law(logits)
        np.testing.assert_allclose(law.probs, target_law(logits.double().numpy()).probs, rtol=1e-12)
        assert 2.0**-19 < law.error < 1e-5
        assert S[name].law(logits + 1e4).error > 100 * law.error


@pytest.fixture(scope="module")
def jax():
    module = pytest.importorskip("jax", reason="jax is not installed: pip install jax==0.10.2 compares with it")
    if module.__version__ != "0.10.2":
        pytest.skip(f"jax {module.__version__}: these recipes are those of 0.10.2")
    return module


def dtype_of(jax, name: str):
    return {"fp32": jax.numpy.float32, "bf16": jax.numpy.bfloat16, "fp16": jax.numpy.float16}[
        S[name].stages.weights
    ]


def raw_bits(jax, name: str):
    """What the library asks of its generator: 8 bits for bfloat16, 16 for float16, 32 for float32."""
    return {"fp32": jax.numpy.uint32, "bf16": jax.numpy.uint8, "fp16": jax.numpy.uint16}[S[name].stages.weights]


def words_of(name: str, raw: np.ndarray) -> torch.Tensor:
    """The library's raw bits, (1 or 2, ...), as words of the source."""
    raw = raw.astype(np.int64)
    m, drop = S[name].source.format.precision - 1, {"fp32": 9, "bf16": 1, "fp16": 6}[S[name].stages.weights]
    if MODE[name] == "highest":
        return torch.from_numpy((raw[0] << 32) | raw[1])
    return torch.from_numpy(
        raw[0] >> drop if MODE[name] == "low" else ((raw[0] >> drop) << m) | (raw[1] >> drop)
    )


def library_noise(jax, name: str, raw: np.ndarray) -> np.ndarray:
    """``jax.random.gumbel`` itself, compiled, on a generator that hands out ``raw``."""
    from jax.extend.random import define_prng_impl

    wide, dtype = raw_bits(jax, name), dtype_of(jax, name)
    unique = f"given{next(_COUNTER)}"
    given = define_prng_impl(
        key_shape=(raw.size,),
        seed=lambda seed: jax.numpy.zeros(raw.size, jax.numpy.uint32),
        split=lambda key, shape: key,
        random_bits=lambda key, width, shape: key.reshape(shape).astype(wide),
        fold_in=lambda key, data: key,
        name=unique,
        tag=unique,
    )
    key = jax.random.wrap_key_data(jax.numpy.asarray(raw.reshape(-1), dtype=jax.numpy.uint32), impl=given)
    return np.asarray(jax.random.gumbel(key, raw.shape[1:], dtype, mode=MODE[name])).astype(np.float32)


def our_noise(name: str, raw: np.ndarray) -> np.ndarray:
    return S[name].noise_of(S[name].source.from_words(words_of(name, raw))).float().numpy()


class TestAgainstJax:
    @pytest.mark.parametrize(("name", "bits"), [("jax_low_bf16", 8), ("jax_low_fp16", 16)])
    def test_low_half_precision_is_jax_bit_for_bit_on_every_word(self, jax, name, bits):
        raw = np.arange(1 << bits)[None]
        np.testing.assert_array_equal(our_noise(name, raw), library_noise(jax, name, raw))

    def test_high_bfloat16_is_jax_bit_for_bit_on_every_pair_of_words(self, jax):
        pair = np.arange(1 << 16)
        raw = np.stack([pair >> 8, pair & 255])
        theirs = library_noise(jax, "jax_high_bf16_0_10_2", raw)
        np.testing.assert_array_equal(our_noise("jax_high_bf16_0_10_2", raw), theirs)
        assert (theirs == 87.5).sum() == 4  # two pairs of low bits dropped: 4 of 2^16

    def test_high_float16_is_jax_bit_for_bit_on_every_pair_of_mantissas(self, jax, monkeypatch):
        """Not in the table of samplers, but the same source: 2^20 words."""
        from dataclasses import replace

        from precision_lab.samplers import Stages

        half = replace(
            S["jax_high_bf16_0_10_2"],
            name="jax_high_fp16",
            stages=Stages.all("fp16"),
            source=JAX_HIGH["fp16"],
        )
        monkeypatch.setitem(S, half.name, half)
        monkeypatch.setitem(MODE, half.name, "high")
        pair = np.arange(1 << 20)
        raw = np.stack([pair >> 10, pair & 1023]) << 6
        np.testing.assert_array_equal(our_noise(half.name, raw), library_noise(jax, half.name, raw))

    def test_low_float32_on_every_mantissa(self, jax):
        """2^23 words. u is JAX's exactly; XLA's logarithm moves G by an ulp of 15.9 at most, at the ends
        too, and nearly all values are distinct in either."""
        raw = (np.arange(1 << 23) << 9)[None]
        theirs, ours = library_noise(jax, "jax_low_fp32", raw), our_noise("jax_low_fp32", raw)
        assert np.abs(theirs.astype(np.float64) - ours).max() <= 2.0**-20
        for noise in (theirs, ours):
            assert noise[-1] == noise.max()
            assert noise[0] == noise.min()
            assert len(np.unique(noise)) > 0.99 * (1 << 23)

    @pytest.mark.parametrize("name", ["jax_high_fp32", "jax_highest_fp32"])
    def test_fine_float32_at_every_scale(self, jax, name):
        """Words with 0 to 63 leading zeros or ones: within 2 ulp of max(|G|, 1), and equal for nearly all."""
        rng = np.random.default_rng(2)
        words = rng.integers(0, 1 << 64, 1 << 19, dtype=np.uint64) >> rng.integers(0, 64, 1 << 19).astype(
            np.uint64
        )
        words = np.concatenate(
            [words, ~words, np.arange(4096, dtype=np.uint64), ~np.arange(4096, dtype=np.uint64)]
        )
        raw = np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)]).astype(np.int64)
        if name == "jax_high_fp32":  # its words are the top 23 bits of each half
            raw[1, -8192:] = np.tile(np.arange(4096) << 9, 2)
        theirs, ours = library_noise(jax, name, raw), our_noise(name, raw)
        ulp = np.spacing(np.maximum(np.abs(ours), np.float32(1)))
        assert (np.abs(theirs.astype(np.float64) - ours) <= 2 * ulp).all()
        assert ours.max() == np.float32(S[name].ceiling)
        assert (theirs == ours).mean() > 0.8

    @pytest.mark.parametrize("name", S)
    def test_tokens_are_jax_categorical_s(self, jax, name):
        """300 draws of 3,000 tokens by ``jax.random.categorical`` from its own generator, against our
        decision on the same bits. In float32 one near tie may fall the other way."""
        vocab, n = 3000, 300
        logits = torch.from_numpy(np.random.default_rng(3).normal(0, 3, vocab).astype(np.float32))
        key, wide = jax.random.key(7), raw_bits(jax, name)
        theirs = jax.random.categorical(
            key, jax.numpy.asarray(logits.numpy()).astype(dtype_of(jax, name)), shape=(n,), mode=MODE[name]
        )
        shape = (n, vocab) if MODE[name] == "low" else (2, n, vocab)
        raw = np.asarray(jax.random.bits(key, shape, wide)).reshape(-1, n, vocab)
        ours = S[name].decide(logits.expand(n, vocab), S[name].source.from_words(words_of(name, raw)))
        differ = int((ours.numpy() != np.asarray(theirs)).sum())
        assert differ <= (1 if name.endswith("fp32") else 0)
        assert len(np.unique(np.asarray(theirs))) > 20

    def test_high_bfloat16_draws_as_its_law_says_and_not_as_the_target(self, jax):
        """1,000 draws of ``jax.random.categorical``. False-fail rate 1e-6; it sees 0.142 moved by 0.055."""
        logits = np.zeros(32_001, dtype=np.float32)
        logits[0] = 20
        law = S["jax_high_bf16_0_10_2"].law(torch.from_numpy(logits))
        heads = sum(
            int(
                (
                    jax.random.categorical(
                        key, jax.numpy.asarray(logits).astype("bfloat16"), shape=(250,), mode="high"
                    )
                    == 0
                ).sum()
            )
            for key in jax.random.split(jax.random.key(0), 4)
        )
        assert stats.binomtest(heads, 1000, law.probs[0]).pvalue > FALSE_FAIL
        assert stats.binomtest(heads, 1000, target_law(logits.astype(np.float64)).probs[0]).pvalue < FALSE_FAIL


def test_flipped_resolves_what_the_plain_form_cannot():
    """At u = 2^-30 the plain form of 1 - u is log 1 = 0; the flipped one keeps it."""
    u = torch.tensor([2.0**-30])
    assert float(flipped(u)) == pytest.approx(30 * math.log(2), rel=1e-6)
