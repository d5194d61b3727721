"""The samplers on trial: the contract for all of them, then what each is there to show."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from contract import FALSE_FAIL, VOCAB, SamplerContract, rejected, row, seeded

import precision_lab
from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.formats import BF16, FORMATS
from precision_lab.laws.law import Law, target_law
from precision_lab.samplers import SAMPLERS, FunctionSampler, Sampler, Stages, UniformSampler, resolve
from precision_lab.samplers.exponential_race import exponential_race
from precision_lab.samplers.gumbel_max import gumbel_max
from precision_lab.samplers.noise_maps import exponential, guarded_exponential, gumbel
from precision_lab.samplers.published import JAX, PUBLISHED, SGLANG, VLLM
from precision_lab.samplers.rules import Enumerated
from precision_lab.samplers.torch_multinomial import torch_multinomial, torch_multinomial_replacement
from precision_lab.types import Guarantee
from precision_lab.uniforms import DTYPES, TORCH_RAND, Source
from precision_lab.uniforms.source import pushed_law

INF = float("inf")
NARROW = [name for name, s in SAMPLERS.items() if s.stages.weights != "fp64"]
ENUMERABLE = [
    name
    for name, s in SAMPLERS.items()
    if isinstance(s, UniformSampler) and s.source.enumerable and (name not in PUBLISHED or name == "mdlm_fp32")
]


def wide(sampler: Sampler) -> bool:
    """Tables of tens of millions of values, made in seconds."""
    return isinstance(sampler, UniformSampler) and sampler.source.enumerable and sampler.source.bits in (31, 32)


class TestEverySampler(SamplerContract):
    """All but those of JAX, vLLM and SGLang, which have files of their own."""

    @pytest.fixture(
        params=[
            pytest.param(s, id=s.name, marks=pytest.mark.slow if wide(s) else ())
            for s in SAMPLERS.values()
            if s not in (*JAX, *VLLM, *SGLANG)
        ],
    )
    def sampler(self, request) -> Sampler:
        return request.param


class TestTheTable:
    def test_names_are_the_samplers_own(self):
        assert all(name == sampler.name for name, sampler in SAMPLERS.items())
        assert {
            "gumbel_max_fp32",
            "exponential_race_fp32",
            "mdlm_fp32",
            "llada_fp64",
            "torch_multinomial_fp32",
        } <= set(SAMPLERS)

    def test_the_front_door(self):
        assert precision_lab.SAMPLERS is SAMPLERS
        logits = [0.0, -1.0, -INF]
        np.testing.assert_array_equal(
            precision_lab.law("gumbel_max_bf16", logits).probs,
            SAMPLERS["gumbel_max_bf16"].law(np.array(logits)).probs,
        )
        with pytest.raises(AttributeError):
            _ = precision_lab.nonsense

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("name", NARROW)
    def test_a_row_beyond_the_format_is_refused(self, name, sign):
        """Logits that the sampler's own cast would turn to inf, or all to -inf: no law, and draws that mean
        nothing."""
        sampler = SAMPLERS[name]
        logits = sign * torch.full((2,), 2 * FORMATS[sampler.stages.weights].max, dtype=torch.float64)
        with pytest.raises(InputError, match=f"for {name}; expected at most"):
            sampler.draw(logits, 2, rng=seeded(0))
        with pytest.raises(InputError, match=f"for {name}; expected at most"):
            sampler.law(logits)


class TestTheInstrument:
    """The control of :meth:`SamplerContract.test_draws_follow_the_law`: it rejects what it says it sees."""

    @staticmethod
    def law() -> Law:
        return SamplerContract.law_of_row(SAMPLERS["gumbel_max_fp64"])

    @staticmethod
    def scaled(law: Law, tokens: np.ndarray, factor: float) -> np.ndarray:
        probs = law.probs.copy()
        probs[tokens] *= factor
        probs[3] = 0
        probs[3] = 1 - probs.sum()
        return probs

    @pytest.mark.parametrize(("token", "factor"), [(None, 1.15), (None, 0.85), (0, 1.30), (0, 0.70)])
    def test_rejects_the_smallest_bias_it_claims_to_see(self, token, factor):
        """200 sets of draws; a false pass has probability 1e-6 each."""
        law, rng = self.law(), np.random.default_rng(11)
        tokens = np.delete(np.arange(VOCAB), 3) if token is None else np.array([token])
        assert token is None or law.probs[token] > 0.005
        biased = self.scaled(law, tokens, factor)
        for _ in range(200):
            assert rejected(rng.multinomial(SamplerContract.DRAWS, biased), law) != []

    def test_passes_the_law_itself(self):
        """200 sets of draws; a false failure has probability 1e-6 each."""
        law, rng = self.law(), np.random.default_rng(12)
        for _ in range(200):
            assert (
                rejected(rng.multinomial(SamplerContract.DRAWS, self.scaled(law, np.array([0]), 1.0)), law)
                == []
            )

    def test_keeps_its_level(self):
        """At level 0.1 a right law is rejected in at most 0.1 of 2000 sets: 0.1 + 6 standard deviations is
        0.14."""
        law, rng = self.law(), np.random.default_rng(13)
        sets = rng.multinomial(SamplerContract.DRAWS, self.scaled(law, np.array([0]), 1.0), size=2000)
        assert np.mean([rejected(counts, law, false_fail=0.1) != [] for counts in sets]) < 0.14

    @pytest.mark.parametrize(
        ("drawn", "judged_by"),
        [
            ("gumbel_max_bf16", "gumbel_max_fp32"),
            ("gumbel_max_fp16", "gumbel_max_fp32"),
            ("exponential_race_bf16", "gumbel_max_fp64"),
            ("llada_fp64", "gumbel_max_bf16"),
        ],
    )
    def test_draws_of_another_sampler_are_rejected(self, drawn, judged_by):
        """bfloat16 makes 0.008 of a tail of 0.02, float16 0.015; what is seen is 15 %."""
        tokens = SAMPLERS[drawn].draw(row(), SamplerContract.DRAWS, rng=seeded(14))
        counts = np.bincount(tokens.numpy(), minlength=VOCAB)
        assert rejected(counts, SamplerContract.law_of_row(SAMPLERS[judged_by])) != []
        assert rejected(counts, SamplerContract.law_of_row(SAMPLERS[drawn])) == []

    def test_a_token_that_cannot_be_drawn_is_rejected_at_once(self):
        counts = np.bincount([3] * 100 + [7], minlength=VOCAB)
        assert rejected(counts, self.law(), FALSE_FAIL) == [7]


@dataclass(frozen=True)
class ToySource(Source):
    """u = (k + offset) / 2^bits: few enough words to visit every combination."""

    offset: float = 0.0

    def from_words(self, words):
        return ((words.double() + self.offset) * 2.0**-self.bits).to(self.dtype)

    def native(self, shape, *, rng):
        return self.from_words(torch.randint(0, 1 << self.bits, shape, generator=rng))

    def atoms(self) -> Atoms:
        return Atoms.of(self.from_words(torch.arange(1 << self.bits)).double().numpy(), 1, self.bits)


def every_decision(sampler: UniformSampler, logits: torch.Tensor, bits: int) -> np.ndarray:
    """The law by running the sampler's own ``decide`` on every combination of words: no randomness, no law
    code."""
    vocab = len(logits)
    combos = torch.tensor(list(itertools.product(range(1 << bits), repeat=vocab)))
    tokens = sampler.decide(logits.expand(len(combos), vocab), sampler.source.from_words(combos))
    return np.bincount(tokens.numpy(), minlength=vocab) / len(combos)


RECIPES = {
    "gumbel": (gumbel, "add"),
    "race": (exponential, "divide"),
    "guarded": (guarded_exponential, "divide"),
}


class TestLawIsEveryDecision:
    """End to end and exact: torch's casts, logarithms, sums, quotients and argmax against the law, word by
    word."""

    ROWS = ([0.0, 0.0, 0.0], [1.5, -0.25, 0.0], [2.0, -INF, 1.0], [0.5, 0.5, -6.0], [-INF, 0.0, -INF])

    @pytest.mark.parametrize("tie", ["first", "last"])
    @pytest.mark.parametrize("offset", [0.0, 0.5])
    @pytest.mark.parametrize("format", ["fp16", "bf16", "fp32"])
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_uniform_samplers(self, recipe, format, offset, tie):
        noise_of, combine = RECIPES[recipe]
        source = ToySource("toy", FORMATS[format], 4, offset)
        toy = UniformSampler("toy", "test", "nowhere", Stages.all(format), source, noise_of, combine, tie)
        for logits in map(torch.tensor, self.ROWS):
            np.testing.assert_allclose(
                toy.law(logits).probs, every_decision(toy, logits, 4), rtol=0, atol=1e-12
            )

    def test_the_tie_rule_matters_here(self):
        source = ToySource("toy", BF16, 4)
        laws = [
            UniformSampler("toy", "test", "nowhere", Stages.all("bf16"), source, gumbel, "add", tie)
            .law(torch.zeros(3))
            .probs
            for tie in ("first", "last")
        ]
        assert laws[0][0] > laws[0][2] + 0.05
        np.testing.assert_allclose(laws[0], laws[1][::-1], atol=1e-13)

    @pytest.mark.parametrize("name", ["fp16", "fp32"])
    def test_inverse_cdf(self, name):
        """Every one of the 2^24 words."""
        sampler = SAMPLERS[f"inverse_cdf_{name}"]
        u = TORCH_RAND[name].from_words(torch.arange(1 << 24)).unsqueeze(-1)
        for logits in (row(), torch.tensor([[0.0, -3.0, -INF, -15.0, -17.5, -INF]])):
            tokens = sampler.decide(logits.reshape(1, -1), u)
            counts = np.bincount(tokens.flatten().numpy(), minlength=logits.shape[-1])
            with np.errstate(divide="ignore"):
                np.testing.assert_array_equal(
                    sampler.law(logits.flatten()).log_probs, np.log(counts / (1 << 24))
                )

    def test_inverse_cdf_in_float64_counts_its_grid(self):
        """At every sum c: the last word below c takes the token, the first at or above it the next."""
        sampler = SAMPLERS["inverse_cdf_fp64"]
        cumulative = sampler.sums(row()).numpy()
        law = np.cumsum(sampler.law(row()).probs)
        for j, c in enumerate(cumulative[:-1]):
            first = math.ceil(c * 2**53)
            assert law[j] == pytest.approx(first * 2.0**-53, abs=1e-14)
            u = torch.tensor([[(first - 1) * 2.0**-53], [first * 2.0**-53]], dtype=torch.float64)
            below, above = sampler.decide(row().unsqueeze(0), u).flatten().tolist()
            assert below <= j < above


class TestTheHinge:
    """draw(logits, n, rng) = decide(logits, source.draw(shape, rng))."""

    @pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if isinstance(s, UniformSampler)])
    @pytest.mark.parametrize("make", [seeded, np.random.default_rng])
    def test_a_draw_is_a_decision_on_the_source(self, name, make):
        sampler = SAMPLERS[name]
        logits = torch.stack([row(), torch.zeros(VOCAB), row().flip(0)])
        u = sampler.source.draw((40, 3, VOCAB), rng=make(15))
        assert torch.equal(sampler.draw(logits, 40, rng=make(15)), sampler.decide(logits, u))

    def test_two_precisions_are_coupled_by_the_same_words(self):
        """float32 and MDLM's guard differ on none of 2^12 draws; bfloat16 differs on some."""
        single, guarded, brain = (
            SAMPLERS[n].draw(row(), 1 << 12, rng=np.random.default_rng(16))
            for n in ("exponential_race_fp32", "mdlm_fp32", "exponential_race_bf16")
        )
        assert torch.equal(single, guarded)
        assert 0 < (single != brain).double().mean() < 0.1


@mpmath.workdps(50)
def ceiling_of(u: float, guard: float = 0.0) -> float:
    """-log E at E = guard - log(u + guard), to 50 digits."""
    return float(-mpmath.log(guard - mpmath.log(mpmath.mpf(u))))


class TestNoiseTables:
    @pytest.mark.parametrize("name", ["gumbel_max_fp16", "gumbel_max_bf16", "gumbel_max_fp32", "mdlm_fp32"])
    def test_measured_twice_is_the_same_table(self, name):
        sampler = SAMPLERS[name]
        first = sampler.noise_atoms().sha256()
        pushed_law.cache_clear()
        assert sampler.noise_atoms().sha256() == first
        assert replace(sampler, noise_sha256=first).noise_atoms().sha256() == first

    def test_a_table_that_is_not_the_measured_one_is_refused(self):
        with pytest.raises(InputError, match="as it was measured"):
            replace(SAMPLERS["gumbel_max_bf16"], noise_sha256="0" * 64).law(torch.zeros(3))

    def test_a_law_tells_its_progress(self):
        seen: list[float] = []
        replace(SAMPLERS["gumbel_max_bf16"], progress=seen.append).law(torch.zeros(3))
        assert seen[-1] == 1.0

    def test_a_quotient_that_overflows_unsaid_is_refused(self):
        """exp(8) over 2^-11 is 6,105,000: beyond float16."""
        race = SAMPLERS["fast_dllm_fork_fp16"]
        assert race.law(torch.tensor([8.0, 0.0])).probs.sum() == pytest.approx(1)
        with pytest.raises(InputError, match="beyond fp16"):
            replace(race, rule=Enumerated()).law(torch.tensor([8.0, 0.0]))

    def test_a_dead_token_is_drawn_when_the_live_one_has_u_zero(self):
        """One token alive, at index 1: the dead one at index 0 comes where the live one has u = 0. In
        bfloat16 that is 2^-9 + 2^-24 with torch 2.13, and 2^-8 with the older map."""
        logits = torch.tensor([-INF, 0.0, -INF])
        for name in ("bf16", "fp16", "fp32"):
            zero = float(TORCH_RAND[name].atoms().below(np.array([0.0]), inclusive=True)[0])
            assert zero >= 2.0**-24
            for recipe in ("gumbel_max", "exponential_race"):
                law = SAMPLERS[f"{recipe}_{name}"].law(logits)
                assert law.probs == pytest.approx([zero, 1 - zero, 0], abs=1e-12)
        assert SAMPLERS["mdlm_fp32"].law(logits).probs.tolist() == [0.0, 1.0, 0.0]  # its guard keeps E finite

    def test_tables_differ(self):
        assert len({SAMPLERS[name].noise_atoms().sha256() for name in ENUMERABLE}) == len(ENUMERABLE)

    @pytest.mark.parametrize("name", ENUMERABLE)
    def test_the_noise_has_the_bits_of_its_source(self, name):
        atoms = SAMPLERS[name].noise_atoms()
        assert atoms.bits == 24
        assert int(atoms.counts.sum()) == 1 << 24
        zero = Fraction(int(SAMPLERS[name].source.atoms().counts[0]), 1 << 24)
        if SAMPLERS[name].combine == "add":  # u = 0
            assert (atoms.floor, Fraction(float(atoms.probs[0]))) == (-INF, zero)
        elif name != "mdlm_fp32":
            assert (atoms.ceiling, Fraction(float(atoms.probs[-1]))) == (INF, zero)
        else:  # the guard keeps log finite
            assert atoms.ceiling == pytest.approx(-math.log(1e-10), rel=1e-6)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("gumbel_max_fp16", 7.625),
            ("gumbel_max_bf16", 5.53125),
            ("gumbel_max_fp32", 16.6355),
            ("gumbel_max_fp64", 36.7368),
            ("gumbel_max_fp64_truncated", 16.6355),
            ("exponential_race_fp16", 7.6246),
            ("exponential_race_fp32", 16.6355),
            ("exponential_race_fp64", 36.7368),
            ("mdlm_fp32", 16.6339),
            ("llada_fp64", 36.7368),
        ],
    )
    def test_ceilings(self, name, expected):
        """Against 50 digits at the largest u below 1, rounded as the format rounds: within an ulp of the
        format."""
        sampler = SAMPLERS[name]
        fmt = FORMATS[sampler.stages.noise]
        independent = ceiling_of(
            1 - 2.0**-24 if name.endswith("truncated") else fmt.largest_below_one,
            1e-10 if name == "mdlm_fp32" else 0.0,
        )
        ulp = 2.0 ** (1 - fmt.precision + math.floor(math.log2(expected)))
        assert sampler.ceiling == pytest.approx(expected, abs=6e-5)
        assert sampler.ceiling == pytest.approx(independent, abs=max(ulp, 1e-6))

    def test_multinomial_has_infinite_scores_and_inverse_cdf_none(self):
        assert SAMPLERS["torch_multinomial_fp16"].ceiling == INF
        assert math.isnan(SAMPLERS["inverse_cdf_fp32"].ceiling)
        assert math.isnan(SAMPLERS["torch_multinomial_replacement_fp32"].ceiling)


class TestFineLaws:
    """float64 samplers: the target, within a bound that must hold for any logits."""

    FINE = ("gumbel_max_fp64", "exponential_race_fp64", "llada_fp64", "torch_multinomial_fp64")

    @pytest.mark.parametrize("name", FINE)
    def test_the_law_is_the_target_to_ten_digits(self, name):
        law = SAMPLERS[name].law(row())
        np.testing.assert_allclose(law.probs, target_law(row().numpy()).probs, rtol=1e-9, atol=0)
        assert law.error < 1e-12
        assert law.guarantee is Guarantee.CERTIFIED

    def test_logits_too_large_for_the_sum_widen_the_bound(self):
        """At 1e15 a float64 sum is rounded to 1/8, equal tokens tie, and the first wins: P = 0.51, not 0.5.

        2^16 draws: 0.5 +- 0.002; false-fail rate of the two assertions about draws below 1e-6, and it sees
        0.01."""
        logits = torch.full((2,), 1e15, dtype=torch.float64)
        sampler = SAMPLERS["gumbel_max_fp64"]
        law, first = sampler.law(logits), (sampler.draw(logits, 1 << 16, rng=seeded(17)) == 0).double().mean()
        assert first - 0.5 > 5 / (2 * math.sqrt(1 << 16))
        assert first - law.probs[0] < law.error
        assert sampler.law(logits * 1e-15).error < 1e-12
        assert sampler.law(torch.tensor([1e4, 1e4 + 1], dtype=torch.float64)).error < 1e-10

    def test_the_truncated_control_carries_both_errors(self):
        law = SAMPLERS["gumbel_max_fp64_truncated"].law(row())
        assert law.error >= SAMPLERS["gumbel_max_fp64"].law(row()).error
        assert law.error < 1e-12

    def test_the_truncated_control_stretches_a_deep_tail(self):
        logits = torch.tensor([0.0, -14.0, -16.0, -30.0])
        law, target = (
            SAMPLERS["gumbel_max_fp64_truncated"].law(logits),
            target_law(logits.numpy().astype(np.float64)),
        )
        ratio = law.probs[1:] / target.probs[1:]
        assert 1 > ratio[0] > ratio[1] > ratio[2]
        assert ratio[2] < 1e-4

    def test_float32_multinomial_is_certified_to_two_roundings(self):
        law = SAMPLERS["torch_multinomial_fp32"].law(row())
        assert 2.0**-23 < law.error < 1e-6


class TestLlada:
    def test_overflow_is_refused(self):
        for ask in (
            SAMPLERS["llada_fp64"].law,
            lambda logits: SAMPLERS["llada_fp64"].draw(logits, 2, rng=seeded(0)),
        ):
            with pytest.raises(
                InputError, match=r"1000 for llada_fp64; expected -658 to 709.8 .* subtract the largest logit"
            ):
                ask(torch.tensor([1000.0, 0.0]))

    def test_underflow_of_all_is_refused(self):
        """exp(-1000) is 0, every score is 0, and the first token would always be drawn."""
        for ask in (
            SAMPLERS["llada_fp64"].law,
            lambda logits: SAMPLERS["llada_fp64"].draw(logits, 2, rng=seeded(0)),
        ):
            with pytest.raises(InputError, match=r"from -999.5 to -999.5 for llada_fp64"):
                ask(torch.tensor([-1000.0, -999.5]))

    def test_one_row_of_a_batch_is_enough(self):
        with pytest.raises(InputError, match="from 0 to 1000"):
            SAMPLERS["llada_fp64"].draw(torch.tensor([[0.0, 0.0], [1000.0, 0.0]]), 2, rng=seeded(0))

    def test_scores_that_overflow_are_in_the_error(self):
        """Two tokens at 709.7: each score is infinite with probability 1 - e^-0.92 = 0.6, and the first of
        two wins.

        2^14 draws: 0.68 +- 0.004, so the deviation from 1/2 is 45 standard deviations. False-fail rate
        below 1e-9."""
        logits = torch.tensor([709.7, 709.7], dtype=torch.float64)
        law = SAMPLERS["llada_fp64"].law(logits)
        first = (SAMPLERS["llada_fp64"].draw(logits, 1 << 14, rng=seeded(18)) == 0).double().mean()
        assert first > 0.6
        assert first - law.probs[0] < law.error
        assert SAMPLERS["llada_fp64"].law(torch.tensor([600.0, 600.0])).error < 1e-12

    def test_a_dead_token_is_no_underflow(self):
        assert SAMPLERS["llada_fp64"].law(torch.tensor([0.0, -INF, -5000.0])).probs.tolist() == [1.0, 0.0, 0.0]


class TestTorchMultinomial:
    @pytest.mark.parametrize("name", DTYPES)
    def test_draws_are_those_of_torch(self, name):
        """Bit for bit, and bit for bit argmax(p / exponential_)."""
        logits = torch.stack([row(), torch.zeros(VOCAB)])
        p = torch.softmax(logits.to(DTYPES[name]), dim=-1)
        drawn = torch_multinomial(name).draw(logits, 50, rng=seeded(19))
        many = p.expand(50, 2, VOCAB).reshape(-1, VOCAB)
        assert torch.equal(drawn, torch.multinomial(many, 1, generator=seeded(19)).reshape(50, 2))
        noise = torch.empty_like(many).exponential_(generator=seeded(19))
        assert torch.equal(drawn, (many / noise).argmax(dim=-1).reshape(50, 2))

    @pytest.mark.parametrize("name", DTYPES)
    def test_replacement_is_a_search_of_the_sums(self, name):
        """Bit for bit: the sums of the law, searched with torch's own 53-bit u, give the tokens torch gives."""
        sampler = torch_multinomial_replacement(name)
        logits = 3 * torch.randn(2, 3000, generator=seeded(20))
        drawn = sampler.draw(logits, 4000, rng=seeded(21))
        u = torch.rand(2, 4000, generator=seeded(21), dtype=torch.float64).numpy()
        for j in range(2):
            p = torch.softmax(logits[j].to(DTYPES[name]), dim=-1).double().numpy()
            wide = np.float64 if name == "fp64" else np.float32
            sums = np.cumsum(p.astype(wide), dtype=wide)
            sums = (sums / sums[-1]).astype(np.float64)
            np.testing.assert_array_equal(drawn[:, j].numpy(), np.searchsorted(sums, u[j], side="left"))
            law = np.cumsum(sampler.law(logits[j]).probs)
            np.testing.assert_allclose(law[:-1], sums[:-1], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("vocab", [10, 2000])
    def test_float16_draws_dead_tokens(self, vocab):
        """SAMPLERS.md, defect 4: each dead token has E = 0, so 0/0, with probability 2^-25; the first NaN
        wins."""
        logits = torch.full((vocab,), -INF)
        logits[vocab // 2] = 0.0
        law = SAMPLERS["torch_multinomial_fp16"].law(logits)
        dead = np.delete(law.probs, vocab // 2)
        # the boundary: float32 rounds what is within half an ulp of 2^-25 to it
        zero = 2.0**-25 * (1 + 2.0**-24)
        np.testing.assert_allclose(dead, zero * (1 - zero) ** np.arange(vocab - 1), rtol=1e-6)

    def test_zero_one_hot_in_bfloat16_and_float32_is_safe(self):
        logits = torch.tensor([-INF, 0.0, -INF])
        assert torch_multinomial("bf16").law(logits).probs[1] == pytest.approx(1 - 2 * 2.0**-53, abs=2.0**-53)
        assert SAMPLERS["torch_multinomial_fp32"].law(logits).probs[1] == 1.0

    def test_float32_sums_absorb_a_whole_tail(self):
        """SAMPLERS.md, defect 3 (pytorch 43115): a head, then 2^17 tokens of 2^-26. 2^20 draws should hit
        the tail 2046 times. Deterministic: no sum differs from the head's."""
        count = 1 << 17
        logits = torch.full((count + 1,), math.log(2.0**-26))
        logits[0] = math.log(1 - count * 2.0**-26)
        sampler = SAMPLERS["torch_multinomial_replacement_fp32"]
        law = sampler.law(logits)
        np.testing.assert_array_equal(law.unreachable, np.arange(1, count + 1))
        assert law.probs[0] == 1.0
        assert int(sampler.draw(logits, 1 << 20, rng=seeded(22)).max()) == 0
        assert target_law(logits.double().numpy()).probs[1:].sum() == pytest.approx(2.0**-9, rel=1e-5)
        doubled = SAMPLERS["torch_multinomial_replacement_fp64"].law(logits)
        assert doubled.probs[1:].sum() == pytest.approx(2.0**-9, rel=1e-5)
        last = sampler.law(logits.flip(0))  # the order matters: with the head last the tail is all there
        assert last.probs[:-1].sum() == pytest.approx(2.0**-9, rel=1e-3)

    def test_one_draw_with_replacement_is_the_first_of_two(self):
        """torch takes the other path for one draw."""
        sampler = SAMPLERS["torch_multinomial_replacement_fp32"]
        flat = torch.zeros(1000)
        assert (
            sampler.draw(flat, 1, rng=seeded(23)).tolist() == sampler.draw(flat, 2, rng=seeded(23))[:1].tolist()
        )


class TestInverseCdf:
    def test_tokens_below_the_resolution_are_unreachable(self):
        """float16: sums near 1 are 2^-11 apart, so tokens of 2^-13 after a head of 1/2 are absorbed or
        doubled."""
        logits = torch.log(torch.tensor([0.5, *[2.0**-13] * 64, 0.5 - 64 * 2.0**-13]))
        law = SAMPLERS["inverse_cdf_fp16"].law(logits)
        assert 30 <= len(law.unreachable) <= 63
        assert len(SAMPLERS["inverse_cdf_fp32"].law(logits).unreachable) == 0

    def test_what_lies_above_the_last_sum_goes_to_the_last_token_dead_or_not(self):
        logits = torch.cat([3 * torch.randn(500, generator=seeded(24)), torch.tensor([-INF])])
        sampler = SAMPLERS["inverse_cdf_fp32"]
        short = 1 - float(sampler.sums(logits)[-1])
        assert sampler.law(logits).probs[-1] == pytest.approx(max(short, 0.0), abs=2.0**-24)


class TestStages:
    def test_prints_one_format_or_the_path(self):
        assert str(Stages.all("fp32")) == "fp32"
        assert str(Stages("fp32", "fp16", "fp32", "bf16")) == "fp32 > fp16 > fp32 > bf16"

    @pytest.mark.parametrize("format", ["fp16", "bf16", "fp32", "fp64"])
    def test_every_stage_is_in_its_format(self, format):
        for sampler in (gumbel_max(format), exponential_race(format)):
            u = sampler.source.draw((5,), rng=seeded(0))
            assert u.dtype is sampler.noise_of(u).dtype is sampler.weights_of(row()).dtype is DTYPES[format]

    @pytest.mark.parametrize("format", ["fp16", "bf16"])
    def test_each_logarithm_is_rounded(self, format):
        """Over every u of the format. torch takes the logarithm in float32 and may round a near tie the
        other way."""
        fmt = FORMATS[format]
        u = TORCH_RAND[format].atoms().values[1:]
        once = fmt.round(-np.log(u))
        words = torch.from_numpy(u).to(DTYPES[format])
        assert (exponential(words).double().numpy() != once).mean() < 2e-3
        assert (gumbel(words).double().numpy() != fmt.round(-np.log(once))).mean() < 2e-3
        assert (fmt.round(-np.log(once)) != fmt.round(-np.log(-np.log(u)))).mean() > 2e-2  # the test can tell


# -- what a user brings --------------------------------------------------------------------------
def honest(logits, n, *, generator):
    return torch.multinomial(torch.softmax(logits, -1), n, replacement=True, generator=generator).T


def first_only(logits, n, *, generator):
    return torch.zeros(n, len(logits), dtype=torch.int32)


def mutates(logits, n, *, generator):
    logits -= logits.amax(-1, keepdim=True) + 1
    return torch.zeros(n, len(logits), dtype=torch.long)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_a_dtype_that_torch_cannot_compare_is_refused(name):
    logits = torch.zeros(3).to(getattr(torch, name))
    for ask in (
        SAMPLERS["gumbel_max_bf16"].law,
        lambda row: SAMPLERS["gumbel_max_fp32"].draw(row, 1, rng=seeded(0)),
    ):
        with pytest.raises(InputError, match=f"{name}; expected float16, bfloat16"):
            ask(logits)


class TestPlainFunctions:
    def test_it_is_drawn_from(self):
        sampler = resolve(honest)
        assert isinstance(sampler, FunctionSampler)
        assert (sampler.name, sampler.publisher) == ("honest", "user")
        tokens = sampler.draw(row().expand(2, 3, VOCAB).contiguous(), 7, rng=seeded(0))
        assert (tokens.shape, tokens.dtype) == ((7, 2, 3), torch.int64)
        assert resolve(first_only).draw(row(), 4, rng=seeded(0)).tolist() == [0] * 4

    @pytest.mark.parametrize("make", [seeded, np.random.default_rng])
    def test_the_seed_decides(self, make):
        """Flat row of 32, 20 draws: two seeds agree with probability 32^-20."""
        flat = torch.zeros(VOCAB)
        first = resolve(honest).draw(flat, 20, rng=make(1))
        assert torch.equal(first, resolve(honest).draw(flat, 20, rng=make(1)))
        assert not torch.equal(first, resolve(honest).draw(flat, 20, rng=make(2)))

    @pytest.mark.parametrize(
        ("result", "said"),
        [
            (torch.zeros(3, 2), r"torch\.float32 ids from .*; expected an integer tensor"),
            (torch.zeros(3, 2, dtype=torch.bool), r"torch\.bool ids"),
            (torch.zeros(3, 2, dtype=torch.complex64), r"torch\.complex64 ids"),
            (np.zeros((3, 2), dtype=int), "a ndarray from"),
            (None, "a NoneType from"),
            (torch.zeros(2, 3, dtype=torch.long), r"ids of shape \(2, 3\) .*expected \(n, batch\) = \(3, 2\)"),
            (torch.zeros(3, dtype=torch.long), r"ids of shape \(3,\)"),
            (torch.zeros(3, 2, 1, dtype=torch.long), r"ids of shape \(3, 2, 1\)"),
            (torch.full((3, 2), VOCAB), r"ids 32\.\.32 .*expected 0\.\.31"),
            (torch.full((3, 2), -1), r"ids -1\.\.-1"),
        ],
    )
    def test_what_it_returns_is_checked(self, result, said):
        sampler = resolve(lambda logits, n, *, generator: result)
        with pytest.raises(InputError, match=said):
            sampler.draw(row().expand(2, VOCAB), 3, rng=seeded(0))

    def test_changing_the_logits_is_noticed(self):
        with pytest.raises(InputError, match="logits changed in place by mutates"):
            resolve(mutates).draw(torch.zeros(2, 3), 2, rng=seeded(0))

    def test_its_law_is_that_of_what_it_calls(self):
        law = resolve(honest).law(row())
        np.testing.assert_array_equal(
            law.probs, SAMPLERS["torch_multinomial_replacement_fp32"].law(row()).probs
        )
        assert "read from honest" in law.how

    def test_the_law_of_one_that_draws_nothing_is_refused(self):
        with pytest.raises(InputError, match="a function without a random operation of torch"):
            resolve(first_only).law(row())

    @pytest.mark.parametrize("rng", [None, 3])
    def test_bad_input_is_caught_before_the_call(self, rng):
        with pytest.raises(InputError, match=r"torch\.Generator"):
            resolve(honest).draw(row(), 2, rng=rng)
        with pytest.raises(InputError, match="NaN"):
            resolve(honest).draw(torch.tensor([math.nan]), 2, rng=seeded(0))


class TestResolve:
    def test_a_name_and_a_sampler(self):
        assert resolve("llada_fp64") is SAMPLERS["llada_fp64"]
        assert resolve(SAMPLERS["mdlm_fp32"]) is SAMPLERS["mdlm_fp32"]

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("gumbel_max_fp61", "did you mean .*gumbel_max_fp16"),
            ("lada_fp64", "did you mean llada_fp64"),
            ("zzz", "list them with: precision-lab ls samplers"),
            ("", "list them with"),
        ],
    )
    def test_an_unknown_name_gets_a_suggestion(self, name, hint):
        with pytest.raises(InputError, match=hint):
            resolve(name)
        with pytest.raises(InputError, match=f"one of {len(SAMPLERS)} known samplers"):
            precision_lab.law(name, row())

    @pytest.mark.parametrize("thing", [None, 3, ["gumbel_max_fp32"]])
    def test_what_is_no_sampler(self, thing):
        with pytest.raises(InputError, match="a name, a Sampler or a function"):
            resolve(thing)

    def test_a_function_of_a_file(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text(
            "import torch\ndef always(logits, n, *, generator):\n    return torch.full((n, len(logits)), 2)\n"
        )
        sampler = resolve(f"{path}:always")
        assert sampler.name == f"{path}:always"
        assert sampler.draw(row().expand(2, VOCAB), 3, rng=seeded(0)).tolist() == [[2, 2]] * 3

    def test_a_sampler_of_a_file_keeps_its_law(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text("from precision_lab.samplers.gumbel_max import gumbel_max\nmine = gumbel_max('bf16')\n")
        assert resolve(f"{path}:mine") == gumbel_max("bf16")
        assert abs(precision_lab.law(f"{path}:mine", [0.0, -1.0]).probs.sum() - 1) < 1e-12

    def test_a_function_of_a_module(self):
        assert (
            resolve("precision_lab.samplers.gumbel_max:gumbel_max").name
            == "precision_lab.samplers.gumbel_max:gumbel_max"
        )

    @pytest.mark.parametrize(
        ("source", "name", "said"),
        [
            (None, "f", r"no file .*mine\.py; expected file\.py:function"),
            ("x = 1", "f", "no function 'f' in"),
            ("f = 1", "f", "no function 'f' in"),
            ("raise RuntimeError('broken on purpose')", "f", "RuntimeError: broken on purpose"),
            ("def f(:", "f", "SyntaxError"),
            (
                "import no_such_module_at_all",
                "f",
                "ModuleNotFoundError: No module named 'no_such_module_at_all'",
            ),
        ],
    )
    def test_a_bad_file_is_explained(self, tmp_path, source, name, said):
        path = tmp_path / "mine.py"
        if source is not None:
            path.write_text(source)
        with pytest.raises(InputError, match=said):
            resolve(f"{path}:{name}")

    @pytest.mark.parametrize(
        "spec", ["no_such_module_at_all:f", "precision_lab.samplers:nothing", ":f", "json:"]
    )
    def test_a_bad_module_is_explained(self, spec):
        with pytest.raises(InputError, match=r"code that imports|no function"):
            resolve(spec)

    @pytest.mark.parametrize(
        "value", ["precision_lab.samplers.published.llada:LLADA_FP64", "test_samplers:honest"]
    )
    def test_an_entry_point(self, monkeypatch, value):
        entry = precision_lab_entry("theirs", value)
        asked = []
        monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: asked.append(group) or [entry])
        assert resolve("theirs").draw(row(), 3, rng=seeded(0)).shape == (3,)
        assert asked == ["precision_lab.samplers"]
        with pytest.raises(InputError, match="sampler 'others'"):
            resolve("others")


def precision_lab_entry(name: str, value: str):
    from importlib.metadata import EntryPoint

    return EntryPoint(name, value, "precision_lab.samplers")
