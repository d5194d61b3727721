"""Published recipes: against their libraries bit for bit where these run on a CPU, against 50 digits, and
word by word."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import row, seeded
from wide_tables import check_runs_of_words

from precision_lab.atoms import Atoms
from precision_lab.doctor import MEASURED
from precision_lab.errors import InputError
from precision_lab.formats import BF16, FORMATS, FP16, FP32
from precision_lab.laws.law import target_law
from precision_lab.samplers import SAMPLERS, Stages, UniformSampler
from precision_lab.samplers.inverse_cdf import InverseCDF
from precision_lab.samplers.noise_maps import (
    aiter_exponential,
    candle_gumbel,
    distributions_gumbel,
    exponential,
    flashinfer_gumbel,
    gumbel,
    negative_log,
    tensorflow_gumbel,
)
from precision_lab.samplers.published import JAX, PUBLISHED, SGLANG, VLLM
from precision_lab.samplers.rules import Enumerated
from precision_lab.samplers.weights import Exponentials
from precision_lab.uniforms import TORCH_EXPONENTIAL, TORCH_RAND, Source
from precision_lab.uniforms.wide import WideSource

INF = float("inf")
MINE = {s.name: s for s in PUBLISHED.values() if s not in (*JAX, *VLLM, *SGLANG)}
LISTED = [name for name, s in MINE.items() if isinstance(s, UniformSampler) and s.source.enumerable]
WIDE = [name for name in LISTED if isinstance(MINE[name].source, WideSource)]


class TestTheGallery:
    def test_all_are_registered_under_their_names(self):
        assert all(PUBLISHED[name] is SAMPLERS[name] is sampler for name, sampler in MINE.items())
        assert all(sampler.name == name for name, sampler in MINE.items())

    def test_each_says_where_it_was_read(self):
        for sampler in MINE.values():
            assert "/" in sampler.source_ref
            assert any(c.isdigit() for c in sampler.source_ref) or sampler.name in ("mdlm_fp32", "llada_fp64")

    @pytest.mark.parametrize(
        ("name", "bits", "word", "u"),
        [
            ("aiter_rocm", 32, 0, 2.0**-32),
            ("flashinfer_logits", 32, 0, 2.0**-33),
            ("tensorflow_gpu", 23, (1 << 23) - 1, 1 - 2.0**-23),
            ("tensorflow_cpu", 52, (1 << 52) - 1, 1 - 2.0**-52),
            ("numpy_choice", 53, (1 << 53) - 1, 1 - 2.0**-53),
            ("gidd_fp32", 24, (1 << 24) - 1, 1 - 2.0**-24),
        ],
    )
    def test_each_has_its_own_source(self, name, bits, word, u):
        source = MINE[name].source
        assert (source.bits, float(source.from_words(torch.tensor([word]))[0])) == (bits, u)

    def test_what_is_emulated_says_so(self):
        assert all(MINE[name].backend != "cpu" for name in WIDE)
        assert {MINE[n].backend for n in ("tensorflow_gpu", "candle", "aiter_rocm", "numpy_choice", "llama_cpp")} == {
            "tensorflow gpu", "rust cpu", "rocm", "numpy", "c++ cpu",
        }  # fmt: skip


# -- ceilings ------------------------------------------------------------------------------------
def gumbel_of(e: mpmath.mpf) -> float:
    return float(-mpmath.log(e))


def rounded_log(u: float, format) -> float:
    """-log u to 50 digits, rounded to the format once."""
    return float(format.round(np.float64(-mpmath.log(mpmath.mpf(u)))))


def remdm_exponential() -> float:
    """1e-10 - log(u + 1e-10) at u = 1 - 2^-53, each of three operations rounded to double."""
    argument = float(Fraction(1 - 2.0**-53) + Fraction(1e-10))
    return float(Fraction(1e-10) - Fraction(float(mpmath.log(mpmath.mpf(argument)))))


def candle_top() -> mpmath.mpf:
    """(1 - 2^-23) (0.999 - 1e-7) + 1e-7, each operation rounded to float32."""
    low, high = np.float32(1e-7), np.float32(0.999)
    return mpmath.mpf(float(np.float32(np.float32(1 - 2.0**-23) * np.float32(high - low)) + low))


TOP = {
    "mdlm_fp32": (16.634, lambda: gumbel_of(1e-10 - mpmath.log(mpmath.mpf(1 - 2.0**-24)))),
    "remdm_fp64": (36.08, lambda: gumbel_of(remdm_exponential())),
    "llada_fp64": (36.7, lambda: gumbel_of(-mpmath.log(mpmath.mpf(1 - 2.0**-53)))),
    "d1_fp32": (16.64, lambda: gumbel_of(rounded_log(1 - 2.0**-24, FP32))),
    "d1_bf16": (5.54, lambda: gumbel_of(rounded_log(1 - 2.0**-8, BF16))),
    "fast_dllm_fork_fp16": (7.62, lambda: gumbel_of(rounded_log(1 - 2.0**-11, FP16))),
    "torch_distributions_gumbel_fp32": (15.537, lambda: gumbel_of(-mpmath.log(mpmath.mpf(1 - 3 * 2.0**-24)))),
    "duo_ar_fp64": (15.537, lambda: gumbel_of(-mpmath.log(mpmath.mpf(1 - 3 * 2.0**-24)))),
    "torch_gumbel_softmax_cpu_fp32": (36.7, lambda: gumbel_of(mpmath.mpf(2) ** -53)),
    "torch_gumbel_softmax_fp16": (INF, lambda: INF),
    "torch_gumbel_softmax_cuda_fp32": (16.64, lambda: gumbel_of(mpmath.mpf(2) ** -24)),
    "torch_cuda_race_fp32": (16.64, lambda: gumbel_of(mpmath.mpf(2) ** -24)),
    "torch_compiled_race_fp32": (16.64, lambda: gumbel_of(mpmath.mpf(2) ** -24)),
    "torch_compiled_gumbel_fp32": (16.64, lambda: gumbel_of(-mpmath.log(mpmath.mpf(1 - 2.0**-24)))),
    "flashinfer_logits": (15.94, lambda: gumbel_of(-mpmath.log(mpmath.mpf(1 - 2.0**-23)))),
    "flashsampling_cuda": (INF, lambda: INF),
    "tensorflow_gpu": (15.94, lambda: gumbel_of(-mpmath.log(mpmath.mpf(1 - 2.0**-23)))),
    "candle": (6.907, lambda: gumbel_of(-mpmath.log(candle_top()))),
    "cupy_gumbel_fp32": (INF, lambda: INF),
    "aiter_rocm": (15.94, lambda: gumbel_of(1e-10 - mpmath.log(mpmath.mpf(1 - 2.0**-23)))),
}  # fmt: skip


class TestCeilings:
    """The design's figure to its own digits, and 50 digits of the recipe's top word."""

    @pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in WIDE else n for n in TOP])
    def test_ceiling(self, name):
        said, exact = TOP[name]
        ceiling = MINE[name].ceiling
        with mpmath.workdps(50):
            expected = exact()
        if said == INF:
            assert ceiling == expected == INF
        else:
            digits = len(str(said).partition(".")[2])
            assert abs(expected - said) <= 0.6 * 10.0**-digits
            # float32's logarithm: an ulp
            assert abs(ceiling - expected) <= 1.5 * np.spacing(np.float32(expected))

    @pytest.mark.parametrize(
        ("name", "least", "argument"),
        [
            ("tensorflow_gpu", 0.0, 2e-30),
            ("candle", 0.0, float(np.float32(1e-7))),
            ("torch_distributions_gumbel_fp32", 0.0, 2.0**-126),
            ("cupy_gumbel_fp32", 2.0**-33, 2.0**-33),
        ],
    )
    def test_the_least_word(self, name, least, argument):
        """-log(-log) of what the guard makes of the least u; the next u is not moved (candle's is)."""
        noise_of = MINE[name].noise_of
        with mpmath.workdps(50):
            expected = float(-mpmath.log(-mpmath.log(mpmath.mpf(argument))))
        assert float(noise_of(torch.tensor([least]))[0]) == pytest.approx(expected, abs=1e-6)
        if name == "tensorflow_gpu":
            assert float(noise_of(torch.tensor([2.0**-23]))[0]) == float(gumbel(torch.tensor([2.0**-23]))[0])

    def test_every_sampler_with_noise_is_in_the_table(self):
        assert TOP.keys() == {name for name, s in MINE.items() if isinstance(s, UniformSampler)}
        assert all(math.isnan(s.ceiling) for s in MINE.values() if isinstance(s, InverseCDF))

    def test_flashinfer_adds_less_than_it_seems(self):
        """-ln2 log2(-log2 u) is a Gumbel value plus log(log 2): the noise itself stops at 15.576."""
        top = float(flashinfer_gumbel(torch.ones(1))[0])
        assert top == pytest.approx(15.5759, abs=1e-4)
        assert top - math.log(math.log(2)) == pytest.approx(15.9424, abs=1e-4)


# -- the libraries themselves --------------------------------------------------------------------
@pytest.fixture
def global_seed():
    """The libraries here draw from torch's global generator only: seeded, and put back."""
    with torch.random.fork_rng():
        yield torch.manual_seed


def words_that_matter() -> torch.Tensor:
    """Every 24-bit word near a power of two from either end, and 2^16 others."""
    near = [1 << k for k in range(25)] + [(1 << 24) - (1 << k) for k in range(24)] + [0]
    words = (torch.tensor(near).unsqueeze(1) + torch.arange(-3, 4)).flatten()
    return torch.cat([words, torch.randint(0, 1 << 24, (1 << 16,), generator=seeded(1))]).clamp(
        0, (1 << 24) - 1
    )


class TestAgainstTorch:
    def test_distributions_gumbel_on_the_same_seed(self, global_seed):
        global_seed(5)
        theirs = torch.distributions.Gumbel(0, 1).sample((1 << 20,))
        ours = distributions_gumbel(torch.rand(1 << 20, generator=seeded(5)))
        assert torch.equal(theirs, ours)

    def test_distributions_gumbel_on_the_words_that_matter(self, monkeypatch):
        u = TORCH_RAND["fp32"].from_words(words_that_matter())
        monkeypatch.setattr(torch, "rand", lambda shape, **_: u.reshape(shape))
        assert torch.equal(torch.distributions.Gumbel(0, 1).sample(u.shape), distributions_gumbel(u))
        top = torch.distributions.Uniform(torch.finfo().tiny, 1 - torch.finfo().eps).sample(u.shape)
        assert float(top.max()) == 1 - 3 * 2.0**-24
        assert float(top.min()) == torch.finfo().tiny

    def test_an_autoregressive_baseline_of_duo(self, global_seed):
        """Noise from torch.distributions in float32, cast, added to float64 log-probabilities."""
        logits = torch.randn(64, 100, generator=seeded(2)).double()
        global_seed(6)
        noise = torch.distributions.Gumbel(0, 1).sample((64, 100)).to(torch.float64)
        ours = MINE["duo_ar_fp64"].decide(logits, torch.rand(64, 100, generator=seeded(6)))
        assert torch.equal((logits + noise).argmax(-1), ours)
        assert MINE["duo_ar_fp64"].noise_of(torch.rand(3)).dtype is torch.float32

    @pytest.mark.parametrize(("name", "dtype"), [("cpu_fp32", torch.float32), ("fp16", torch.float16)])
    def test_gumbel_softmax(self, name, dtype, global_seed):
        """The soft sample bit for bit; the hard one wherever its rounding does not tie the two best."""
        sampler = MINE[f"torch_gumbel_softmax_{name}"]
        logits = (3 * torch.randn(2000, 300, generator=seeded(3))).to(dtype)
        u = sampler.source.draw(logits.shape, rng=seeded(7))
        global_seed(7)
        soft = F.gumbel_softmax(logits)
        assert torch.equal(torch.softmax(logits + sampler.noise_of(u), -1), soft)
        global_seed(7)
        hard, ours = F.gumbel_softmax(logits, hard=True).argmax(-1), sampler.decide(logits, u)
        differ = hard != ours
        assert float(differ.double().mean()) < (1e-4 if dtype is torch.float32 else 0.01)
        at = torch.arange(len(logits))
        assert torch.equal(soft[at, hard][differ], soft[at, ours][differ])

    def test_a_nan_row_of_gumbel_softmax(self, global_seed):
        """With this seed one float16 exponential of 64 x 4096 is 0: its row is NaN throughout, and token 0."""
        sampler, logits = MINE["torch_gumbel_softmax_fp16"], torch.zeros(64, 4096, dtype=torch.float16)
        logits[1, 1737] = -20
        e = sampler.source.draw(logits.shape, rng=seeded(20))
        assert (e == 0).nonzero().tolist() == [[1, 1737]]
        global_seed(20)
        soft = F.gumbel_softmax(logits)
        assert torch.isnan(soft[1]).all()
        assert not torch.isnan(soft[[0, *range(2, 64)]]).any()
        assert int(soft[1].max(-1)[1]) == 0 == int(sampler.decide(logits, e)[1])

    def test_race_on_cpu_words_is_torch_multinomial(self, global_seed):
        """The CUDA race and torch.multinomial on CPU differ in their exponential only: with the CPU's they
        agree."""
        probs = torch.softmax(torch.randn(500, 64, generator=seeded(4)), -1)
        e = TORCH_EXPONENTIAL["fp32"].draw(probs.shape, rng=seeded(8))
        theirs = torch.multinomial(probs, 1, generator=seeded(8)).squeeze(-1)
        assert torch.equal((probs / MINE["torch_cuda_race_fp32"].noise_of(e)).argmax(-1), theirs)

    @pytest.mark.parametrize("name", ["remdm_fp64", "d1_fp32", "d1_bf16", "fast_dllm_fork_fp16"])
    def test_masked_diffusion_draws_with_torch_rand(self, name):
        """A row of logits, temperature 1, spelt out in torch with the same generator."""
        sampler, logits = MINE[name], torch.randn(200, 50, generator=seeded(9))
        dtype = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            sampler.stages.score
        ]
        u = torch.rand(1, 200, 50, generator=seeded(10), dtype=dtype)
        if name == "remdm_fp64":
            score = torch.softmax(logits.double(), -1) / (1e-10 - (u + 1e-10).log())
        else:
            score = logits.to(dtype).exp() / (-torch.log(u)) ** 1.0
        assert torch.equal(sampler.draw(logits, 1, rng=seeded(10)), score.argmax(-1))


class TestAgainstNumpy:
    @pytest.mark.parametrize("seed", range(4))
    def test_choice(self, seed):
        logits = 3 * torch.randn(1000, generator=seeded(seed))
        probs = torch.softmax(logits.double(), -1).numpy()
        theirs = np.random.default_rng(seed).choice(1000, size=5000, p=probs)
        np.testing.assert_array_equal(
            MINE["numpy_choice"].draw(logits, 5000, rng=np.random.default_rng(seed)), theirs
        )

    def test_choice_divides_by_the_last_sum(self):
        """It changes sums by an ulp, which few draws see: the sums themselves, some of which do not end at 1."""
        logits = 3 * torch.randn(20, 1000, generator=seeded(1))
        raw = np.cumsum(torch.softmax(logits.double(), -1).numpy(), axis=-1)
        assert (raw[:, -1] != 1).any()
        sums = MINE["numpy_choice"].sums(logits).numpy()
        for ours, theirs in zip(sums, raw, strict=True):
            np.testing.assert_array_equal(ours, theirs / theirs[-1])


# -- word by word --------------------------------------------------------------------------------
@dataclass(frozen=True)
class ToySource(Source):
    """(k + offset) / 2^bits: few enough words to visit every combination. Offset 1 reaches 1; offset 0, 0."""

    offset: float = 0.0

    def from_words(self, words):
        return ((words.double() + self.offset) * 2.0**-self.bits).to(self.dtype)

    def native(self, shape, *, rng):
        return self.from_words(torch.randint(0, 1 << self.bits, shape, generator=rng))

    def atoms(self) -> Atoms:
        return Atoms.of(self.from_words(torch.arange(1 << self.bits)).double().numpy(), 1, self.bits)


def every_decision(sampler: UniformSampler, logits: torch.Tensor) -> np.ndarray:
    """The law by running ``decide`` on every combination of words: no randomness, no law code."""
    vocab, words = len(logits), range(1 << sampler.source.bits)
    combos = torch.tensor(list(itertools.product(words, repeat=vocab)))
    tokens = sampler.decide(logits.expand(len(combos), vocab), sampler.source.from_words(combos))
    return np.bincount(tokens.numpy(), minlength=vocab) / len(combos)


ROWS = (
    [0.0, 0.0, 0.0],
    [1.5, -0.25, 0.0],
    [2.0, -INF, 1.0],
    [0.5, 0.5, -6.0],
    [-INF, 0.0, -INF],
    [-INF, 3.0, 3.0],
)


def inverse_exponential(u: torch.Tensor) -> torch.Tensor:
    return 1 / exponential(u).abs()


GUMBEL_SOFTMAX = {"nonfinite": "first index"}
UNNORMALISED = {"weights": Exponentials(), "rule": Enumerated(overflow=True)}


def toy(format: str, noise_of, combine, *, offset=1.0, tie="first", **options) -> UniformSampler:
    source = ToySource("toy", FORMATS[format], 4, offset)
    return UniformSampler(
        "toy", "test", "nowhere", Stages.all(format), source, noise_of, combine, tie, **options
    )


class TestLawIsEveryDecision:
    """Exact: every combination of toy words, u = 0 and u = 1 among them, through the recipe's own noise and
    decision."""

    @staticmethod
    def check(sampler: UniformSampler, rows=ROWS) -> None:
        for logits in map(torch.tensor, rows):
            np.testing.assert_allclose(
                sampler.law(logits).probs, every_decision(sampler, logits), rtol=0, atol=1e-12
            )

    @pytest.mark.parametrize("offset", [0.0, 1.0])
    @pytest.mark.parametrize(
        ("noise_of", "combine", "tie"),
        [
            (gumbel, "add", "first"),
            (flashinfer_gumbel, "add", "last"),
            (tensorflow_gumbel, "add", "last"),
            (candle_gumbel, "add", "first"),
            (distributions_gumbel, "add", "first"),
            (aiter_exponential, "divide", "first"),
            (inverse_exponential, "multiply", "last"),
            (exponential, "ratio", "first"),
        ],
    )
    def test_float32_recipes(self, noise_of, combine, tie, offset):
        """With u = 1: +inf for CuPy and FlashSampling (``gumbel``), never for the others."""
        self.check(toy("fp32", noise_of, combine, offset=offset, tie=tie))

    @pytest.mark.parametrize("offset", [0.0, 1.0])
    def test_float64_sums_of_float32_noise(self, offset):
        sampler = replace(
            toy("fp32", distributions_gumbel, "add", offset=offset),
            stages=Stages("fp64", "fp32", "fp32", "fp64"),
        )
        self.check(sampler)
        self.check(sampler, [[1e-9, 0.0, -1e-9]])

    @pytest.mark.parametrize("format", ["fp16", "fp32"])
    @pytest.mark.parametrize("offset", [0.0, 1.0])
    def test_gumbel_softmax(self, format, offset):
        """The toy's values are exponentials: 0 is among them at offset 0, and makes a row NaN."""
        self.check(toy(format, negative_log, "add", offset=offset, **GUMBEL_SOFTMAX))

    def test_gumbel_softmax_near_the_largest_float16(self):
        """A sum that rounds to +inf is a NaN row too; a token of -inf with E = 0 is NaN by itself."""
        sampler = toy("fp16", negative_log, "add", offset=0.0, **GUMBEL_SOFTMAX)
        self.check(sampler, [[65504.0, 0.0, 65472.0], [0.0, 65504.0, -INF], [0.0, -INF, -INF]])

    def test_gumbel_softmax_overflows_from_halfway_on(self):
        """65504 + 16.6 rounds to +inf, 65504 + 13.9 does not."""
        sampler = toy("fp16", twelvefold, "add", **GUMBEL_SOFTMAX)
        assert (
            13.8 < float(sampler.noise_atoms().values[11]) < 16 < float(sampler.noise_atoms().values[12]) < 16.7
        )
        self.check(sampler, [[65504.0, 65504.0, 65472.0], [-INF, 65504.0, 0.0]])

    def test_gumbel_softmax_in_float32_states_the_rounding_of_its_sum(self):
        """At 2^24 a float32 sum is even: equal tokens tie, and the first wins, by more than a bound without
        the logits has.

        2^16 draws: 0.5 +- 0.002; false-fail rates below 1e-6."""
        sampler, logits = MINE["torch_gumbel_softmax_cpu_fp32"], torch.full((2,), 2.0**24)
        law, first = sampler.law(logits), (sampler.draw(logits, 1 << 16, rng=seeded(17)) == 0).double().mean()
        assert 0.05 < first - law.probs[0] < law.error
        assert sampler.law(logits * 0).error < 1e-5
        assert sampler.law(logits * 2.0**-14).error == pytest.approx(
            2 * (2.0**-19 + 2.0**-23 + 2.0**-14), rel=1e-6
        )

    @pytest.mark.parametrize("format", ["fp16", "bf16", "fp32"])
    @pytest.mark.parametrize("offset", [0.0, 0.5])
    def test_unnormalised_races(self, format, offset):
        rows = [*ROWS, [11.0, 10.5, -2.0], [-30.0, -30.0, -31.0]]
        self.check(toy(format, exponential, "divide", offset=offset, **UNNORMALISED), rows)

    def test_which_of_equals_wins(self):
        first, last = (
            every_decision(toy("bf16", gumbel, "add", tie=t), torch.zeros(3)) for t in ("first", "last")
        )
        assert first[0] > last[0] + 0.05
        np.testing.assert_allclose(first, last[::-1], atol=1e-13)
        assert [MINE[n].tie for n in ("flashinfer_logits", "tensorflow_gpu", "candle")] == [
            "last",
            "last",
            "first",
        ]

    def test_the_shift_of_a_gumbel_moves_its_ceiling_only(self):
        plain, shifted = (
            toy("fp32", flashinfer_gumbel, "add", tie="last", gumbel_shift=shift) for shift in (0.0, -0.3665)
        )
        assert shifted.decide(torch.zeros(3), torch.full((3,), 0.5)) == 2
        assert shifted.ceiling == plain.ceiling + 0.3665
        row = torch.tensor([0.5, 0.0])
        np.testing.assert_array_equal(shifted.law(row).probs, plain.law(row).probs)

    def test_gidd_counts_every_word(self):
        """Every one of the 2^24 words, the last token dead or alive."""
        sampler = MINE["gidd_fp32"]
        u = TORCH_RAND["fp32"].from_words(torch.arange(1 << 24)).unsqueeze(-1)
        for logits in (row(), torch.tensor([0.0, -3.0, -INF, -15.0, -17.5, -INF])):
            counts = np.bincount(
                sampler.decide(logits.unsqueeze(0), u).flatten().numpy(), minlength=len(logits)
            )
            np.testing.assert_array_equal(np.rint(sampler.law(logits).probs * (1 << 24)), counts)

    @pytest.mark.parametrize("name", ["numpy_choice", "tensorflow_cpu", "llama_cpp"])
    def test_float64_sums_count_their_grid(self, name):
        """Around every sum the words are stepped through: the first that leaves a token is where the law
        has it, to two words of 2^-52 where u is scaled."""
        sampler: InverseCDF = MINE[name]
        bits, logits = sampler.source.bits, row().unsqueeze(0)
        law = np.cumsum(sampler.law(row()).probs)
        slack = 4 if sampler.scaled else 0
        for j in np.flatnonzero(np.diff(law))[:-1]:
            k = round(law[j] * 2**bits)
            words = torch.arange(max(k - 12, 0), min(k + 13, 1 << bits))
            tokens = sampler.decide(logits, sampler.source.from_words(words).unsqueeze(-1)).flatten()
            assert (tokens.diff() >= 0).all()
            left = int(words[tokens > j][0]) if (tokens > j).any() else int(words[-1]) + 1
            assert abs(left - k) <= slack
        np.testing.assert_allclose(np.diff(law, prepend=0), target_law(row().numpy()).probs, rtol=0, atol=1e-7)


def twelvefold(e: torch.Tensor) -> torch.Tensor:
    return -12 * e.log()


# -- tables of 32-bit words ----------------------------------------------------------------------
class TestWideTables:
    """Noise tables of 2^32 words against the words themselves, run by run."""

    @pytest.mark.parametrize(
        "name", [n if n == "torch_cuda_race_fp32" else pytest.param(n, marks=pytest.mark.slow) for n in WIDE]
    )
    def test_counts_of_runs_of_words(self, name):
        check_runs_of_words(MINE[name])

    @pytest.mark.slow
    def test_mass_at_the_top(self):
        """383 words where torch on CUDA has E = 2^-24 and AITER never wins; 128 where CuPy and
        FlashSampling have +inf."""
        assert int(MINE["torch_cuda_race_fp32"].noise_atoms().counts[0]) == 383
        aiter = MINE["aiter_rocm"].noise_atoms()
        assert (aiter.ceiling, int(aiter.counts[-1])) == (INF, 383)
        for name in ("cupy_gumbel_fp32", "flashsampling_cuda"):
            noise = MINE[name].noise_atoms()
            assert (noise.ceiling, int(noise.counts[-1])) == (INF, 128)
        assert MINE["cupy_gumbel_fp32"].noise_atoms() is MINE["flashsampling_cuda"].noise_atoms()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cupy_gumbel_fp32", "flashsampling_cuda"])
    def test_infinite_noise_draws_the_impossible(self, name):
        """31 tokens of -1e4: each is drawn when its u is 1; -inf too, as NaN, by torch's argmax."""
        logits = torch.full((32,), -1.0e4)
        logits[3] = 0.0
        law = MINE[name].law(logits)
        np.testing.assert_allclose(np.delete(law.probs, 3), 2.0**-25, rtol=2e-6)
        logits[5] = -INF
        assert MINE[name].law(logits).probs[5] == pytest.approx(2.0**-25, rel=2e-6, abs=0)

    def test_at_a_real_vocabulary(self):
        """SAMPLERS.md, defect 7: 0.45 % of draws at 151,936 tokens."""
        assert -math.expm1(151_936 * math.log1p(-(2.0**-25))) == pytest.approx(0.0045, abs=5e-5)

    def test_flashsamplings_guard_never_acts(self):
        assert float(MINE["flashsampling_cuda"].source.from_words(torch.tensor([0]))[0]) == 2.0**-33 > 1e-10

    @pytest.mark.slow
    def test_aiter_loses_at_its_best(self):
        """A token in its best 383 words loses to any other: a head of 1 - 2^-40 is left with 1 - 383 / 2^32."""
        sampler, logits = MINE["aiter_rocm"], torch.tensor([0.0, -27.7])
        u = torch.tensor([[1.0, 0.5], [0.5, 1.0], [1.0, 1e-6]])
        assert sampler.decide(logits, u).tolist() == [1, 0, 1]
        assert sampler.law(logits).probs[1] == pytest.approx(383 / 2**32, rel=1e-4, abs=0)
        assert SAMPLERS["torch_cuda_race_fp32"].law(logits).probs[1] < 1e-11


# -- what each is there to show ------------------------------------------------------------------
class TestDefects:
    def test_float16_gumbel_softmax_puts_nan_rows_on_token_zero(self):
        """P(0) of a token that should never be drawn: 7 others with E = 0, probability 2^-25 each (and its
        own)."""
        logits = torch.tensor([-1.0e4, *[0.0] * 7])
        law = MINE["torch_gumbel_softmax_fp16"].law(logits)
        assert law.probs[0] == pytest.approx(8 * 2.0**-25, rel=1e-5, abs=0)
        assert law.error < 1e-11
        assert law.probs.sum() == pytest.approx(1, abs=1e-12)

    def test_candle_cannot_reach_a_tail(self):
        """Gap 10 below a ceiling of 6.9 + 2.8: never drawn; at gap 8, true 3.4e-4."""
        law = MINE["candle"].law(torch.tensor([0.0, -8.0, -10.0]))
        assert law.probs[2] == 0.0
        assert law.probs[1] < 1e-4

    def test_float64_sums_do_not_raise_a_float32_ceiling(self):
        """Gap 21 exceeds 15.537 + 4.470 = 20.007 and is never drawn, in either sum."""
        logits = torch.tensor([0.0, -19.0, -21.0])
        for name in ("torch_distributions_gumbel_fp32", "duo_ar_fp64"):
            probs = MINE[name].law(logits).probs
            assert probs[2] == 0.0 < probs[1]
        assert MINE["llada_fp64"].law(logits).probs[2] == pytest.approx(math.exp(-21), rel=1e-6, abs=0)

    def test_an_exp_in_float16_overflows_its_scores(self):
        """exp(9) / E exceeds 65504 for E < 0.124: of 64 equal tokens the first gets 7.4 times its share,
        the last 0.0035 of it. At logits of 0 nothing overflows, and ties alone are left."""
        sampler = MINE["fast_dllm_fork_fp16"]
        share = 64 * sampler.law(torch.full((64,), 9.0)).probs
        assert (share[0], share[-1]) == (pytest.approx(7.438, abs=1e-3), pytest.approx(0.00346, abs=1e-5))
        assert (np.diff(share) < 0).all()
        assert np.abs(64 * sampler.law(torch.zeros(64)).probs - 1).max() < 0.016

    def test_llama_cpp_takes_the_first_token_at_zero_dead_or_not(self):
        law = MINE["llama_cpp"].law(torch.tensor([-INF, 0.0]))
        assert law.probs[0] == pytest.approx(2.0**-53, rel=1e-12, abs=0)
        assert MINE["tensorflow_cpu"].law(torch.tensor([-INF, 0.0])).probs[0] == 0.0

    def test_gidd_gives_the_rest_to_the_last_token(self):
        """float32 sums may stop short of 1: a dead last token takes what is left, in words of 2^-24. Of ten
        rows some stop short on any machine, whatever the order of its sums."""
        short = 0
        for seed in range(24, 34):
            logits = torch.cat([3 * torch.randn(500, generator=seeded(seed)), torch.tensor([-INF])])
            rest = max(1 - float(torch.cumsum(torch.softmax(logits, -1), -1)[-2]), 0.0)
            assert MINE["gidd_fp32"].law(logits).probs[-1] == pytest.approx(rest, rel=1e-12, abs=0)
            short += rest > 0
        assert short

    @pytest.mark.parametrize("name", ["numpy_choice", "tensorflow_cpu", "llama_cpp", "remdm_fp64"])
    def test_the_references_are_good(self, name):
        law, target = MINE[name].law(row()), target_law(row().numpy().astype(np.float64))
        np.testing.assert_allclose(law.probs, target.probs, rtol=0, atol=1e-8)
        assert law.error < 1e-8


class TestUnnormalisedRange:
    @pytest.mark.parametrize(
        ("name", "fits", "overflows", "said"),
        [
            ("fast_dllm_fork_fp16", 11.08, 11.1, "at most 11.09"),
            ("d1_bf16", 88.5, 89.0, r"at most 88\.7"),
            ("d1_fp32", 88.7, 88.8, "at most 88.72"),
            ("llada_fp64", 709.0, 710.0, "-658 to 709.8"),
        ],
    )
    def test_where_exp_leaves_the_format(self, name, fits, overflows, said):
        sampler = MINE[name]
        assert sampler.draw(torch.tensor([fits, 0.0]), 2, rng=seeded(0)).shape == (2,)
        for call in (lambda x: sampler.draw(x, 2, rng=seeded(0)), sampler.law):
            with pytest.raises(InputError, match=said):
                call(torch.tensor([overflows, 0.0], dtype=torch.float64))

    def test_where_exp_is_zero_the_first_token_always_wins(self):
        """float16: exp(-20) is 0 for every token. A defect, not an error."""
        sampler, logits = MINE["fast_dllm_fork_fp16"], torch.tensor([-20.0, -18.5, -19.0])
        assert sampler.law(logits).probs.tolist() == [1.0, 0.0, 0.0]
        assert sampler.draw(logits, 100, rng=seeded(1)).unique().tolist() == [0]
        with pytest.raises(InputError, match="-658 to"):
            MINE["llada_fp64"].law(torch.tensor([-700.0, -701.0]))


class TestTablesAreCounted:
    """On the machine at hand: a table of 24-bit words is its recipe run on every word (those of 32 bits:
    run by run, above)."""

    @pytest.mark.parametrize("name", [n for n in LISTED if MINE[n].source.bits <= 24])
    def test_every_word(self, name):
        sampler = MINE[name]
        every = sampler.source.from_words(torch.arange(1 << sampler.source.bits))
        values, counts = np.unique(sampler.noise_of(every).double().numpy() + 0.0, return_counts=True)
        atoms = sampler.noise_atoms()
        np.testing.assert_array_equal(atoms.values, values)
        np.testing.assert_array_equal(atoms.counts, counts)

    def test_hashes_were_noted_of_samplers_that_there_are(self):
        listed = {name for name, s in SAMPLERS.items() if isinstance(s, UniformSampler) and s.source.enumerable}
        assert listed.issuperset(MEASURED)
        assert all(len(digest) == 64 for digest in MEASURED.values())
